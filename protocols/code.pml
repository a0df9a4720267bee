/*
 * A site's code, and what each processor may still hold of it.
 *
 * Only one byte is written at a time. A processor may have fetched any byte at any time since it last synchronised, and
 * may use what it fetched: so `held` is, for each processor and byte, the set of values that the byte has had since
 * then. Each byte of one instruction may come from another time, and a later execution may see an older byte than an
 * earlier one: no processor does worse than this.
 *
 * A processor here is a thread: the kernel synchronises the core before it returns to a thread that it moved or that
 * did not run during a membarrier.
 */

/* Values of a byte: bits, so that a set of them is a byte too. */
#define OLD 1 /* of the program's instruction */
#define NEW 2 /* of the jump to the thunk */
#define INT3 4

/* The first byte, and two for the tail: its bytes too are written one after the other. */
#define BYTES 3
#define FIRST 0

/* The patcher's own, number 0, and two that execute the program. */
#define CPUS 3
#define PATCHER 0

#define HELD(cpu, at) held[(cpu) * BYTES + (at)]

byte memory[BYTES] = OLD;
byte held[CPUS * BYTES] = OLD;

inline write(at, value) {
    memory[at] = value;
    HELD(0, at) = HELD(0, at) | (value);
    HELD(1, at) = HELD(1, at) | (value);
    HELD(2, at) = HELD(2, at) | (value)
}

inline sync(cpu) {
    HELD(cpu, 0) = memory[0];
    HELD(cpu, 1) = memory[1];
    HELD(cpu, 2) = memory[2]
}

/*
 * membarrier PRIVATE_EXPEDITED_SYNC_CORE: every processor that runs a thread of the program has synchronised when it
 * returns. All at once, at its end: one that does so earlier only holds less meanwhile.
 */
inline sync_all() {
#ifndef SYNC_SPARES_CALLER
    sync(0);
#endif
    sync(1);
    sync(2)
}

/* An instruction that begins with `value` is whole only if its tail can be nothing else. */
#define WHOLE(cpu, value) (HELD(cpu, 1) == (value) && HELD(cpu, 2) == (value))

/*
 * Who runs: handlers interrupt a thread's program, level 0, and each other. `top` is the innermost level, the only one
 * that moves, unless it is one of the lowest `parked` levels. Each process is one level of one thread: `level` and
 * `me`. Threads 0 and 1 have handlers on top of handlers; 2 is otherwise as 1 is.
 */
byte top[CPUS];
byte parked[CPUS];
#define HERE (top[me] == level && level >= parked[me])

/*
 * Without SIGNALS, signals come without end. With it, so many at most come in a round: enough to ask whether a round
 * that waits for handlers ends, which it need not if they never stop coming.
 */
#ifdef SIGNALS
byte signals = SIGNALS;
#define SIGNAL_ARRIVES (signals > 0 && top[me] == level - 1)
#define TAKE_SIGNAL signals--; top[me] = level
#define NEW_SIGNALS signals = SIGNALS
#else
#define SIGNAL_ARRIVES (top[me] == level - 1)
#define TAKE_SIGNAL top[me] = level
#define NEW_SIGNALS skip
#endif
