/*
 * uring SRC DST: copies a file through io_uring, with nothing but system calls and shared memory (io_uring(7)).
 *
 * The other side of the rings is the kernel. Two rings of indices, each with a head that the consumer moves and a tail
 * that the producer moves: what is stored with release on one side is loaded with acquire on the other.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { DEPTH = 8, BLOCK = 32 * 1024 };

/* One ring as we see it: pointers into memory that the kernel shares with us (struct io_sqring_offsets, io_cqring_offsets). */
struct ring {
    uint32_t *head, *tail, *mask;
};

static struct ring sq, cq;
static uint32_t *sq_array;
static struct io_uring_sqe *sqes;
static struct io_uring_cqe *cqes;
static int ring_fd, src, dst;
static uint64_t size, next_offset;
static unsigned long submissions, completions;

/* A block on its way: first read at `offset`, then written there. `done` of `length` bytes are through. */
static struct block {
    uint8_t op;
    uint64_t offset;
    uint32_t length, done;
    char data[BLOCK];
} blocks[DEPTH];

static void die(const char *what, int error)
{
    fprintf(stderr, "uring: %s: %s\n", what, strerror(error));
    exit(1);
}

static char *map(size_t length, off_t what)
{
    void *address = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring_fd, what);
    if (address == MAP_FAILED)
        die("mmap", errno);
    return address;
}

static void setup(void)
{
    struct io_uring_params p = {0};
    ring_fd = (int)syscall(SYS_io_uring_setup, DEPTH, &p);
    if (ring_fd < 0)
        die("io_uring_setup", errno);
    char *ring = map(p.sq_off.array + p.sq_entries * sizeof(uint32_t), IORING_OFF_SQ_RING);
    sq = (struct ring){(void *)(ring + p.sq_off.head), (void *)(ring + p.sq_off.tail), (void *)(ring + p.sq_off.ring_mask)};
    sq_array = (void *)(ring + p.sq_off.array);
    ring = map(p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
    cq = (struct ring){(void *)(ring + p.cq_off.head), (void *)(ring + p.cq_off.tail), (void *)(ring + p.cq_off.ring_mask)};
    cqes = (void *)(ring + p.cq_off.cqes);
    sqes = (void *)map(p.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
}

/* We are the only producer, so the tail is ours to read; an entry counts from the moment the tail covers it. */
static void submit(unsigned slot)
{
    struct block *b = &blocks[slot];
    uint32_t tail = *sq.tail, index = tail & *sq.mask;
    sqes[index] = (struct io_uring_sqe){
        .opcode = b->op,
        .fd = b->op == IORING_OP_READ ? src : dst,
        .off = b->offset + b->done,
        .addr = (uintptr_t)(b->data + b->done),
        .len = b->length - b->done,
        .user_data = slot,
    };
    sq_array[index] = index;
    __atomic_store_n(sq.tail, tail + 1, __ATOMIC_RELEASE);
    submissions++;
}

/* Gives the slot its next block of the file, if there is one left. */
static void start(unsigned slot)
{
    if (next_offset >= size)
        return;
    uint64_t left = size - next_offset;
    blocks[slot].op = IORING_OP_READ;
    blocks[slot].offset = next_offset;
    blocks[slot].length = left < BLOCK ? (uint32_t)left : BLOCK;
    blocks[slot].done = 0;
    next_offset += blocks[slot].length;
    submit(slot);
}

static void complete(unsigned slot, int32_t result)
{
    struct block *b = &blocks[slot];
    if (result < 0)
        die(b->op == IORING_OP_READ ? "read" : "write", -result);
    if (result == 0) {
        fprintf(stderr, "uring: the source became shorter while it was copied\n");
        exit(1);
    }
    b->done += (uint32_t)result;
    if (b->done < b->length) { /* a short read or write: the rest again */
        submit(slot);
    } else if (b->op == IORING_OP_READ) {
        b->op = IORING_OP_WRITE;
        b->done = 0;
        submit(slot);
    } else {
        start(slot);
    }
}

/* Takes what has completed. The head goes up once an entry was read: from then on the kernel may overwrite it. */
static void reap(void)
{
    uint32_t head = *cq.head;
    while (head != __atomic_load_n(cq.tail, __ATOMIC_ACQUIRE)) {
        struct io_uring_cqe *cqe = &cqes[head & *cq.mask];
        unsigned slot = (unsigned)cqe->user_data;
        int32_t result = cqe->res;
        __atomic_store_n(cq.head, ++head, __ATOMIC_RELEASE);
        completions++;
        complete(slot, result);
    }
}

int main(int argc, char **argv)
{
    struct stat st;
    if (argc != 3) {
        fprintf(stderr, "usage: uring SRC DST\n");
        return 2;
    }
    src = open(argv[1], O_RDONLY | O_CLOEXEC);
    if (src < 0 || fstat(src, &st))
        die(argv[1], errno);
    dst = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (dst < 0)
        die(argv[2], errno);
    size = (uint64_t)st.st_size;
    setup();

    for (unsigned slot = 0; slot < DEPTH; slot++)
        start(slot);
    while (completions < submissions) {
        uint32_t queued = *sq.tail - __atomic_load_n(sq.head, __ATOMIC_ACQUIRE);
        if (syscall(SYS_io_uring_enter, ring_fd, queued, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0 && errno != EINTR)
            die("io_uring_enter", errno);
        reap();
    }
    if (close(dst))
        die(argv[2], errno);
    printf("uring: %llu bytes, %lu submissions, %lu completions\n", (unsigned long long)size, submissions, completions);
    return 0;
}
