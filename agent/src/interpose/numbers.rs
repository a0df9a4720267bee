//! The system calls of syscall(2) that may be given pointers into a region. The kernel's own structures and masks are their arguments.

use core::ffi::c_long;

use libc::*;

use super::calls::Name;
use super::given::{Answer, Pointer};
use super::kinds::{Kind, Peer, Sent};
use super::shapes::*;
use crate::kernel::Way;

const fn given(pointers: &'static [Pointer]) -> Kind {
    Kind::Given(pointers, Answer::Number)
}

#[expect(non_upper_case_globals, reason = "they are C's")]
/// What the system call of this number takes, if it is one of these.
pub fn kind(number: c_long) -> Option<Kind> {
    Some(match number {
        SYS_read => Kind::Buffer(Way::Write, Name::readv),
        SYS_write => Kind::Buffer(Way::Read, Name::writev),
        SYS_pread64 => Kind::Buffer(Way::Write, Name::preadv),
        SYS_pwrite64 => Kind::Buffer(Way::Read, Name::pwritev),
        SYS_readv | SYS_preadv | SYS_preadv2 => Kind::List(Way::Write),
        SYS_writev | SYS_pwritev | SYS_pwritev2 => Kind::List(Way::Read),
        SYS_vmsplice => Kind::Pipe,
        SYS_process_vm_readv => Kind::Process(Way::Write),
        SYS_process_vm_writev => Kind::Process(Way::Read),
        SYS_recvfrom => Kind::Socket(Way::Write, Peer::From),
        SYS_sendto => Kind::Socket(Way::Read, Peer::To),
        SYS_recvmsg => Kind::Message(Way::Write),
        SYS_sendmsg => Kind::Message(Way::Read),
        SYS_recvmmsg => Kind::Messages(Way::Write),
        SYS_sendmmsg => Kind::Messages(Way::Read),
        SYS_getrandom => Kind::Random,
        SYS_ioctl => Kind::Control,
        SYS_fcntl => Kind::Chosen(file_control, Answer::Number),
        SYS_futex => Kind::Chosen(lock, Answer::Number),
        SYS_futex_waitv => Kind::Locks,
        SYS_execve => Kind::Program(NAMED, &[1, 2], Answer::Number),
        SYS_execveat => Kind::Program(NAMED_SECOND, &[2, 3], Answer::Number),

        SYS_open | SYS_creat | SYS_access | SYS_unlink | SYS_mkdir | SYS_rmdir | SYS_chdir | SYS_chmod | SYS_chown
        | SYS_lchown | SYS_truncate | SYS_mknod | SYS_chroot | SYS_umount2 | SYS_memfd_create | SYS_mq_unlink
        | SYS_swapon | SYS_swapoff | SYS_acct => given(NAMED),
        SYS_openat
        | SYS_faccessat
        | SYS_faccessat2
        | SYS_unlinkat
        | SYS_mkdirat
        | SYS_fchmodat
        | SYS_fchownat
        | SYS_mknodat
        | SYS_inotify_add_watch
        | SYS_fremovexattr => given(NAMED_SECOND),
        SYS_fanotify_mark => given(NAMED_FIFTH),
        SYS_rename | SYS_link | SYS_symlink | SYS_removexattr | SYS_lremovexattr | SYS_pivot_root => given(TWO_NAMES),
        SYS_symlinkat => given(NAME_AND_NAME_AT),
        SYS_renameat | SYS_renameat2 | SYS_linkat => given(TWO_NAMES_AT),
        SYS_mount => given(MOUNTED),
        SYS_openat2 => given(OPENED_HOW),
        SYS_sethostname | SYS_setdomainname => given(TEXT),
        SYS_getcwd => given(FOLDER_LENGTH),
        SYS_readlink => given(LINK),
        SYS_readlinkat => given(LINK_AT),
        SYS_name_to_handle_at => given(HANDLE),
        SYS_open_by_handle_at => given(HANDLE_OPENED),

        SYS_stat | SYS_lstat => given(STATED),
        SYS_fstat => given(STATED_FILE),
        SYS_newfstatat => given(STATED_AT),
        SYS_statx => given(STATXED),
        SYS_statfs => given(FILE_SYSTEM),
        SYS_fstatfs => given(FILE_SYSTEM_OF),
        SYS_getdents64 => given(DIRECTORY),
        SYS_utimensat | SYS_futimesat => given(TIMES_AT),
        SYS_utimes => given(TIMES_OF_NAME),
        SYS_utime => given(TWO_LONGS_OF_NAME),
        SYS_setxattr | SYS_lsetxattr => given(ATTRIBUTE_SET),
        SYS_fsetxattr => given(ATTRIBUTE_SET_OF),
        SYS_getxattr | SYS_lgetxattr => given(ATTRIBUTE),
        SYS_fgetxattr => given(ATTRIBUTE_OF),
        SYS_listxattr | SYS_llistxattr => given(ATTRIBUTES),
        SYS_flistxattr => given(ATTRIBUTES_OF),
        SYS_sendfile => given(SENT),
        SYS_copy_file_range | SYS_splice => given(COPIED),
        SYS_mincore => given(RESIDENT),

        SYS_poll => given(POLLED),
        SYS_ppoll => Kind::Waiting(POLLED_MASKED, POLLED_MASK),
        SYS_select => given(SELECTED),
        SYS_epoll_wait => given(AWAITED),
        SYS_epoll_pwait => Kind::Waiting(AWAITED_MASKED, AWAITED_MASK),
        SYS_epoll_pwait2 => Kind::Waiting(AWAITED_UNTIL, AWAITED_MASK),
        SYS_epoll_ctl => given(WATCHED),
        SYS_rt_sigsuspend => Kind::Waiting(SUSPENDED, 0),
        SYS_pipe | SYS_pipe2 => given(TWO_ENDS),
        SYS_socketpair => given(TWO_SOCKETS),
        SYS_bind | SYS_connect => given(ADDRESSED),
        SYS_accept | SYS_accept4 | SYS_getsockname | SYS_getpeername => given(PEER),
        SYS_getsockopt => given(OPTION),
        SYS_setsockopt => given(OPTION_SET),

        SYS_wait4 => given(WAITED_FOR_USED),
        SYS_waitid => given(WAITED_ID_USED),
        SYS_getrusage => given(USAGE),
        SYS_sysinfo => given(SYSTEM),
        SYS_uname => given(SYSTEM_NAMES),
        SYS_getgroups => given(GROUPS),
        SYS_setgroups => given(GROUPS_SET),
        SYS_getresuid | SYS_getresgid => given(THREE_IDS),
        SYS_getrlimit => given(LIMIT_ASKED),
        SYS_setrlimit => given(LIMIT_SET),
        SYS_prlimit64 => given(LIMIT_CHANGED),
        SYS_sched_getaffinity => given(PROCESSORS_RETURNED),
        SYS_sched_setaffinity => given(PROCESSORS_SET),
        SYS_sched_getparam => given(WORD_ASKED),
        SYS_sched_setparam => given(WORD_SET),
        SYS_sched_setscheduler => given(SCHEDULED),
        SYS_sched_getattr => given(SCHEDULE),
        SYS_sched_setattr => given(SCHEDULE_SET),
        SYS_sched_rr_get_interval => given(CLOCK),
        SYS_getcpu => given(TWO_WORDS),
        SYS_prctl => Kind::Chosen(process_control, Answer::Number),
        SYS_capget => given(CAPABILITIES),
        SYS_capset => given(CAPABILITIES_SET),
        SYS_perf_event_open => given(COUNTED),
        SYS_bpf => given(RULES),
        SYS_io_uring_setup => given(RING),
        SYS_io_uring_enter => given(RING_ENTERED),
        SYS_io_uring_register => given(RING_REGISTERED),

        SYS_clock_gettime | SYS_clock_getres => given(CLOCK),
        SYS_clock_settime => given(CLOCK_SET),
        SYS_gettimeofday => given(TIME_OF_DAY),
        SYS_settimeofday => given(TIME_OF_DAY_SET),
        SYS_time => given(SECONDS),
        SYS_times => given(PROCESS_TIMES),
        SYS_adjtimex => given(ADJUSTED),
        SYS_clock_adjtime => given(CLOCK_ADJUSTED),
        SYS_nanosleep => given(SLEPT),
        SYS_clock_nanosleep => Kind::Chosen(slept, Answer::Number),
        SYS_getitimer => given(ALARM),
        SYS_setitimer => given(ALARM_SET),
        SYS_timerfd_settime | SYS_timer_settime => given(TIMER_SET),
        SYS_timerfd_gettime | SYS_timer_gettime => given(TIMER),
        SYS_timer_create => given(TIMER_CREATED_ID),

        SYS_rt_sigpending => Kind::Signals(PENDING, Answer::Number, Sent::Asked),
        SYS_sigaltstack => given(STACK),
        SYS_rt_sigtimedwait => Kind::Signals(SIGNALLED, Answer::Number, Sent::Taken),
        SYS_signalfd | SYS_signalfd4 => given(SIGNAL_FILE),
        SYS_rt_sigqueueinfo => given(SIGNAL_SENT),
        SYS_rt_tgsigqueueinfo => given(SIGNAL_SENT_THREAD),

        SYS_mq_open => Kind::Chosen(queue_opened, Answer::Number),
        SYS_mq_getsetattr => given(QUEUE_SET),
        SYS_mq_timedsend => given(QUEUED_UNTIL),
        SYS_mq_timedreceive => given(UNQUEUED_UNTIL),
        SYS_mq_notify => given(QUEUE_NOTIFIED),
        SYS_msgsnd => given(MESSAGE_SENT),
        SYS_msgrcv => given(MESSAGE_RECEIVED),
        SYS_semop => given(SEMAPHORES),
        SYS_semtimedop => given(SEMAPHORES_UNTIL),
        SYS_shmctl => Kind::Chosen(shared_control, Answer::Number),
        SYS_msgctl => Kind::Chosen(message_control, Answer::Number),
        SYS_semctl => Kind::Chosen(semaphore_control, Answer::Number),
        _ => return None,
    })
}
