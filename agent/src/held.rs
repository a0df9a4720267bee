//! Signals that arrive while their thread is in a thunk.
//!
//! The program's handler must find the thread before or behind the access, not in the middle of it, and may itself touch the
//! device. So the signal is held back: the thread goes on step by step, everything else blocked, until it has left the thunk, and
//! is then sent the signal again, with the siginfo that it came with. A thunk is some fifty instructions long. Once in a segment it
//! takes the next one, which may take long: `Log::renewing` says so, and the steps begin when that is done (arch/x86_64/log.rs).

use libc::{c_int, siginfo_t};

use crate::arch::Frame;
use crate::arch::frame::TRAP_FLAG;
use crate::signals::OURS;
use crate::thread::{self, RENEWING_WITH_HELD, Thread};
use crate::{patch, sys};

pub struct Held {
    signal: c_int,
    info: siginfo_t,
    /// What the thread goes on with when it has left the thunk.
    mask: u64,
    trap_flag: u64,
}

/// Holds this signal back if the thread that it interrupted is in a thunk. False: it is not, the program is to have the signal.
pub fn hold(signal: c_int, info: &siginfo_t, frame: &mut Frame) -> bool {
    let Some(thread) = thread::existing().filter(|thread| thread.held.is_none() && is_under_way(thread, frame)) else {
        return false;
    };
    thread.held = Some(Held { signal, info: *info, mask: frame.mask(), trap_flag: frame.flags() & TRAP_FLAG });
    frame.set_mask(frame.mask() | !OURS);
    if thread.log.renewing == 0 {
        frame.set_flags(frame.flags() | TRAP_FLAG);
    } else {
        wait_for_renewal(thread, frame);
    }
    true
}

fn wait_for_renewal(thread: &mut Thread, frame: &mut Frame) {
    thread.log.renewing = RENEWING_WITH_HELD;
    frame.set_flags(frame.flags() & !TRAP_FLAG);
}

/// A step of a thread that is on its way out. False: the trap is not ours.
pub fn go_on(info: &siginfo_t, frame: &mut Frame) -> bool {
    let Some(thread) = thread::existing().filter(|thread| info.si_code > 0 && thread.held.is_some()) else { return false };
    if thread.log.renewing != 0 {
        wait_for_renewal(thread, frame);
        return true;
    }
    is_under_way(thread, frame) || !release(frame)
}

/// Is the thread in a thunk, or in what a thunk calls?
fn is_under_way(thread: &Thread, frame: &Frame) -> bool {
    thread.log.renewing != 0 || patch::is_under_way(frame.pc())
}

/// Sends what is held back. Returns whether the program itself wants to see the step.
pub fn release(frame: &mut Frame) -> bool {
    let Some(held) = thread::existing().and_then(|thread| thread.held.take()) else { return false };
    frame.set_mask(held.mask);
    frame.set_flags(frame.flags() & !TRAP_FLAG | held.trap_flag);
    // It waits until the handler's return opens the mask.
    sys::queue_signal(sys::getpid(), sys::gettid(), held.signal, &held.info);
    held.trap_flag != 0
}
