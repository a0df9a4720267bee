//! Arming and disarming: `mmiotap disable` and `enable`.
//!
//! Disabled, the fronts have the program's rights and nothing traps, so nothing could notice that recording is enabled again:
//! a helper thread sleeps on the arena's word until it is, arms the fronts, and ends. It exists only while disabled.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use crate::region::{self, Front, Region};
use crate::{arch, arena, lookaside, patch, smp, sys};

static ARMED: AtomicBool = AtomicBool::new(true);

const STACK: usize = 16 * 1024;

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

/// Is there a helper? It ends by itself when the recording is closed.
pub fn has_helper() -> bool {
    HELPER.load(Ordering::Acquire) != 0
}

/// A recording begins.
pub fn begin() {
    ARMED.store(true, Ordering::Relaxed);
}

/// Gives a front the rights that it is to have at this moment. Under the region lock.
pub fn apply(region: &Region) {
    if ARMED.load(Ordering::Relaxed) {
        close(region);
    } else {
        open(region);
    }
}

/// Gives a front the program's rights. False: the system refuses. Under the region lock.
pub fn open(region: &Region) -> bool {
    set(region, region.prot, 0)
}

/// From here on accesses fault, and the fault handler knows the region.
fn close(region: &Region) {
    match smp::key() {
        Some(key) => set(region, region.prot, key),
        None => set(region, libc::PROT_NONE, 0),
    };
}

/// A reservation has no rights to give.
fn set(region: &Region, prot: i32, key: u32) -> bool {
    // SAFETY: a region's front, with the rights that the program gave its mapping or fewer.
    region.front == Front::Reservation
        || 0 == unsafe {
            match smp::key() {
                Some(_) => sys::pkey_mprotect(region.start, region.length(), prot, key),
                None => sys::mprotect(region.start, region.length(), prot),
            }
        }
}

/// Recording is disabled, and a thread has trapped in this region: opens all fronts. True: the instruction can run again
/// as it is; false: this region cannot be opened, its accesses go on to be run by the agent.
pub fn disarm(region: &Region) -> bool {
    let mut table = region::lock();
    if ARMED.load(Ordering::Relaxed) && !arena::is_logging() {
        lookaside::clear(&table, 0, usize::MAX);
        patch::disable(&table);
        table.all().iter().for_each(|region| _ = open(region));
        ARMED.store(false, Ordering::Relaxed);
        if !arena::is_closed() {
            start_helper();
        }
    }
    region.front == Front::Twin
}

fn arm() {
    let mut table = region::lock();
    if arena::is_logging() {
        table.all().iter().for_each(close);
        ARMED.store(true, Ordering::Relaxed);
    }
}

fn start_helper() {
    while HELPER.load(Ordering::Acquire) != 0 {
        // The one before has armed and is on its way out.
        sys::sched_yield();
    }
    let stack = HELPER_STACK.0.get() as usize + STACK;
    // It inherits the mask: no signal of the program may land on it.
    // SAFETY: the stack is the helper's alone, and `help` never returns.
    sys::with_blocked(!0, || unsafe { arch::spawn(stack, HELPER.as_ptr(), help) });
}

/// The helper shares the thread pointer of whoever started it, so it must touch nothing thread-local.
extern "C" fn help() -> ! {
    let enabled: &AtomicU32 = arena::enabled_word();
    loop {
        while !arena::is_logging() && !arena::is_closed() {
            sys::futex_wait(enabled.as_ptr(), 0);
        }
        arm();
        if ARMED.load(Ordering::Relaxed) || arena::is_closed() {
            sys::exit_thread();
        }
    }
}

/// In a forked child the helper does not exist. If recording is disabled, a new one is needed.
pub fn after_fork() {
    HELPER.store(0, Ordering::Relaxed);
    if !ARMED.load(Ordering::Relaxed) && region::any_in(0, usize::MAX) && !arena::is_closed() {
        start_helper();
    }
}
