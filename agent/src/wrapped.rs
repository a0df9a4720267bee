//! The program's handlers of other signals than the agent's: they are called through here, so that none runs on top of a thunk,
//! none runs code that is just being changed, and none makes the kernel block a signal of ours.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use libc::{SIG_DFL, SIG_IGN, c_int, siginfo_t, ucontext_t};

use crate::arch::{self, Frame};
use crate::masked::masked;
use crate::patch::stop_machine;
use crate::signals::{self, Action, OURS};
use crate::{arena, held};

const SIGNALS: usize = 65;

/// What the program has set, by signal: the handler, and those of its flags and of the signals that it blocks that the kernel is not told.
static HANDLERS: [AtomicUsize; SIGNALS] = [const { AtomicUsize::new(SIG_DFL) }; SIGNALS];
static FLAGS: [AtomicU64; SIGNALS] = [const { AtomicU64::new(0) }; SIGNALS];
static BLOCKED: [AtomicU64; SIGNALS] = [const { AtomicU64::new(0) }; SIGNALS];

const SA_SIGINFO: u64 = libc::SA_SIGINFO as u64;
const SA_RESETHAND: u64 = libc::SA_RESETHAND as u32 as u64;
/// Flags that differ from what the kernel has.
const OWN_FLAGS: u64 = SA_SIGINFO | SA_RESETHAND;

/// What the kernel is told in place of this action of the program's.
pub fn wrap(signal: c_int, action: &Action) -> Action {
    let number = signal as usize;
    BLOCKED[number].store(action.mask & OURS, Ordering::Relaxed);
    let stripped = Action { mask: action.mask & !OURS, ..*action };
    if action.handler == SIG_DFL || action.handler == SIG_IGN {
        return stripped;
    }
    HANDLERS[number].store(action.handler, Ordering::Relaxed);
    FLAGS[number].store(action.flags & OWN_FLAGS, Ordering::Release);
    Action { handler: arch::signal_entry(), flags: action.flags & !SA_RESETHAND | SA_SIGINFO, ..stripped }
}

/// What the kernel was not told of the action that the program has set last.
pub fn own(signal: c_int) -> Action {
    let number = signal as usize;
    Action {
        flags: FLAGS[number].load(Ordering::Acquire),
        handler: HANDLERS[number].load(Ordering::Relaxed),
        restorer: 0,
        mask: BLOCKED[number].load(Ordering::Relaxed),
    }
}

/// What the program finds when it asks, in place of what the kernel has; `own` is from before it set anything new.
pub fn unwrap(own: &Action, kernels: &Action) -> Action {
    let whole = Action { mask: kernels.mask | own.mask, ..*kernels };
    if kernels.handler != arch::signal_entry() {
        return whole;
    }
    Action { handler: own.handler, flags: kernels.flags & !OWN_FLAGS | own.flags, ..whole }
}

/// A signal has come. Returns the handler to call, or 0: not now. `returns` is where the handler will return to.
pub extern "C" fn enter(signal: c_int, info: *mut siginfo_t, context: *mut ucontext_t, returns: &mut usize) -> usize {
    // SAFETY: the kernel passes both, and they are this thread's.
    let (info, context) = unsafe { (&*info, &mut *context) };
    let mut frame = Frame::new(context);
    if held::hold(signal, info, &mut frame) {
        return 0;
    }
    stop_machine::handler_starts();
    let own = own(signal);
    if own.flags & SA_RESETHAND != 0 {
        signals::set_action(signal, &Action::DEFAULT);
    }
    if arena::base() != 0 {
        masked().enter_handler(own.mask, &mut frame);
        *returns = arch::handler_end();
    }
    own.handler
}

/// It has returned. What it has made of the mask in its frame comes to be; without the agent's signals, unless we have left meanwhile.
pub extern "C" fn leave(context: &mut ucontext_t) {
    if arena::base() != 0 {
        masked().leave_handler(&mut Frame::new(context));
    }
}
