/*
 * toggle FILE LOGS TURNS PROTOCOL: sites that are patched and unpatched while threads and signal handlers run them.
 *
 * Three threads (one that sleeps in between) never stop visiting the chunks of sites.py, entering them at any site or behind
 * the last. A timer for each thread, and for the one that patches, has a handler that visits them too. Each of these seven
 * contexts has a page of FILE of its own. visit() gives all registers random values; what they are afterwards must be what the
 * table says, and flags, vector registers and red zone untouched. What a context did is written to LOGS/NUMBER, a record an
 * access. In each of the TURNS one site is patched, and one that was patched some turns ago is unpatched, while the others
 * like to be in just that chunk; the accesses of a context are bounded by the turns so far, for each is an event.
 *
 * Prints a line a site: address, length, times patched, times refused. Status: 0 all right, 3 something was wrong.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, CELLS = 64, CELL = 16, STEP = 0x11, XMM = 16, NONE = 255, RSP = 4, RCX = 1, R11 = 11 };
enum { MERGE, ZERO, SIGN };
enum { THREADS = 3, CONTEXTS = 2 * THREADS + 2, FIRST = 2 * THREADS + 1, MAX_SITES = 1024 };
/* Turns that a site stays patched; accesses of a thread, and of a handler, in a turn; visits of a handler. */
enum { LAG = 20, THREAD_SHARE = 12, HANDLER_SHARE = 4, AHEAD = 1000, IN_HANDLER = 3, TRIES = 5, TIMER_NS = 300000 };
#define FLAGS 0x8d5 /* carry, parity, adjust, zero, sign, overflow */

/* As sites.py writes them. */
struct site {
    char *address, *next;
    int64_t immediate;
    int32_t displacement;
    uint8_t width, is_write, reg, rest, base, index, scale;
};

struct chunk {
    uint64_t count;
    struct site *sites;
};

extern struct chunk chunks[];
extern uint64_t chunk_count;

/* As visit.S knows them. */
struct state {
    uint64_t general[16], flags;
    void *target;
    uint64_t stack, unused;
    unsigned char xmm[16][16];
    uint64_t red[16];
};

struct visit {
    struct state in, out;
};

_Static_assert(offsetof(struct state, flags) == 128 && offsetof(struct state, xmm) == 160, "visit.S");
_Static_assert(offsetof(struct state, red) == 416 && sizeof(struct state) == 544, "visit.S");
void visit(struct visit *visit);

struct record {
    uint64_t address, offset, value;
};

struct context {
    struct visit visit;
    int number;
    char *page;
    unsigned char shadow[CELLS][CELL];
    uint64_t random;
    struct record *log;
    size_t accesses;
};

static struct context contexts[CONTEXTS];
static __thread struct context *handlers_context;
static struct site *sites[MAX_SITES];
static int site_count, patched[MAX_SITES], refused[MAX_SITES];
static int chunk_of[MAX_SITES];
static long turns;
static atomic_long turn;
static atomic_int toggling, over;

