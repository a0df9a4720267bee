//! The program's handlers of other signals than the agent's: they are called through here, so that none runs on top of a thunk,
//! and none runs code that is just being changed.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use libc::{SA_RESETHAND, SA_SIGINFO, SIG_DFL, SIG_IGN, c_int, siginfo_t, ucontext_t};

use crate::arch::{self, Frame};
use crate::patch::stop_machine;
use crate::signals::{self, Action};
use crate::{arena, held};

const SIGNALS: usize = 65;

/// What the program has set, by signal: the handler, and those of its flags that the kernel is not told.
static HANDLERS: [AtomicUsize; SIGNALS] = [const { AtomicUsize::new(SIG_DFL) }; SIGNALS];
static FLAGS: [AtomicU64; SIGNALS] = [const { AtomicU64::new(0) }; SIGNALS];

/// Flags that differ from what the kernel has.
const OWN_FLAGS: c_int = SA_SIGINFO | SA_RESETHAND;

/// The handler and the flags for the kernel in place of the program's.
pub fn wrap(signal: c_int, handler: usize, flags: c_int) -> (usize, c_int) {
    if arena::patch_after() == 0 || handler == SIG_DFL || handler == SIG_IGN {
        return (handler, flags);
    }
    HANDLERS[signal as usize].store(handler, Ordering::Relaxed);
    FLAGS[signal as usize].store((flags & OWN_FLAGS) as u32 as u64, Ordering::Release);
    (arch::signal_entry(), flags & !SA_RESETHAND | SA_SIGINFO)
}

/// The program's handler and the flags that are its own, as they were set last.
pub fn own(signal: c_int) -> (usize, c_int) {
    let flags = FLAGS[signal as usize].load(Ordering::Acquire) as c_int;
    (HANDLERS[signal as usize].load(Ordering::Relaxed), flags)
}

/// What the program finds when it asks, in place of what the kernel has; `own` is from before it set anything new.
pub fn unwrap(own: (usize, c_int), handler: usize, flags: c_int) -> (usize, c_int) {
    if handler == arch::signal_entry() { (own.0, flags & !OWN_FLAGS | own.1) } else { (handler, flags) }
}

/// A signal has come. Returns the handler to call, or 0: not now.
pub extern "C" fn enter(signal: c_int, info: *mut siginfo_t, context: *mut ucontext_t) -> usize {
    // SAFETY: the kernel passes both, and they are this thread's.
    let (info, context) = unsafe { (&*info, &mut *context) };
    if held::hold(signal, info, &mut Frame::new(context)) {
        return 0;
    }
    stop_machine::handler_starts();
    let (handler, flags) = own(signal);
    if flags & SA_RESETHAND != 0 {
        signals::set_action(signal, &Action::DEFAULT);
    }
    handler
}
