//! The functions that hand the program's memory to the kernel: what lies in a region is handed on as the alias.
//!
//! All others go straight on, by a jump, so that libc's own function is what returns to the program, is cancelled, and is seen by
//! unwinders. Nothing here unwinds.

use core::arch::global_asm;
use core::ffi::{CStr, c_void};
use core::mem::transmute;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::buffers::{Callee, Diverted};
use super::given::{Answer, Pointer};
use super::kinds::{Arguments, Kind, Peer, Sent};
use super::shapes::*;
use crate::kernel::Way;

type Function = unsafe extern "C" fn(usize, usize, usize, usize, usize, usize) -> isize;

macro_rules! calls {
    ($($($name:ident)+: $kind:expr;)*) => {
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        #[expect(non_camel_case_types, reason = "they are C's")]
        pub enum Name { $($($name),+),* }

        impl Name {
            const fn kind(self) -> Kind {
                match self { $($(Name::$name)|+ => $kind),* }
            }
        }

        /// All of them, with their names.
        pub const FUNCTIONS: &[(&CStr, Function)] = &[$($((name(concat!(stringify!($name), "\0")), $name)),+),*];

        /// libc's functions. In place of one that was not looked up yet, what does that.
        static REALS: [AtomicPtr<()>; FUNCTIONS.len()] = [$($({
            unsafe extern "C" {
                #[link_name = concat!("mmiotap_first_", stringify!($name))]
                fn first();
            }
            AtomicPtr::new(first as *mut ())
        }),+),*];

        $($(
            /// # Safety
            /// As the function of this name in the C library.
            #[cfg_attr(not(test), unsafe(no_mangle))]
            pub unsafe extern "C" fn $name(a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
                unsafe extern "C" {
                    #[link_name = concat!("mmiotap_diverted_", stringify!($name))]
                    fn diverted(a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize;
                }
                // SAFETY: the caller's promise. Both are jumps: the stack is as if the program had called them.
                unsafe {
                    if const { Name::$name.kind() }.is_near(&[a, b, c, d, e, f]) {
                        diverted(a, b, c, d, e, f)
                    } else {
                        real(Name::$name)(a, b, c, d, e, f)
                    }
                }
            }

            // divert() with two arguments more, which come by the stack: the function's number, and where the program goes on.
            global_asm!(
                ".pushsection .text",
                concat!("mmiotap_first_", stringify!($name), ":"),
                "mov eax, {name}",
                "jmp mmiotap_look_up",
                concat!("mmiotap_diverted_", stringify!($name), ":"),
                ".cfi_startproc",
                "sub rsp, 8",
                ".cfi_adjust_cfa_offset 8",
                "push qword ptr [rsp + 8]",
                ".cfi_adjust_cfa_offset 8",
                "push {name}",
                ".cfi_adjust_cfa_offset 8",
                "call {divert}",
                "add rsp, 24",
                ".cfi_adjust_cfa_offset -24",
                "ret",
                ".cfi_endproc",
                ".popsection",
                name = const Name::$name as usize,
                divert = sym divert,
            );
        )+)*
    };
}

pub const fn name(text: &str) -> &CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(name) => name,
        Err(_) => unreachable!(),
    }
}

const fn given(pointers: &'static [Pointer]) -> Kind {
    Kind::Given(pointers, Answer::Number)
}

