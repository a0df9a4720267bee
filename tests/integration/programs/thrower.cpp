// Faults of its own become exceptions in two ways: thrown in the handler, and thrown where siglongjmp from the handler
// leads to. In between, and in the handler, it works with the device.
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <fcntl.h>
#include <stdexcept>
#include <sys/mman.h>
#include <thread>

namespace {

volatile std::uint32_t *device;
thread_local sigjmp_buf back;
thread_local bool jumps;
thread_local int unwound;

struct Guard {
    ~Guard() { ++unwound; }
};

void on_fault(int, siginfo_t *info, void *)
{
    device[1023] = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(info->si_addr));
    if (jumps)
        siglongjmp(back, 1);
    throw std::runtime_error("thrown in the handler");
}

[[gnu::noinline]] void touch(volatile int *at)
{
    Guard guard;
    *at = 1;
}

[[gnu::noinline]] void touch_and_throw(volatile int *at)
{
    if (sigsetjmp(back, 1))
        throw std::runtime_error("thrown after the jump");
    *at = 1;
}

void work(std::uintptr_t id, long *sum)
{
    volatile std::uint32_t *own = device + 16 * id;
    for (int turn = 0; turn < 500; turn++) {
        own[turn % 8] = own[turn % 8] + 1;
        jumps = turn % 2;
        try {
            Guard guard;
            auto nowhere = reinterpret_cast<volatile int *>(id * 64);
            jumps ? touch_and_throw(nowhere) : touch(nowhere);
        } catch (const std::runtime_error &error) {
            *sum += error.what()[7];
        }
        own[8] = own[8] + static_cast<std::uint32_t>(unwound);
    }
    *sum += own[8];
}

} // namespace

int main(int, char **argument)
{
    int file = open(argument[1], O_RDWR);
    device = static_cast<volatile std::uint32_t *>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
    struct sigaction wanted = {};
    wanted.sa_sigaction = on_fault;
    wanted.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &wanted, nullptr);
    long sums[3] = {};
    std::thread threads[3];
    for (std::uintptr_t id = 0; id < 3; id++)
        threads[id] = std::thread(work, id, sums + id);
    for (int id = 0; id < 3; id++) {
        threads[id].join();
        std::printf("%ld\n", sums[id]);
    }
}
