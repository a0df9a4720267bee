/*
 * Runs instructions on plain memory and on a shared file mapping, and compares what they leave behind.
 *
 *     runner FILE RESULTS ROUNDS FIRST LAST [BEHIND] [INVERTED]
 *
 * The cases are in cases.S, which instructions/program.py writes. FILE is mapped; its content is set and looked at with
 * pwrite and pread, so that a tracer of the mapping sees the instruction alone. Before each run the number of the case is
 * stored at MARK in the mapping. RESULTS gets a record a case: what the window held before and after on plain memory.
 * With BEHIND, that file is set and looked at in place of FILE: somebody makes the mapping look like it. With INVERTED as well,
 * every bit of what is set and looked at is the other way round.
 * Every difference is a line on standard output. Status: 0 none, 1 some, 2 trouble.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { WINDOW = 8192, LENGTH = 12288, PATCHES = 10, MARK = 8192, SIDE = 4096, STACK = 256 * 1024 };
enum { ZERO, REGION, SIDE_BASE, STACK_BASE, FS, BASES };
/* Of the stack, this much around rsp is compared: the red zone and what the caller has there. */
enum { BELOW = 128, ABOVE = 256 };
#define FIXED ((char *)0x20000000)
#define FLAGS 0xcd5 /* carry, parity, adjust, zero, sign, direction, overflow */

struct value {
    uint64_t constant;
    uint32_t plus, minus, divide, garbage;
};

struct patch {
    uint64_t offset, width, value;
};

struct test {
    const char *name;
    void *code;
    void *instruction;
    uint64_t fixed, flags;
    struct value registers[16];
    struct patch patches[PATCHES];
};

/* Offsets are known to cases.S. */
struct state {
    uint64_t general[16]; /* in the order of the instruction set */
    uint64_t flags;
    uint64_t unused;
    uint64_t mask[8];
    _Alignas(64) unsigned char vector[32][64];
    unsigned char x87[512];
};

struct record {
    uint64_t number, pc;
    unsigned char before[WINDOW], after[WINDOW];
};

struct outcome {
    struct state state;
    unsigned char window[WINDOW], side[SIDE], stack[BELOW + ABOVE];
};

extern const struct test tests[];
extern const uint64_t test_count;
extern const unsigned char content[WINDOW];
extern struct state in_state, out_state;
extern void *case_code;
void run_case(void);

_Alignas(4096) char stack_area[STACK];
_Alignas(64) static char side[SIDE];
static char *const case_stack = stack_area + STACK - 4096;

static int file, behind;
static unsigned char inverted;
static int failed;

static void die(const char *what)
{
    perror(what);
    exit(2);
}

static void prepare(const struct test *test, unsigned char *window)
{
    memcpy(window, content, WINDOW);
    for (const struct patch *p = test->patches; p < test->patches + PATCHES; p++)
        memcpy(window + p->offset, &p->value, p->width);
    memcpy(side, content, SIDE);
    memset(case_stack - BELOW, 0x5a, BELOW + ABOVE);
    for (int i = 0; i < ABOVE; i++)
        case_stack[i] = (char)content[i + 7];
}

static void invert(unsigned char *window)
{
    for (int i = 0; i < WINDOW; i++)
        window[i] ^= inverted;
}

/* Loads the registers, with the region at `region`, runs the instruction and keeps all but the window. */
static void run(const struct test *test, char *region, struct outcome *outcome)
{
    uint64_t bases[BASES] = {
        [REGION] = (uint64_t)region,
        [SIDE_BASE] = (uint64_t)side,
        [STACK_BASE] = (uint64_t)case_stack,
        [FS] = (uint64_t)__builtin_thread_pointer(),
    };
    for (int i = 0; i < 16; i++) {
        const struct value *v = &test->registers[i];
        in_state.general[i] = (v->constant + bases[v->plus] - bases[v->minus]) / v->divide | (uint64_t)v->garbage << 32;
    }
    in_state.general[4] = (uint64_t)case_stack;
    in_state.flags = test->flags | 0x202;
    case_code = test->code;
    run_case();
    outcome->state = out_state;
    memcpy(outcome->side, side, SIDE);
    memcpy(outcome->stack, case_stack - BELOW, BELOW + ABOVE);
}

static void difference(const struct test *test, long round, const char *what, uint64_t number, uint64_t plain, uint64_t traced)
{
    printf("%s: round %ld: %s %lu: %#lx on plain memory, %#lx on the mapping\n", test->name, round, what, number, plain,
           traced);
    failed = 1;
}

