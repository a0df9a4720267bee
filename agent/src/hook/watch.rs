//! A helper thread that waits for probes to be added and removed.
//!
//! A patched site that touches a page which is not hooked yet runs past us, so nothing else could notice. The thread exists in
//! processes that have regions, in recordings that may have hooks. It tells the recorder what it has seen.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicI32, Ordering};

use super::layout::*;
use super::{look, word};
use crate::{arch, region, sys};

/// Rules are matched on it.
const STACK: usize = 64 * 1024;

#[repr(align(16))]
struct Stack(UnsafeCell<[u8; STACK]>);

// SAFETY: one helper at a time runs on it: HELPER says whether.
unsafe impl Sync for Stack {}

static HELPER_STACK: Stack = Stack(UnsafeCell::new([0; STACK]));
/// The helper's thread id; the kernel clears it when it has ended.
static HELPER: AtomicI32 = AtomicI32::new(0);

pub fn is_helper(tid: i32) -> bool {
    HELPER.load(Ordering::Relaxed) == tid
}

/// Starts the helper if there is none; called under the region lock.
pub fn start() {
    if HELPER.load(Ordering::Acquire) != 0 || is_over() {
        return;
    }
    // The recorder is to wait for the helper's first look, however late the kernel lets it run.
    let pid = sys::getpid();
    tell(pid, word(H_GENERATION).load(Ordering::Relaxed).wrapping_sub(1));
    let stack = HELPER_STACK.0.get() as usize + STACK;
    // It inherits the mask: no signal of the program may land on it.
    // SAFETY: the stack is the helper's alone, and `watch` never returns.
    if !sys::with_blocked(!0, || unsafe { arch::spawn(stack, HELPER.as_ptr(), watch) }) {
        forget(pid);
    }
}

fn is_over() -> bool {
    word(H_SERVER).load(Ordering::Acquire) == OVER
}

/// The helper shares the thread pointer of whoever started it, so it must touch nothing thread-local.
extern "C" fn watch() -> ! {
    let generation = word(H_GENERATION);
    let pid = sys::getpid();
    loop {
        let now = generation.load(Ordering::Acquire);
        look(&mut region::lock());
        tell(pid, now);
        if is_over() {
            sys::exit_thread();
        }
        sys::futex_wait(generation.as_ptr(), now);
    }
}

fn entries() -> impl Iterator<Item = usize> {
    (0..MAX_PROCESSES).map(|number| PROCESSES_OFFSET + number * PROCESS_SIZE)
}

fn own_entry(pid: i32) -> Option<usize> {
    entries().find(|entry| word(entry + P_PID).load(Ordering::Relaxed) == pid as u32)
}

/// Notes in this process' entry what it has seen. Without room for one, the recorder does not wait for this process.
fn tell(pid: i32, generation: u32) {
    let take =
        |entry: &usize| word(entry + P_PID).compare_exchange(0, pid as u32, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    if let Some(entry) = own_entry(pid).or_else(|| entries().find(take)) {
        word(entry + P_SEEN).store(generation, Ordering::Release);
    }
}

fn forget(pid: i32) {
    if let Some(entry) = own_entry(pid) {
        word(entry + P_PID).store(0, Ordering::Release);
    }
}

/// In a forked child the helper does not exist. Called when all else is ready.
pub fn after_fork() {
    HELPER.store(0, Ordering::Relaxed);
    if region::any_in(0, usize::MAX) && super::BASE.load(Ordering::Relaxed) != 0 {
        let _table = region::lock();
        start();
    }
}
