//! Signal masks: the agent's signals are never really blocked, for a fault in a region would then kill; the program
//! sees the mask that it believes in.

use core::mem::{MaybeUninit, transmute};
use core::sync::atomic::{AtomicBool, Ordering};

use libc::{SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK, c_int, pthread_attr_t, sigset_t};

use super::kinds::{Arguments, Sent};
use super::{Real, answer};
use crate::arch::Frame;
use crate::masked::masked;
use crate::signals::{INTERNAL, OURS};
use crate::{arena, kernel, process, sys, thread};

/// The kernel's part of a libc signal set: its first eight bytes.
pub fn kernel_set(set: &sigset_t) -> u64 {
    // SAFETY: inside the structure, aligned alike.
    unsafe { (&raw const *set).cast::<u64>().read() }
}

pub fn set_kernel_set(set: &mut sigset_t, bits: u64) {
    // SAFETY: as above.
    unsafe { (&raw mut *set).cast::<u64>().write(bits) };
}

/// As the kernel answers it. By the system call and not by libc's function: who attaches or leaves meanwhile finds the thread in the
/// agent's code, and waits until what it believes and what the kernel has fit together.
unsafe fn change(how: c_int, new: *const sigset_t, old: *mut sigset_t) -> isize {
    crate::start();
    // SAFETY: the caller's promise: each is null or valid, and they may be the same.
    unsafe {
        let wanted = new.as_ref().map(|new| kernel_set(new) & !INTERNAL);
        let before = match arena::base() {
            0 => exchange(how, wanted),
            _ => kernel_mask(how, wanted.as_ref()),
        };
        match (before, old.as_mut()) {
            (Ok(before), Some(old)) => set_kernel_set(old, before),
            (Ok(_), None) => {}
            (Err(error), _) => return error,
        }
    }
    0
}

/// The thread has asked for this change. Returns which of our signals it believed to be blocked.
fn note(how: c_int, wanted: Option<u64>) -> u64 {
    let masked = masked();
    let before = masked.believed;
    let Some(bits) = wanted.map(|wanted| wanted & OURS).filter(|_| !process::is_vforked()) else { return before };
    match how {
        SIG_BLOCK => masked.believed |= bits,
        SIG_UNBLOCK => masked.believed &= !bits,
        SIG_SETMASK => masked.believed = bits,
        _ => {}
    }
    before
}

/// The system call itself. Returns the mask before, or the kernel's error.
fn exchange(how: c_int, new: Option<u64>) -> Result<u64, isize> {
    let mut old = 0u64;
    let pointer = new.as_ref().map_or(0, |new| &raw const *new as usize);
    // SAFETY: both are null or ours; 8 is the kernel's size of a signal set.
    let ret = unsafe {
        sys::syscall6(libc::SYS_rt_sigprocmask, how as usize, pointer, &raw mut old as usize, size_of::<u64>(), 0, 0)
    };
    if ret == 0 { Ok(old) } else { Err(ret) }
}

/// The same for the program. Returns the mask before, as the program believes in it, or the kernel's error.
pub fn kernel_mask(how: c_int, new: Option<&u64>) -> Result<u64, isize> {
    // The belief first: handlers of what the call lets through run before it has come back, with the new mask.
    let before = note(how, new.copied());
    masked().send_pending();
    let for_kernel = |&new: &u64| if how == SIG_UNBLOCK { new } else { new & !OURS };
    Ok(exchange(how, new.map(for_kernel))? & !OURS | before)
}

/// What the first thread has inherited from whoever started the program is as if it had asked for it.
pub fn take_over() {
    if let Ok(inherited) = exchange(SIG_BLOCK, None) {
        _ = kernel_mask(SIG_SETMASK, Some(&inherited));
    }
}

/// The same for a thread that has been stopped by a signal of ours, and goes on with the mask that is in its frame.
pub fn frame_mask(how: c_int, new: Option<&u64>, frame: &mut Frame) -> Result<u64, isize> {
    let old = frame.mask();
    let changed = match (new, how) {
        (None, _) => old,
        (Some(new), SIG_BLOCK) => old | new,
        (Some(new), SIG_UNBLOCK) => old & !new,
        (Some(new), SIG_SETMASK) => *new,
        _ => return Err(-(libc::EINVAL as isize)),
    };
    frame.set_mask(changed & !OURS);
    let before = note(how, new.copied());
    masked().send_pending();
    Ok(old & !OURS | before)
}

/// # Safety
/// As sigprocmask(2).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn sigprocmask(how: c_int, new: *const sigset_t, old: *mut sigset_t) -> c_int {
    // SAFETY: the caller's promise.
    answer(unsafe { change(how, new, old) }) as c_int
}

