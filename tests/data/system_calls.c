/*
 * System calls with pointers into a device that is mapped: what each returned, errno, and a sum of all the memory.
 *
 *     calls DEVICE SCRATCH GO
 *
 * It begins when the file GO is there.
 * The addresses are fixed, for there are pointers in the memory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/random.h>

ssize_t __read_chk(int, void *, size_t, size_t);

#define PAGE 4096
/* A page of ordinary memory, two of the device, one of ordinary memory. */
static char *base, *device, *end;
static int file, scratch, ends[2], pair[2];

static void said(const char *what, long result)
{
    printf("%s %ld %d:", what, result, result < 0 ? errno : 0);
    unsigned sum = 5381;
    for (uint64_t *at = (void *)base; at < (uint64_t *)(end + PAGE); at++)
        sum = sum * 33 + *at + (*at >> 32);
    printf(" %08x\n", sum);
}
#define SAY(call) (errno = 0, said(#call, call))

static void fill(void) { for (int i = 0; i < 4 * PAGE; i++) base[i] = i * 7 + i / 256; }

static volatile int alarms;
static void alarmed(int signal) { (void)signal; alarms++; device[100]++; }

static void *blocked(void *told)
{
    struct cleanup { int fd; };
    void done(int *fd) { if (write(*fd, "D", 1) != 1) abort(); }
    int fd __attribute__((cleanup(done))) = pair[1];
    (void)told;
    if (write(fd, "S", 1) != 1) abort();
    char *to = device + 512;
    ssize_t count = read(ends[0], to, 64);
    printf("not cancelled: %zd\n", count);
    return 0;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, 0, _IOLBF, 1 << 16);
    file = open(argv[1], O_RDWR);
    scratch = open(argv[2], O_RDWR | O_CREAT | O_TRUNC, 0600);
    base = mmap((void *)0x200000000000, 4 * PAGE, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    device = mmap(base + PAGE, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
    end = device + 2 * PAGE;
    if (pipe(ends) || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
        return 1;
    while (access(argv[3], F_OK))
        usleep(1000);
    fill();

    SAY(write(ends[1], device, 16));
    SAY(read(ends[0], device + 100, 64));
    SAY(write(ends[1], device - 5, 10));
    SAY(read(ends[0], end - 4, 10));
    SAY(write(ends[1], base, 4 * PAGE));
    SAY(read(ends[0], base + 8, 4 * PAGE - 8));
    SAY(read(ends[0], base + 8, 4 * PAGE - 8));
    SAY(__read_chk(scratch, device, 5, 64));
    SAY(pwrite(scratch, device + 1000, 5000, 10));
    SAY(pread(scratch, device + 3, 5000, 10));
    SAY(pread64(scratch, end - 100, 200, 20));
    SAY(pwrite(scratch, end - 100, 200, 6000));
    struct iovec list[] = {{device + 20, 30}, {base + 9, 20}, {end - 7, 14}, {device, 0}};
    SAY(writev(ends[1], list, 4));
    SAY(readv(ends[0], list, 3));
    SAY(preadv(scratch, list, 4, 100));
    SAY(pwritev(scratch, list, 4, 200));
    SAY(preadv2(scratch, list, 3, 100, 0));
    SAY(pwritev2(scratch, list, 3, 100, 0));
    memcpy(device + 4000, list, sizeof list);
    SAY(writev(ends[1], (void *)(device + 4000), 4));
    struct iovec many[1024];
    for (int i = 0; i < 1024; i++)
        many[i] = (struct iovec){device + 8 * i, i % 5};
    SAY(readv(ends[0], many, 1024));
    SAY(writev(ends[1], many, 1024));
    SAY(readv(ends[0], many, 1024));
    SAY(readv(ends[0], many, 1025));
    SAY(readv(ends[0], (void *)16, 1));
    SAY(readv(ends[0], list, -1));

    SAY(send(pair[0], device + 40, 50, 0));
    SAY(recv(pair[1], end - 10, 50, MSG_TRUNC));
    SAY(send(pair[0], end - 10, 20, 0));
    SAY(recv(pair[1], end - 30, 60, 0));
    SAY(sendto(pair[0], device + 40, 50, 0, 0, 0));
    SAY(recvfrom(pair[1], device + 90, 20, 0, 0, 0));
    int one = socket(AF_UNIX, SOCK_DGRAM, 0), other = socket(AF_UNIX, SOCK_DGRAM, 0);
    struct sockaddr_un name = {AF_UNIX, ""}, peer;
    snprintf(name.sun_path + 1, 90, "mmiotap-%d", getpid());
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name.sun_path + 1);
    if (bind(one, (void *)&name, length))
        return 1;
    struct sockaddr_un back = {AF_UNIX, ""};
    snprintf(back.sun_path + 1, 90, "mmiotap+%d", getpid());
    if (bind(other, (void *)&back, length))
        return 1;
    for (int at = 0; at < 2; at++) {
        SAY(sendto(other, end - 20 + 10 * at, 15, 0, (void *)&name, length));
        socklen_t room = sizeof peer;
        memset(&peer, 0, sizeof peer);
        SAY(recvfrom(one, device - 20 + 10 * at, 30, 0, (void *)&peer, &room));
        printf("%d %d\n", room == length, memcmp(&peer, &back, length));
    }
    union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } control = {{CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
    memcpy(CMSG_DATA(&control.head), &file, sizeof file);
    struct msghdr message = {.msg_iov = list, .msg_iovlen = 3, .msg_control = &control, .msg_controllen = sizeof control};
    SAY(sendmsg(pair[0], &message, 0));
    memset(&control, 0, sizeof control);
    struct msghdr *there = (void *)(end - 64);
    *there = message;
    ssize_t received = recvmsg(pair[1], there, 0);
    printf("%zd %zd %x %d\n", received, there->msg_controllen, there->msg_flags, control.head.cmsg_type == SCM_RIGHTS);
    memset(there, 0, sizeof *there);
    SAY(sendmsg(pair[0], (void *)8, 0));

    SAY(write(ends[1], device, 77));
    SAY(ioctl(ends[0], FIONREAD, device + 200));
    int entropy = open("/dev/random", O_RDONLY);
    printf("%d", ioctl(entropy, RNDGETENTCNT, device + 204));
    printf(" %d\n", *(int *)(device + 204) > 0);
    *(int *)(device + 204) = 0;
    printf("%zd %zd %d\n", getrandom(device + 300, 16, 0), getrandom(end - 8, 16, 0), getentropy(device + 320, 16));
    memset(device + 300, 0, 40);
    memset(end - 8, 0, 16);

    FILE *stream = fopen(argv[2], "r+");
    printf("%zu ", fread(device + 5, 1, 10, stream));
    printf("%zu ", fread(device + 5, 10, 500, stream));
    printf("%zu ", fwrite(device, 8, 1000, stream));
    printf("%d\n", fclose(stream));
    SAY(pread(scratch, base, 100, 0));
    printf("%ld\n", (long)lseek(scratch, 0, SEEK_END));

    SAY(read(-1, device, 8));
    SAY(read(scratch, device, 8));
    SAY(pread(scratch, device, -1, 0));
    SAY(pread(scratch, device + 8, SIZE_MAX / 2, 0));
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    SAY(read(ends[0], device, 4096));
    SAY(read(ends[0], device, 4096));
    fcntl(ends[0], F_SETFL, 0);
    SAY(read(ends[0], device, 0));
    mprotect(device, PAGE, PROT_READ);
    SAY(write(ends[1], device + 10, 20));
    SAY(read(ends[0], device + 10, 20));
    SAY(read(ends[0], end - 6000, 20));
    SAY(read(ends[0], end - 3000, 20));
    mprotect(device, PAGE, PROT_READ | PROT_WRITE);

    struct sigaction action = {.sa_handler = alarmed};
    sigaction(SIGALRM, &action, 0);
    struct itimerval soon = {{0, 0}, {0, 20000}};
    setitimer(ITIMER_REAL, &soon, 0);
    SAY(read(ends[0], device, 100));
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, 0);
    setitimer(ITIMER_REAL, &soon, 0);
    pid_t child = fork();
    if (!child) {
        usleep(100000);
        _exit(write(ends[1], device + 64, 33) != 33);
    }
    SAY(read(ends[0], device, 100));
    int status;
    waitpid(child, &status, 0);
    printf("%d %x\n", alarms, status);
    child = vfork();
    if (!child) {
        write(ends[1], device + 64, 22);
        _exit(read(ends[0], device + 700, 22) != 22);
    }
    SAY(waitpid(child, &status, 0) == child && status == 0);

    fflush(stdout);
    pthread_t thread;
    for (int round = 0; round < 3; round++) {
        void *result;
        char seen[4] = "";
        pthread_create(&thread, 0, blocked, 0);
        SAY(read(pair[0], seen, 1));
        if (round)
            usleep(20000);
        SAY(pthread_cancel(thread));
        pthread_join(thread, &result);
        SAY(read(pair[0], seen + 1, 1));
        printf("%s %d\n", seen, result == PTHREAD_CANCELED);
    }
    if (ftruncate(file, PAGE))
        return 1;
    printf("%zd %d\n", read(scratch, device + PAGE, 8), errno);
    lseek(scratch, 0, SEEK_SET);
    errno = 0;
    printf("%zd %d\n", read(scratch, device + PAGE, 8), errno);
    errno = 0;
    printf("%zd %d\n", pread(scratch, device + PAGE - 8, 16, 0), errno);
    return 0;
}
