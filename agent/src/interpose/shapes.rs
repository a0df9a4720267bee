//! What the arguments of calls lead to. A call that is interrupted has written less than one that is done.

use super::given::Pointer;
use super::given::Size::{self, *};
use super::kinds::Arguments;

const fn taken(argument: usize, size: Size) -> Pointer {
    Pointer { argument, taken: true, written: false, interrupted: false, size }
}

const fn written(argument: usize, size: Size) -> Pointer {
    Pointer { argument, taken: false, written: true, interrupted: false, size }
}

const fn both(argument: usize, size: Size) -> Pointer {
    Pointer { argument, taken: true, written: true, interrupted: false, size }
}

/// What is there is not looked at: it stands for itself.
const fn named(argument: usize, size: Size) -> Pointer {
    Pointer { argument, taken: false, written: false, interrupted: false, size }
}

const fn interrupted(pointer: Pointer) -> Pointer {
    Pointer { interrupted: true, ..pointer }
}

const STAT: usize = size_of::<libc::stat>();
const STATFS: usize = size_of::<libc::statfs>();
const WORD: usize = 4;
const LONG: usize = 8;
const TIME: usize = size_of::<libc::timespec>();
const TIMES: usize = 2 * TIME;
const MASK: usize = size_of::<u64>();
const SIGNAL: usize = size_of::<libc::siginfo_t>();
const EVENT: usize = size_of::<libc::sigevent>();
const QUEUE: usize = size_of::<libc::mq_attr>();
const LIMIT: usize = size_of::<libc::rlimit>();
const ALTERNATE: usize = size_of::<libc::stack_t>();

// Names.
pub const NAMED: &[Pointer] = &[taken(0, Name)];
pub const NAMED_SECOND: &[Pointer] = &[taken(1, Name)];
pub const NAMED_FIFTH: &[Pointer] = &[taken(4, Name)];
pub const TWO_NAMES: &[Pointer] = &[taken(0, Name), taken(1, Name)];
pub const NAME_AND_NAME_AT: &[Pointer] = &[taken(0, Name), taken(2, Name)];
pub const TWO_NAMES_AT: &[Pointer] = &[taken(1, Name), taken(3, Name)];
pub const MOUNTED: &[Pointer] = &[taken(0, Name), taken(1, Name), taken(2, Name), taken(4, Name)];
pub const OPENED_HOW: &[Pointer] = &[taken(1, Name), taken(2, Times(3, 1))];
pub const TEMPLATE: &[Pointer] = &[taken(0, Name)];
pub const TEXT: &[Pointer] = &[taken(0, Times(1, 1))];
pub const THREAD_NAME: &[Pointer] = &[taken(1, Name)];
pub const THREAD_NAME_ASKED: &[Pointer] = &[written(1, Text(2))];
pub const FOLDER: &[Pointer] = &[written(0, Text(1))];
pub const FOLDER_LENGTH: &[Pointer] = &[written(0, Returned(1, 1))];
pub const LINK: &[Pointer] = &[taken(0, Name), written(1, Returned(2, 1))];
pub const LINK_AT: &[Pointer] = &[taken(1, Name), written(2, Returned(3, 1))];
pub const HANDLE: &[Pointer] = &[taken(1, Name), both(2, Headed(0, 8)), written(3, Bytes(WORD))];
pub const HANDLE_OPENED: &[Pointer] = &[taken(1, Headed(0, 8))];

