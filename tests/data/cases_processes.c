/* Processes, threads, time, signals. */
#include "cases.h"
#include <dlfcn.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/times.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <time.h>

extern char **environ;
int capget(void *, void *), capset(void *, const void *), __getgroups_chk(int, gid_t *, size_t);

static pid_t child(int status)
{
    pid_t pid = fork();
    if (!pid)
        _exit(status);
    return pid;
}

static char **strings(const char *first, const char *second, const char *third)
{
    char *list[4] = {NULL};
    for (int i = 0; i < 3; i++)
        if ((i == 0 ? first : i == 1 ? second : third))
            list[i] = named(i == 0 ? first : i == 1 ? second : third);
    return in(list, sizeof *list * (1 + !!first + !!second + !!third));
}
#define ARGUMENTS strings("sh", "-c", "exit $VALUE")
#define ENVIRONMENT strings("VALUE=7", NULL, NULL)

static int became(pid_t pid)
{
    int status;
    return waitpid(pid, &status, 0) == pid ? WEXITSTATUS(status) : -1;
}
/* A child becomes a program. */
#define EXEC(name, call) do { \
    begin(#name); \
    char *path = NAME("/bin/sh"), **arguments = ARGUMENTS, **environment = ENVIRONMENT; \
    (void)path, (void)environment; \
    pid_t pid = vfork(); \
    if (!pid) { call; _exit(99); } \
    int status = became(pid); \
    finish(#name, 0, status == 99, ENOEXEC), printf("%d\n", status); \
} while (0)

static void programs(void)
{
    setenv("VALUE", "5", 1);
    EXEC(execve, execve(path, arguments, environment));
    EXEC(SYS_execve, syscall(SYS_execve, path, arguments, environment));
    EXEC(execvpe, execvpe(path, arguments, environment));
    EXEC(execveat, execveat(AT_FDCWD, path, arguments, environment, 0));
    EXEC(SYS_execveat, syscall(SYS_execveat, AT_FDCWD, path, arguments, environment, 0));
    int shell = open("/bin/sh", O_RDONLY);
#undef NAME
#define NAME(text) NULL
    EXEC(fexecve, fexecve(shell, arguments, environment));
#undef NAME
#define NAME(text) named(text)
#undef ENVIRONMENT
#define ENVIRONMENT NULL
    EXEC(execv, execv(path, arguments));
    EXEC(execvp, execvp(path, arguments));
#undef ENVIRONMENT
#define ENVIRONMENT strings("VALUE=7", NULL, NULL)
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_init(&attributes), posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addclose(&actions, 77);
#define SPAWN OUT(pid_t), NAME("/bin/sh"), in(&actions, sizeof actions), in(&attributes, sizeof attributes), ARGUMENTS, ENVIRONMENT
    ERROR(posix_spawn, posix_spawn(SPAWN)), printf("%d\n", became(*(pid_t *)rooms[0].at));
    ERROR(posix_spawnp, posix_spawnp(SPAWN)), printf("%d\n", became(*(pid_t *)rooms[0].at));
    printf("%d\n", posix_spawn(PUT(pid_t, 0), NAME("none"), NULL, NULL, ARGUMENTS, NULL));
    CASE(system, system(NAME("exit 4"))), printf("%lx\n", result);
    child(3), CASE(wait, wait(OUT(int)));
    child(3), CASE(wait3, wait3(OUT(int), 0, OUT(struct rusage)));
    child(3), CASE(waitpid, waitpid(-1, OUT(int), 0));
    child(3), CASE(wait4, wait4(-1, OUT(int), 0, OUT(struct rusage)));
    child(3), CASE(SYS_wait4, syscall(SYS_wait4, -1, OUT(int), 0, OUT(struct rusage)));
    child(3), CASE(waitid, waitid(P_ALL, 0, room(sizeof(siginfo_t), 28), WEXITED));
    /* It does not say whether it has found one. */
#define USED (expect("unknown", device + next, 0), PUT(struct rusage, {0, 0}))
    child(3), CASE(SYS_waitid, syscall(SYS_waitid, P_ALL, 0, room(sizeof(siginfo_t), 28), WEXITED, USED));
    pid_t pid = fork();
    if (!pid)
        pause();
    CASE(waitpid, waitpid(pid, PUT(int, 0), WNOHANG));
    kill(pid, SIGKILL), waitpid(pid, NULL, 0);
}

static void machine(void)
{
    BOTH(getrusage, RUSAGE_SELF, OUT(struct rusage)), BOTH(sysinfo, OUT(struct sysinfo)), BOTH(uname, OUT(struct utsname));
    gid_t groups[64];
    if (getgroups(0, NULL) == 0)
        setgroups(2, (gid_t[]){0, 1});
    int count = getgroups(64, groups);
    CASE(getgroups, getgroups(64, room(256, 4 * count))), CASE(SYS_getgroups, syscall(SYS_getgroups, 64, room(256, 4 * count)));
    CASE(__getgroups_chk, __getgroups_chk(64, room(256, 4 * count), 256));
    BOTH(setgroups, count, in(groups, 4 * count));
    BOTH(getresuid, OUT(uid_t), OUT(uid_t), OUT(uid_t)), BOTH(getresgid, OUT(gid_t), OUT(gid_t), OUT(gid_t));
    struct rlimit limit;
    getrlimit(RLIMIT_CORE, &limit);
#define LIMIT in(&limit, sizeof limit)
    BOTH(getrlimit, RLIMIT_CORE, OUT(struct rlimit)), CASE(getrlimit64, getrlimit64(RLIMIT_CORE, OUT(struct rlimit64)));
    BOTH(setrlimit, RLIMIT_CORE, LIMIT), CASE(setrlimit64, setrlimit64(RLIMIT_CORE, LIMIT));
    CASE(prlimit, prlimit(0, RLIMIT_CORE, LIMIT, OUT(struct rlimit)));
    CASE(prlimit64, prlimit64(0, RLIMIT_CORE, LIMIT, OUT(struct rlimit64)));
    CASE(SYS_prlimit64, syscall(SYS_prlimit64, 0, RLIMIT_CORE, LIMIT, OUT(struct rlimit64)));
    cpu_set_t processors;
    long size = syscall(SYS_sched_getaffinity, 0, sizeof processors, &processors);
    sched_getaffinity(0, sizeof processors, &processors);
#define PROCESSORS sizeof processors, in(&processors, sizeof processors)
    CASE(sched_getaffinity, sched_getaffinity(0, sizeof processors, OUT(cpu_set_t)));
    CASE(SYS_sched_getaffinity, syscall(SYS_sched_getaffinity, 0, sizeof processors, room(sizeof processors, size)));
    BOTH(sched_setaffinity, 0, PROCESSORS);
    ERROR(pthread_getaffinity_np, pthread_getaffinity_np(pthread_self(), sizeof processors, OUT(cpu_set_t)));
    ERROR(pthread_setaffinity_np, pthread_setaffinity_np(pthread_self(), PROCESSORS));
    BOTH(sched_getparam, 0, OUT(struct sched_param)), BOTH(sched_setparam, 0, IN(struct sched_param, 0));
    BOTH(sched_setscheduler, 0, SCHED_OTHER, IN(struct sched_param, 0));
    ERROR(pthread_setschedparam, pthread_setschedparam(pthread_self(), SCHED_OTHER, IN(struct sched_param, 0)));
    BOTH(sched_rr_get_interval, 0, OUT(struct timespec));
    CASE(SYS_sched_getattr, syscall(SYS_sched_getattr, 0, room(48, 48), 48, 0));
    CASE(SYS_sched_setattr, syscall(SYS_sched_setattr, 0, in((uint32_t[12]){48}, 48), 0));
    CASE(SYS_getcpu, syscall(SYS_getcpu, room(4, 4), room(4, 4), NULL));
    unsigned cpu = 0;
    CASE(getcpu, getcpu(PUT(unsigned, 0), &cpu));
    ERROR(pthread_setname_np, pthread_setname_np(pthread_self(), NAME("one")));
    ERROR(pthread_getname_np, pthread_getname_np(pthread_self(), room(16, 4), 16)), printf("%s\n", rooms[0].at);
    BOTH(prctl, PR_SET_NAME, NAME("two")), BOTH(prctl, PR_GET_NAME, room(16, 16)), BOTH(prctl, PR_GET_DUMPABLE);
    BOTH(prctl, PR_GET_PDEATHSIG, OUT(int));
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    capget(&head, data);
    BOTH(capget, in_out(&head, sizeof head), room(24, 24)), BOTH(capset, in(&head, sizeof head), in(data, sizeof data));
    struct perf_event_attr counted = {.type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_DUMMY, .size = sizeof counted};
    CASE(SYS_perf_event_open, syscall(SYS_perf_event_open, in(&counted, sizeof counted), 0, -1, -1, 0));
    struct { uint32_t type, key, value, entries; } map = {2, 4, 8, 1};
    CASE(SYS_bpf, syscall(SYS_bpf, 0, in(&map, sizeof map), sizeof map));
    BOTH(sethostname, TEXT(""), 0x1000), BOTH(setdomainname, TEXT(""), 0x1000);
    struct utsname name;
    uname(&name);
    BOTH(sethostname, in(name.nodename, strlen(name.nodename)), strlen(name.nodename));
    BOTH(setdomainname, in(name.domainname, strlen(name.domainname)), strlen(name.domainname));
}

static volatile sig_atomic_t alarms;
static void alarmed(int signal) { (void)signal; alarms++, device[PAGE]++; }

/* In a while, or after that; the handler touches the device. */
static void soon(void)
{
    struct itimerval when = {{0, 0}, {0, 30000}};
    setitimer(ITIMER_REAL, &when, NULL);
}

static void times_and_signals(void)
{
    clockid_t slow = CLOCK_PROCESS_CPUTIME_ID;
    for (int i = 0; i < 2; i++, slow = CLOCK_MONOTONIC) {
        BOTH(clock_gettime, slow, OUT(struct timespec)), BOTH(clock_getres, slow, OUT(struct timespec));
    }
    BOTH(clock_settime, CLOCK_REALTIME, IN(struct timespec, 0, -1));
    BOTH(gettimeofday, OUT(struct timeval), NULL), CASE(time, time(PUT(time_t, 0)) > 0);
    BOTH(settimeofday, IN(struct timeval, 0, -1), NULL);
    CASE(SYS_time, syscall(SYS_time, OUT(time_t))), BOTH(times, OUT(struct tms));
    struct timex nothing = {.modes = 0};
    BOTH(adjtimex, in_out(&nothing, sizeof nothing)), CASE(ntp_adjtime, ntp_adjtime(in_out(&nothing, sizeof nothing)));
    BOTH(clock_adjtime, CLOCK_REALTIME, in_out(&nothing, sizeof nothing));
    struct sigaction action = {.sa_handler = alarmed};
    sigaction(SIGALRM, &action, NULL);
#define SHORT IN(struct timespec, 0, 1000)
#define LONG PUT(struct timespec, 90, 0)
    BOTH(nanosleep, SHORT, PUT(struct timespec)), ERROR(clock_nanosleep, clock_nanosleep(CLOCK_MONOTONIC, 0, SHORT, NULL));
    CASE(SYS_clock_nanosleep, syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, SHORT, NULL));
    ERROR(clock_nanosleep, clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, SHORT, NULL));
    /* Interrupted, they leave what remains: their event is looked for by the test. */
    soon(), CASE(nanosleep, nanosleep(LONG, OUT(struct timespec))), printf("%ld\n", ((time_t *)rooms[0].at)[0]);
    soon(), ERROR(clock_nanosleep, clock_nanosleep(CLOCK_MONOTONIC, 0, LONG, OUT(struct timespec)));
    printf("%ld\n", ((time_t *)rooms[0].at)[0]);
    struct itimerval value = {{0, 0}, {900, 0}};
    BOTH(setitimer, ITIMER_PROF, in(&value, sizeof value), OUT(struct itimerval));
    BOTH(getitimer, ITIMER_PROF, OUT(struct itimerval));
    struct itimerspec armed = {{0, 0}, {900, 0}};
    int file = timerfd_create(CLOCK_MONOTONIC, 0);
    BOTH(timerfd_settime, file, 0, in(&armed, sizeof armed), OUT(struct itimerspec));
    BOTH(timerfd_gettime, file, OUT(struct itimerspec));
    struct sigevent event = {.sigev_notify = SIGEV_NONE};
    timer_t timer;
    int number;
    CASE(timer_create, timer_create(CLOCK_MONOTONIC, in(&event, sizeof event), &timer));
    CASE(timer_settime, timer_settime(timer, 0, in(&armed, sizeof armed), OUT(struct itimerspec)));
    CASE(timer_gettime, timer_gettime(timer, OUT(struct itimerspec)));
    CASE(SYS_timer_create, syscall(SYS_timer_create, CLOCK_MONOTONIC, in(&event, sizeof event), OUT(int)));
    number = *(int *)rooms[0].at;
    CASE(SYS_timer_settime, syscall(SYS_timer_settime, number, 0, in(&armed, sizeof armed), OUT(struct itimerspec)));
    CASE(SYS_timer_gettime, syscall(SYS_timer_gettime, number, OUT(struct itimerspec)));

    sigset_t set, none;
    sigemptyset(&set), sigemptyset(&none), sigaddset(&set, SIGUSR1), sigprocmask(SIG_BLOCK, &set, NULL);