#define CHECK(what, ...)                                                                          \
    do {                                                                                          \
        if (!(what)) {                                                                            \
            dprintf(1, "%s:%d: not so: %s ", __FILE__, __LINE__, #what);                          \
            dprintf(1, __VA_ARGS__);                                                              \
            dprintf(1, "\n");                                                                     \
            _exit(3);                                                                             \
        }                                                                                         \
    } while (0)

/* xorshift64* */
static uint64_t any(struct context *context)
{
    uint64_t x = context->random;
    x ^= x >> 12, x ^= x << 25, x ^= x >> 27;
    context->random = x;
    return x * 0x2545f4914f6cdd1d;
}

static void note(struct context *context, struct site *site, uint64_t offset, const unsigned char *value)
{
    struct record record = {(uint64_t)site->address, offset, 0};
    memcpy(&record.value, value, site->width < 8 ? site->width : 8);
    context->log[context->accesses++] = record;
}

/* What a site does to memory and registers. */
static void simulate(struct context *context, struct site *site, int cell, struct state *state)
{
    unsigned char *memory = context->shadow[cell];
    uint64_t *general = &state->general[site->reg & 15];
    if (site->is_write && site->reg == NONE)
        memcpy(memory, &site->immediate, site->width);
    else if (site->is_write)
        memcpy(memory, site->reg < XMM ? (void *)general : state->xmm[site->reg - XMM], site->width);
    note(context, site, (uint64_t)context->number * PAGE + (uint64_t)cell * CELL, memory);
    if (site->is_write)
        return;
    if (site->reg >= XMM) {
        memset(state->xmm[site->reg - XMM], 0, 16);
        memcpy(state->xmm[site->reg - XMM], memory, site->width);
        return;
    }
    uint64_t old = *general;
    *general = 0;
    memcpy(general, memory, site->width);
    int unused = 64 - 8 * site->width;
    if (site->rest == MERGE)
        *general |= old >> (64 - unused) << (64 - unused);
    else if (site->rest == SIGN)
        *general = (uint64_t)((int64_t)(*general << unused) >> unused);
}

static void go(struct context *context, int number, uint64_t entry)
{
    struct chunk *chunk = &chunks[number];
    struct state *in = &context->visit.in, *out = &context->visit.out, want;
    int cell = any(context) % CELLS;
    uint64_t address = (uint64_t)context->page + (uint64_t)cell * CELL;
    for (int i = 0; i < 16; i++) {
        in->general[i] = any(context);
        in->red[i] = any(context);
        uint64_t halves[2] = {any(context), any(context)};
        memcpy(in->xmm[i], halves, 16);
    }
    in->flags = (any(context) & FLAGS) | 0x202;
    in->stack = 0;
    for (uint64_t i = entry; i < chunk->count; i++) {
        struct site *site = &chunk->sites[i];
        if (site->base == RSP) {
            in->stack = ~0ull;
            in->general[RCX] = address - site->displacement;
        } else {
            uint64_t index = site->index == NONE ? 0 : in->general[site->index];
            in->general[site->base] = address - site->displacement - index * site->scale;
        }
    }
    in->target = entry < chunk->count ? chunk->sites[entry].address : chunk->sites[chunk->count - 1].next;
    visit(&context->visit);

    want = *in;
    want.general[R11] += STEP;
    for (uint64_t i = entry; i < chunk->count; i++)
        simulate(context, &chunk->sites[i], cell, &want);
    for (int i = 0; i < 16; i++) {
        CHECK(i == RSP || out->general[i] == want.general[i], "(%s: context %d, chunk %d, entry %d, register %d: %lx instead of %lx)",
              "register", context->number, number, (int)entry, i, out->general[i], want.general[i]);
        CHECK(!memcmp(out->xmm[i], want.xmm[i], 16), "(chunk %d, entry %d, xmm%d)", number, (int)entry, i);
        CHECK(out->red[i] == want.red[i], "(chunk %d, entry %d, red zone %d)", number, (int)entry, i);
    }
    CHECK(!((out->flags ^ want.flags) & (FLAGS | 0x400)), "(chunk %d, entry %d: %lx instead of %lx)", number, (int)entry,
          out->flags, want.flags);
}

/* Half of the time the chunk that is being patched; behind the last site when there have been enough accesses. */
static void go_anywhere(struct context *context, long share)
{
    int is_there = any(context) & 1;
    int number = is_there ? atomic_load_explicit(&toggling, memory_order_relaxed) : (int)(any(context) % chunk_count);
    long allowed = AHEAD + share * atomic_load_explicit(&turn, memory_order_relaxed);
    uint64_t count = chunks[number].count;
    go(context, number, (long)context->accesses < allowed ? any(context) % (count + 1) : count);
}

static void ring(int signal)
{
    (void)signal;
    for (int i = 0; i < IN_HANDLER && handlers_context; i++)
        go_anywhere(handlers_context, HANDLER_SHARE);
}

static timer_t start_timer(int number)
{
    timer_t timer;
    handlers_context = &contexts[number];
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};
    event._sigev_un._tid = gettid();
    struct itimerspec every = {{0, TIMER_NS}, {0, TIMER_NS}};
    CHECK(!timer_create(CLOCK_MONOTONIC, &event, &timer) && !timer_settime(timer, 0, &every, NULL), " ");
    return timer;
}

