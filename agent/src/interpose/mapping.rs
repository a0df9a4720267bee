//! mmap, munmap, mremap and mprotect: where mappings are taken over, and followed until they go.

use core::ffi::c_void;

use libc::{c_int, off_t, size_t};

use super::answer;
use crate::{mapping, region, sys};

/// # Safety
/// As mmap(2).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn mmap(
    addr: *mut c_void,
    length: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    let request = mapping::Request { addr: addr as usize, length, prot, flags, fd, offset };
    // SAFETY: the caller's promise.
    answer(unsafe { mapping::map(&request) }) as *mut c_void
}

/// # Safety
/// As mmap(2).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn mmap64(
    addr: *mut c_void,
    length: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: the caller's promise; the two are the same where off_t has 64 bits.
    unsafe { mmap(addr, length, prot, flags, fd, offset) }
}

/// Does a call with this range concern a region? All others go straight on.
fn touches(addr: usize, length: usize) -> bool {
    region::any_in(addr, addr.saturating_add(length))
}

/// munmap(2) as the kernel answers it, as are the next.
pub unsafe fn unmapped(addr: usize, length: usize) -> isize {
    // SAFETY: the caller's promise.
    unsafe { if touches(addr, length) { mapping::unmap(addr, length) } else { sys::munmap(addr, length) } }
}

pub unsafe fn remapped(addr: usize, old_length: usize, new_length: usize, flags: c_int, new_addr: usize) -> isize {
    let replaces = flags & libc::MREMAP_FIXED != 0 && touches(new_addr, new_length);
    // SAFETY: the caller's promise.
    unsafe {
        if replaces || touches(addr, old_length.max(1)) {
            mapping::remap(addr, old_length, new_length, flags, new_addr)
        } else {
            sys::mremap(addr, old_length, new_length, flags, new_addr)
        }
    }
}

pub unsafe fn protected(addr: usize, length: usize, prot: c_int) -> isize {
    // SAFETY: the caller's promise.
    unsafe { if touches(addr, length) { mapping::protect(addr, length, prot) } else { sys::mprotect(addr, length, prot) } }
}

/// # Safety
/// As munmap(2).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn munmap(addr: *mut c_void, length: size_t) -> c_int {
    // SAFETY: the caller's promise.
    answer(unsafe { unmapped(addr as usize, length) }) as c_int
}

/// In C the last argument is optional; passed in a register, it is garbage where it was left out, and unused then.
///
/// # Safety
/// As mremap(2).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn mremap(
    addr: *mut c_void,
    old_length: size_t,
    new_length: size_t,
    flags: c_int,
    new_addr: *mut c_void,
) -> *mut c_void {
    // SAFETY: the caller's promise.
    answer(unsafe { remapped(addr as usize, old_length, new_length, flags, new_addr as usize) }) as *mut c_void
}

/// # Safety
/// As mprotect(2).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn mprotect(addr: *mut c_void, length: size_t, prot: c_int) -> c_int {
    // SAFETY: the caller's promise.
    answer(unsafe { protected(addr as usize, length, prot) }) as c_int
}