#define SET (expect("read", device + next, 8), put(&set, sizeof set))
    CASE(sigpending, sigpending(room(128, 8))), CASE(SYS_rt_sigpending, syscall(SYS_rt_sigpending, room(8, 8), 8L));
    BOTH(sigaltstack, NULL, OUT(stack_t)), BOTH(sigaltstack, IN(stack_t, NULL, SS_DISABLE, 0), OUT(stack_t));
    raise(SIGUSR1), CASE(sigtimedwait, sigtimedwait(SET, OUT(siginfo_t), IN(struct timespec, 9, 0)));
    raise(SIGUSR1), CASE(SYS_rt_sigtimedwait, syscall(SYS_rt_sigtimedwait, SET, OUT(siginfo_t), IN(struct timespec, 9, 0), 8L));
    raise(SIGUSR1), CASE(sigwaitinfo, sigwaitinfo(SET, OUT(siginfo_t)));
    raise(SIGUSR1), ERROR(sigwait, sigwait(SET, PUT(int, 0)));
    siginfo_t info = {.si_signo = SIGUSR1, .si_code = SI_QUEUE};
    CASE(SYS_rt_sigqueueinfo, syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, in(&info, sizeof info))), sigwait(&set, &number);
    CASE(SYS_rt_tgsigqueueinfo, syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGUSR1, in(&info, sizeof info)));
    sigwait(&set, &number);
    CASE(signalfd, signalfd(-1, SET, 0)), CASE(SYS_signalfd4, syscall(SYS_signalfd4, -1, SET, 8L, 0));
    CASE(SYS_signalfd, syscall(SYS_signalfd, -1, SET, 8L));
    /* They always end by a signal. All are let through, also those of a fault, which the handler makes. */
    int before = alarms;
    sigfillset(&none), sigdelset(&none, SIGALRM), set = none;
    soon(), CASE(sigsuspend, sigsuspend(SET)), printf("%d\n", alarms - before);
    soon(), CASE(SYS_rt_sigsuspend, syscall(SYS_rt_sigsuspend, SET, 8L)), printf("%d\n", alarms - before);
}

static void cases(void)
{
    programs(), machine(), times_and_signals();
}
