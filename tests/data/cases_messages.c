/* Buffers, sockets, waiting, queues. */
#include "cases.h"
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <linux/random.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/msg.h>
#include <sys/random.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

ssize_t __read(int, void *, size_t), __write(int, const void *, size_t), __send(int, const void *, size_t, int);
ssize_t __pread64(int, void *, size_t, off_t), __pwrite64(int, const void *, size_t, off_t);
ssize_t __read_chk(int, void *, size_t, size_t), __pread_chk(int, void *, size_t, off_t, size_t);
ssize_t __pread64_chk(int, void *, size_t, off_t, size_t), __recv_chk(int, void *, size_t, size_t, int);
ssize_t __recvfrom_chk(int, void *, size_t, size_t, int, struct sockaddr *, socklen_t *);
int __poll_chk(struct pollfd *, nfds_t, int, size_t);
int __ppoll_chk(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *, size_t);
size_t __fread_chk(void *, size_t, size_t, size_t, FILE *), __fread_unlocked_chk(void *, size_t, size_t, size_t, FILE *);
mqd_t __mq_open_2(const char *, int);

static int file, ends[2], pair[2];
static socklen_t own_length;
static struct sockaddr_un own;

/* A list of two pieces, of 5 and 6 bytes, which is in the device itself. */
static struct iovec *pieces(int is_read)
{
    struct iovec list[2] = {{is_read ? in("first", 5) : room(5, 5), 5}, {is_read ? in("second", 6) : room(6, 6), 6}};
    return in(list, sizeof list);
}
#define FROM pieces(1), 2
#define INTO pieces(0), 2

static void buffers(void)
{
    BOTH(write, ends[1], TEXT("hello"), 5), CASE(__write, __write(ends[1], TEXT("hello"), 5));
    BOTH(read, ends[0], room(8, 4), 4), CASE(__read, __read(ends[0], room(8, 4), 4));
    CASE(__read_chk, __read_chk(ends[0], room(8, 3), 3, 8));
    CASE(pwrite, pwrite(file, TEXT("hello"), 5, 0)), BOTH(pwrite64, file, TEXT("hello"), 5, 0);
    CASE(__pwrite64, __pwrite64(file, TEXT("hello"), 5, 0));
    CASE(pread, pread(file, room(8, 5), 5, 0)), BOTH(pread64, file, room(8, 5), 5, 0);
    CASE(__pread64, __pread64(file, room(8, 5), 5, 0)), CASE(__pread_chk, __pread_chk(file, room(8, 5), 5, 0, 8));
    CASE(__pread64_chk, __pread64_chk(file, room(8, 5), 5, 0, 8));
    BOTH(writev, ends[1], FROM), BOTH(readv, ends[0], INTO);
    CASE(pwritev, pwritev(file, FROM, 0)), CASE(pwritev64, pwritev64(file, FROM, 0)), CASE(pwritev2, pwritev2(file, FROM, 0, 0));
    CASE(pwritev64v2, pwritev64v2(file, FROM, 0, 0));
    CASE(SYS_pwritev, syscall(SYS_pwritev, file, FROM, 0L, 0L)), CASE(SYS_pwritev2, syscall(SYS_pwritev2, file, FROM, 0L, 0L, 0));
    CASE(preadv, preadv(file, INTO, 0)), CASE(preadv64, preadv64(file, INTO, 0)), CASE(preadv2, preadv2(file, INTO, 0, 0));
    CASE(preadv64v2, preadv64v2(file, INTO, 0, 0));
    CASE(SYS_preadv, syscall(SYS_preadv, file, INTO, 0L, 0L)), CASE(SYS_preadv2, syscall(SYS_preadv2, file, INTO, 0L, 0L, 0));
    char other[11] = "from there";
    BOTH(process_vm_readv, getpid(), INTO, IN(struct iovec, other, 11), 1, 0);
    BOTH(process_vm_writev, getpid(), FROM, IN(struct iovec, other, 11), 1, 0), printf("%.11s\n", other);
    BOTH(getrandom, room(16, 16), 16, 0), CASE(getentropy, getentropy(room(16, 16), 16));
    int entropy = open("/dev/random", O_RDONLY);
    BOTH(ioctl, entropy, RNDGETENTCNT, OUT(int));
    FILE *stream = fopen("file", "r+");
    CASE(fread, fread(room(8, 4), 1, 4, stream)), CASE(fread_unlocked, (fread_unlocked)(room(8, 4), 2, 2, stream));
    CASE(__fread_chk, __fread_chk(room(8, 1), 8, 1, 1, stream)), rewind(stream);
    CASE(__fread_unlocked_chk, __fread_unlocked_chk(room(8, 1), 8, 1, 1, stream)), rewind(stream);
    CASE(fwrite, fwrite(TEXT("hello"), 1, 5, stream)), CASE(fwrite_unlocked, (fwrite_unlocked)(TEXT("hello"), 5, 1, stream));
    fclose(stream);
}