// Files.
pub const STATED: &[Pointer] = &[taken(0, Name), written(1, Bytes(STAT))];
pub const STATED_FILE: &[Pointer] = &[written(1, Bytes(STAT))];
pub const STATED_AT: &[Pointer] = &[taken(1, Name), written(2, Bytes(STAT))];
pub const STATXED: &[Pointer] = &[taken(1, Name), written(4, Bytes(size_of::<libc::statx>()))];
pub const FILE_SYSTEM: &[Pointer] = &[taken(0, Name), written(1, Bytes(STATFS))];
pub const FILE_SYSTEM_OF: &[Pointer] = &[written(1, Bytes(STATFS))];
pub const DIRECTORY: &[Pointer] = &[written(1, Returned(2, 1))];
pub const TIMES_AT: &[Pointer] = &[taken(1, Name), taken(2, Bytes(TIMES))];
pub const TIMES_OF: &[Pointer] = &[taken(1, Bytes(TIMES))];
pub const TIMES_OF_NAME: &[Pointer] = &[taken(0, Name), taken(1, Bytes(TIMES))];
pub const TWO_LONGS_OF_NAME: &[Pointer] = &[taken(0, Name), taken(1, Bytes(2 * LONG))];
pub const ATTRIBUTE_SET: &[Pointer] = &[taken(0, Name), taken(1, Name), taken(2, Times(3, 1))];
pub const ATTRIBUTE_SET_OF: &[Pointer] = &[taken(1, Name), taken(2, Times(3, 1))];
pub const ATTRIBUTE: &[Pointer] = &[taken(0, Name), taken(1, Name), written(2, Returned(3, 1))];
pub const ATTRIBUTE_OF: &[Pointer] = &[taken(1, Name), written(2, Returned(3, 1))];
pub const ATTRIBUTES: &[Pointer] = &[taken(0, Name), written(1, Returned(2, 1))];
pub const ATTRIBUTES_OF: &[Pointer] = &[written(1, Returned(2, 1))];
pub const SENT: &[Pointer] = &[both(2, Bytes(LONG))];
pub const COPIED: &[Pointer] = &[both(1, Bytes(LONG)), both(3, Bytes(LONG))];
pub const RESIDENT: &[Pointer] = &[named(0, Times(1, 1)), written(2, Pages(1))];

// What is waited for.
pub const POLLED: &[Pointer] = &[both(0, Times(1, size_of::<libc::pollfd>()))];
pub const POLLED_MASK: usize = 3;
pub const POLLED_MASKED: &[Pointer] =
    &[both(0, Times(1, size_of::<libc::pollfd>())), taken(2, Bytes(TIME)), taken(POLLED_MASK, Bytes(MASK))];
pub const SELECTED: &[Pointer] = &[both(1, Bits(0)), both(2, Bits(0)), both(3, Bits(0)), both(4, Bytes(TIME))];
pub const SELECTED_MASK: usize = 5;
pub const SELECTED_MASKED: &[Pointer] =
    &[both(1, Bits(0)), both(2, Bits(0)), both(3, Bits(0)), taken(4, Bytes(TIME)), taken(SELECTED_MASK, Bytes(MASK))];
pub const AWAITED: &[Pointer] = &[written(1, Returned(2, size_of::<libc::epoll_event>()))];
pub const AWAITED_MASK: usize = 4;
pub const AWAITED_MASKED: &[Pointer] =
    &[written(1, Returned(2, size_of::<libc::epoll_event>())), taken(AWAITED_MASK, Bytes(MASK))];
pub const AWAITED_UNTIL: &[Pointer] =
    &[written(1, Returned(2, size_of::<libc::epoll_event>())), taken(3, Bytes(TIME)), taken(AWAITED_MASK, Bytes(MASK))];
pub const WATCHED: &[Pointer] = &[taken(3, Bytes(size_of::<libc::epoll_event>()))];
pub const SUSPENDED: &[Pointer] = &[interrupted(taken(0, Bytes(MASK)))];
pub const TWO_ENDS: &[Pointer] = &[written(0, Bytes(2 * WORD))];
pub const TWO_SOCKETS: &[Pointer] = &[written(3, Bytes(2 * WORD))];
pub const ADDRESSED: &[Pointer] = &[taken(1, Times(2, 1))];
pub const PEER: &[Pointer] = &[written(1, Told(2)), both(2, Bytes(WORD))];
pub const OPTION: &[Pointer] = &[written(3, Told(4)), both(4, Bytes(WORD))];
pub const OPTION_SET: &[Pointer] = &[taken(3, Times(4, 1))];
pub const COUNTER: &[Pointer] = &[written(1, Bytes(LONG))];
const LOCK_AWAITED: &[Pointer] = &[taken(0, Bytes(WORD)), taken(3, Bytes(TIME))];
const LOCK_WOKEN: &[Pointer] = &[named(0, Bytes(WORD))];
const LOCK_MOVED: &[Pointer] = &[taken(0, Bytes(WORD)), named(4, Bytes(WORD))];
const LOCK_WOKEN_AND_CHANGED: &[Pointer] = &[named(0, Bytes(WORD)), both(4, Bytes(WORD))];
const LOCK_OWNED: &[Pointer] = &[both(0, Bytes(WORD)), taken(3, Bytes(TIME))];
const LOCK_GIVEN_UP: &[Pointer] = &[both(0, Bytes(WORD))];
const LOCK_AWAITED_TO_OWN: &[Pointer] = &[taken(0, Bytes(WORD)), taken(3, Bytes(TIME)), both(4, Bytes(WORD))];
const LOCK_MOVED_TO_OWN: &[Pointer] = &[taken(0, Bytes(WORD)), both(4, Bytes(WORD))];

