/*
 * Mappings that change under the program's feet. Each access that a trace must hold is printed: kind, offset in its mapping,
 * value. The file has eight pages.
 */
#include "special.h"

static sigjmp_buf back;
static char *volatile fault_address;
static volatile int faults;

static void note(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    faults++;
    fault_address = info->si_addr;
    siglongjmp(back, 1);
}

static void put(char *base, uint32_t offset, uint32_t value)
{
    put32(base + offset, value);
    printf("write %u %u\n", offset, value);
}

static void get(char *base, uint32_t offset, uint32_t value)
{
    CHECK(get32(base + offset) == value);
    printf("read %u %u\n", offset, value);
}

static void refuse_write(char *at)
{
    volatile int before = faults;
    if (sigsetjmp(back, 1) == 0)
        put32(at, 1);
    CHECK(faults == before + 1 && fault_address == at);
}

static void refuse_read(char *at)
{
    volatile int before = faults;
    if (sigsetjmp(back, 1) == 0)
        get32(at);
    CHECK(faults == before + 1 && fault_address == at);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    open_device(argv[1]);
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);

    /* A hole. */
    char *device = map_device(4, PROT_READ | PROT_WRITE);
    for (uint32_t page = 0; page < 4; page++)
        put(device, page * PAGE, 100 + page);
    CHECK(munmap(device + PAGE, PAGE) == 0);
    get(device, 0, 100);
    get(device, 2 * PAGE, 102);
    get(device, 3 * PAGE, 103);
    refuse_read(device + PAGE);
    refuse_write(device + PAGE + 16);

    /* Ordinary memory in the hole, and in place of a page. */
    int fixed = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    CHECK(mmap(device + PAGE, PAGE, PROT_READ | PROT_WRITE, fixed, -1, 0) == device + PAGE);
    CHECK(mmap(device + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE, fixed, -1, 0) == device + 2 * PAGE);
    CHECK(get32(device + PAGE) == 0 && get32(device + 2 * PAGE) == 0);
    put32(device + 2 * PAGE, 7);
    CHECK(get32(device + 2 * PAGE) == 7);
    get(device, 3 * PAGE, 103);

    /* The device again, in place of ordinary memory: a mapping of its own. */
    char *again = device + 2 * PAGE;
    CHECK(mmap(again, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, device_file, 5 * PAGE) == again);
    put(again, 0, 105);
    put(device, 0, 106);
    CHECK(munmap(device, 4 * PAGE) == 0);
    refuse_read(device);
    refuse_read(again);
    refuse_read(device + 3 * PAGE);

    /* Rights. */
    device = map_device(2, PROT_READ | PROT_WRITE);
    get(device, 0, 106);
    CHECK(mprotect(device, PAGE, PROT_READ) == 0);
    get(device, 0, 106);
    refuse_write(device);
    put(device, PAGE, 107);
    CHECK(mprotect(device, 2 * PAGE, PROT_NONE) == 0);
    refuse_read(device);
    refuse_read(device + PAGE);
    CHECK(mprotect(device, 2 * PAGE, PROT_READ | PROT_WRITE) == 0);
    put(device, 0, 108);
    get(device, PAGE, 107);

    /* Larger, smaller, elsewhere. */
    char *old = device;
    device = mremap(device, 2 * PAGE, 8 * PAGE, MREMAP_MAYMOVE);
    CHECK(device != MAP_FAILED);
    get(device, 0, 108);
    put(device, 7 * PAGE, 109);
    if (device != old)
        refuse_read(old);
    CHECK(mremap(device, 8 * PAGE, 3 * PAGE, 0) == device);
    get(device, 2 * PAGE, 102);
    refuse_read(device + 3 * PAGE);
    char *place = map_memory(3);
    CHECK(mremap(device, 3 * PAGE, 3 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place);
    refuse_read(device);
    device = place;
    put(device, PAGE, 110);
    get(device, 2 * PAGE, 102);

    /* Gone, and ordinary memory where it was. */
    CHECK(munmap(device, 3 * PAGE) == 0);
    CHECK(mmap(device, 3 * PAGE, PROT_READ | PROT_WRITE, fixed, -1, 0) == device);
    put32(device, 1);
    CHECK(get32(device) == 1 && get32(device + PAGE) == 0);

    /* The file holds what was written. */
    uint32_t value;
    CHECK(pread(device_file, &value, 4, 7 * PAGE) == 4 && value == 109);
    CHECK(pread(device_file, &value, 4, 5 * PAGE) == 4 && value == 105);
    CHECK(pread(device_file, &value, 4, PAGE) == 4 && value == 110);
    CHECK(pread(device_file, &value, 4, 0) == 4 && value == 108);
    return 0;
}
