//! The libc functions that the program calls and that come here first.
//!
//! Each behaves as the one it stands for, errno included, and does nothing of its own when nothing is recorded.

pub mod buffers;
pub mod calls;
pub mod checked;
pub mod contexts;
pub mod given;
pub mod handlers;
pub mod jumps;
pub mod kinds;
pub mod late;
pub mod mapping;
pub mod masks;
pub mod messages;
pub mod numbers;
pub mod programs;
pub mod raw;
pub mod shapes;
pub mod threads;
pub mod timers;

use core::ffi::{CStr, c_void};
use core::sync::atomic::{AtomicUsize, Ordering};

/// The next definition of a function after ours: libc's.
pub struct Real {
    name: &'static CStr,
    address: AtomicUsize,
}

impl Real {
    pub const fn new(name: &'static CStr) -> Real {
        Real { name, address: AtomicUsize::new(0) }
    }

    /// # Panics
    /// Aborts if the C library lacks a function that it had when the program was linked.
    pub fn address(&self) -> *const c_void {
        let known = self.address.load(Ordering::Relaxed);
        if known != 0 {
            return known as *const c_void;
        }
        // SAFETY: the name is NUL-terminated. Never on a trap path.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        assert!(!found.is_null());
        self.address.store(found as usize, Ordering::Relaxed);
        found
    }
}

/// A system call's answer as a libc function gives it: −1 and errno for an error.
pub fn answer(ret: isize) -> isize {
    if crate::sys::is_error(ret) {
        // SAFETY: errno is this thread's own.
        unsafe { *libc::__errno_location() = -ret as i32 };
        return -1;
    }
    ret
}