calls! {
    read __read: Kind::Buffer(Way::Write, Name::readv);
    write __write: Kind::Buffer(Way::Read, Name::writev);
    pread pread64 __pread64: Kind::Buffer(Way::Write, Name::preadv);
    pwrite pwrite64 __pwrite64: Kind::Buffer(Way::Read, Name::pwritev);
    readv preadv preadv64 preadv2 preadv64v2: Kind::List(Way::Write);
    writev pwritev pwritev64 pwritev2 pwritev64v2: Kind::List(Way::Read);
    vmsplice: Kind::Pipe;
    process_vm_readv: Kind::Process(Way::Write);
    process_vm_writev: Kind::Process(Way::Read);
    recv: Kind::Socket(Way::Write, Peer::None);
    recvfrom: Kind::Socket(Way::Write, Peer::From);
    send __send: Kind::Socket(Way::Read, Peer::None);
    sendto: Kind::Socket(Way::Read, Peer::To);
    recvmsg: Kind::Message(Way::Write);
    sendmsg: Kind::Message(Way::Read);
    recvmmsg: Kind::Messages(Way::Write);
    sendmmsg: Kind::Messages(Way::Read);
    getrandom getentropy: Kind::Random;
    ioctl: Kind::Control;
    fcntl fcntl64: Kind::Chosen(file_control, Answer::Number);
    fread fread_unlocked: Kind::Stream(Way::Write);
    fwrite fwrite_unlocked: Kind::Stream(Way::Read);
    execve execvpe: Kind::Program(NAMED, &[1, 2], Answer::Number);
    execv execvp: Kind::Program(NAMED, &[1], Answer::Number);
    execveat: Kind::Program(NAMED_SECOND, &[2, 3], Answer::Number);
    fexecve: Kind::Program(&[], &[1, 2], Answer::Number);
    posix_spawn posix_spawnp: Kind::Program(SPAWNED, &[4, 5], Answer::Error);

    open open64 __open_2 __open64_2 creat creat64 access eaccess euidaccess unlink mkdir rmdir chdir remove: given(NAMED);
    chmod chown lchown truncate truncate64 mknod mkfifo chroot umount umount2 memfd_create mq_unlink: given(NAMED);
    swapon swapoff acct __mq_open_2 pathconf system: given(NAMED);
    openat openat64 __openat_2 __openat64_2 faccessat unlinkat mkdirat fchmodat fchownat mknodat mkfifoat: given(NAMED_SECOND);
    inotify_add_watch fremovexattr: given(NAMED_SECOND);
    fanotify_mark: given(NAMED_FIFTH);
    rename link symlink removexattr lremovexattr pivot_root: given(TWO_NAMES);
    symlinkat: given(NAME_AND_NAME_AT);
    renameat renameat2 linkat: given(TWO_NAMES_AT);
    mount: given(MOUNTED);
    fopen fopen64 freopen freopen64 opendir popen: Kind::Given(NAMED, Answer::Address);
    mkdtemp: Kind::Given(TEMPLATE, Answer::Address);
    mkstemp mkstemp64 mkostemp mkostemp64 mkstemps mkstemps64 mkostemps mkostemps64: given(TEMPLATE);
    sethostname setdomainname: given(TEXT);
    pthread_setname_np: Kind::Given(THREAD_NAME, Answer::Error);
    pthread_getname_np: Kind::Given(THREAD_NAME_ASKED, Answer::Error);
    getcwd: Kind::Given(FOLDER, Answer::Address);
    readlink: given(LINK);
    readlinkat: given(LINK_AT);
    name_to_handle_at: given(HANDLE);
    open_by_handle_at: given(HANDLE_OPENED);

    stat stat64 lstat lstat64: given(STATED);
    fstat fstat64: given(STATED_FILE);
    fstatat fstatat64: given(STATED_AT);
    statx: given(STATXED);
    statfs statfs64: given(FILE_SYSTEM);
    statvfs statvfs64: given(NAMED);
    fstatfs fstatfs64: given(FILE_SYSTEM_OF);
    getdents64: given(DIRECTORY);
    utimensat futimesat: given(TIMES_AT);
    utimes lutimes: given(TIMES_OF_NAME);
    futimens futimes: given(TIMES_OF);
    utime: given(TWO_LONGS_OF_NAME);
    setxattr lsetxattr: given(ATTRIBUTE_SET);
    fsetxattr: given(ATTRIBUTE_SET_OF);
    getxattr lgetxattr: given(ATTRIBUTE);
    fgetxattr: given(ATTRIBUTE_OF);
    listxattr llistxattr: given(ATTRIBUTES);
    flistxattr: given(ATTRIBUTES_OF);
    sendfile sendfile64: given(SENT);
    copy_file_range splice: given(COPIED);
    mincore: given(RESIDENT);

    poll: given(POLLED);
    ppoll: Kind::Waiting(POLLED_MASKED, POLLED_MASK);
    select: given(SELECTED);
    pselect: Kind::Waiting(SELECTED_MASKED, SELECTED_MASK);
    epoll_wait: given(AWAITED);
    epoll_pwait: Kind::Waiting(AWAITED_MASKED, AWAITED_MASK);
    epoll_pwait2: Kind::Waiting(AWAITED_UNTIL, AWAITED_MASK);
    epoll_ctl: given(WATCHED);
    sigsuspend: Kind::Waiting(SUSPENDED, 0);
    pipe pipe2: given(TWO_ENDS);
    socketpair: given(TWO_SOCKETS);
    bind connect: given(ADDRESSED);
    accept accept4 getsockname getpeername: given(PEER);
    getsockopt: given(OPTION);
    setsockopt: given(OPTION_SET);
    eventfd_read: given(COUNTER);

    wait: given(WAITED);
    wait3: given(WAITED_USED);
    waitpid: given(WAITED_FOR);
    wait4: given(WAITED_FOR_USED);
    waitid: given(WAITED_ID);
    getrusage: given(USAGE);
    sysinfo: given(SYSTEM);
    uname: given(SYSTEM_NAMES);
    getgroups: given(GROUPS);
    setgroups: given(GROUPS_SET);
    getresuid getresgid: given(THREE_IDS);
    getrlimit getrlimit64: given(LIMIT_ASKED);
    setrlimit setrlimit64: given(LIMIT_SET);
    prlimit prlimit64: given(LIMIT_CHANGED);
    sched_getaffinity: given(PROCESSORS);
    sched_setaffinity: given(PROCESSORS_SET);
    pthread_getaffinity_np: Kind::Given(PROCESSORS, Answer::Error);
    pthread_setaffinity_np: Kind::Given(PROCESSORS_SET, Answer::Error);
    sched_getparam: given(WORD_ASKED);
    sched_setparam: given(WORD_SET);
    sched_setscheduler: given(SCHEDULED);
    pthread_setschedparam: Kind::Given(SCHEDULED, Answer::Error);
    sched_rr_get_interval: given(CLOCK);
    prctl: Kind::Chosen(process_control, Answer::Number);
    capget: given(CAPABILITIES);
    capset: given(CAPABILITIES_SET);

    clock_gettime clock_getres: given(CLOCK);
    clock_settime: given(CLOCK_SET);
    gettimeofday: given(TIME_OF_DAY);
    settimeofday: given(TIME_OF_DAY_SET);
    times: given(PROCESS_TIMES);
    adjtimex ntp_adjtime: given(ADJUSTED);
    clock_adjtime: given(CLOCK_ADJUSTED);
    nanosleep: given(SLEPT);
    clock_nanosleep: Kind::Chosen(slept, Answer::Error);
    getitimer: given(ALARM);
    setitimer: given(ALARM_SET);
    timerfd_settime timer_settime: given(TIMER_SET);
    timerfd_gettime timer_gettime: given(TIMER);
    timer_create: Kind::Timer(TIMER_CREATED);

    sigpending: Kind::Signals(PENDING, Answer::Number, Sent::Asked);
    sigaltstack: given(STACK);
    sigtimedwait: Kind::Signals(SIGNALLED, Answer::Number, Sent::TakenByLibc);
    sigwaitinfo: Kind::Signals(SIGNALLED_EVER, Answer::Number, Sent::TakenByLibc);
    sigwait: Kind::Signals(SIGNALLED_NUMBER, Answer::Error, Sent::TakenNumber);
    signalfd: given(SIGNAL_FILE);

    mq_open: Kind::Chosen(queue_opened, Answer::Number);
    mq_getattr: given(QUEUE_ASKED);
    mq_setattr: given(QUEUE_SET);
    mq_send: given(QUEUED);
    mq_timedsend: given(QUEUED_UNTIL);
    mq_receive: given(UNQUEUED);
    mq_timedreceive: given(UNQUEUED_UNTIL);
    mq_notify: given(QUEUE_NOTIFIED);
    msgsnd: given(MESSAGE_SENT);
    msgrcv: given(MESSAGE_RECEIVED);
    semop: given(SEMAPHORES);
    semtimedop: given(SEMAPHORES_UNTIL);
    shmctl: Kind::Chosen(shared_control, Answer::Number);
    msgctl: Kind::Chosen(message_control, Answer::Number);
    semctl: Kind::Chosen(semaphore_control, Answer::Number);
}