/// # Safety
/// As pthread_sigmask(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn pthread_sigmask(how: c_int, new: *const sigset_t, old: *mut sigset_t) -> c_int {
    // SAFETY: the caller's promise.
    -unsafe { change(how, new, old) } as c_int
}

/// Behind the kernel's part of a set that an attribute holds: which of our signals it would name. libc keeps a set whole, and there
/// are no signals that these bits are for.
const NAMED: u64 = 0x6d6d_696f << 32;

fn named(set: &mut sigset_t) -> &mut u64 {
    // SAFETY: a libc set has 16 such words.
    unsafe { &mut *(&raw mut *set).cast::<u64>().add(1) }
}

/// Has any attribute been given a mask?
static ARE_NAMED: AtomicBool = AtomicBool::new(false);

/// Those of our signals that threads of this attribute begin with as blocked. None: it has no mask.
pub fn of_attribute(attribute: *const pthread_attr_t) -> Option<u64> {
    if attribute.is_null() || !ARE_NAMED.load(Ordering::Relaxed) {
        return None;
    }
    let mut mask = MaybeUninit::<sigset_t>::uninit();
    // SAFETY: the attribute is one that a thread is to be created with.
    (unsafe { pthread_attr_getsigmask_np(attribute, mask.as_mut_ptr()) } == 0)
        // SAFETY: it was written.
        .then(|| kernel_set(unsafe { mask.assume_init_ref() }) & OURS)
}

/// The mask that threads are created with.
///
/// # Safety
/// As pthread_attr_setsigmask_np(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn pthread_attr_setsigmask_np(attribute: *mut pthread_attr_t, mask: *const sigset_t) -> c_int {
    static REAL: Real = Real::new(c"pthread_attr_setsigmask_np");
    crate::start();
    // SAFETY: the function of this name in libc, and the caller's promise.
    unsafe {
        let real: unsafe extern "C" fn(*mut pthread_attr_t, *const sigset_t) -> c_int = transmute(REAL.address());
        if arena::base() == 0 {
            return real(attribute, mask);
        }
        let Some(&(mut stripped)) = mask.as_ref() else { return real(attribute, mask) };
        ARE_NAMED.store(true, Ordering::Relaxed);
        let wanted = kernel_set(&stripped);
        set_kernel_set(&mut stripped, wanted & !OURS);
        *named(&mut stripped) = NAMED | wanted & OURS;
        real(attribute, &raw const stripped)
    }
}

/// # Safety
/// As pthread_attr_getsigmask_np(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn pthread_attr_getsigmask_np(attribute: *const pthread_attr_t, mask: *mut sigset_t) -> c_int {
    static REAL: Real = Real::new(c"pthread_attr_getsigmask_np");
    // SAFETY: the function of this name in libc, and the caller's promise. It writes the mask if it returns 0.
    unsafe {
        let real: unsafe extern "C" fn(*const pthread_attr_t, *mut sigset_t) -> c_int = transmute(REAL.address());
        let ret = real(attribute, mask);
        if ret == 0 && *named(&mut *mask) & !OURS == NAMED {
            let ours = core::mem::take(named(&mut *mask)) & OURS;
            set_kernel_set(&mut *mask, kernel_set(&*mask) | ours);
        }
        ret
    }
}

/// The mask at this address. None: it is not there.
pub fn at(address: usize) -> Option<u64> {
    kernel::get::<u64>(address).flatten()
}

/// A call that waits with this mask; it gets it without our signals, for handlers that run meanwhile may touch a device.
pub fn wait(mask: u64, call: impl FnOnce(&u64) -> isize) -> isize {
    if arena::base() == 0 {
        return call(&mask);
    }
    let was_sent = masked().begin_wait(mask);
    let result = call(&(mask & !OURS));
    masked().end_wait(was_sent);
    result
}

/// A call that asks for signals which were sent, or waits for some: those of ours that wait with us are among them.
pub fn with_pending(sent: Sent, [set, to, ..]: Arguments, call: impl FnOnce() -> isize) -> isize {
    let Some(pending) = thread::existing().map(|thread| &mut thread.pending) else { return call() };
    if sent == Sent::Asked {
        let result = call();
        if let Some(others) = at(set).filter(|_| result == 0) {
            kernel::put(set, &(others | pending.all()));
        }
        return result;
    }
    let Some((signal, mut info)) = at(set).and_then(|set| pending.take(set)) else { return call() };
    match sent {
        Sent::TakenNumber => {
            kernel::put(to, &signal);
            0
        }
        _ => {
            if sent == Sent::TakenByLibc && info.si_code == libc::SI_TKILL {
                info.si_code = libc::SI_USER;
            }
            if to != 0 {
                kernel::put(to, &info);
            }
            signal as isize
        }
    }
}
