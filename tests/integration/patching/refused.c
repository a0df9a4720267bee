/*
 * refused FILE WAY: drives a device while it may, then refuses itself (seccomp, mseal) what patching needs, and drives on.
 *
 * early() has had its chance to be patched before; late() is first called afterwards. Then the device is mapped anew. early()
 * writes 1, 2, 3 … to word 0 of FILE and reads it back, late() to word 1; prints "right".
 */
#include "special.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef SYS_mseal
#define SYS_mseal 462
#endif

enum { TIMES = 100, ROOM = 64 };
static char *device;

static __attribute__((noinline)) void early(void)
{
    static uint32_t value;
    for (int i = 0; i < TIMES; i++) {
        put32(device, ++value);
        CHECK(get32(device) == value);
    }
}

static __attribute__((noinline)) void late(void)
{
    static uint32_t value;
    for (int i = 0; i < TIMES; i++) {
        put32(device + 4, ++value);
        CHECK(get32(device + 4) == value);
    }
}

static struct sock_filter filter[ROOM];
static unsigned short length;

static void add(struct sock_filter instruction)
{
    filter[length++] = instruction;
}

#define LOAD(field) add((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, field))
#define SKIP_UNLESS(test, value, count) add((struct sock_filter)BPF_JUMP(BPF_JMP | test | BPF_K, value, 0, count))
#define ARGUMENT(n) offsetof(struct seccomp_data, args[n])

static void answer(uint32_t what)
{
    add((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, what));
}

static void refuse(long call, int error)
{
    LOAD(offsetof(struct seccomp_data, nr));
    SKIP_UNLESS(BPF_JEQ, call, 1);
    answer(SECCOMP_RET_ERRNO | error);
}

/* Of a call with a protection as its third argument: if it has these bits. */
static void refuse_protection(long call, uint32_t bits, int error)
{
    LOAD(offsetof(struct seccomp_data, nr));
    SKIP_UNLESS(BPF_JEQ, call, 3);
    LOAD(ARGUMENT(2));
    SKIP_UNLESS(BPF_JSET, bits, 1);
    answer(SECCOMP_RET_ERRNO | error);
}

/* Nothing in the program's 4 GiB becomes writable. */
static void refuse_writable_text(void)
{
    LOAD(offsetof(struct seccomp_data, nr));
    SKIP_UNLESS(BPF_JEQ, SYS_mprotect, 5);
    LOAD(ARGUMENT(0) + 4);
    SKIP_UNLESS(BPF_JEQ, (uint32_t)((uintptr_t)early >> 32), 3);
    LOAD(ARGUMENT(2));
    SKIP_UNLESS(BPF_JSET, PROT_WRITE, 1);
    answer(SECCOMP_RET_ERRNO | EACCES);
}

static void refuse_writes(void)
{
    refuse(SYS_pwrite64, EPERM);
    refuse(SYS_pwritev, EPERM);
    refuse(SYS_pwritev2, EPERM);
    refuse(SYS_process_vm_writev, EPERM);
    refuse_writable_text();
}

static void seal_text(void)
{
    extern char __executable_start, etext;
    uintptr_t start = (uintptr_t)&__executable_start & -PAGE, end = ((uintptr_t)&etext + PAGE - 1) & -PAGE;
    CHECK(syscall(SYS_mseal, start, end - start, 0) == 0);
    CHECK(mprotect((void *)start, PAGE, PROT_READ | PROT_WRITE) == -1 && errno == EPERM);
}

static void install(void)
{
    answer(SECCOMP_RET_ALLOW);
    CHECK(length <= ROOM);
    struct sock_fprog program = {length, filter};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    /* In all threads, should there be one that is not ours. */
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    int is_all = !strcmp(argv[2], "all");
    open_device(argv[1]);
    device = map_device(1, PROT_READ | PROT_WRITE);
    early();
    if (is_all || !strcmp(argv[2], "write"))
        refuse_writes();
    if (is_all || !strcmp(argv[2], "open")) {
        refuse(SYS_open, EACCES);
        refuse(SYS_openat, EACCES);
    }
    if (is_all || !strcmp(argv[2], "membarrier"))
        refuse(SYS_membarrier, EPERM);
    if (is_all || !strcmp(argv[2], "executable")) {
        refuse_protection(SYS_mmap, PROT_EXEC, EACCES);
        refuse_protection(SYS_mprotect, PROT_EXEC, EACCES);
    }
    if (is_all || !strcmp(argv[2], "sealed"))
        seal_text();
    CHECK(length > 0 || !strcmp(argv[2], "sealed"));
    install();
    early();
    late();
    CHECK(munmap(device, PAGE) == 0);
    device = map_device(1, PROT_READ | PROT_WRITE);
    early();
    late();
    puts("right");
    return 0;
}
