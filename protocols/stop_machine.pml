/*
 * The stop-machine protocol: the seed's (ftrace, 2008) in its user-space form, in an order in which it tears nothing
 * (docs/protocols.md: the seed's does). code.pml says what a processor is.
 *
 * Mutants, each a -D. Of the patcher: NO_PARK ONE_NOT_WAITED_FOR PARK_AFTER_S2 SEED_ORDER NO_S3 S2_BEFORE_S1
 * S5_BEFORE_S4 NO_SYNC SYNC_AFTER_S5 SYNC_SPARES_CALLER NO_S6 WAITS_FOR_ITSELF. Of parking: PARK_KEEPS_COUNT. Of
 * handlers: NO_H1 FLAG_BEFORE_H1 NO_H2 NO_H3 H5_BEFORE_H4. AGENT is no mutant but what the agent does.
 */
#include "code.pml"

/*
 * The agent does less than it might: while a thread is parked, or patches, its signals wait; so a handler is in flight
 * only until its own code begins, with all signals blocked, and is parked with its thread afterwards.
 */
#ifdef AGENT
#define H5_BEFORE_H4
#define OPEN (!blocked[me] && !parked[me] && !(busy && me == PATCHER))
#else
#define OPEN true
#endif

/* One word, only changed by locked instructions: how many handlers are in flight, and whether code is being changed. */
byte in_flight;
bool flag;

/* The code buffer. There is one site, so the instruction-pointer buffer would always be the same. */
byte buffer = OLD;

/* The other threads are to park. */
bool park;

/* The agent's only: the thread is between a handler's start and H5, and cannot be parked. */
bool blocked[CPUS];

/* The site is being changed; what it is changed to, and, when not busy, what it is. */
bool busy;
byte wanted = OLD;

/*
 * One execution of the site by `level` of thread `me`, which goes on at level `then_top`, with so many handlers
 * `fewer` in flight. Whoever was told that a round is over relies on it: no thread executes anything but what the site
 * was changed to.
 */
inline execute(then_top, fewer) {
    if
    :: d_step {
           HERE && (HELD(me, FIRST) & OLD) ->
           assert(WHOLE(me, OLD)); assert(busy || wanted == OLD);
           top[me] = then_top; in_flight = in_flight - (fewer)
       }
    :: d_step {
           HERE && (HELD(me, FIRST) & NEW) ->
           assert(WHOLE(me, NEW)); assert(busy || wanted == NEW);
           top[me] = then_top; in_flight = in_flight - (fewer)
       }
    fi
}

/* Handlers that the patcher itself runs on top of are in flight, and cannot end before it. */
#ifdef WAITS_FOR_ITSELF
#define NONE_IN_FLIGHT (in_flight == 0)
#else
#define NONE_IN_FLIGHT (in_flight == own)
#endif

/* Is waiting for a thread once in vain a reason never to wait for it again? */
#ifdef ONE_NOT_WAITED_FOR
#define ALL_PARKED (parked[1])
#else
#define ALL_PARKED (parked[1] && parked[2])
#endif

/*
 * Nothing is written before S2: a patcher that has waited too long, for signals without end, gives up. With a finite
 * number of signals it need not.
 */
#ifdef SIGNALS
#define OR_GIVE_UP
#else
#define OR_GIVE_UP :: atomic { HERE -> wanted = OLD + NEW - wanted; goto release }
#endif

