/*
 * mmiotap.h: put a word of your own into the recording.
 *
 *     mmiotap_mark("firmware loaded");
 *
 * While the program runs under `mmiotap record` this adds a `mark` row to the trace, in time order with the accesses
 * around it. Otherwise it does nothing. C and C++, any thread, no library to link; not from a signal handler.
 */
#ifndef MMIOTAP_H
#define MMIOTAP_H

#include <dlfcn.h>

/*
 * The agent's function is looked up at run time: a weak reference to it would be bound to null when a program that is
 * no PIE is linked. dlsym itself may be weak, for it is in the C library (glibc before 2.34: only with -ldl).
 */
#pragma weak dlsym

/* Add a `mark` row with this text (NUL-terminated UTF-8) to the trace, if there is one. */
static inline void mmiotap_mark(const char *text)
{
    typedef void (*mark_function)(const char *);
    static mark_function mark;
    static int looked_up;

    if (!__atomic_load_n(&looked_up, __ATOMIC_ACQUIRE)) {
        if (dlsym)
            mark = __extension__ (mark_function)dlsym((void *)0 /* RTLD_DEFAULT */, "mmiotap_agent_mark");
        __atomic_store_n(&looked_up, 1, __ATOMIC_RELEASE);
    }
    if (mark)
        mark(text);
}

#endif
