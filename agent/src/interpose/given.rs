//! System calls that take structures and names, and what each of their arguments leads to. What lies in a region is handed on as the alias,
//! if all of it does.

use libc::iovec;

use crate::kernel::{self, Call, Way};
use crate::{arch, region};

/// Addresses that a call takes at most.
const MOST: usize = 4;

/// Arguments as they are in registers: what a function has fewer of is handed on as it is, and means nothing.
pub type Arguments = [usize; 6];

/// An argument that is the address of something.
#[derive(Clone, Copy)]
pub struct Pointer {
    argument: usize,
    /// The kernel takes what is there; it writes there.
    taken: bool,
    written: bool,
    size: Size,
}

/// How many bytes are there.
#[derive(Clone, Copy)]
enum Size {
    Bytes(usize),
    /// So many times this argument.
    Times(usize, usize),
    /// At most that; as many times what the call returns.
    Returned(usize, usize),
    /// Sets of as many bits as this argument says, in whole words.
    Bits(usize),
    /// A name: to the zero behind it.
    Name,
    /// As many as the word says that this argument leads to, and the kernel changes: a socklen_t.
    Told(usize),
}

use Size::*;

const fn taken(argument: usize, size: Size) -> Pointer {
    Pointer { argument, taken: true, written: false, size }
}

const fn written(argument: usize, size: Size) -> Pointer {
    Pointer { argument, taken: false, written: true, size }
}

const fn both(argument: usize, size: Size) -> Pointer {
    Pointer { argument, taken: true, written: true, size }
}

/// What is there is not looked at: it stands for itself.
const fn named(argument: usize, length: usize) -> Pointer {
    Pointer { argument, taken: false, written: false, size: Bytes(length) }
}

const STAT: usize = size_of::<libc::stat>();
const STATFS: usize = size_of::<libc::statfs>();
const LENGTH: usize = size_of::<libc::socklen_t>();
const OFFSET: usize = size_of::<libc::loff_t>();

pub const NAMED: &[Pointer] = &[taken(0, Name)];
pub const NAMED_AT: &[Pointer] = &[taken(1, Name)];
pub const RENAMED: &[Pointer] = &[taken(0, Name), taken(1, Name)];
pub const STATED: &[Pointer] = &[taken(0, Name), written(1, Bytes(STAT))];
pub const STATED_FILE: &[Pointer] = &[written(1, Bytes(STAT))];
pub const STATED_AT: &[Pointer] = &[taken(1, Name), written(2, Bytes(STAT))];
pub const STATXED: &[Pointer] = &[taken(1, Name), written(4, Bytes(size_of::<libc::statx>()))];
pub const FILE_SYSTEM: &[Pointer] = &[taken(0, Name), written(1, Bytes(STATFS))];
pub const FILE_SYSTEM_OF: &[Pointer] = &[written(1, Bytes(STATFS))];
pub const LINK: &[Pointer] = &[taken(0, Name), written(1, Returned(2, 1))];
pub const LINK_AT: &[Pointer] = &[taken(1, Name), written(2, Returned(3, 1))];
pub const DIRECTORY: &[Pointer] = &[written(1, Returned(2, 1))];
pub const POLLED: &[Pointer] = &[both(0, Times(1, size_of::<libc::pollfd>()))];
pub const SELECTED: &[Pointer] =
    &[both(1, Bits(0)), both(2, Bits(0)), both(3, Bits(0)), both(4, Bytes(size_of::<libc::timeval>()))];
