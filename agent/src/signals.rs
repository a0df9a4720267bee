//! The four signals that the agent needs for itself, and the program's own handlers for them, which it hands on to.
//!
//! Invariants: once [`install`] has run, the kernel's action for each of [`SIGNALS`] is the agent's; what the program
//! has set, and what it reads back, lives in [`ACTIONS`]. No thread of the program has them blocked.

use core::cell::UnsafeCell;
use core::mem::transmute;
use core::sync::atomic::{AtomicBool, Ordering};

use libc::{SIG_DFL, SIG_IGN, SIGBUS, SIGFPE, SIGSEGV, SIGTRAP, c_int, c_void, siginfo_t, ucontext_t};

use crate::arch::{self, Frame};
use crate::masked::masked;
use crate::{arena, fault, maps, sys, thread};

/// A signal's bit in a kernel signal set.
pub const fn bit(signal: c_int) -> u64 {
    1 << (signal - 1)
}

/// What an instruction that the agent runs, or steps, can raise. SIGTRAP ends a step; SIGFPE parks threads, too (see park.rs).
pub const SIGNALS: [c_int; 4] = [SIGSEGV, SIGBUS, SIGTRAP, SIGFPE];

pub const OURS: u64 = bit(SIGSEGV) | bit(SIGBUS) | bit(SIGTRAP) | bit(SIGFPE);

/// libc's own, SIGCANCEL and SIGSETXID: programs cannot set them, and it takes them out of the masks that they ask for.
pub const INTERNAL: u64 = bit(32) | bit(33);

/// The kernel's struct sigaction (x86-64, asm/signal.h).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Action {
    pub handler: usize,
    pub flags: u64,
    pub restorer: usize,
    pub mask: u64,
}

impl Action {
    pub const DEFAULT: Action = Action { handler: SIG_DFL, flags: 0, restorer: 0, mask: 0 };
}

struct Actions {
    locked: AtomicBool,
    actions: UnsafeCell<[Action; SIGNALS.len()]>,
}

// SAFETY: the actions are only touched under the lock.
unsafe impl Sync for Actions {}

/// What the program has set for each of [`SIGNALS`].
static ACTIONS: Actions =
    Actions { locked: AtomicBool::new(false), actions: UnsafeCell::new([Action::DEFAULT; SIGNALS.len()]) };
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Which of [`SIGNALS`] it is.
pub fn index(signal: c_int) -> usize {
    SIGNALS.iter().position(|&known| known == signal).unwrap_or(0)
}

fn with_action<T>(signal: c_int, work: impl FnOnce(&mut Action) -> T) -> T {
    // A handler that interrupted the holder would wait for ever.
    sys::with_blocked(!0, || {
        while ACTIONS.locked.swap(true, Ordering::Acquire) {
            sys::sched_yield();
        }
        // SAFETY: we hold the lock.
        let result = work(unsafe { &mut (&mut *ACTIONS.actions.get())[index(signal)] });
        ACTIONS.locked.store(false, Ordering::Release);
        result
    })
}

pub fn after_fork() {
    ACTIONS.locked.store(false, Ordering::Release);
}

/// Does anybody hold the lock of the actions?
pub fn is_locked() -> bool {
    ACTIONS.locked.load(Ordering::Acquire)
}

pub fn is_installed() -> bool {
    INSTALLED.load(Ordering::Acquire)
}

/// Puts the agent's handlers in place, at the first mapping that is taken over; called under the region lock.
pub fn install() {
    if is_installed() {
        return;
    }
    arch::warm_up();
    for signal in SIGNALS {
        let ours = Action {
            handler: fault::handler as *const () as usize,
            flags: (libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART | libc::SA_NODEFER) as u64 | arch::SA_RESTORER,
            restorer: arch::restorer(),
            mask: !OURS,
        };
        let mut before = Action::DEFAULT;
        kernel_action(signal, Some(&ours), Some(&mut before));
        with_action(signal, |action| *action = before);
    }
    INSTALLED.store(true, Ordering::Release);
}

/// Gives the kernel back what the program has set. No other thread runs.
pub fn uninstall() {
    if !INSTALLED.swap(false, Ordering::AcqRel) {
        return;
    }
    for signal in SIGNALS {
        set_action(signal, &program_action(signal, None));
    }
}