/* A message of two pieces with an address and control data. */
static struct msghdr message(int is_sent)
{
    struct msghdr made = {.msg_iovlen = 2, .msg_namelen = own_length, .msg_controllen = CMSG_SPACE(sizeof(int))};
    union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } control = {
        {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
    memcpy(CMSG_DATA(&control.head), &file, sizeof file);
    made.msg_iov = pieces(is_sent);
    made.msg_name = is_sent ? in(&own, own_length) : room(sizeof own, own_length);
    made.msg_control = is_sent ? in(&control, sizeof control) : room(sizeof control, sizeof control);
    return made;
}

/* What is received is written to, too. */
static void expect_head(char *at)
{
    expect("write", at + offsetof(struct msghdr, msg_namelen), 4), expect("write", at + offsetof(struct msghdr, msg_flags), 4);
    expect("write", at + offsetof(struct msghdr, msg_controllen), 8);
}

static struct msghdr *one(int is_sent)
{
    struct msghdr made = message(is_sent), *at = in(&made, sizeof made);
    if (!is_sent)
        expect_head((char *)at);
    return at;
}

static struct mmsghdr *two(int is_sent)
{
    struct mmsghdr made[2] = {{message(is_sent), 0}, {message(is_sent), 0}}, *at = put(made, sizeof made);
    for (int i = 0; i < 2; i++) {
        expect("read", at + i, sizeof(struct msghdr)), expect("write", &at[i].msg_len, 4);
        if (!is_sent)
            expect_head((char *)(at + i));
    }
    return at;
}

static void sockets(void)
{
    BOTH(socketpair, AF_UNIX, SOCK_STREAM, 0, room(8, 8));
    CASE(send, send(pair[1], TEXT("hello"), 5, 0)), CASE(__send, __send(pair[1], TEXT("hello"), 5, 0));
    send(pair[1], "hello", 5, 0), CASE(recv, recv(pair[0], room(8, 5), 5, 0)), CASE(recv, recv(pair[0], room(8, 5), 8, 0));
    CASE(__recv_chk, __recv_chk(pair[0], room(8, 5), 8, 8, 0));
    int bound = socket(AF_UNIX, SOCK_DGRAM, 0), listening = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un name = {AF_UNIX, "datagrams"}, stream = {AF_UNIX, "streams"}, again = {AF_UNIX, "again"};
    own = name, own_length = sizeof own;
#define ADDRESS_OF(name) in(&name, sizeof name), sizeof name
    CASE(bind, bind(bound, ADDRESS_OF(name))), CASE(SYS_bind, syscall(SYS_bind, listening, ADDRESS_OF(stream)));
    listen(listening, 9);
    own_length = offsetof(struct sockaddr_un, sun_path) + sizeof "datagrams";
#define TO (void *)in(&own, own_length), own_length
#define PEER (void *)room(sizeof own, own_length), IN_OUT(socklen_t, sizeof own)
    for (int i = 0; i < 3; i++) {
        BOTH(sendto, bound, TEXT("hello"), 5, 0, TO), CASE(sendto, sendto(bound, "hello", 5, 0, TO));
        if (i == 2)
            CASE(__recvfrom_chk, __recvfrom_chk(bound, room(8, 5), 8, 8, 0, PEER));
        else
            CASE(recvfrom, recvfrom(bound, room(8, 5), 8, 0, PEER));
        CASE(SYS_recvfrom, syscall(SYS_recvfrom, bound, room(8, 5), 8L, 0, PEER));
        char plain[8];
        CASE(recvfrom, recvfrom(bound, plain, 8, 0, PEER));
    }
    BOTH(sendmsg, bound, one(1), 0), BOTH(recvmsg, bound, one(0), 0);
    BOTH(sendmmsg, bound, two(1), 2, 0), CASE(recvmmsg, recvmmsg(bound, two(0), 2, 0, IN_OUT(struct timespec, 9, 0)));
    CASE(SYS_recvmmsg, syscall(SYS_recvmmsg, bound, two(0), 2, 0, IN_OUT(struct timespec, 9, 0)));
    int first = socket(AF_UNIX, SOCK_STREAM, 0), second = socket(AF_UNIX, SOCK_STREAM, 0);
    bind(first, (void *)&again, sizeof again);
    CASE(connect, connect(first, ADDRESS_OF(stream))), CASE(SYS_connect, syscall(SYS_connect, second, ADDRESS_OF(stream)));
    for (int i = 0; i < 2; i++)
        connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&stream, sizeof stream);
    own_length = offsetof(struct sockaddr_un, sun_path) + sizeof "again";
    CASE(accept, accept(listening, PEER)), own_length = 2, CASE(SYS_accept, syscall(SYS_accept, listening, PEER));
    BOTH(accept4, listening, PEER, 0);
    own_length = offsetof(struct sockaddr_un, sun_path) + sizeof "streams";
    BOTH(getpeername, first, PEER), BOTH(getsockname, listening, PEER);
    BOTH(setsockopt, listening, SOL_SOCKET, SO_PASSCRED, IN(int, 1), 4);
    BOTH(getsockopt, listening, SOL_SOCKET, SO_PASSCRED, OUT(int), IN_OUT(socklen_t, 4));
}



