//! Memory for code: a memory file mapped twice, executable here, writable there, so that no page is ever both.

use libc::{MAP_FIXED_NOREPLACE, MAP_PRIVATE, MAP_SHARED, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE};

use crate::sys;

/// The same bytes, to be run and to be written. Forked children share them.
pub struct Twin {
    pub executable: usize,
    pub writable: usize,
}

/// A file of zeros, whose name tells the recorder whose code it is (src/mmiotap/sources/inside/places.py).
fn file(length: usize) -> Option<sys::Ret> {
    let name = b"mmiotap-code\0";
    // SAFETY: the name is NUL-terminated, and the file our own.
    unsafe {
        let fd = sys::syscall3(libc::SYS_memfd_create, name.as_ptr() as usize, libc::MFD_CLOEXEC as usize, 0);
        if sys::is_error(fd) {
            return None;
        }
        sys::syscall3(libc::SYS_ftruncate, fd as usize, length, 0);
        Some(fd)
    }
}

/// How its mappings are called.
pub const PATH: &[u8] = b"/memfd:mmiotap-code";

/// Takes address space, at exactly this address, in which there is nothing. False: it is not free.
pub fn keep(at: usize, length: usize) -> bool {
    let Some(fd) = file(length) else { return false };
    // SAFETY: a new mapping disturbs nothing.
    let kept = unsafe { sys::mmap(at, length, PROT_NONE, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd as i32, 0) };
    sys::close(fd);
    if !sys::is_error(kept) && kept as usize != at {
        // SAFETY: just made, and not used. (Kernels before 4.17 take MAP_FIXED_NOREPLACE for a wish.)
        unsafe { sys::munmap(kept as usize, length) };
    }
    kept as usize == at
}

/// Executable memory of this process alone, all zero, which a forked child gets a copy of. It is written as the program's code is
/// (patch/text.rs).
pub fn own(length: usize) -> Option<usize> {
    let fd = file(length)?;
    // SAFETY: a new mapping disturbs nothing.
    let code = unsafe { sys::mmap(sys::own_place(length), length, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd as i32, 0) };
    sys::close(fd);
    (!sys::is_error(code)).then_some(code as usize)
}

/// New ones, all zero; to be run at exactly this address, or anywhere. None: the address is taken, or the system refuses (no
/// memfd, no execution from it).
pub fn map(at: Option<usize>, length: usize) -> Option<Twin> {
    let fd = file(length)?;
    let (wish, fixed) = at.map_or_else(|| (sys::own_place(length), 0), |at| (at, MAP_FIXED_NOREPLACE));
    // SAFETY: a file of our own; new mappings disturb nothing.
    let (executable, writable) = unsafe {
        let executable = sys::mmap(wish, length, PROT_READ | PROT_EXEC, MAP_SHARED | fixed, fd as i32, 0);
        let writable = sys::mmap(sys::own_place(length), length, PROT_READ | PROT_WRITE, MAP_SHARED, fd as i32, 0);
        (executable, writable)
    };
    sys::close(fd);
    let is_there = !sys::is_error(executable) && at.is_none_or(|at| at == executable as usize);
    if is_there && !sys::is_error(writable) {
        return Some(Twin { executable: executable as usize, writable: writable as usize });
    }
    for place in [executable, writable].into_iter().filter(|&place| !sys::is_error(place)) {
        // SAFETY: just made, and not used. (Kernels before 4.17 take MAP_FIXED_NOREPLACE for a wish.)
        unsafe { sys::munmap(place as usize, length) };
    }
    None
}
