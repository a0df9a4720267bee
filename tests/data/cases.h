/*
 * Calls that are given pointers into a device's mapping. Each case says which function or number it is about, how it ended, whether what it
 * was to write has changed, and which accesses of the kernel's the recording has to have.
 *
 *     cases DEVICE FOLDER
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "mmiotap.h"

enum { PAGE = 4096 };
static char *device;
/* Of the case: where the next piece of the device is, what is expected, and what the kernel is to write. */
static size_t next;
static char expected[2048];
static struct { char *at; size_t length; } rooms[16];
static int room_count;

static void begin(const char *name)
{
    next = 64, expected[0] = 0, room_count = 0, errno = 0;
    memset(device, 0xee, PAGE);
    mmiotap_mark(name);
}

static void expect(const char *kind, const void *at, size_t length)
{
    size_t used = strlen(expected);
    snprintf(expected + used, sizeof expected - used, " %s,%zu,%zu", kind, (size_t)((char *)at - device), length);
}

/* As many bytes of the device with this content. */
static void *put(const void *what, size_t length)
{
    void *at = device + next;
    next += (length + 15) / 16 * 16;
    return memcpy(at, what, length);
}

static void *in(const void *what, size_t length)
{
    void *at = put(what, length);
    expect("read", at, length);
    return at;
}

/* Room, of which as much is to be written. */
static void *room(size_t length, size_t written)
{
    char *at = device + next;
    next += (length + 15) / 16 * 16;
    rooms[room_count].at = at, rooms[room_count++].length = written;
    expect("write", at, written);
    return at;
}

static void *in_out(const void *what, size_t length)
{
    void *at = in(what, length);
    expect("write", at, length);
    return at;
}

static char *named(const char *name)
{
    char *at = put(name, strlen(name) + 1);
    expect("unknown", at, 0);
    return at;
}

static long finish(const char *name, long result, int failed, int error)
{
    int changed = 1;
    for (int i = 0; i < room_count; i++) {
        int same = 1;
        for (size_t k = 0; k < rooms[i].length; k++)
            same &= rooms[i].at[k] == (char)0xee;
        changed &= !same;
    }
    mmiotap_mark("");
    /* Of a call that has failed nothing is to be seen, unless a signal has interrupted it: then the case says what. */
    int none = failed && error != EINTR;
    printf("%s %d %d%s\n", name, failed ? error : 0, none || changed, none ? "" : expected);
    return result;
}

#define NAME(text) named(text)
#define IN(type, ...) ((type *)in(&(type){__VA_ARGS__}, sizeof(type)))
#define IN_OUT(type, ...) ((type *)in_out(&(type){__VA_ARGS__}, sizeof(type)))
#define PUT(type, ...) ((type *)put(&(type){__VA_ARGS__}, sizeof(type)))
#define OUT(type) ((type *)room(sizeof(type), sizeof(type)))
#define TEXT(text) in(text, sizeof(text) - 1)

/* A call that fails by -1, by an error's number, by no address. */
#define CASE(name, ...) (begin(#name), result = (long)(__VA_ARGS__), finish(#name, result, (int)result == -1, errno))
#define ERROR(name, ...) (begin(#name), result = (long)(__VA_ARGS__), finish(#name, result, (int)result != 0, (int)result))
#define ADDRESS(name, ...) (begin(#name), result = (long)(__VA_ARGS__), finish(#name, result, !result, errno))
/* By function, and by number. */
#define BOTH(name, ...) (CASE(name, name(__VA_ARGS__)), CASE(SYS_##name, syscall(SYS_##name, __VA_ARGS__)))
static long result;

static void cases(void);

int main(int argc, char **argv)
{
    if (argc != 3 || chdir(argv[2]))
        return 2;
    device = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, open(argv[1], O_RDWR), 0);
    if (device == MAP_FAILED)
        return 1;
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    cases();
    return 0;
}