static void *change(void *told)
{
    usleep(30000);
    int *word = told;
    __atomic_store_n(word, 2, __ATOMIC_SEQ_CST);
    while (syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0) == 0)
        usleep(1000);
    return NULL;
}

static void waits(void)
{
    sigset_t none;
    sigemptyset(&none);
    CASE(pipe, pipe(room(8, 8))), CASE(SYS_pipe, syscall(SYS_pipe, room(8, 8))), BOTH(pipe2, room(8, 8), 0);
    if (write(ends[1], "x", 1) != 1)
        abort();
#define POLLED in_out(&(struct pollfd){ends[0], POLLIN, 0}, 8)
#define WITHIN IN(struct timespec, 9, 0)
#define MASK (expect("read", device + next, 8), put(&none, sizeof none))
    BOTH(poll, POLLED, 1, 9000), CASE(__poll_chk, __poll_chk(POLLED, 1, 9000, 8));
    CASE(ppoll, ppoll(POLLED, 1, WITHIN, MASK)), CASE(__ppoll_chk, __ppoll_chk(POLLED, 1, WITHIN, MASK, 8));
    CASE(SYS_ppoll, syscall(SYS_ppoll, POLLED, 1, WITHIN, MASK, 8L));
    fd_set set;
    FD_ZERO(&set);
    FD_SET(ends[0], &set);
#define READY in_out(&set, 8), NULL, in_out(&(fd_set){{0}}, 8)
    BOTH(select, ends[0] + 1, READY, IN_OUT(struct timeval, 9, 0));
    CASE(pselect, pselect(ends[0] + 1, READY, WITHIN, MASK));
    int epoll = epoll_create1(0);
    CASE(epoll_ctl, epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], in(&(struct epoll_event){EPOLLIN, {.u64 = 77}}, 12)));
    epoll_ctl(epoll, EPOLL_CTL_DEL, ends[0], NULL);
    CASE(SYS_epoll_ctl, syscall(SYS_epoll_ctl, epoll, EPOLL_CTL_ADD, ends[0], in(&(struct epoll_event){EPOLLIN, {.u64 = 77}}, 12)));
#define AWAITED room(36, 12), 3
    BOTH(epoll_wait, epoll, AWAITED, 9000), CASE(epoll_pwait, epoll_pwait(epoll, AWAITED, 9000, MASK));
    CASE(SYS_epoll_pwait, syscall(SYS_epoll_pwait, epoll, AWAITED, 9000, MASK, 8L));
    CASE(epoll_pwait2, epoll_pwait2(epoll, AWAITED, WITHIN, MASK));
    CASE(SYS_epoll_pwait2, syscall(SYS_epoll_pwait2, epoll, AWAITED, WITHIN, MASK, 8L));
    CASE(eventfd_read, eventfd_read(eventfd(5, 0), OUT(eventfd_t)));
    pthread_t thread;
    int *word = (int *)(device + PAGE);
    for (int i = 0; i < 2; i++) {
        *word = 1;
        pthread_create(&thread, NULL, change, word);
        if (i == 0)
            CASE(SYS_futex, syscall(SYS_futex, (expect("read", word, 4), word), FUTEX_WAIT, 1, WITHIN, NULL, 0));
        else {
            struct timespec until;
            clock_gettime(CLOCK_MONOTONIC, &until), until.tv_sec += 9;
            struct futex_waitv awaited = {1, (uintptr_t)word, FUTEX_32, 0};
            CASE(SYS_futex_waitv, syscall(SYS_futex_waitv, (expect("read", word, 4), in(&awaited, sizeof awaited)), 1, 0,
                                          in(&until, sizeof until), CLOCK_MONOTONIC));
        }
        pthread_join(thread, NULL);
    }
    struct io_uring_params parameters = {.flags = 0};
    int ring = CASE(SYS_io_uring_setup, syscall(SYS_io_uring_setup, 8, in_out(&parameters, sizeof parameters)));
    CASE(SYS_io_uring_enter, syscall(SYS_io_uring_enter, ring, 0, 0, IORING_ENTER_GETEVENTS, in(&(uint64_t){0}, 8), 8L));
    CASE(SYS_io_uring_register, syscall(SYS_io_uring_register, ring, IORING_REGISTER_FILES,
                                        (expect("unknown", device + next, 0), put(&file, sizeof file)), 1));
}

