//! getcontext, setcontext, swapcontext and makecontext: the masks in contexts are what the program believes in.

use core::ffi::{CStr, c_int};
use core::mem::transmute;
use core::sync::atomic::Ordering;

use libc::{SIG_BLOCK, SIG_SETMASK, ucontext_t};

use super::{Real, masks};
use crate::arch::{Frame, context};
use crate::arena;

static GET: Real = Real::new(c"getcontext");
static SET: Real = Real::new(c"setcontext");
static SWAP: Real = Real::new(c"swapcontext");
static MAKE: Real = Real::new(c"makecontext");

pub extern "C" fn get_mask(context: &mut ucontext_t) {
    if let Ok(mask) = masks::kernel_mask(SIG_BLOCK, None) {
        Frame::new(context).set_mask(mask);
    }
}

pub extern "C" fn set_mask(context: &mut ucontext_t) {
    // The kernel refuses no mask.
    _ = masks::kernel_mask(SIG_SETMASK, Some(&Frame::new(context).mask()));
}

pub extern "C" fn exchange_masks(old: &mut ucontext_t, new: &mut ucontext_t) {
    if let Ok(before) = masks::kernel_mask(SIG_SETMASK, Some(&Frame::new(new).mask())) {
        Frame::new(old).set_mask(before);
    }
}

/// Are contexts, and jumps, kept by us?
pub fn are_ours() -> bool {
    arena::base() != 0 && !context::has_shadow_stack()
}

/// The function for us, or libc's.
fn chosen(ours: *const (), real: &Real) -> *const () {
    if are_ours() { ours } else { real.address().cast() }
}

// All are jumps: what is kept is the stack of the program's call.

type Get = unsafe extern "C" fn(*mut ucontext_t) -> c_int;
type Set = unsafe extern "C" fn(*const ucontext_t) -> c_int;
type Swap = unsafe extern "C" fn(*mut ucontext_t, *const ucontext_t) -> c_int;
type Make = unsafe extern "C" fn(*mut ucontext_t, usize, c_int, usize, usize, usize);

/// # Safety
/// As getcontext(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn getcontext(context: *mut ucontext_t) -> c_int {
    // SAFETY: one of two functions of this kind, and the caller's promise.
    unsafe { transmute::<*const (), Get>(chosen(context::mmiotap_getcontext as *const (), &GET))(context) }
}

/// # Safety
/// As setcontext(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn setcontext(context: *const ucontext_t) -> c_int {
    // SAFETY: as above.
    unsafe { transmute::<*const (), Set>(chosen(context::mmiotap_setcontext as *const (), &SET))(context) }
}

/// # Safety
/// As swapcontext(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn swapcontext(old: *mut ucontext_t, new: *const ucontext_t) -> c_int {
    // SAFETY: as above.
    unsafe { transmute::<*const (), Swap>(chosen(context::mmiotap_swapcontext as *const (), &SWAP))(old, new) }
}

/// More arguments than these are on the stack.
///
/// # Safety
/// As makecontext(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn makecontext(context: *mut ucontext_t, function: usize, count: c_int, a: usize, b: usize, c: usize) {
    context::LIBCS_MAKE.store(MAKE.address() as usize, Ordering::Relaxed);
    // SAFETY: as above.
    unsafe {
        let make: Make = transmute(chosen(context::mmiotap_makecontext as *const (), &MAKE));
        make(context, function, count, a, b, c);
    }
}

/// All of them, with their names.
pub const FUNCTIONS: &[(&CStr, *const ())] = &[
    (c"getcontext", getcontext as *const ()),
    (c"setcontext", setcontext as *const ()),
    (c"swapcontext", swapcontext as *const ()),
    (c"makecontext", makecontext as *const ()),
];