fn kernel_action(signal: c_int, new: Option<&Action>, old: Option<&mut Action>) -> isize {
    let new = new.map_or(0, |action| &raw const *action as usize);
    let old = old.map_or(0, |action| &raw mut *action as usize);
    // SAFETY: both are null or ours; 8 is the kernel's size of a signal set.
    unsafe { sys::syscall6(libc::SYS_rt_sigaction, signal as usize, new, old, 8, 0, 0) }
}

/// Changes the kernel's action for any signal, if there is a new one. Returns the one before, or the kernel's error.
pub fn exchange_action(signal: c_int, new: Option<&Action>) -> Result<Action, isize> {
    let mut before = Action::DEFAULT;
    match kernel_action(signal, new, Some(&mut before)) {
        0 => Ok(before),
        error => Err(error),
    }
}

/// The kernel's action for any signal.
pub fn action(signal: c_int) -> Action {
    let mut now = Action::DEFAULT;
    kernel_action(signal, None, Some(&mut now));
    now
}

/// The signals that have a handler. One look at them all, for a tracer has the calling thread stop at each system call.
pub fn caught() -> impl Iterator<Item = c_int> {
    let caught = maps::status_mask(b"SigCgt:").unwrap_or(!0);
    (1..=64).filter(move |&signal| caught & bit(signal) != 0)
}

/// Sets the kernel's action for any signal.
pub fn set_action(signal: c_int, action: &Action) {
    kernel_action(signal, Some(action), None);
}

/// The program's action for one of [`SIGNALS`]; replaced if there is a new one. Returns the one before.
pub fn program_action(signal: c_int, new: Option<Action>) -> Action {
    with_action(signal, |action| {
        let before = *action;
        if let Some(new) = new {
            *action = new;
        }
        before
    })
}

/// Gives the program a signal that is not the agent's affair, as the kernel would have. The last thing a handler does: the
/// program's own handler may never return.
pub fn hand_on(signal: c_int, info: &mut siginfo_t, context: &mut ucontext_t) {
    // A fault cannot be ignored or held back: the kernel kills (kernel/signal.c, force_sig_info_to_task).
    let is_fault = info.si_code > 0;
    let blocked = masked().believed & bit(signal) != 0;
    if blocked && !is_fault {
        if let Some(thread) = thread::current() {
            thread.pending.add(signal, info);
        }
        return;
    }
    let action = with_action(signal, |action| {
        let now = *action;
        if now.flags & libc::SA_RESETHAND as u64 != 0 && now.handler > SIG_IGN {
            *action = Action::DEFAULT;
        }
        now
    });
    match action.handler {
        SIG_IGN if !is_fault => {}
        SIG_DFL | SIG_IGN => die(signal, info, context),
        _ if is_fault && blocked => die(signal, info, context),
        handler => call(handler, &action, signal, info, context),
    }
}

#[inline(never)]
fn call(handler: usize, action: &Action, signal: c_int, info: &mut siginfo_t, context: &mut ucontext_t) {
    let mut frame = Frame::new(context);
    // The signal itself stays open, for the handler may touch a device; it only looks blocked.
    let own = if action.flags & libc::SA_NODEFER as u64 != 0 { 0 } else { bit(signal) };
    let blocked = masked().enter_handler(action.mask | own, &mut frame);
    sys::set_signal_mask(blocked | action.mask & !OURS);
    arch::reset_control_words();
    // SAFETY: the program has said that this is a signal handler; one that takes fewer arguments ignores the others.
    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = unsafe { transmute(handler) };
    handler(signal, info, (&raw mut *context).cast());
    // Unless we have left the program meanwhile: then it is so.
    if arena::base() != 0 {
        masked().leave_handler(&mut Frame::new(context));
    }
}

/// The default action: the program dies of this signal, where it stands.
fn die(signal: c_int, info: &mut siginfo_t, context: &mut ucontext_t) {
    set_action(signal, &Action::DEFAULT);
    // It comes when the handler returns and opens the mask, so a core file shows the program and not the agent.
    sys::block_signals(bit(signal));
    let mut frame = Frame::new(context);
    frame.set_mask(frame.mask() & !bit(signal));
    info.si_signo = signal;
    sys::queue_signal(sys::getpid(), sys::gettid(), signal, info);
}