#[inline(always)]
fn real(name: Name) -> Function {
    // SAFETY: the function of this name in libc. It takes fewer arguments, and does not look at the others.
    unsafe { transmute(REALS[name as usize].load(Ordering::Relaxed)) }
}

/// Looks all of them up, where the dynamic linker may be asked: a program may call one first where it may not.
pub fn prepare() {
    (0..REALS.len()).for_each(|index| _ = look_up(index));
}

/// # Panics
/// Aborts if the C library lacks a function that it had when the program was linked.
extern "C" fn look_up(index: usize) -> *mut c_void {
    // SAFETY: the name is NUL-terminated.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, FUNCTIONS[index].0.as_ptr()) };
    assert!(!found.is_null());
    REALS[index].store(found.cast(), Ordering::Relaxed);
    found
}

// With the arguments of a call, and the function's number in eax: the call goes to libc's own.
global_asm!(
    ".pushsection .text",
    "mmiotap_look_up:",
    ".cfi_startproc",
    "push rdi",
    "push rsi",
    "push rdx",
    "push rcx",
    "push r8",
    "push r9",
    "sub rsp, 8",
    ".cfi_adjust_cfa_offset 56",
    "mov edi, eax",
    "call {look_up}",
    "add rsp, 8",
    "pop r9",
    "pop r8",
    "pop rcx",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    ".cfi_adjust_cfa_offset -56",
    "jmp rax",
    ".cfi_endproc",
    ".popsection",
    look_up = sym look_up,
);

/// A call that may concern a region.
unsafe extern "C" fn divert(a: usize, b: usize, c: usize, d: usize, e: usize, f: usize, name: Name, caller: usize) -> isize {
    // SAFETY: the caller's promise.
    unsafe { Diverted { callee: Callee::Function(name), arguments: [a, b, c, d, e, f], caller }.make(name.kind()) }
}

/// # Safety
/// As libc's function.
pub unsafe fn call(name: Name, [a, b, c, d, e, f]: Arguments) -> isize {
    // SAFETY: the caller's promise.
    unsafe { real(name)(a, b, c, d, e, f) }
}
