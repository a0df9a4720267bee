//! sigaction and signal: the agent's handlers stay first, and the program sees its own.

use core::mem::{MaybeUninit, transmute, zeroed};
use core::sync::atomic::{AtomicU64, Ordering};

use libc::{SA_RESETHAND, SA_RESTART, SIG_DFL, SIG_ERR, SIG_IGN, c_int, sigaction as Sigaction, sighandler_t};

use super::Real;
use super::masks::{kernel_set, set_kernel_set};
use crate::signals::{self, Action, INTERNAL, OURS, SIGNALS, bit};
use crate::{arch, region, sys, wrapped};

static SIGACTION: Real = Real::new(c"sigaction");

type SigactionFn = unsafe extern "C" fn(c_int, *const Sigaction, *mut Sigaction) -> c_int;

fn is_ours(signal: c_int) -> bool {
    SIGNALS.contains(&signal)
}

/// Signals (bit n − 1 for signal n) whose handlers the program wants to run with one of ours blocked: what we
/// take out of their masks, and show again when asked.
static STRIPPED: [AtomicU64; SIGNALS.len()] = [const { AtomicU64::new(0) }; SIGNALS.len()];

fn stripped(signal: c_int) -> u64 {
    let set = |index: usize| STRIPPED[index].load(Ordering::Relaxed) & bit(signal) != 0;
    SIGNALS.iter().enumerate().filter(|&(index, _)| set(index)).map(|(_, &ours)| bit(ours)).sum()
}

fn set_stripped(signal: c_int, mask: u64) {
    for (ours, word) in SIGNALS.iter().zip(&STRIPPED) {
        if mask & bit(*ours) != 0 {
            word.fetch_or(bit(signal), Ordering::Relaxed);
        } else {
            word.fetch_and(!bit(signal), Ordering::Relaxed);
        }
    }
}

/// # Safety
/// As sigaction(2).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn sigaction(signal: c_int, new: *const Sigaction, old: *mut Sigaction) -> c_int {
    crate::start();
    // SAFETY: the function of this name in libc.
    let real: SigactionFn = unsafe { transmute(SIGACTION.address()) };
    if crate::arena::base() == 0 || !(1..=64).contains(&signal) {
        // SAFETY: the caller's promise.
        return unsafe { real(signal, new, old) };
    }
    if is_ours(signal) {
        let _table = region::lock();
        if signals::is_installed() {
            // SAFETY: the caller's promise.
            unsafe { exchange(signal, new, old) };
            return 0;
        }
    }
    // That is how a thread in libc is seen to be at work for us: who attaches or leaves waits for it.
    let mask = sys::block_signals(!OURS);
    let (before, own) = (stripped(signal), wrapped::own(signal));
    // SAFETY: the caller's promise: each is null or valid. libc writes to `old` before we do.
    let ret = unsafe {
        let mut stripped = MaybeUninit::<Sigaction>::uninit();
        let mut passed = new;
        if !new.is_null() && !is_ours(signal) {
            let changed = stripped.write(*new);
            set_kernel_set(&mut changed.sa_mask, kernel_set(&(*new).sa_mask) & !OURS);
            (changed.sa_sigaction, changed.sa_flags) = wrapped::wrap(signal, changed.sa_sigaction, changed.sa_flags);
            passed = stripped.as_ptr();
        }
        let ret = real(signal, passed, old);
        if ret == 0 && !is_ours(signal) {
            if !new.is_null() {
                set_stripped(signal, kernel_set(&(*new).sa_mask));
            }
            if !old.is_null() {
                set_kernel_set(&mut (*old).sa_mask, kernel_set(&(*old).sa_mask) | before);
                ((*old).sa_sigaction, (*old).sa_flags) = wrapped::unwrap(own, (*old).sa_sigaction, (*old).sa_flags);
            }
        }
        ret
    };
    sys::set_signal_mask(mask);
    ret
}

/// The same with the kernel's structure. Returns what was set before, or the kernel's error.
pub fn kernel_action(signal: c_int, new: Option<&Action>) -> Result<Action, isize> {
    if is_ours(signal) {
        let _table = region::lock();
        if signals::is_installed() {
            return Ok(signals::program_action(signal, new.copied()));
        }
        return signals::exchange_action(signal, new);
    }
    if !(1..=64).contains(&signal) {
        return signals::exchange_action(signal, new);
    }
    let (before, own) = (stripped(signal), wrapped::own(signal));
    let passed = new.map(|new| {
        let (handler, flags) = wrapped::wrap(signal, new.handler, new.flags as c_int);
        Action { handler, flags: flags as u32 as u64, mask: new.mask & !OURS, ..*new }
    });
    let old = signals::exchange_action(signal, passed.as_ref())?;
    if let Some(new) = new {
        set_stripped(signal, new.mask);
    }
    let (handler, flags) = wrapped::unwrap(own, old.handler, old.flags as c_int);
    Ok(Action { handler, flags: flags as u32 as u64, mask: old.mask | before, ..old })
}

