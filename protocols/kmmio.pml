/*
 * kmmio's algorithm (2008), as it is in user space: the four ways to let a trapped access through, and the deferred
 * release of fault pages.
 *
 * One -D says which way, by its name in `record --smp`: STEP (A of the 2008 thread: the page is open for all while one
 * processor steps), LOCK (B: one hit at a time, the other processors held off meanwhile), PRIVATE (C: the page is open
 * for one processor), EMULATE (D: it stays closed, the access is made on another mapping).
 *
 * MAY_LOSE and MAY_RECUR are no mutants but what A puts up with: events are lost, and a hit meets its own page closed.
 *
 * Mutants, each a -D. Of the ways: LOCK_ALONE K2_BEFORE_HOLD HOLD_ENDS_BEFORE_K4 SECOND_PAGE_IGNORED NO_MASK. Of whose
 * a fault is: NO_SECOND_LOOK ABSENT_IF_OPEN_NOW. Of the release: R1_ALTHOUGH_COUNTED NO_R2 ONLY_PAGES_WAITED_FOR
 * R3_ALTHOUGH_COUNTED R3_ALTHOUGH_AWAITED ARMED_ALTHOUGH_OPEN K4_ALTHOUGH_RELEASED K4_UNLOCKED K5_BEFORE_K4.
 */

/* Sets are bytes. There are two pages and two probes: the first on P, the second on both, so they share P. */
#define P 1
#define Q 2
#define PAGES_OF(probes) ((probes) & 2 -> P | Q : ((probes) & 1 -> P : 0))
#define PROBES_ON(pages) ((pages) & P -> 3 : 2)

#define CPUS 2
#define NOBODY CPUS

/* The registry: its probes, the fault pages that it knows. Each of its operations holds its lock, and is one step. */
byte registered;
byte known;
/* The pages whose count is not 0. */
#define COUNTED PAGES_OF(registered)

/* Probes that are being unregistered, and the processors whose hits, which began before, each of them waits for. */
byte leaving;
byte awaited[3];

/* The page table: pages that are closed for all, but for whom they are open all the same (C). Q may be absent. */
byte armed;
byte open[CPUS];
byte absent;

/* A processor's hit: the pages it uses, the probes whose handlers it calls, and whether the registry knows of it. */
byte uses[CPUS];
byte calls[CPUS];
bool in_flight[CPUS];

/*
 * Pages that were open for this processor when it last asked, and have not been armed since: a fault at one of them is
 * the program's. At any other it may have been raised by an arming that is over by now.
 */
byte settled[CPUS];

/* A processor runs the program, level 0, and, number 0, a handler of its, level 1, which interrupts it where it may. */
byte top[CPUS];
bool masked[CPUS];

/* B: who holds the lock, and whether the others are held off. */
byte holder = NOBODY;
bool held_off;
#define MOVES (!held_off || holder == me)

#define HERE (top[me] == level && MOVES)
#ifdef NO_MASK
#define NEXT (top[me] == 0 && MOVES)
#else
#define NEXT (top[me] == 0 && MOVES && !masked[me])
#endif

/* What must never be. */
byte lost; /* pages with a probe that were touched, and no handler was told */
bool again; /* a processor has a hit in flight, and meets another, or the same once more */
byte ours; /* a page at which the program is given a fault that is kmmio's doing */
byte in_use; /* pages that are forgotten while a hit uses them */
byte called; /* a probe that is gone, while a hit may still call its handlers */

/* In a hit the access is made ... */
#ifdef EMULATE
#define THROUGH uses[me] /* ... on the other mapping of these pages. */
#else
#define THROUGH open[me] /* ... on the pages themselves. */
#endif

/* Those of `pages` at which a processor faults that these others are open for. */
#define FAULTS(pages, others) ((pages) & (absent | (armed & ~(others))))