pub const AWAITED: &[Pointer] = &[written(1, Returned(2, size_of::<libc::epoll_event>()))];
pub const WATCHED: &[Pointer] = &[taken(3, Bytes(size_of::<libc::epoll_event>()))];
pub const TWO_ENDS: &[Pointer] = &[written(0, Bytes(2 * size_of::<i32>()))];
pub const TWO_SOCKETS: &[Pointer] = &[written(3, Bytes(2 * size_of::<i32>()))];
pub const ADDRESSED: &[Pointer] = &[taken(1, Times(2, 1))];
pub const PEER: &[Pointer] = &[written(1, Told(2)), both(2, Bytes(LENGTH))];
pub const OPTION: &[Pointer] = &[written(3, Told(4)), both(4, Bytes(LENGTH))];
pub const OPTION_SET: &[Pointer] = &[taken(3, Times(4, 1))];
pub const SENT: &[Pointer] = &[both(2, Bytes(OFFSET))];
pub const COPIED: &[Pointer] = &[both(1, Bytes(OFFSET)), both(3, Bytes(OFFSET))];
pub const USAGE: &[Pointer] = &[written(1, Bytes(size_of::<libc::rusage>()))];
pub const SYSTEM: &[Pointer] = &[written(0, Bytes(size_of::<libc::sysinfo>()))];
pub const SYSTEM_NAMES: &[Pointer] = &[written(0, Bytes(size_of::<libc::utsname>()))];
pub const TIMER_SET: &[Pointer] = &[taken(2, Bytes(32)), written(3, Bytes(32))];
pub const TIMER: &[Pointer] = &[written(1, Bytes(size_of::<libc::itimerspec>()))];
pub const COUNTER: &[Pointer] = &[written(1, Bytes(8))];
const MOVED_IN: &[Pointer] = &[written(1, Returned(2, 1))];
const MOVED_OUT: &[Pointer] = &[taken(1, Returned(2, 1))];
const RANDOM: &[Pointer] = &[written(0, Returned(1, 1))];
const WORD: usize = 4;
const LOCK_AWAITED: &[Pointer] = &[taken(0, Bytes(WORD)), taken(3, Bytes(size_of::<libc::timespec>()))];
const LOCK_WOKEN: &[Pointer] = &[named(0, WORD)];
const LOCK_MOVED: &[Pointer] = &[taken(0, Bytes(WORD)), named(4, WORD)];
const LOCK_WOKEN_AND_CHANGED: &[Pointer] = &[named(0, WORD), both(4, Bytes(WORD))];
const LOCK_OWNED: &[Pointer] = &[both(0, Bytes(WORD)), taken(3, Bytes(size_of::<libc::timespec>()))];
const LOCK_GIVEN_UP: &[Pointer] = &[both(0, Bytes(WORD))];
const LOCK_AWAITED_TO_OWN: &[Pointer] =
    &[taken(0, Bytes(WORD)), taken(3, Bytes(size_of::<libc::timespec>())), both(4, Bytes(WORD))];
const LOCK_MOVED_TO_OWN: &[Pointer] = &[taken(0, Bytes(WORD)), both(4, Bytes(WORD))];

/// What the system call of this number takes, if it is one of these. Some have several meanings, which their second argument tells.
pub fn pointers(number: libc::c_long, second: usize) -> &'static [Pointer] {
    match number {
        libc::SYS_read | libc::SYS_pread64 | libc::SYS_recvfrom => MOVED_IN,
        libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_sendto => MOVED_OUT,
        libc::SYS_getrandom => RANDOM,
        libc::SYS_stat | libc::SYS_lstat => STATED,
        libc::SYS_fstat => STATED_FILE,
        libc::SYS_newfstatat => STATED_AT,
        libc::SYS_statx => STATXED,
        libc::SYS_statfs => FILE_SYSTEM,
        libc::SYS_fstatfs => FILE_SYSTEM_OF,
        libc::SYS_readlink => LINK,
        libc::SYS_readlinkat => LINK_AT,
        libc::SYS_getdents64 => DIRECTORY,
        libc::SYS_open | libc::SYS_access | libc::SYS_unlink | libc::SYS_mkdir | libc::SYS_rmdir | libc::SYS_chdir => NAMED,
        libc::SYS_openat | libc::SYS_faccessat | libc::SYS_unlinkat | libc::SYS_mkdirat => NAMED_AT,
        libc::SYS_rename => RENAMED,
        libc::SYS_poll => POLLED,
        libc::SYS_select => SELECTED,
        libc::SYS_epoll_wait => AWAITED,
        libc::SYS_epoll_ctl => WATCHED,
        libc::SYS_pipe | libc::SYS_pipe2 => TWO_ENDS,
        libc::SYS_socketpair => TWO_SOCKETS,
        libc::SYS_bind | libc::SYS_connect => ADDRESSED,
        libc::SYS_accept | libc::SYS_accept4 | libc::SYS_getsockname | libc::SYS_getpeername => PEER,
        libc::SYS_getsockopt => OPTION,
        libc::SYS_setsockopt => OPTION_SET,
        libc::SYS_sendfile => SENT,
        libc::SYS_copy_file_range | libc::SYS_splice => COPIED,
        libc::SYS_getrusage => USAGE,
        libc::SYS_sysinfo => SYSTEM,
        libc::SYS_uname => SYSTEM_NAMES,
        libc::SYS_timerfd_settime => TIMER_SET,
        libc::SYS_timerfd_gettime => TIMER,
        libc::SYS_futex => lock(second as i32),
        _ => &[],
    }
}