/// For which a program has set a handler, beside the agent's own signals.
fn handled() -> impl Iterator<Item = c_int> {
    signals::caught().filter(|signal| (OURS | INTERNAL) & bit(*signal) == 0)
}

/// Treats the handlers that the program has set already as sigaction() would have. No other thread runs.
pub fn take_over() {
    for signal in handled() {
        let before = signals::action(signal);
        if before.handler == SIG_DFL || before.handler == SIG_IGN || before.handler == arch::signal_entry() {
            continue;
        }
        let (handler, flags) = wrapped::wrap(signal, before.handler, before.flags as c_int);
        let action = Action { handler, flags: flags as u32 as u64, mask: before.mask & !OURS, ..before };
        set_stripped(signal, before.mask & OURS);
        signals::set_action(signal, &action);
    }
}

/// Gives the kernel the program's handlers back. No other thread runs.
pub fn give_back() {
    for signal in handled() {
        let ours = signals::action(signal);
        if ours.handler == SIG_DFL || ours.handler == SIG_IGN {
            continue;
        }
        let (handler, flags) = wrapped::unwrap(wrapped::own(signal), ours.handler, ours.flags as c_int);
        let action = Action { handler, flags: flags as u32 as u64, mask: ours.mask | stripped(signal), ..ours };
        set_stripped(signal, 0);
        signals::set_action(signal, &action);
    }
}

/// # Safety
/// As sigaction(2).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __sigaction(signal: c_int, new: *const Sigaction, old: *mut Sigaction) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { sigaction(signal, new, old) }
}

/// One of ours: the program's action lives with us.
unsafe fn exchange(signal: c_int, new: *const Sigaction, old: *mut Sigaction) {
    // As libc would have given it to the kernel, and shown it (sysdeps/unix/sysv/linux/x86_64/libc_sigaction.c).
    // SAFETY: the caller's promise.
    let new = unsafe { new.as_ref() }.map(|new| Action {
        handler: new.sa_sigaction,
        flags: new.sa_flags as u32 as u64 | arch::SA_RESTORER,
        restorer: arch::restorer(),
        mask: kernel_set(&new.sa_mask),
    });
    let before = signals::program_action(signal, new);
    // SAFETY: the caller's promise.
    if let Some(old) = unsafe { old.as_mut() } {
        // SAFETY: all-zero is a valid sigaction.
        *old = unsafe { zeroed() };
        old.sa_sigaction = before.handler;
        old.sa_flags = before.flags as c_int;
        // SAFETY: a function's address, or none.
        old.sa_restorer = unsafe { transmute::<usize, Option<extern "C" fn()>>(before.restorer) };
        set_kernel_set(&mut old.sa_mask, before.mask);
    }
}

unsafe fn simple(signal: c_int, handler: sighandler_t, flags: c_int) -> sighandler_t {
    // SAFETY: both structures are ours; the handler is the caller's promise.
    unsafe {
        let (mut new, mut old): (Sigaction, Sigaction) = (zeroed(), zeroed());
        (new.sa_sigaction, new.sa_flags) = (handler, flags);
        if flags & SA_RESTART != 0 && (1..=64).contains(&signal) {
            set_kernel_set(&mut new.sa_mask, bit(signal));
        }
        if sigaction(signal, &raw const new, &raw mut old) == 0 { old.sa_sigaction } else { SIG_ERR }
    }
}

/// signal(2) as glibc has it: the handler stays, and system calls are restarted.
///
/// # Safety
/// As signal(2).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the caller's promise.
    unsafe { simple(signal, handler, SA_RESTART) }
}

/// # Safety
/// As signal(2).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn bsd_signal(number: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the caller's promise.
    unsafe { signal(number, handler) }
}

/// # Safety
/// As signal(2).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn ssignal(number: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the caller's promise.
    unsafe { signal(number, handler) }
}

/// signal(2) as System V had it: once only.
///
/// # Safety
/// As signal(2).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn sysv_signal(number: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the caller's promise.
    unsafe { simple(number, handler, SA_RESETHAND | libc::SA_NODEFER) }
}

/// # Safety
/// As signal(2).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __sysv_signal(number: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the caller's promise.
    unsafe { sysv_signal(number, handler) }
}