/* Pages whose arming does not close them for the hit that this processor is in. */
#if defined(STEP) || defined(LOCK)
#define STAYS_OPEN(cpu) 0
#else
#define STAYS_OPEN(cpu) uses[cpu]
#endif

inline arm(pages) {
    armed = armed | (pages);
    settled[0] = settled[0] & ~((pages) & ~STAYS_OPEN(0));
    settled[1] = settled[1] & ~((pages) & ~STAYS_OPEN(1))
}

/* The access is made, and handlers were told of these pages. */
inline made(seen) {
#ifndef MAY_LOSE
    lost = access & COUNTED & ~(seen);
    assert(!lost)
#else
    skip
#endif
}

/* The processor reports one of the pages at which it faults. */
inline fault(pages) {
    if
    :: (pages) & P -> touched = P
    :: (pages) & Q -> touched = Q
    fi
}

/* The fault is given to the program. */
inline give() {
    ours = touched & ~absent;
    assert(!ours)
}

/* The registry's end of a hit. */
inline end_hit() {
    in_flight[me] = false;
    awaited[1] = awaited[1] & ~(1 << me);
    awaited[2] = awaited[2] & ~(1 << me)
}

/*
 * Level `level` of processor `me`. An instruction touches one page, or, one of the program's, both; the trap masks. K1,
 * the first handler, finds out whose the fault is and begins the hit; K2 opens its pages; K3 runs the instruction; K4,
 * the second handler, closes them; K5 ends the hit. A step that faults once more is back at K1.
 */
proctype Cpu(byte me; byte level) {
    byte access;
    byte touched;
next:
    do
    :: atomic {
           NEXT -> top[me] = level;
           if
           :: access = P
           :: access = Q
           :: level == 0 -> access = P | Q
           fi;
           if
           :: FAULTS(access, open[me]) ->
              printf("CPU %d: fault\n", me);
              again = in_flight[me];
              assert(!again);
              fault(FAULTS(access, open[me]));
              masked[me] = true
           :: else ->
              printf("CPU %d: access\n", me);
              made(0);
              access = 0; top[me] = 0;
              goto next
           fi
       }
#ifdef LOCK
       d_step { HERE && holder == NOBODY -> holder = me }
#if !defined(LOCK_ALONE) && !defined(K2_BEFORE_HOLD)
       d_step { HERE -> held_off = true }
#endif
#endif
K1:    atomic {
           HERE ->
           if
#ifdef ABSENT_IF_OPEN_NOW
           :: (touched & uses[me]) && !(touched & armed) -> give(); goto K4
#endif
           :: touched & settled[me] -> give(); goto K4
           :: !(touched & settled[me]) && (touched & uses[me]) -> /* the recursive hit */
#ifndef MAY_RECUR
              again = true;
              assert(!again)
#endif
           :: !(touched & settled[me]) && (touched & ~uses[me] & known & COUNTED) -> /* or one page more */
#ifdef SECOND_PAGE_IGNORED
              if
              :: uses[me] -> give(); goto K4
              :: else
              fi;
#endif
              uses[me] = uses[me] | touched;
              calls[me] = calls[me] | (PROBES_ON(touched) & registered);
              in_flight[me] = true
           :: else -> /* it comes late, or is the program's: the next one will tell */
#ifdef NO_SECOND_LOOK
              give();
#endif
              settled[me] = settled[me] | touched;
              if
              :: uses[me] -> goto K3
              :: else -> goto K5
              fi
           fi
       }
K2:    atomic {
           HERE ->
#ifndef EMULATE
           printf("CPU %d: disarm\n", me);
#endif
#ifdef PRIVATE
           open[me] = uses[me];
#elif !defined(EMULATE)
           armed = armed & ~uses[me];
#endif
           settled[me] = settled[me] | uses[me]
       }
#ifdef K2_BEFORE_HOLD
       d_step { HERE -> held_off = true }
#endif
K3:    atomic {
           HERE ->
           printf("CPU %d: single step\n", me);
           if
           :: FAULTS(access, THROUGH) -> fault(FAULTS(access, THROUGH)); goto K1
           :: else -> made(uses[me])
           fi
       }
#ifdef HOLD_ENDS_BEFORE_K4
       d_step { HERE -> held_off = false }
#endif
#ifdef K5_BEFORE_K4
       d_step { HERE -> end_hit() }
#endif
#ifdef K4_UNLOCKED
       d_step { HERE -> access = COUNTED }
#endif
K4:    atomic {
           HERE ->
#ifndef EMULATE
           printf("CPU %d: arm\n", me);
#endif
#if defined(STEP) || defined(LOCK)
#if defined(K4_ALTHOUGH_RELEASED)
           arm(uses[me]);
#elif defined(K4_UNLOCKED)
           arm(uses[me] & access);
#else
           arm(uses[me] & COUNTED);
#endif
#endif
           settled[me] = settled[me] & ~armed;
           open[me] = 0; uses[me] = 0; calls[me] = 0
       }
K5:    atomic {
           HERE ->
           end_hit();
           masked[me] = false; holder = NOBODY; held_off = false;
           access = 0; touched = 0; top[me] = 0
       }
    od
}