fn lock(operation: i32) -> &'static [Pointer] {
    match operation & libc::FUTEX_CMD_MASK {
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

/// May one of them be in a region?
#[inline(always)]
pub fn is_near(pointers: &[Pointer], arguments: &Arguments) -> bool {
    pointers.iter().any(|pointer| region::is_near(arguments[pointer.argument], 1))
}

/// Makes a call, in which the program goes on at `caller`, with what is in regions handed on as the alias.
pub fn handed_on(pointers: &[Pointer], arguments: Arguments, caller: usize, call: impl FnOnce(Arguments) -> isize) -> isize {
    let (mut reached, mut rooms) = (arguments, [0; MOST]);
    for (pointer, room) in pointers.iter().zip(&mut rooms) {
        *room = length(pointer, &arguments);
        reached[pointer.argument] = kernel::reach(arguments[pointer.argument], (*room).max(1));
    }
    if reached == arguments {
        return call(arguments);
    }
    let under_way = Call::begin(caller);
    let result = call(reached);
    if result as i32 == -1 {
        return result;
    }
    for (pointer, room) in pointers.iter().zip(rooms) {
        let alias = reached[pointer.argument];
        if alias == arguments[pointer.argument] {
            continue;
        }
        if matches!(pointer.size, Name) {
            under_way.end_unknown(alias);
            continue;
        }
        let length = match pointer.size {
            Returned(_, unit) => result as usize * unit,
            // The kernel has said how much it had.
            Told(_) => length(pointer, &arguments),
            _ => room,
        };
        let length = length.min(room);
        let part = iovec { iov_base: alias as *mut _, iov_len: length };
        for (way, went) in [(Way::Read, pointer.taken), (Way::Write, pointer.written)] {
            if went {
                under_way.end(way, &[part], length);
            }
        }
    }
    result
}

/// The arguments as the kernel is to have them of a call that comes back without us. What it takes is written down now; of what it
/// writes it is only known that it may.
pub fn begun(pointers: &[Pointer], arguments: Arguments, caller: usize) -> Arguments {
    let (mut reached, under_way) = (arguments, Call::begin(caller));
    for pointer in pointers {
        let (address, length) = (arguments[pointer.argument], length(pointer, &arguments));
        let alias = kernel::reach(address, length.max(1));
        reached[pointer.argument] = alias;
        if alias == address {
            continue;
        }
        if pointer.written {
            under_way.end_unknown(alias);
        } else if pointer.taken {
            under_way.end(Way::Read, &[iovec { iov_base: alias as *mut _, iov_len: length }], length);
        }
    }
    reached
}

/// How many bytes the kernel may look at, as far as it is told now.
fn length(pointer: &Pointer, arguments: &Arguments) -> usize {
    match pointer.size {
        Bytes(length) => length,
        Times(argument, unit) | Returned(argument, unit) => arguments[argument].saturating_mul(unit),
        Bits(argument) => (arguments[argument] as i32).max(0).unsigned_abs().div_ceil(64) as usize * 8,
        Name => 1,
        Told(argument) => told(arguments[argument]),
    }
}

/// The socklen_t at this address; 0 if it is not there.
fn told(address: usize) -> usize {
    let mut length: libc::socklen_t = 0;
    // SAFETY: a word of ours; a fault on the other side is recovered from.
    let is_there = address != 0 && unsafe { arch::copy(kernel::reach(address, LENGTH), &raw mut length as usize, LENGTH) };
    if is_there { length as usize } else { 0 }
}
