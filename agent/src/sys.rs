//! Raw system calls.
//!
//! The agent calls nothing in libc that can lock, allocate or set errno on a trap path, so it asks the kernel itself. Every
//! function returns what the kernel returned: a negative errno is an error.

use core::arch::asm;
use libc::{c_int, timespec};

pub type Ret = isize;

/// A system call with up to six arguments.
///
/// # Safety
/// As safe as the call itself.
#[inline]
pub unsafe fn syscall6(n: libc::c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> Ret {
    let ret: Ret;
    // SAFETY: the x86-64 Linux convention; rcx and r11 are the only other registers the kernel changes.
    unsafe {
        asm!("syscall", inlateout("rax") n as isize => ret, in("rdi") a, in("rsi") b, in("rdx") c,
             in("r10") d, in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    ret
}

/// A system call with up to three arguments.
///
/// # Safety
/// As safe as the call itself.
#[inline]
pub unsafe fn syscall3(n: libc::c_long, a: usize, b: usize, c: usize) -> Ret {
    // SAFETY: the caller's promise.
    unsafe { syscall6(n, a, b, c, 0, 0, 0) }
}

pub fn is_error(ret: Ret) -> bool {
    (-4095..0).contains(&ret)
}

/// # Safety
/// MAP_FIXED replaces what is there.
pub unsafe fn mmap(addr: usize, len: usize, prot: c_int, flags: c_int, fd: c_int, offset: i64) -> Ret {
    // SAFETY: the caller's promise.
    unsafe {
        syscall6(libc::SYS_mmap, addr, len, prot as usize, flags as usize, fd as isize as usize, offset as usize)
    }
}

/// # Safety
/// Nobody may use the range any more.
pub unsafe fn munmap(addr: usize, len: usize) -> Ret {
    // SAFETY: the caller's promise.
    unsafe { syscall3(libc::SYS_munmap, addr, len, 0) }
}

/// # Safety
/// As for munmap and mmap. The fifth argument is always passed: the kernel reads it with MREMAP_FIXED.
pub unsafe fn mremap(addr: usize, old: usize, new: usize, flags: c_int, to: usize) -> Ret {
    // SAFETY: the caller's promise.
    unsafe { syscall6(libc::SYS_mremap, addr, old, new, flags as usize, to, 0) }
}

/// # Safety
/// Taking rights away makes later accesses fault.
pub unsafe fn mprotect(addr: usize, len: usize, prot: c_int) -> Ret {
    // SAFETY: the caller's promise.
    unsafe { syscall3(libc::SYS_mprotect, addr, len, prot as usize) }
}

/// Fresh zeroed private memory, or None.
pub fn anonymous(len: usize) -> Option<*mut u8> {
    // SAFETY: a new mapping disturbs nothing.
    let ret = unsafe {
        mmap(0, len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    };
    (!is_error(ret)).then_some(ret as *mut u8)
}

/// Opens a NUL-terminated path.
pub fn open(path: &[u8], flags: c_int) -> Ret {
    debug_assert_eq!(path.last(), Some(&0));
    // SAFETY: the path is NUL-terminated.
    unsafe { syscall6(libc::SYS_openat, libc::AT_FDCWD as usize, path.as_ptr() as usize, flags as usize, 0, 0, 0) }
}

pub fn close(fd: Ret) {
    // SAFETY: only called with descriptors that this module's open returned.
    unsafe { syscall3(libc::SYS_close, fd as usize, 0, 0) };
}

pub fn read(fd: Ret, buffer: &mut [u8]) -> Ret {
    // SAFETY: the buffer is ours.
    unsafe { syscall3(libc::SYS_read, fd as usize, buffer.as_mut_ptr() as usize, buffer.len()) }
}

/// Reads a link; the path is NUL-terminated. The answer is the number of bytes.
pub fn readlink(path: &[u8], buffer: &mut [u8]) -> Ret {
    debug_assert_eq!(path.last(), Some(&0));
    // SAFETY: both are ours, the path is NUL-terminated.
    unsafe { syscall3(libc::SYS_readlink, path.as_ptr() as usize, buffer.as_mut_ptr() as usize, buffer.len()) }
}

pub fn getpid() -> i32 {
    // SAFETY: no arguments.
    unsafe { syscall3(libc::SYS_getpid, 0, 0, 0) as i32 }
}

pub fn getppid() -> i32 {
    // SAFETY: no arguments.
    unsafe { syscall3(libc::SYS_getppid, 0, 0, 0) as i32 }
}

pub fn gettid() -> i32 {
    // SAFETY: no arguments.
    unsafe { syscall3(libc::SYS_gettid, 0, 0, 0) as i32 }
}

/// Is there such a thread in this process?
pub fn thread_exists(pid: i32, tid: i32) -> bool {
    // SAFETY: signal 0 is only a question.
    unsafe { syscall3(libc::SYS_tgkill, pid as usize, tid as usize, 0) != -(libc::ESRCH as isize) }
}

pub fn sched_yield() {
    // SAFETY: no arguments.
    unsafe { syscall3(libc::SYS_sched_yield, 0, 0, 0) };
}

pub fn sleep_ns(ns: i64) {
    let time = timespec { tv_sec: 0, tv_nsec: ns };
    // SAFETY: the time is ours; the remainder is not asked for.
    unsafe { syscall3(libc::SYS_nanosleep, &raw const time as usize, 0, 0) };
}

/// Sleeps while `*word == value`; wakes for any reason.
pub fn futex_wait(word: *const u32, value: u32) {
    // SAFETY: the word is mapped for the life of the process; a shared futex, since the recorder wakes it.
    unsafe { syscall6(libc::SYS_futex, word as usize, libc::FUTEX_WAIT as usize, value as usize, 0, 0, 0) };
}

/// CLOCK_MONOTONIC in nanoseconds; the vDSO's, which takes no lock.
pub fn monotonic_ns() -> i64 {
    let mut time = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime is async-signal-safe; the agent is linked with -z now, so no lazy binding happens here.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// All signals blocked, and what was blocked before.
pub fn block_all_signals() -> u64 {
    let all = !0u64;
    let mut old = 0u64;
    // SAFETY: both words are ours; 8 is the kernel's size of a signal set.
    unsafe {
        syscall6(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK as usize, &raw const all as usize,
                 &raw mut old as usize, 8, 0, 0)
    };
    old
}

pub fn set_signal_mask(mask: u64) {
    // SAFETY: the word is ours.
    unsafe {
        syscall6(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK as usize, &raw const mask as usize, 0, 8, 0, 0)
    };
}
