/*
 * The breakpoint protocol: int3, sync, tail, sync, first byte, sync. code.pml says what a processor is.
 *
 * Mutants, each a -D: NO_B1 NO_B2 NO_B4 NO_B6 TABLE_AFTER_B1 B5_BEFORE_B3 TURN_WITHOUT_B4 SYNC_SPARES_CALLER.
 */
#include "code.pml"

/* The site has a thunk, and the trap handler finds it. Once true, true for ever. */
bool in_table;
/* The site is being changed. */
bool busy;
/* What it is changed to, and, when not busy, what it is. */
byte wanted = OLD;

/* A write or a sync after B2 has failed: the way back is the same way, with the bytes from before. */
#define OR_TURN_BACK :: atomic { HERE && !turned -> turned = true; wanted = OLD + NEW - wanted; goto B3 }

/*
 * One execution of the site by `level` of thread `me`, which goes on at level `then_top`. Whoever was told that a round
 * is over relies on it: no thread executes anything but what the site was changed to, and none meets an int3.
 */
inline execute(then_top) {
    if
    :: d_step {
           HERE && (HELD(me, FIRST) & OLD) ->
           assert(WHOLE(me, OLD)); assert(busy || wanted == OLD);
           top[me] = then_top
       }
    :: d_step {
           HERE && (HELD(me, FIRST) & NEW) ->
           assert(WHOLE(me, NEW)); assert(busy || wanted == NEW);
           top[me] = then_top
       }
    :: d_step {
           HERE && (HELD(me, FIRST) & INT3) ->
           assert(in_table); assert(busy);
           top[me] = then_top
       }
    fi
}

active proctype Patcher() {
    byte me = PATCHER;
    byte level = 0;
    bool turned;
    do
    :: execute(level) /* between rounds the patcher's thread is like any other */
    :: d_step { HERE -> busy = true; wanted = OLD + NEW - wanted }
#ifndef TABLE_AFTER_B1
       d_step { HERE -> in_table = true }
#endif
#ifndef NO_B1
B1:    d_step { HERE -> write(FIRST, INT3) }
#endif
#ifdef TABLE_AFTER_B1
       d_step { HERE -> in_table = true }
#endif
#ifndef NO_B2
B2:    d_step { HERE -> sync_all() }
#endif
#ifdef B5_BEFORE_B3
       d_step { HERE -> write(FIRST, wanted) }
#endif
B3:    atomic { HERE -> write(1, wanted) }
       if
       :: d_step { HERE -> write(2, wanted) }
       OR_TURN_BACK
       fi;
       if
#if defined(NO_B4)
       :: d_step { HERE -> skip }
#elif defined(TURN_WITHOUT_B4)
       :: d_step { HERE && turned -> skip }
       :: d_step { HERE && !turned -> sync_all() }
#else
       :: d_step { HERE -> sync_all() } /* B4 */
#endif
       OR_TURN_BACK
       fi;
B5:    d_step { HERE -> write(FIRST, wanted) }
#ifndef NO_B6
B6:    d_step { HERE -> sync_all() }
#endif
       d_step { HERE -> busy = false; turned = false; NEW_SIGNALS }
    od
}

proctype Program(byte me) {
    byte level = 0;
    do
    :: execute(level)
    od
}

/* One execution, at any moment after the handler's start, is as good as many: executing whole code leaves no trace. */
proctype Handler(byte me; byte level) {
    do
    :: d_step { SIGNAL_ARRIVES -> TAKE_SIGNAL }
       execute(level - 1)
    od
}

init {
    byte cpu;
    atomic {
        run Program(1);
        run Program(2);
        for (cpu : 0 .. CPUS - 1) {
            run Handler(cpu, 1)
        }
        run Handler(PATCHER, 2);
        run Handler(1, 2)
    }
}

ltl ends { [] (busy -> <> !busy) }