static void compare_bytes(const struct test *test, long round, const char *what, const unsigned char *plain,
                          const unsigned char *traced, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (plain[i] != traced[i]) {
            difference(test, round, what, i, plain[i], traced[i]);
            return;
        }
}

/* A register that started with an address may differ by as much as it did at the start. */
static void compare(const struct test *test, long round, const struct state *plain_start, const struct state *traced_start,
                    const struct outcome *plain, const struct outcome *traced)
{
    for (uint64_t i = 0; i < 16; i++) {
        uint64_t a = plain->state.general[i], b = traced->state.general[i];
        if (a != b && b - a != traced_start->general[i] - plain_start->general[i])
            difference(test, round, "general register", i, a, b);
    }
    if ((plain->state.flags ^ traced->state.flags) & FLAGS)
        difference(test, round, "flags", 0, plain->state.flags & FLAGS, traced->state.flags & FLAGS);
    for (uint64_t i = 0; i < 8; i++)
        if (plain->state.mask[i] != traced->state.mask[i])
            difference(test, round, "mask register", i, plain->state.mask[i], traced->state.mask[i]);
    compare_bytes(test, round, "vector register byte", plain->state.vector[0], traced->state.vector[0],
                  sizeof plain->state.vector);
    /* FXSAVE: control, status and tag words; mxcsr; the eight registers. Not the addresses of the last instruction. */
    compare_bytes(test, round, "x87 control byte", plain->state.x87, traced->state.x87, 6);
    compare_bytes(test, round, "mxcsr byte", plain->state.x87 + 24, traced->state.x87 + 24, 4);
    compare_bytes(test, round, "x87 register byte", plain->state.x87 + 32, traced->state.x87 + 32, 128);
    compare_bytes(test, round, "window byte", plain->window, traced->window, WINDOW);
    compare_bytes(test, round, "other memory byte", plain->side, traced->side, SIDE);
    compare_bytes(test, round, "stack byte", plain->stack, traced->stack, BELOW + ABOVE);
}

static void run_test(uint64_t number, char *plain_region, char *device, long rounds, int results)
{
    static struct record record;
    static struct outcome plain, traced;
    const struct test *test = &tests[number];
    int anonymous = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;

    char *region = plain_region;
    if (test->fixed && (region = mmap(FIXED, LENGTH, PROT_READ | PROT_WRITE, anonymous, -1, 0)) != FIXED)
        die("no room at FIXED");
    record.number = number;
    record.pc = (uint64_t)test->instruction;
    prepare(test, record.before);
    memcpy(region, record.before, WINDOW);
    run(test, region, &plain);
    struct state plain_start = in_state;
    memcpy(plain.window, region, WINDOW);
    memcpy(record.after, region, WINDOW);
    if (write(results, &record, sizeof record) != sizeof record)
        die("results");

    if (test->fixed) {
        munmap(FIXED, LENGTH);
        region = mmap(FIXED, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0);
        if (region != FIXED)
            die("mapping the file at FIXED");
    } else {
        region = device;
    }
    for (long round = 0; round < rounds; round++) {
        prepare(test, traced.window);
        invert(traced.window);
        if (pwrite(behind, traced.window, WINDOW, 0) != WINDOW)
            die("pwrite");
        *(volatile uint64_t *)(device + MARK) = number;
        run(test, region, &traced);
        if (pread(behind, traced.window, WINDOW, 0) != WINDOW)
            die("pread");
        invert(traced.window);
        compare(test, round, &plain_start, &in_state, &plain, &traced);
    }
    if (test->fixed)
        munmap(FIXED, LENGTH);
}

int main(int argc, char **argv)
{
    if (argc < 6)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    file = open(argv[1], O_RDWR);
    behind = argc > 6 ? open(argv[6], O_RDWR) : file;
    inverted = argc > 7 ? 0xff : 0;
    int results = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC, 0600);
    long rounds = atol(argv[3]), first = atol(argv[4]), last = atol(argv[5]);
    char *plain = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *device = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file < 0 || behind < 0 || results < 0 || plain == MAP_FAILED || device == MAP_FAILED)
        die("runner");
    for (int i = 0; i < 32; i++)
        for (int j = 0; j < 64; j++)
            in_state.vector[i][j] = content[(i * 64 + j) * 3 % WINDOW];
    for (int i = 0; i < 8; i++)
        in_state.mask[i] = 0x9e3779b97f4a7c15 * (i + 1);
    for (long number = first; number < last; number++)
        run_test(number, plain, device, rounds, results);
    return failed;
}