// Processes, threads and the machine.
/// struct rusage, and what waitid(2) fills in of a siginfo_t.
const USED: usize = size_of::<libc::rusage>();
const ENDED: usize = 28;
pub const WAITED: &[Pointer] = &[written(0, Positive(WORD))];
pub const WAITED_USED: &[Pointer] = &[written(0, Positive(WORD)), written(2, Positive(USED))];
pub const WAITED_FOR: &[Pointer] = &[written(1, Positive(WORD))];
pub const WAITED_FOR_USED: &[Pointer] = &[written(1, Positive(WORD)), written(3, Positive(USED))];
pub const WAITED_ID: &[Pointer] = &[written(2, Bytes(ENDED))];
/// It does not say whether it has found a process, of which it would write this.
pub const WAITED_ID_USED: &[Pointer] = &[written(2, Bytes(ENDED)), written(4, Unknown)];
pub const USAGE: &[Pointer] = &[written(1, Bytes(USED))];
pub const SYSTEM: &[Pointer] = &[written(0, Bytes(size_of::<libc::sysinfo>()))];
pub const SYSTEM_NAMES: &[Pointer] = &[written(0, Bytes(size_of::<libc::utsname>()))];
pub const GROUPS: &[Pointer] = &[written(1, Returned(0, WORD))];
pub const GROUPS_SET: &[Pointer] = &[taken(1, Times(0, WORD))];
pub const THREE_IDS: &[Pointer] = &[written(0, Bytes(WORD)), written(1, Bytes(WORD)), written(2, Bytes(WORD))];
pub const LIMIT_ASKED: &[Pointer] = &[written(1, Bytes(LIMIT))];
pub const LIMIT_SET: &[Pointer] = &[taken(1, Bytes(LIMIT))];
pub const LIMIT_CHANGED: &[Pointer] = &[taken(2, Bytes(LIMIT)), written(3, Bytes(LIMIT))];
pub const PROCESSORS: &[Pointer] = &[written(2, Times(1, 1))];
pub const PROCESSORS_RETURNED: &[Pointer] = &[written(2, Returned(1, 1))];
pub const PROCESSORS_SET: &[Pointer] = &[taken(2, Times(1, 1))];
pub const WORD_ASKED: &[Pointer] = &[written(1, Bytes(WORD))];
pub const WORD_SET: &[Pointer] = &[taken(1, Bytes(WORD))];
pub const SCHEDULED: &[Pointer] = &[taken(2, Bytes(WORD))];
pub const SCHEDULE_SET: &[Pointer] = &[taken(1, Headed(0, 0))];
pub const SCHEDULE: &[Pointer] = &[written(1, Times(2, 1))];
pub const TWO_WORDS: &[Pointer] = &[written(0, Bytes(WORD)), written(1, Bytes(WORD))];
pub const CAPABILITIES: &[Pointer] = &[both(0, Bytes(8)), written(1, Bytes(24))];
pub const CAPABILITIES_SET: &[Pointer] = &[taken(0, Bytes(8)), taken(1, Bytes(24))];
pub const COUNTED: &[Pointer] = &[taken(0, Headed(4, 0))];
pub const RULES: &[Pointer] = &[taken(1, Times(2, 1))];
/// struct io_uring_params.
pub const RING: &[Pointer] = &[both(1, Bytes(120))];
pub const RING_ENTERED: &[Pointer] = &[taken(4, Times(5, 1))];
pub const RING_REGISTERED: &[Pointer] = &[taken(2, Unknown)];
/// A program's name; its arguments and environment are arrays.
pub const SPAWNED: &[Pointer] = &[
    written(0, Bytes(WORD)),
    taken(1, Name),
    taken(2, Bytes(size_of::<libc::posix_spawn_file_actions_t>())),
    taken(3, Bytes(size_of::<libc::posix_spawnattr_t>())),
];

