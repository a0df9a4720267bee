//! Where out-of-line instructions live: one memory file mapped twice, writable here, executable there, so that no page
//! is ever both.
//!
//! The mapping is shared with forked children, and so is the count of slots in use, which is the file's first word.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::sys;

const SIZE: usize = 8 * 1024 * 1024;
const SLOT: usize = 32;

static WRITABLE: AtomicUsize = AtomicUsize::new(0);
static EXECUTABLE: AtomicUsize = AtomicUsize::new(0);

/// Makes the two mappings. Where the system refuses (no memfd, no execution from it) every access is stepped instead.
pub fn prepare() {
    let name = b"mmiotap-code\0";
    // SAFETY: the name is NUL-terminated.
    let fd = unsafe { sys::syscall3(libc::SYS_memfd_create, name.as_ptr() as usize, libc::MFD_CLOEXEC as usize, 0) };
    if sys::is_error(fd) {
        return;
    }
    // SAFETY: a file of our own; new mappings disturb nothing.
    unsafe {
        sys::syscall3(libc::SYS_ftruncate, fd as usize, SIZE, 0);
        let flags = libc::MAP_SHARED;
        let writable = sys::mmap(sys::own_place(SIZE), SIZE, libc::PROT_READ | libc::PROT_WRITE, flags, fd as i32, 0);
        let executable = sys::mmap(sys::own_place(SIZE), SIZE, libc::PROT_READ | libc::PROT_EXEC, flags, fd as i32, 0);
        if !sys::is_error(writable) && !sys::is_error(executable) {
            used(writable as usize).store(SLOT, Ordering::Relaxed);
            WRITABLE.store(writable as usize, Ordering::Relaxed);
            EXECUTABLE.store(executable as usize, Ordering::Relaxed);
        }
    }
    sys::close(fd);
}

fn used(writable: usize) -> &'static AtomicUsize {
    // SAFETY: the file's first word, mapped for ever.
    unsafe { &*(writable as *const AtomicUsize) }
}

/// Puts code where it can run and returns its address. None: no room, or no such place.
pub fn place(code: &[u8]) -> Option<usize> {
    let writable = WRITABLE.load(Ordering::Relaxed);
    if writable == 0 || code.len() > SLOT {
        return None;
    }
    let offset = used(writable).fetch_add(SLOT, Ordering::Relaxed);
    if offset > SIZE - SLOT {
        used(writable).store(SIZE, Ordering::Relaxed);
        return None;
    }
    // SAFETY: the slot is inside the mapping and ours alone; nobody runs it before its address is published.
    unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), (writable + offset) as *mut u8, code.len()) };
    Some(EXECUTABLE.load(Ordering::Relaxed) + offset)
}

/// Is this address in code that was placed here?
pub fn contains(pc: usize) -> bool {
    let base = EXECUTABLE.load(Ordering::Relaxed);
    base != 0 && pc.wrapping_sub(base) < SIZE
}
