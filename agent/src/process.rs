//! What happens once a process: who it is, and what changes when it forks.

use alloc::vec;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, Ordering};

use crate::capture::{self, Row};
use crate::layout::PROCESS;
use crate::region;
use crate::thread::Thread;
use crate::{arena, arming, hook, memory, modules, park, patch, signals, step, sys, thread};

/// A word that the kernel zeroes in a forked child (MADV_WIPEONFORK), so that even a fork without libc is noticed.
static WORD: AtomicPtr<u32> = AtomicPtr::new(core::ptr::null_mut());
/// Who this is, unless it is a forked child that does not know it yet.
static PID: AtomicI32 = AtomicI32::new(0);
static ANNOUNCED: AtomicBool = AtomicBool::new(false);

const FORKED: u32 = 0;
const KNOWN: u32 = 1;
const BUSY: u32 = 2;

pub fn prepare() {
    PID.store(sys::getpid(), Ordering::Relaxed);
    let Some(page) = sys::anonymous(4096) else { return };
    // SAFETY: our own fresh page; MADV_WIPEONFORK changes what a child finds in it.
    unsafe {
        sys::syscall3(libc::SYS_madvise, page as usize, 4096, libc::MADV_WIPEONFORK as usize);
        page.cast::<u32>().write(KNOWN);
    }
    WORD.store(page.cast(), Ordering::Release);
    // SAFETY: the functions live as long as the agent, which is never unloaded.
    unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(after_fork)) };
}

/// No other thread may be changing regions while the child's copy of them is made.
extern "C" fn before_fork() {
    region::lock().keep_with_mask();
}

/// In the parent, and in the child.
extern "C" fn after_fork() {
    let child = is_forked();
    let mask = region::kept_mask();
    if child {
        notice_fork();
    } else {
        region::release_kept();
    }
    sys::set_signal_mask(mask);
}

fn word() -> Option<&'static AtomicU32> {
    let word = WORD.load(Ordering::Acquire);
    // SAFETY: the page stays mapped for the life of the process.
    (!word.is_null()).then(|| unsafe { AtomicU32::from_ptr(word) })
}

fn is_forked() -> bool {
    word().is_some_and(|word| word.load(Ordering::Relaxed) == FORKED)
}

/// Looks whether this process is a forked child that does not know it yet.
#[inline]
pub fn notice_fork() {
    let Some(word) = word() else { return };
    if word.load(Ordering::Acquire) == KNOWN {
        return;
    }
    if word.compare_exchange(FORKED, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
        memory::ALLOCATOR.after_fork();
        region::after_fork();
        arena::after_fork();
        signals::after_fork();
        park::after_fork();
        step::after_fork();
        patch::after_fork();
        thread::after_fork();
        PID.store(sys::getpid(), Ordering::Relaxed);
        modules::forget_told();
        ANNOUNCED.store(false, Ordering::Relaxed);
        word.store(KNOWN, Ordering::Release);
        arming::after_fork();
        hook::after_fork();
    }
    while word.load(Ordering::Acquire) != KNOWN {
        sys::sched_yield();
    }
}

/// Is this a vforked child? It has its parent's memory, and all that we keep there is about the parent: but handlers and mask are its own.
pub fn is_vforked() -> bool {
    notice_fork();
    PID.load(Ordering::Relaxed) != sys::getpid()
}

/// A recording begins: it has not been told of this process.
pub fn forget_announced() {
    ANNOUNCED.store(false, Ordering::Relaxed);
}

/// Writes the row that tells of this process, once.
pub fn announce(thread: &mut Thread) {
    if ANNOUNCED.swap(true, Ordering::Relaxed) {
        return;
    }
    // Not on the stack: this may be a signal's alternate one, and small.
    let mut path = vec![0u8; 4096];
    let length = usize::try_from(sys::readlink(b"/proc/self/exe\0", &mut path)).unwrap_or(0);
    let row = Row { value: sys::getppid() as u64, ..Row::new(PROCESS) };
    capture::write(thread, &row, &path[..length]);
}