// Time.
pub const CLOCK: &[Pointer] = &[written(1, Bytes(TIME))];
pub const CLOCK_SET: &[Pointer] = &[taken(1, Bytes(TIME))];
pub const TIME_OF_DAY: &[Pointer] = &[written(0, Bytes(TIME)), written(1, Bytes(8))];
pub const TIME_OF_DAY_SET: &[Pointer] = &[taken(0, Bytes(TIME)), taken(1, Bytes(8))];
pub const SECONDS: &[Pointer] = &[written(0, Bytes(LONG))];
pub const PROCESS_TIMES: &[Pointer] = &[written(0, Bytes(TIMES))];
pub const ADJUSTED: &[Pointer] = &[both(0, Bytes(size_of::<libc::timex>()))];
pub const CLOCK_ADJUSTED: &[Pointer] = &[both(1, Bytes(size_of::<libc::timex>()))];
pub const SLEPT: &[Pointer] = &[taken(0, Bytes(TIME)), interrupted(written(1, Bytes(TIME)))];
const SLEPT_BY: &[Pointer] = &[taken(2, Bytes(TIME)), interrupted(written(3, Bytes(TIME)))];
const SLEPT_UNTIL: &[Pointer] = &[taken(2, Bytes(TIME))];
pub const ALARM: &[Pointer] = &[written(1, Bytes(TIMES))];
pub const ALARM_SET: &[Pointer] = &[taken(1, Bytes(TIMES)), written(2, Bytes(TIMES))];
pub const TIMER_SET: &[Pointer] = &[taken(2, Bytes(TIMES)), written(3, Bytes(TIMES))];
pub const TIMER: &[Pointer] = &[written(1, Bytes(TIMES))];
pub const TIMER_CREATED: &[Pointer] = &[taken(1, Bytes(EVENT))];
pub const TIMER_CREATED_ID: &[Pointer] = &[taken(1, Bytes(EVENT)), written(2, Bytes(WORD))];

// Signals.
pub const PENDING: &[Pointer] = &[written(0, Bytes(MASK))];
pub const STACK: &[Pointer] = &[taken(0, Bytes(ALTERNATE)), written(1, Bytes(ALTERNATE))];
pub const SIGNALLED: &[Pointer] = &[taken(0, Bytes(MASK)), written(1, Bytes(SIGNAL)), taken(2, Bytes(TIME))];
pub const SIGNALLED_EVER: &[Pointer] = &[taken(0, Bytes(MASK)), written(1, Bytes(SIGNAL))];
pub const SIGNALLED_NUMBER: &[Pointer] = &[taken(0, Bytes(MASK))];
pub const SIGNAL_FILE: &[Pointer] = &[taken(1, Bytes(MASK))];
pub const SIGNAL_SENT: &[Pointer] = &[taken(2, Bytes(SIGNAL))];
pub const SIGNAL_SENT_THREAD: &[Pointer] = &[taken(3, Bytes(SIGNAL))];

// Queues, semaphores and memory of System V and POSIX.
const QUEUE_OPENED: &[Pointer] = &[taken(0, Name)];
const QUEUE_CREATED: &[Pointer] = &[taken(0, Name), taken(3, Bytes(QUEUE))];
pub const QUEUE_ASKED: &[Pointer] = &[written(1, Bytes(QUEUE))];
pub const QUEUE_SET: &[Pointer] = &[taken(1, Bytes(QUEUE)), written(2, Bytes(QUEUE))];
pub const QUEUED: &[Pointer] = &[taken(1, Times(2, 1))];
pub const QUEUED_UNTIL: &[Pointer] = &[taken(1, Times(2, 1)), taken(4, Bytes(TIME))];
pub const UNQUEUED: &[Pointer] = &[written(1, Returned(2, 1)), written(3, Bytes(WORD))];
pub const UNQUEUED_UNTIL: &[Pointer] = &[written(1, Returned(2, 1)), written(3, Bytes(WORD)), taken(4, Bytes(TIME))];
pub const QUEUE_NOTIFIED: &[Pointer] = &[taken(1, Bytes(EVENT))];
pub const MESSAGE_SENT: &[Pointer] = &[taken(1, Plus(2, LONG))];
pub const MESSAGE_RECEIVED: &[Pointer] = &[written(1, ReturnedPlus(2, LONG))];
pub const SEMAPHORES: &[Pointer] = &[taken(1, Times(2, size_of::<libc::sembuf>()))];
pub const SEMAPHORES_UNTIL: &[Pointer] = &[taken(1, Times(2, size_of::<libc::sembuf>())), taken(3, Bytes(TIME))];

/// clock_nanosleep(2): what remains of a sleep until a moment is not said.
pub fn slept(arguments: &Arguments) -> &'static [Pointer] {
    if arguments[1] as i32 & libc::TIMER_ABSTIME == 0 { SLEPT_BY } else { SLEPT_UNTIL }
}

/// mq_open(3): only who creates one says what it is to be like.
pub fn queue_opened(arguments: &Arguments) -> &'static [Pointer] {
    if arguments[1] as i32 & libc::O_CREAT == 0 { QUEUE_OPENED } else { QUEUE_CREATED }
}

