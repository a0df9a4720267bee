//! pthread_create and thrd_create: a thread begins with the mask of its creator, or that of its attribute. What the kernel is not told
//! of that (see masks.rs) the new thread believes in, before it runs any of the program's code.

use alloc::boxed::Box;
use core::arch::global_asm;
use core::ffi::c_int;
use core::mem::transmute;

use libc::{pthread_attr_t, pthread_t};

use super::{Real, masks};
use crate::masked::masked;
use crate::signals::OURS;
use crate::{arena, sys};

/// What a thread is to run. The program's routine returns to libc, whatever it returns.
#[repr(C)]
struct Call {
    routine: usize,
    argument: usize,
}

/// What a thread that inherits blocked signals of ours begins with.
struct Beginning {
    believed: u64,
    call: Call,
}

// Nothing of ours is left on the new thread's stack: debuggers, and pthread_exit, see the routine called by libc.
global_asm!(
    ".pushsection .text",
    ".type mmiotap_begin_thread, @function",
    "mmiotap_begin_thread:",
    "sub rsp, 8",
    "call {begin}",
    "add rsp, 8",
    "mov rdi, rdx",
    "jmp rax",
    ".size mmiotap_begin_thread, . - mmiotap_begin_thread",
    ".popsection",
    begin = sym begin,
);

unsafe extern "C" {
    fn mmiotap_begin_thread();
}

extern "C" fn begin(beginning: *mut Beginning) -> Call {
    // SAFETY: made by create(), for us alone.
    let Beginning { believed, call } = sys::with_blocked(!OURS, || *unsafe { Box::from_raw(beginning) });
    if arena::base() == 0 {
        // We have left the program meanwhile: now it is so.
        sys::block_signals(believed);
    } else {
        masked().believed |= believed;
    }
    call
}

/// Has `real` create a thread that runs this and believes in these.
fn create(believed: u64, call: Call, real: impl FnOnce(Call) -> c_int) -> c_int {
    if believed == 0 {
        return real(call);
    }
    // The agent's memory has a lock.
    let beginning = sys::with_blocked(!OURS, || Box::into_raw(Box::new(Beginning { believed, call })));
    let ret = real(Call { routine: mmiotap_begin_thread as *const () as usize, argument: beginning as usize });
    if ret != 0 {
        // SAFETY: there is no thread that it is for.
        sys::with_blocked(!OURS, || drop(unsafe { Box::from_raw(beginning) }));
    }
    ret
}

fn inherited(attribute: *const pthread_attr_t) -> u64 {
    if arena::base() == 0 {
        return 0;
    }
    masks::of_attribute(attribute).unwrap_or_else(|| masked().believed)
}

/// # Safety
/// As pthread_create(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn pthread_create(
    thread: *mut pthread_t,
    attribute: *const pthread_attr_t,
    routine: usize,
    argument: usize,
) -> c_int {
    static REAL: Real = Real::new(c"pthread_create");
    type Create = unsafe extern "C" fn(*mut pthread_t, *const pthread_attr_t, usize, usize) -> c_int;
    // SAFETY: the function of this name in libc, and the caller's promise.
    create(inherited(attribute), Call { routine, argument }, |call| unsafe {
        transmute::<*const _, Create>(REAL.address())(thread, attribute, call.routine, call.argument)
    })
}

/// # Safety
/// As thrd_create of C11.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn thrd_create(thread: *mut pthread_t, routine: usize, argument: usize) -> c_int {
    static REAL: Real = Real::new(c"thrd_create");
    type Create = unsafe extern "C" fn(*mut pthread_t, usize, usize) -> c_int;
    // SAFETY: the function of this name in libc, and the caller's promise.
    create(inherited(core::ptr::null()), Call { routine, argument }, |call| unsafe {
        transmute::<*const _, Create>(REAL.address())(thread, call.routine, call.argument)
    })
}