active proctype Patcher() {
    byte me = PATCHER;
    byte level = 0;
    byte own;
    do
    :: execute(level, 0) /* between rounds the patcher's thread is like any other */
    :: atomic {
           HERE -> busy = true; wanted = OLD + NEW - wanted; park = true;
           if
           :: own = 0
#ifndef AGENT
           :: own = 1
#endif
           fi;
           in_flight = in_flight + own
       }
#if !defined(NO_PARK) && !defined(PARK_AFTER_S2)
       if
       :: d_step { HERE && ALL_PARKED -> skip }
       OR_GIVE_UP
       fi;
#endif
#ifndef S2_BEFORE_S1
S1:    d_step { HERE -> buffer = wanted }
#endif
#if defined(SEED_ORDER) || defined(NO_S3)
S2:    d_step { HERE -> flag = true }
#ifndef NO_S3
S3:    d_step { HERE && NONE_IN_FLIGHT -> skip }
#endif
#else
S2_S3: if
       :: d_step { HERE && NONE_IN_FLIGHT -> flag = true } /* one compare-and-swap */
       OR_GIVE_UP
       fi;
#endif
#ifdef S2_BEFORE_S1
S1:    d_step { HERE -> buffer = wanted }
#endif
#ifdef PARK_AFTER_S2
       d_step { HERE && ALL_PARKED -> skip }
#endif
#ifdef S5_BEFORE_S4
       d_step { HERE -> flag = false }
#endif
S4:    d_step { HERE -> write(0, wanted) }
       d_step { HERE -> write(1, wanted) }
       d_step { HERE -> write(2, wanted) }
#if !defined(NO_SYNC) && !defined(SYNC_AFTER_S5)
       d_step { HERE -> sync_all() }
#endif
S5:    d_step { HERE -> flag = false }
#ifdef SYNC_AFTER_S5
       d_step { HERE -> sync_all() }
#endif
#ifndef NO_S6
S6:    d_step { HERE && NONE_IN_FLIGHT -> skip }
#endif
release:
       atomic { HERE -> park = false; in_flight = in_flight - own; own = 0 }
       d_step { HERE -> busy = false; NEW_SIGNALS }
    od
}

proctype Program(byte me) {
    byte level = 0;
    do
    :: execute(level, 0)
    od
}

/* What a handler counts for. */
#ifdef NO_H1
#define COUNTED 0
#else
#define COUNTED 1
#endif

/*
 * The signal that parks a thread, anywhere, on top of its handlers too. These do not move until it is released, so they
 * are taken out of the count: with them in it, the patcher would wait for what waits for the patcher.
 */
#if defined(PARK_KEEPS_COUNT) || defined(AGENT)
#define STOPPED 0
#else
#define STOPPED (COUNTED * (parked[me] - 1))
#endif

proctype Parking(byte me) {
    do
#ifndef NO_PARK
    :: d_step { park && !parked[me] && !blocked[me] -> parked[me] = top[me] + 1; in_flight = in_flight - STOPPED }
#endif
    :: d_step { !park && parked[me] && top[me] == parked[me] - 1 -> in_flight = in_flight + STOPPED; parked[me] = 0 }
    od
}

/*
 * Any handler of the program that a signal starts, inside the agent's wrapper. It runs on top of whatever is there, a
 * parked thread and the patcher included. H1: it is counted, and sees the flag, in one locked instruction. H2: it
 * writes the pending bytes. H3: it synchronises. H4: it runs. H5: it is counted down.
 *
 * One execution, as its last act, is as good as many: executing whole code leaves no trace, and a handler may last as
 * long as it likes. So H1 comes with the signal, H5 with the execution.
 */
proctype Handler(byte me; byte level) {
    bool pending;
    do
    :: atomic {
           SIGNAL_ARRIVES && OPEN -> TAKE_SIGNAL; pending = flag;
#ifdef FLAG_BEFORE_H1
       }
       atomic {
           HERE ->
#endif
           in_flight = in_flight + COUNTED;
#ifdef AGENT
           blocked[me] = true;
#endif
#ifndef NO_H2
           if
           :: pending -> pending = false
           :: else -> goto H4
           fi
#endif
       }
#ifndef NO_H2
H2:    d_step { HERE -> write(0, buffer) }
       d_step { HERE -> write(1, buffer) }
       d_step { HERE -> write(2, buffer) }
#endif
#ifndef NO_H3
H3:    d_step { HERE -> sync(me) }
#endif
H4:
#ifdef H5_BEFORE_H4
       atomic { HERE -> in_flight--; blocked[me] = false }
       execute(level - 1, 0)
#else
       execute(level - 1, COUNTED)
#endif
    od
}

init {
    byte cpu;
    atomic {
        run Program(1);
        run Program(2);
        run Parking(1);
        run Parking(2);
        for (cpu : 0 .. CPUS - 1) {
            run Handler(cpu, 1)
        }
        run Handler(PATCHER, 2);
        run Handler(1, 2)
    }
}

ltl ends { [] (busy -> <> !busy) }