static void *work(void *argument)
{
    int number = (int)(intptr_t)argument;
    timer_t timer = start_timer(THREADS + number);
    for (long i = 0; !atomic_load_explicit(&over, memory_order_relaxed); i++) {
        go_anywhere(&contexts[number], THREAD_SHARE);
        if (number == THREADS - 1 && i % 8 == 0)
            usleep(50);
    }
    timer_delete(timer);
    return NULL;
}

typedef int change(void *site, int protocol);

/* stop-machine gives up when a thread does not stop, which may be for want of a processor. */
static int done(change *change, void *site, int protocol)
{
    for (int i = 0; i < TRIES; i++)
        if (change(site, protocol))
            return 1;
    return 0;
}

static void toggle(int protocol)
{
    change *patch = (change *)dlsym(RTLD_DEFAULT, "mmiotap_agent_patch");
    change *unpatch = (change *)dlsym(RTLD_DEFAULT, "mmiotap_agent_unpatch");
    for (long now = 0; now < turns + LAG; now++) {
        int in = now % site_count, out = (now - LAG) % site_count;
        if (now < turns) {
            atomic_store(&toggling, chunk_of[in]);
            if (patch)
                (*(done(patch, sites[in]->address, protocol) ? &patched[in] : &refused[in]))++;
        }
        if (now >= LAG) {
            atomic_store(&toggling, chunk_of[out]);
            if (unpatch)
                CHECK(done(unpatch, sites[out]->address, protocol), "(site %d)", out);
        }
        atomic_store(&turn, now < turns ? now + 1 : turns);
        if (!patch)
            usleep(10);
    }
}

static void prepare(int number, char *device, const char *logs)
{
    struct context *context = &contexts[number];
    char path[4096];
    snprintf(path, sizeof path, "%s/%d", logs, number);
    size_t size = sizeof(struct record) * (AHEAD + 2000 + THREAD_SHARE * (size_t)turns);
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(file >= 0 && !ftruncate(file, size), "%s", path);
    context->log = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(context->log != MAP_FAILED, "%s", path);
    close(file);
    context->number = number;
    context->page = device + (size_t)number * PAGE;
    context->random = 0x9e3779b97f4a7c15 * (uint64_t)(number + 1);
}

int main(int argc, char **argv)
{
    CHECK(argc == 5, " ");
    turns = atol(argv[3]);
    int file = open(argv[1], O_RDWR);
    char *device = mmap(NULL, CONTEXTS * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(device != MAP_FAILED, "%s", argv[1]);
    for (int i = 0; i < CONTEXTS; i++)
        prepare(i, device, argv[2]);
    for (uint64_t i = 0; i < chunk_count; i++)
        for (uint64_t j = 0; j < chunks[i].count; j++) {
            CHECK(site_count < MAX_SITES, " ");
            chunk_of[site_count] = (int)i;
            sites[site_count++] = &chunks[i].sites[j];
        }
    /* Each site must have been seen. */
    for (int i = 0; i < (int)chunk_count; i++)
        go(&contexts[FIRST], i, 0);

    CHECK(signal(SIGRTMIN, ring) != SIG_ERR, " ");
    pthread_t threads[THREADS];
    for (intptr_t i = 0; i < THREADS; i++)
        CHECK(!pthread_create(&threads[i], NULL, work, (void *)i), " ");
    timer_t timer = start_timer(2 * THREADS);
    toggle(atoi(argv[4]));
    timer_delete(timer);
    over = 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < CONTEXTS; i++)
        printf("context %zu\n", contexts[i].accesses);
    for (int i = 0; i < site_count; i++)
        printf("site %lu %ld %d %d\n", (uint64_t)sites[i]->address, sites[i]->next - sites[i]->address, patched[i], refused[i]);
    return 0;
}
