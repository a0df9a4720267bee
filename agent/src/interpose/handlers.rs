//! sigaction and signal: the agent's handlers stay first, and the program sees its own.

use core::mem::{MaybeUninit, transmute, zeroed};

use libc::{SA_RESETHAND, SA_RESTART, SIG_ERR, c_int, sigaction as Sigaction, sighandler_t};

use super::Real;
use super::masks::{kernel_set, set_kernel_set};
use crate::signals::{self, Action, INTERNAL, OURS, SIGNALS, bit};
use crate::{arch, process, region, sys, wrapped};

static SIGACTION: Real = Real::new(c"sigaction");

type SigactionFn = unsafe extern "C" fn(c_int, *const Sigaction, *mut Sigaction) -> c_int;

fn is_ours(signal: c_int) -> bool {
    SIGNALS.contains(&signal)
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
    let is_vforked = process::is_vforked();
    if is_ours(signal) && !is_vforked {
        let _table = region::lock();
        if signals::is_installed() {
            // SAFETY: the caller's promise.
            unsafe { exchange(signal, new, old) };
            return 0;
        }
    }
    // That is how a thread in libc is seen to be at work for us: who attaches or leaves waits for it.
    let mask = sys::block_signals(!OURS);
    let own = wrapped::own(signal);
    // SAFETY: the caller's promise: each is null or valid. libc writes to `old` before we do.
    let ret = unsafe {
        let mut stripped = MaybeUninit::<Sigaction>::uninit();
        let mut passed = new;
        if !new.is_null() && !is_ours(signal) && !is_vforked {
            let changed = stripped.write(*new);
            write(&wrapped::wrap(signal, &read(changed)), changed);
            passed = stripped.as_ptr();
        }
        let ret = real(signal, passed, old);
        if ret == 0 && !is_ours(signal) && !old.is_null() {
            write(&wrapped::unwrap(&own, &read(&*old)), &mut *old);
        }
        ret
    };
    sys::set_signal_mask(mask);
    ret
}

/// The same with the kernel's structure. Returns what was set before, or the kernel's error.
pub fn kernel_action(signal: c_int, new: Option<&Action>) -> Result<Action, isize> {
    if !(1..=64).contains(&signal) {
        return signals::exchange_action(signal, new);
    }
    let is_vforked = process::is_vforked();
    if is_ours(signal) && !is_vforked {
        let _table = region::lock();
        if signals::is_installed() {
            return Ok(signals::program_action(signal, new.copied()));
        }
        return signals::exchange_action(signal, new);
    }
    let own = wrapped::own(signal);
    let passed = new.map(|new| if is_vforked { *new } else { wrapped::wrap(signal, new) });
    Ok(wrapped::unwrap(&own, &signals::exchange_action(signal, passed.as_ref())?))
}

/// For which a program has set a handler, beside the agent's own signals.
fn handled() -> impl Iterator<Item = c_int> {
    signals::caught().filter(|signal| (OURS | INTERNAL) & bit(*signal) == 0)
}

/// Treats the handlers that the program has set already as sigaction() would have. No other thread runs.
pub fn take_over() {
    for signal in handled() {
        let before = signals::action(signal);
        if before.handler != arch::signal_entry() {
            signals::set_action(signal, &wrapped::wrap(signal, &before));
        }
    }
}

/// Gives the kernel the program's handlers back. No other thread runs.
pub fn give_back() {
    for signal in handled() {
        let kernels = signals::action(signal);
        signals::set_action(signal, &wrapped::unwrap(&wrapped::own(signal), &kernels));
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
    let new = unsafe { new.as_ref() }.map(|new| {
        let new = read(new);
        Action { flags: new.flags | arch::SA_RESTORER, restorer: arch::restorer(), ..new }
    });
    let before = signals::program_action(signal, new);
    // SAFETY: the caller's promise.
    if let Some(old) = unsafe { old.as_mut() } {
        // SAFETY: all-zero is a valid sigaction.
        *old = unsafe { zeroed() };
        // SAFETY: a function's address, or none.
        old.sa_restorer = unsafe { transmute::<usize, Option<extern "C" fn()>>(before.restorer) };
        write(&before, old);
    }
}

/// What libc's structure says but where handlers return to, which is libc's affair.
fn read(action: &Sigaction) -> Action {
    Action {
        handler: action.sa_sigaction,
        flags: action.sa_flags as u32 as u64,
        restorer: 0,
        mask: kernel_set(&action.sa_mask),
    }
}

fn write(from: &Action, to: &mut Sigaction) {
    (to.sa_sigaction, to.sa_flags) = (from.handler, from.flags as c_int);
    set_kernel_set(&mut to.sa_mask, from.mask);
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
