//! timer_create: a timer that calls a function has it called in a thread of libc's own that has all signals blocked. There it is
//! called through here, for it may touch a device.

use alloc::boxed::Box;
use core::arch::global_asm;
use core::ffi::c_int;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use libc::{SIG_SETMASK, SIGEV_THREAD};

use super::kinds::Arguments;
use super::masks;
use crate::signals::OURS;
use crate::{arch, arena, kernel, sys};

/// libc's struct sigevent, as far as it matters (bits/types/sigevent_t.h).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Event {
    value: usize,
    signal: c_int,
    notify: c_int,
    function: usize,
    rest: [usize; 5],
}

/// A function that timers call, and the code that does so through us. They are kept: libc may call it at any time.
struct Called {
    function: usize,
    through: usize,
    next: *mut Called,
}

static CALLED: AtomicPtr<Called> = AtomicPtr::new(null_mut());

// The function is in rsi, its argument in rdi; it returns to libc.
global_asm!(
    ".pushsection .text",
    "mmiotap_begin_timed:",
    "push rdi",
    "push rsi",
    "sub rsp, 8",
    "call {begin}",
    "add rsp, 8",
    "pop rax",
    "pop rdi",
    "jmp rax",
    ".popsection",
    begin = sym begin,
);

unsafe extern "C" {
    fn mmiotap_begin_timed();
}

/// What the kernel has blocked comes to be only believed in, if it is ours.
extern "C" fn begin() {
    if arena::base() != 0 {
        let mask = sys::block_signals(OURS);
        _ = masks::kernel_mask(SIG_SETMASK, Some(&mask));
    }
}

/// Code that calls this function through us. None: there is no room for it.
fn through(function: usize) -> Option<usize> {
    let head = CALLED.load(Ordering::Acquire);
    let mut at = head;
    // SAFETY: they are never freed.
    while let Some(called) = unsafe { at.as_ref() } {
        if called.function == function {
            return Some(called.through);
        }
        at = called.next;
    }
    let through = arch::call_with(mmiotap_begin_timed as *const () as usize, function)?;
    let called = Box::into_raw(Box::new(Called { function, through, next: head }));
    // If another thread was quicker, its own is found next time; ours works for this timer.
    _ = CALLED.compare_exchange(head, called, Ordering::AcqRel, Ordering::Relaxed);
    Some(through)
}

/// timer_create(2) with these arguments, of which the second is the address of an event, or null.
pub fn create(mut arguments: Arguments, call: impl FnOnce(Arguments) -> isize) -> isize {
    let event = kernel::get::<Event>(arguments[1]).flatten();
    let Some(event) = event.filter(|event| event.notify == SIGEV_THREAD && arena::base() != 0) else {
        return call(arguments);
    };
    let function = sys::with_blocked(!OURS, || through(event.function)).unwrap_or(event.function);
    let through_us = Event { function, ..event };
    arguments[1] = &raw const through_us as usize;
    call(arguments)
}
