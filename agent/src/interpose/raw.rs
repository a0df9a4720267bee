//! syscall(2): those of the system calls made by it that we stand in front of elsewhere. The kernel's own structures and masks are its
//! arguments, and no other.

use core::arch::global_asm;
use core::ffi::{CStr, c_int, c_long};
use core::mem::transmute;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::buffers::{Callee, Diverted};
use super::kinds::Arguments;
use super::numbers::kind;
use super::{answer, handlers, mapping, masks};
use crate::arch::Frame;
use crate::mapping::{Request, map};
use crate::signals::Action;
use crate::{arena, kernel, region, sys};

/// It has one argument more, on the stack, where each of these finds it that is jumped to.
type Syscall = unsafe extern "C" fn(c_long, usize, usize, usize, usize, usize) -> isize;

type WholeSyscall = unsafe extern "C" fn(c_long, usize, usize, usize, usize, usize, usize) -> isize;

pub const NAME: &CStr = c"syscall";

/// libc's function, once it is looked up. Until then what asks the kernel as that one does.
static REAL: AtomicPtr<()> = AtomicPtr::new(directly as *mut ());

pub fn prepare() {
    // SAFETY: the name is NUL-terminated.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, NAME.as_ptr()) };
    if !found.is_null() {
        REAL.store(found.cast(), Ordering::Relaxed);
    }
}

/// Has libc's own been found?
pub fn is_found() -> bool {
    real() != directly as *const () as usize
}

pub fn real() -> usize {
    REAL.load(Ordering::Relaxed) as usize
}

/// The system calls by which a program maps, and sets up its signals.
#[inline(always)]
pub fn is_ours(number: c_long) -> bool {
    matches!(
        number,
        libc::SYS_mmap
            | libc::SYS_munmap
            | libc::SYS_mremap
            | libc::SYS_mprotect
            | libc::SYS_rt_sigaction
            | libc::SYS_rt_sigprocmask
    )
}

unsafe extern "C" fn directly(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
    // SAFETY: the caller's promise.
    answer(unsafe { sys::syscall6(number, a, b, c, d, e, f) })
}

/// May this one concern a region? Apart from who asks, whose stack must be free of locals when it jumps.
#[inline(never)]
fn is_near(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize) -> bool {
    kind(number).is_some_and(|kind| kind.is_near(&[a, b, c, d, e, 0]))
}

/// # Safety
/// As the system call with this number.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn syscall(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize) -> isize {
    // SAFETY: the caller's promise. It is a jump: what returns twice, or on another stack, does so from libc.
    unsafe {
        let to = if is_ours(number) {
            ours as *const () as usize
        } else if region::is_near(0, usize::MAX) && is_near(number, a, b, c, d, e) {
            mmiotap_syscall as *const () as usize
        } else {
            real()
        };
        transmute::<usize, Syscall>(to)(number, a, b, c, d, e)
    }
}

unsafe extern "C" {
    fn mmiotap_syscall();
}

// reached() with another argument, where the program goes on. The sixth of the system call's is on the stack, too.
global_asm!(
    ".pushsection .text",
    "mmiotap_syscall:",
    ".cfi_startproc",
    "sub rsp, 8",
    ".cfi_adjust_cfa_offset 8",
    "push qword ptr [rsp + 8]",
    ".cfi_adjust_cfa_offset 8",
    "push qword ptr [rsp + 24]",
    ".cfi_adjust_cfa_offset 8",
    "call {reached}",
    "add rsp, 24",
    ".cfi_adjust_cfa_offset -24",
    "ret",
    ".cfi_endproc",
    ".popsection",
    reached = sym reached,
);

/// A system call that may be given pointers into a region: none of them returns twice, or on another stack.
unsafe extern "C" fn reached(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
    caller: usize,
) -> isize {
    let this = Diverted { callee: Callee::Number(number), arguments: [a, b, c, d, e, f], caller };
    // SAFETY: the caller's promise.
    unsafe { kind(number).map_or_else(|| this.plainly(), |kind| this.make(kind)) }
}

/// # Safety
/// As the system call with this number.
pub unsafe fn call(number: c_long, [a, b, c, d, e, f]: Arguments) -> isize {
    // SAFETY: the caller's promise.
    unsafe { transmute::<usize, WholeSyscall>(real())(number, a, b, c, d, e, f) }
}

unsafe extern "C" fn ours(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
    // SAFETY: the caller's promise.
    unsafe {
        match number {
            libc::SYS_mmap => mapping::mmap(a as *mut _, b, c as c_int, d as c_int, e as c_int, f as i64) as isize,
            libc::SYS_munmap => mapping::munmap(a as *mut _, b) as isize,
            libc::SYS_mremap => mapping::mremap(a as *mut _, b, c, d as c_int, e as *mut _) as isize,
            libc::SYS_mprotect => mapping::mprotect(a as *mut _, b, c as c_int) as isize,
            _ => answer(signals(number, a, b, c, d)),
        }
    }
}

/// One that a thread asks for by an instruction, which a breakpoint stands for. Returns the kernel's answer; None: it is not one of ours.
pub fn answered(number: u64, [a, b, c, d, e, f]: [usize; 6], frame: &mut Frame) -> Option<isize> {
    let number = number as c_long;
    if !is_ours(number) || arena::base() == 0 {
        return None;
    }
    if number == libc::SYS_rt_sigprocmask {
        let change = |new: Option<&u64>| masks::frame_mask(a as c_int, new, frame);
        return (d == SET).then(|| exchange(c, kernel::get::<u64>(b), change));
    }
    // SAFETY: what the program has asked for.
    Some(unsafe {
        match number {
            libc::SYS_mmap => {
                let (prot, flags, fd, offset) = (c as c_int, d as c_int, e as c_int, f as i64);
                map(&Request { addr: a, length: b, prot, flags, fd, offset })
            }
            libc::SYS_munmap => mapping::unmapped(a, b),
            libc::SYS_mremap => mapping::remapped(a, b, c, d as c_int, e),
            libc::SYS_mprotect => mapping::protected(a, b, c as c_int),
            _ => signals(number, a, b, c, d),
        }
    })
}

/// The kernel's size of a signal set.
const SET: usize = size_of::<u64>();

/// rt_sigaction and rt_sigprocmask. What they are given may not be there: the kernel says so then.
unsafe fn signals(number: c_long, a: usize, new: usize, old: usize, size: usize) -> isize {
    crate::start();
    let is_action = number == libc::SYS_rt_sigaction;
    if arena::base() == 0 || size != SET {
        // SAFETY: the caller's promise.
        return unsafe { sys::syscall6(number, a, new, old, size, 0, 0) };
    }
    if is_action {
        exchange(old, kernel::get::<Action>(new), |new| handlers::kernel_action(a as c_int, new))
    } else {
        exchange(old, kernel::get::<u64>(new), |new| masks::kernel_mask(a as c_int, new))
    }
}

/// The change, and what was there before to where the program wants it.
fn exchange<T>(old: usize, new: Option<Option<T>>, change: impl FnOnce(Option<&T>) -> Result<T, isize>) -> isize {
    const NOT_THERE: isize = -(libc::EFAULT as isize);
    let Some(new) = new else { return NOT_THERE };
    match change(new.as_ref()) {
        Err(error) => error,
        Ok(before) if old != 0 && !kernel::put(old, &before) => NOT_THERE,
        Ok(_) => 0,
    }
}