static void queues(void)
{
    char name[40];
    snprintf(name, sizeof name, "/mmiotap-%d", getppid());
    struct mq_attr attributes = {.mq_maxmsg = 4, .mq_msgsize = 16};
    mqd_t queue = CASE(mq_open, mq_open(NAME(name), O_RDWR | O_CREAT, 0600, in(&attributes, sizeof attributes)));
    CASE(__mq_open_2, __mq_open_2(NAME(name), O_RDONLY)), CASE(mq_open, mq_open(NAME(name), O_RDONLY));
    CASE(SYS_mq_open, syscall(SYS_mq_open, NAME(name + 1), O_RDWR | O_CREAT, 0600, in(&attributes, sizeof attributes)));
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until), until.tv_sec += 9;
#define UNTIL in(&until, sizeof until)
    CASE(mq_send, mq_send(queue, TEXT("hello"), 5, 3)), BOTH(mq_timedsend, queue, TEXT("hello"), 5, 3, UNTIL);
    CASE(mq_getattr, mq_getattr(queue, OUT(struct mq_attr)));
    CASE(mq_setattr, mq_setattr(queue, in(&attributes, sizeof attributes), OUT(struct mq_attr)));
    CASE(SYS_mq_getsetattr, syscall(SYS_mq_getsetattr, queue, in(&attributes, sizeof attributes), OUT(struct mq_attr)));
    CASE(mq_receive, mq_receive(queue, room(16, 5), 16, room(4, 4)));
    BOTH(mq_timedreceive, queue, room(16, 5), 16, room(4, 4), UNTIL);
    struct sigevent event = {.sigev_notify = SIGEV_NONE};
    CASE(mq_notify, mq_notify(queue, in(&event, sizeof event))), mq_notify(queue, NULL);
    CASE(SYS_mq_notify, syscall(SYS_mq_notify, queue, in(&event, sizeof event)));
    CASE(mq_unlink, mq_unlink(NAME(name))), queue = mq_open(name, O_RDWR | O_CREAT, 0600, NULL);
    CASE(SYS_mq_unlink, syscall(SYS_mq_unlink, NAME(name + 1)));
    int messages = msgget(IPC_PRIVATE, 0600), semaphores = semget(IPC_PRIVATE, 2, 0600), shared = shmget(IPC_PRIVATE, PAGE, 0600);
    struct { long type; char text[8]; } sent = {1, "hello"};
    BOTH(msgsnd, messages, in(&sent, 13), 5, 0), BOTH(msgrcv, messages, room(16, 13), 8, 0L, 0);
    struct msqid_ds message_state;
    struct shmid_ds shared_state;
    struct semid_ds semaphore_state;
    msgctl(messages, IPC_STAT, &message_state), shmctl(shared, IPC_STAT, &shared_state);
    semctl(semaphores, 0, IPC_STAT, &semaphore_state);
    BOTH(msgctl, messages, IPC_STAT, OUT(struct msqid_ds)), BOTH(shmctl, shared, IPC_STAT, OUT(struct shmid_ds));
    BOTH(msgctl, messages, IPC_SET, in(&message_state, sizeof message_state));
    BOTH(shmctl, shared, IPC_SET, in(&shared_state, sizeof shared_state));
    BOTH(semctl, semaphores, 0, IPC_STAT, OUT(struct semid_ds));
    BOTH(semctl, semaphores, 0, IPC_SET, in(&semaphore_state, sizeof semaphore_state));
    BOTH(semctl, semaphores, 0, SETALL, named("abc")), BOTH(semctl, semaphores, 0, GETALL, named("123"));
    printf("%.4s\n", device + 64);
    BOTH(semop, semaphores, IN(struct sembuf, 0, 1, 0), 1);
    CASE(semtimedop, semtimedop(semaphores, IN(struct sembuf, 0, 1, 0), 1, WITHIN));
    CASE(SYS_semtimedop, syscall(SYS_semtimedop, semaphores, IN(struct sembuf, 0, 1, 0), 1, WITHIN));
    msgctl(messages, IPC_RMID, NULL), semctl(semaphores, 0, IPC_RMID), shmctl(shared, IPC_RMID, NULL);
}

static void cases(void)
{
    file = open("file", O_RDWR);
    if (pipe(ends) || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
        abort();
    buffers(), sockets(), waits(), queues();
}
