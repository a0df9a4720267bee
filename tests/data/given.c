/*
 * System calls that are given structures and names in a device's mapping: what each returned, errno, and what is there then.
 *
 *     given DEVICE FOLDER
 *
 * Each is made by libc's function, and those that a number asks for by syscall(2), too.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <unistd.h>

enum { PAGE = 4096 };
static char *device;

static long told(const char *what, long result)
{
    printf("%s %ld %d\n", what, result < 0 ? -1 : result, result < 0 ? errno : 0);
    return result;
}
#define TELL(call) (errno = 0, told(#call, call))

/* A piece of the device with this content, and one without. */
static void *with(size_t at, const void *what, size_t length)
{
    return memcpy(device + at, what, length);
}
#define NAME(text) ((char *)with(PAGE + 64, text, sizeof(text)))
#define ROOM(type) ((type *)memset(device + 512, 0xee, sizeof(type)))

static void *wait_and_change(void *word)
{
    struct timespec soon = {0, 50000000};
    nanosleep(&soon, NULL);
    __atomic_store_n((int *)word, 2, __ATOMIC_SEQ_CST);
    while (syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0) == 0)
        ;
    return NULL;
}

static void files(void)
{
    struct stat *st = ROOM(struct stat);
    TELL(stat(NAME("file"), st)), printf("%ld %o\n", (long)st->st_size, st->st_mode);
    TELL(lstat(NAME("link"), ROOM(struct stat))), printf("%ld %o\n", (long)st->st_size, st->st_mode);
    TELL(stat(NAME("none"), ROOM(struct stat)));
    TELL(fstatat(AT_FDCWD, NAME("file"), ROOM(struct stat), 0)), printf("%ld\n", (long)st->st_size);
    int file = open(NAME("file"), O_RDWR);
    TELL(file >= 0);
    TELL(fstat(file, ROOM(struct stat))), printf("%ld\n", (long)st->st_size);
    TELL(syscall(SYS_fstat, file, ROOM(struct stat))), printf("%ld\n", (long)st->st_size);
    TELL(syscall(SYS_newfstatat, AT_FDCWD, NAME("file"), ROOM(struct stat), 0)), printf("%ld\n", (long)st->st_size);
    struct statx *x = ROOM(struct statx);
    TELL(statx(AT_FDCWD, NAME("file"), 0, STATX_SIZE, x)), printf("%ld\n", (long)x->stx_size);
    struct statfs *system = ROOM(struct statfs), here;
    TELL(statfs(NAME("."), system)), TELL(statfs(".", &here)), TELL(system->f_type == here.f_type);
    TELL(fstatfs(file, ROOM(struct statfs))), TELL(system->f_bsize == here.f_bsize);
    TELL(readlink(NAME("link"), ROOM(char), 40)), printf("%.4s\n", device + 512);
    TELL(readlinkat(AT_FDCWD, NAME("link"), ROOM(char), 2)), printf("%.2s\n", device + 512);
    TELL(syscall(SYS_pread64, file, ROOM(char), 3, 1)), printf("%.3s\n", device + 512);
    TELL(syscall(SYS_write, file, NAME("more"), 4));
    TELL(access(NAME("file"), R_OK)), TELL(access(NAME("none"), R_OK));
    TELL(mkdir(NAME("folder"), 0700)), TELL(rename("folder", NAME("moved"))), TELL(rmdir(NAME("moved")));
    int folder = openat(AT_FDCWD, NAME("."), O_RDONLY | O_DIRECTORY);
    TELL(getdents64(folder, device + 1024, 1024) > 0);
    int copy = creat(NAME("copy"), 0600), out = open("out", O_RDWR | O_CREAT | O_TRUNC, 0600);
    off_t *offset = with(256, &(off_t){1}, sizeof(off_t)), *to = with(264, &(off_t){2}, sizeof(off_t));
    TELL(sendfile(out, file, offset, 4)), printf("%ld\n", (long)*offset);
    TELL(copy_file_range(file, offset, copy, to, 3, 0)), printf("%ld %ld\n", (long)*offset, (long)*to);
    TELL(unlink(NAME("copy")));
}