/* Pages that a hit has open for all are closed by its K4. */
#if (defined(STEP) || defined(LOCK)) && !defined(ARMED_ALTHOUGH_OPEN)
#define LEFT_TO_K4 (uses[0] | uses[1])
#else
#define LEFT_TO_K4 0
#endif

/* What is there to wait for? */
#if defined(NO_R2)
#define GRACE 0
#elif defined(ONLY_PAGES_WAITED_FOR)
#define GRACE (PAGES_OF(probe) & ~COUNTED -> in_flight[0] | in_flight[1] << 1 : 0)
#else
#define GRACE (in_flight[0] | in_flight[1] << 1)
#endif

/* What must not be forgotten? */
#if defined(R3_ALTHOUGH_COUNTED)
#define STAYS PAGES_OF(leaving & ~probe)
#elif defined(R3_ALTHOUGH_AWAITED)
#define STAYS COUNTED
#else
#define STAYS (COUNTED | PAGES_OF(leaving & ~probe))
#endif

/*
 * Who registers and unregisters one probe. R1: the count of its pages goes down, and those where it is 0 are disarmed.
 * R2: a grace period, until all hits have ended that were in flight. R3: the pages are forgotten, unless they are
 * counted again, or somebody else is between R1 and R3 with them.
 */
proctype Registrar(byte probe) {
    byte pages;
    do
    :: d_step {
           pages = PAGES_OF(probe) & ~COUNTED;
           registered = registered | probe;
           known = known | pages;
           arm(pages & ~LEFT_TO_K4);
           pages = 0
       }
R1:    if
       :: registered & probe -> goto R1 /* a probe may stay for ever */
       :: d_step {
              registered = registered & ~probe;
#ifdef R1_ALTHOUGH_COUNTED
              armed = armed & ~PAGES_OF(probe);
#else
              armed = armed & ~(PAGES_OF(probe) & ~COUNTED);
#endif
              leaving = leaving | probe;
              awaited[probe] = GRACE
          }
       fi;
R2:    d_step { awaited[probe] == 0 -> skip }
R3:    d_step {
           pages = PAGES_OF(probe) & known & ~STAYS;
           in_use = (uses[0] | uses[1]) & pages;
           assert(!in_use);
           called = (calls[0] | calls[1]) & probe;
           assert(!called);
           known = known & ~pages;
           leaving = leaving & ~probe; pages = 0
       }
    od
}

init {
    atomic {
        if
        :: absent = 0
        :: absent = Q
        fi;
        run Cpu(0, 0);
        run Cpu(1, 0);
        run Cpu(0, 1);
        run Registrar(1);
        run Registrar(2)
    }
}

ltl ends { [] ((leaving & 1) -> <> !(leaving & 1)) }