/// futex(2).
pub fn lock(arguments: &Arguments) -> &'static [Pointer] {
    match arguments[1] as i32 & libc::FUTEX_CMD_MASK {
        libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET => LOCK_AWAITED,
        libc::FUTEX_WAKE | libc::FUTEX_WAKE_BITSET => LOCK_WOKEN,
        libc::FUTEX_REQUEUE | libc::FUTEX_CMP_REQUEUE => LOCK_MOVED,
        libc::FUTEX_WAKE_OP => LOCK_WOKEN_AND_CHANGED,
        libc::FUTEX_LOCK_PI | libc::FUTEX_LOCK_PI2 => LOCK_OWNED,
        libc::FUTEX_UNLOCK_PI | libc::FUTEX_TRYLOCK_PI => LOCK_GIVEN_UP,
        libc::FUTEX_WAIT_REQUEUE_PI => LOCK_AWAITED_TO_OWN,
        libc::FUTEX_CMP_REQUEUE_PI => LOCK_MOVED_TO_OWN,
        _ => &[],
    }
}

/// fcntl(2).
pub fn file_control(arguments: &Arguments) -> &'static [Pointer] {
    const FLOCK: usize = size_of::<libc::flock>();
    const ASKED: &[Pointer] = &[both(2, Bytes(FLOCK))];
    const SET: &[Pointer] = &[taken(2, Bytes(FLOCK))];
    const OWNER: &[Pointer] = &[written(2, Bytes(8))];
    const OWNER_SET: &[Pointer] = &[taken(2, Bytes(8))];
    /// asm-generic/fcntl.h.
    const F_SETOWN_EX: i32 = 15;
    const F_GETOWN_EX: i32 = 16;
    match arguments[1] as i32 {
        libc::F_GETLK | libc::F_OFD_GETLK => ASKED,
        libc::F_SETLK | libc::F_SETLKW | libc::F_OFD_SETLK | libc::F_OFD_SETLKW => SET,
        F_GETOWN_EX => OWNER,
        F_SETOWN_EX => OWNER_SET,
        _ => &[],
    }
}

/// prctl(2).
pub fn process_control(arguments: &Arguments) -> &'static [Pointer] {
    const NAME: usize = 16;
    const ASKED: &[Pointer] = &[written(1, Bytes(NAME))];
    match arguments[0] as i32 {
        libc::PR_SET_NAME => THREAD_NAME,
        libc::PR_GET_NAME => ASKED,
        libc::PR_GET_PDEATHSIG | libc::PR_GET_CHILD_SUBREAPER | libc::PR_GET_TSC => WORD_ASKED,
        _ => &[],
    }
}

const SHARED: usize = size_of::<libc::shmid_ds>();
const MESSAGES: usize = size_of::<libc::msqid_ds>();
const SEMAPHORE: usize = size_of::<libc::semid_ds>();

/// shmctl(2).
pub fn shared_control(arguments: &Arguments) -> &'static [Pointer] {
    const ASKED: &[Pointer] = &[written(2, Bytes(SHARED))];
    const SET: &[Pointer] = &[taken(2, Bytes(SHARED))];
    control(arguments[1] as i32, ASKED, SET)
}

/// msgctl(2).
pub fn message_control(arguments: &Arguments) -> &'static [Pointer] {
    const ASKED: &[Pointer] = &[written(2, Bytes(MESSAGES))];
    const SET: &[Pointer] = &[taken(2, Bytes(MESSAGES))];
    control(arguments[1] as i32, ASKED, SET)
}

/// semctl(2), which has an array of as many numbers as there are semaphores, too.
pub fn semaphore_control(arguments: &Arguments) -> &'static [Pointer] {
    const ASKED: &[Pointer] = &[written(3, Bytes(SEMAPHORE))];
    const SET: &[Pointer] = &[taken(3, Bytes(SEMAPHORE))];
    const ALL: &[Pointer] = &[written(3, Unknown)];
    const ALL_SET: &[Pointer] = &[taken(3, Unknown)];
    match arguments[2] as i32 {
        libc::GETALL => ALL,
        libc::SETALL => ALL_SET,
        command => control(command, ASKED, SET),
    }
}

fn control(command: i32, asked: &'static [Pointer], set: &'static [Pointer]) -> &'static [Pointer] {
    match command {
        libc::IPC_STAT => asked,
        libc::IPC_SET => set,
        _ => &[],
    }
}
