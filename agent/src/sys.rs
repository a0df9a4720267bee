//! Raw system calls.
//!
//! The agent calls nothing in libc that can lock, allocate or set errno on a trap path, so it asks the kernel itself. Every
//! function returns what the kernel returned: a negative errno is an error.

use core::arch::asm;
use core::sync::atomic::{AtomicUsize, Ordering};

use libc::{c_int, timespec};

use crate::stat::{self, Stat};

pub type Ret = isize;

/// The smallest that the processor and the kernel know.
pub const PAGE: usize = 4096;

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
    unsafe { syscall6(libc::SYS_mmap, addr, len, prot as usize, flags as usize, fd as isize as usize, offset as usize) }
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

/// mprotect that also gives the range a protection key (pkeys(7)).
///
/// # Safety
/// Taking rights away makes later accesses fault.
pub unsafe fn pkey_mprotect(addr: usize, len: usize, prot: c_int, key: u32) -> Ret {
    // SAFETY: the caller's promise.
    unsafe { syscall6(libc::SYS_pkey_mprotect, addr, len, prot as usize, key as usize, 0, 0) }
}

/// A protection key to which the calling thread has no rights.
pub fn pkey_alloc() -> Ret {
    /// asm-generic/mman-common.h.
    const PKEY_DISABLE_ACCESS: usize = 1;
    // SAFETY: it changes the rights to a key that nothing has yet.
    unsafe { syscall3(libc::SYS_pkey_alloc, 0, PKEY_DISABLE_ACCESS, 0) }
}

/// Moves a mapping to where it may replace what is there.
///
/// # Safety
/// As for munmap and mmap.
pub unsafe fn move_mapping(from: usize, to: usize, length: usize) -> Ret {
    // SAFETY: the caller's promise.
    unsafe { mremap(from, length, length, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, to) }
}

/// Puts inaccessible memory in this place, replacing what is there.
///
/// # Safety
/// As for mmap with MAP_FIXED.
pub unsafe fn reserve(address: usize, length: usize) -> Ret {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the caller's promise.
    unsafe { mmap(address, length, libc::PROT_NONE, flags, -1, 0) }
}

/// An address for a mapping of the agent's own, far from the program's: a hole that the program has made must stay one. A
/// hint; the kernel chooses another if something is there.
pub fn own_place(len: usize) -> usize {
    const LOWEST: usize = 0x1000_0000_0000;
    const RANDOM_BITS: usize = 0x0fff_ffff_f000;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    if NEXT.load(Ordering::Relaxed) == 0 {
        // As unpredictable as the kernel's own layout of this process.
        let stack = &raw const NEXT as usize ^ (&raw const len as usize) << 8;
        let _ = NEXT.compare_exchange(0, LOWEST + (stack & RANDOM_BITS), Ordering::Relaxed, Ordering::Relaxed);
    }
    NEXT.fetch_add(len.next_multiple_of(PAGE) + PAGE, Ordering::Relaxed)
}