static void waits(void)
{
    int *ends = ROOM(int);
    TELL(pipe(ends));
    int in = ends[0], out = ends[1];
    TELL(write(out, "x", 1));
    struct pollfd *polled = with(64, &(struct pollfd[]){{in, POLLIN, 0}, {out, POLLIN, 0}}, 2 * sizeof *polled);
    TELL(poll(polled, 2, 1000)), printf("%x %x\n", polled[0].revents, polled[1].revents);
    TELL(syscall(SYS_poll, polled, 2, 0)), printf("%x %x\n", polled[0].revents, polled[1].revents);
    fd_set *set = ROOM(fd_set);
    memset(set, 0, sizeof *set);
    FD_SET(in, set);
    FD_SET(out, set);
    struct timeval *time = with(32, &(struct timeval){1, 0}, sizeof *time);
    TELL(select(out + 1, set, NULL, NULL, time)), printf("%d %d\n", FD_ISSET(in, set), FD_ISSET(out, set));
    int epoll = epoll_create1(0);
    TELL(epoll_ctl(epoll, EPOLL_CTL_ADD, in, with(32, &(struct epoll_event){EPOLLIN, {.u64 = 77}}, 12)));
    struct epoll_event *event = ROOM(struct epoll_event);
    TELL(epoll_wait(epoll, event, 8, 1000)), printf("%x %ld\n", event->events, (long)event->data.u64);
    int timer = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec *old = ROOM(struct itimerspec), *armed = with(32, &(struct itimerspec){{0, 0}, {900, 0}}, 32);
    TELL(timerfd_settime(timer, 0, armed, old)), printf("%ld\n", (long)old->it_value.tv_sec);
    TELL(timerfd_gettime(timer, old)), printf("%d\n", old->it_value.tv_sec >= 899);
    TELL(eventfd_read(eventfd(5, 0), (eventfd_t *)ROOM(eventfd_t))), printf("%ld\n", *(long *)(device + 512));
    int *word = with(PAGE - 4, &(int){1}, 4);
    struct timespec *limit = with(96, &(struct timespec){0, 1000000}, sizeof *limit);
    TELL(syscall(SYS_futex, word, FUTEX_WAIT, 5, limit, NULL, 0));
    TELL(syscall(SYS_futex, word, FUTEX_WAIT, 1, limit, NULL, 0));
    pthread_t thread;
    pthread_create(&thread, NULL, wait_and_change, word);
    TELL(syscall(SYS_futex, word, FUTEX_WAIT, 1, NULL, NULL, 0)), printf("%d\n", *word);
    pthread_join(thread, NULL);
}

static void sockets(void)
{
    int *pair = ROOM(int);
    TELL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    socklen_t *length = with(40, &(socklen_t){4}, 4);
    int *option = with(48, &(int){0}, 4), socket_ = pair[0];
    TELL(getsockopt(socket_, SOL_SOCKET, SO_TYPE, option, length)), printf("%d %d\n", *option, *length);
    TELL(setsockopt(socket_, SOL_SOCKET, SO_PASSCRED, with(48, &(int){1}, 4), 4));
    struct sockaddr_un *address = ROOM(struct sockaddr_un);
    *address = (struct sockaddr_un){AF_UNIX, "here"};
    int listening = socket(AF_UNIX, SOCK_STREAM, 0), other = socket(AF_UNIX, SOCK_STREAM, 0);
    TELL(bind(listening, (struct sockaddr *)address, sizeof *address)), TELL(listen(listening, 1));
    TELL(connect(other, (struct sockaddr *)address, sizeof *address));
    *length = sizeof *address;
    memset(address, 0, sizeof *address);
    TELL(getpeername(other, (struct sockaddr *)address, length)), printf("%d %s\n", *length, address->sun_path);
    *length = 1;
    memset(address, 0, sizeof *address);
    TELL(getsockname(listening, (struct sockaddr *)address, length)), printf("%d %d\n", *length, address->sun_family);
    *length = sizeof *address;
    TELL(accept(listening, (struct sockaddr *)address, length) >= 0), printf("%d %d\n", *length, address->sun_family);
    TELL(accept4(listening, NULL, NULL, SOCK_NONBLOCK + 1));
}

static void machine(void)
{
    struct utsname *names = ROOM(struct utsname), here;
    TELL(uname(names)), TELL(uname(&here)), TELL(memcmp(names, &here, sizeof here));
    struct sysinfo *info = ROOM(struct sysinfo), now;
    TELL(sysinfo(info)), TELL(sysinfo(&now)), TELL(info->totalram == now.totalram);
    struct rusage *usage = ROOM(struct rusage);
    TELL(getrusage(RUSAGE_SELF, usage)), TELL(usage->ru_maxrss > 0);
    TELL(syscall(SYS_getrandom, ROOM(long), 8, 0));
}

int main(int argc, char **argv)
{
    if (argc != 3 || chdir(argv[2]))
        return 2;
    char *before = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    device = mmap(before + PAGE, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, open(argv[1], O_RDWR), 0);
    if (device == MAP_FAILED)
        return 1;
    unlink("here");
    files(), waits(), sockets(), machine();
    return 0;
}
