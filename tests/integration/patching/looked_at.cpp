// looked_at FILE run|cancel|profile: accesses the memory of FILE.
//
// run: without end; prints its pid. cancel: in threads that are cancelled wherever they are, and print a line when their
// stack is unwound. profile: with a timer whose handler, which the agent does not know of, looks at the stack; prints how
// often it saw all of it, and how often not.
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

namespace {

constexpr int THREADS = 30;
constexpr int SAMPLES = 400;

volatile std::uint32_t *device;
std::atomic<int> turns;
std::atomic<int> complete;
std::atomic<int> incomplete;
volatile bool stop;
void *drivers_caller;

extern "C" {

// Two bytes, at the beginning of the function: a punned jump.
[[gnu::noipa]] std::uint32_t read_register(const volatile std::uint32_t *address) { return *address; }

// Six bytes: a plain jump.
[[gnu::noipa]] void write_register(volatile std::uint32_t *address, std::uint32_t value) { address[100] = value; }

[[gnu::noipa]] void add_to_register(volatile std::uint32_t *address, std::uint32_t value) {
    asm volatile("addl %1, 800(%0)" : : "r"(address), "r"(value) : "memory");
}

[[gnu::noipa]] void driver() {
    drivers_caller = __builtin_return_address(0);
    while (!stop) {
        ++turns;
        read_register(device);
        write_register(device, turns);
        add_to_register(device, 1);
        if (turns % 64 == 0) {
            usleep(100);
        }
    }
}

} // extern "C"

// So that all sites are patched.
void warm_up() {
    for (int turn = 0; turn < 100; ++turn) {
        read_register(device);
        write_register(device, 1);
        add_to_register(device, 1);
    }
}

struct Unwound {
    ~Unwound() { std::puts("unwound"); }
};

void *to_be_cancelled(void *) {
    Unwound unwound;
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, nullptr);
    driver();
    return nullptr;
}

void cancel() {
    for (int number = 0; number < THREADS; ++number) {
        pthread_t thread;
        turns = 0;
        pthread_create(&thread, nullptr, to_be_cancelled, nullptr);
        while (turns < 100 + 37 * number) {
        }
        pthread_cancel(thread);
        pthread_join(thread, nullptr);
    }
}

void look(int, siginfo_t *, void *) {
    void *addresses[64];
    const int depth = backtrace(addresses, 64);
    const bool is_complete = std::find(addresses, addresses + depth, drivers_caller) != addresses + depth;
    ++(is_complete ? complete : incomplete);
    stop = complete + incomplete >= SAMPLES;
}

// As the kernel knows it (asm/signal.h): set so, no library hears of it.
struct KernelAction {
    void (*handler)(int, siginfo_t *, void *);
    unsigned long flags;
    void (*restorer)();
    unsigned long mask;
};

void profile() {
    void *first[1];
    backtrace(first, 1); // loads what it needs
    struct sigaction own = {};
    own.sa_sigaction = look;
    own.sa_flags = SA_SIGINFO | SA_RESTART;
    sigaction(SIGALRM, &own, nullptr);
    KernelAction action = {};
    syscall(SYS_rt_sigaction, SIGALRM, nullptr, &action, sizeof action.mask);
    action.handler = look;
    syscall(SYS_rt_sigaction, SIGALRM, &action, nullptr, sizeof action.mask);
    const itimerval interval = {{0, 500}, {0, 500}};
    setitimer(ITIMER_REAL, &interval, nullptr);
    driver();
    std::printf("complete %d\nincomplete %d\n", complete.load(), incomplete.load());
}

} // namespace

int main(int, char **argv) {
    const int file = open(argv[1], O_RDWR);
    device = static_cast<std::uint32_t *>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
    if (device == MAP_FAILED) {
        std::perror(argv[1]);
        return 1;
    }
    warm_up();
    if (std::strcmp(argv[2], "cancel") == 0) {
        cancel();
    } else if (std::strcmp(argv[2], "profile") == 0) {
        profile();
    } else {
        prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
        std::printf("%d\n", getpid());
        std::fflush(stdout);
        driver();
    }
    return 0;
}