/// Fresh zeroed private memory, or None.
pub fn anonymous(len: usize) -> Option<*mut u8> {
    // SAFETY: a new mapping disturbs nothing.
    let ret = unsafe {
        mmap(own_place(len), len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
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

/// Ends the calling thread, and nothing else.
pub fn exit_thread() -> ! {
    // SAFETY: nothing of this thread is needed any more.
    unsafe { syscall3(libc::SYS_exit, 0, 0, 0) };
    unreachable!()
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

/// The same, at most so long.
pub fn futex_wait_for(word: *const u32, value: u32, ns: i64) {
    let limit = timespec { tv_sec: ns / 1_000_000_000, tv_nsec: ns % 1_000_000_000 };
    let (word, operation, limit) = (word as usize, libc::FUTEX_WAIT as usize, &raw const limit as usize);
    // SAFETY: as above; the limit is ours.
    unsafe { syscall6(libc::SYS_futex, word, operation, value as usize, limit, 0, 0) };
}

pub fn futex_wake_all(word: *const u32) {
    futex_wake(word, i32::MAX);
}

pub fn futex_wake(word: *const u32, most: i32) {
    // SAFETY: as above.
    unsafe { syscall3(libc::SYS_futex, word as usize, libc::FUTEX_WAKE as usize, most as usize) };
}

pub fn kill(pid: i32, signal: i32) {
    // SAFETY: what comes of it is the receiver's affair.
    unsafe { syscall3(libc::SYS_kill, pid as usize, signal as usize, 0) };
}

/// Sends a thread of this process a signal with what it is to find in its siginfo. False: the kernel refused.
pub fn queue_signal(pid: i32, tid: i32, signal: c_int, info: &libc::siginfo_t) -> bool {
    let info = &raw const *info as usize;
    // SAFETY: the kernel copies the siginfo.
    0 == unsafe { syscall6(libc::SYS_rt_tgsigqueueinfo, pid as usize, tid as usize, signal as usize, info, 0, 0) }
}

/// tgkill(2). The thread may be gone.
pub fn send(pid: i32, tid: i32, signal: c_int) {
    // SAFETY: no pointers.
    unsafe { syscall3(libc::SYS_tgkill, pid as usize, tid as usize, signal as usize) };
}

/// Calls for every thread of this process; for none where /proc is not to be had.
pub fn each_thread(buffer: &mut [u8], visit: impl FnMut(i32)) {
    each_number(b"/proc/self/task\0", buffer, visit);
}

/// Calls for every number that is a name in this folder, whose path is NUL-terminated.
pub fn each_number(folder: &[u8], buffer: &mut [u8], mut visit: impl FnMut(i32)) {
    let directory = open(folder, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC);
    if is_error(directory) {
        return;
    }
    loop {
        // SAFETY: the buffer is ours.
        let length =
            unsafe { syscall3(libc::SYS_getdents64, directory as usize, buffer.as_mut_ptr() as usize, buffer.len()) };
        let Some(mut entries) = usize::try_from(length).ok().filter(|&length| length > 0).map(|length| &buffer[..length])
        else {
            break;
        };
        // struct linux_dirent64: length at 16 (two bytes), the name from 19.
        while entries.len() > 19 {
            let length = usize::from(u16::from_le_bytes([entries[16], entries[17]]));
            let name = entries[19..length].split(|&byte| byte == 0).next().unwrap_or(&[]);
            if let Some(number) = stat::number(name) {
                visit(number as i32);
            }
            entries = &entries[length..];
        }
    }
    close(directory);
}

/// Is this thread of our process one that the kernel has made for itself (io_uring's workers)? It runs no program code.
pub fn is_kernel_worker(tid: i32) -> bool {
    /// linux/sched.h: PF_IO_WORKER, PF_USER_WORKER.
    const WORKER: u64 = 0x10 | 0x4000;
    const FLAGS: usize = 9;
    let flags = Stat::of_thread(tid as u32).and_then(|stat| stat.number(FLAGS));
    flags.is_some_and(|flags| flags & WORKER != 0)
}

/// CLOCK_MONOTONIC in nanoseconds; the vDSO's, which takes no lock.
pub fn monotonic_ns() -> i64 {
    let mut time = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime is async-signal-safe; the agent is linked with -z now, so no lazy binding happens here.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// rt_sigprocmask(2), of signals that are bits as in a kernel signal set. Returns what was blocked before.
fn change_mask(how: c_int, set: u64) -> u64 {
    let mut old = 0u64;
    // SAFETY: both words are ours; 8 is the kernel's size of a signal set.
    unsafe { syscall6(libc::SYS_rt_sigprocmask, how as usize, &raw const set as usize, &raw mut old as usize, 8, 0, 0) };
    old
}

/// Blocks these signals, too; returns what was blocked before.
pub fn block_signals(set: u64) -> u64 {
    change_mask(libc::SIG_BLOCK, set)
}

pub fn unblock_signals(set: u64) {
    change_mask(libc::SIG_UNBLOCK, set);
}

pub fn set_signal_mask(mask: u64) {
    change_mask(libc::SIG_SETMASK, mask);
}

/// Works with these signals blocked, too.
pub fn with_blocked<T>(set: u64, work: impl FnOnce() -> T) -> T {
    let mask = block_signals(set);
    let done = work();
    set_signal_mask(mask);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_threads_are_told_from_the_programs() {
        assert!(!is_kernel_worker(gettid()));
        assert!(!is_kernel_worker(0));
        // struct io_uring_params: flags is its third word, IORING_SETUP_SQPOLL its second bit. The ring comes with a thread.
        let mut parameters = [0u32; 30];
        parameters[2] = 1 << 1;
        // SAFETY: the kernel fills in our structure.
        let ring = unsafe { syscall3(libc::SYS_io_uring_setup, 8, parameters.as_mut_ptr() as usize, 0) };
        assert!(!is_error(ring), "this test needs io_uring: {ring}");
        let mut workers = 0;
        each_thread(&mut [0; 1024], |tid| workers += usize::from(is_kernel_worker(tid)));
        close(ring);
        assert_eq!(workers, 1);
    }
}
