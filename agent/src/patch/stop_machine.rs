//! The protocol that ftrace had in 2008: the other threads stand still while the code is changed.
//!
//! The kernel's stop_machine stops the other processors, but not their NMIs, so every NMI that comes in between writes the
//! very same bytes itself before it runs any code that may be changing. In a program the other threads are parked by a signal, and
//! its asynchronous handlers have the role of NMIs: each passes through [`handler_starts`]. The steps have the names of
//! protocols/stop_machine.pml, which shows why the threads are parked first, and why waiting and raising the flag are one.
//!
//! The model lets handlers run on top of parked threads, and so counts each until it has ended. Here a parked thread takes no
//! signals, and a handler that has come to the program's own code is parked with its thread; it is counted until then. A
//! handler that never returns, because it jumps out, is so no trouble.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::text;
use crate::{park, sys};

/// The instruction-pointer buffer and the code buffer.
struct Pending {
    at: usize,
    length: usize,
    code: [u8; 16],
}

struct Shared(UnsafeCell<Pending>);

// SAFETY: written while the flag is down and nobody is in flight, read while it is up.
unsafe impl Sync for Shared {}

static PENDING: Shared = Shared(UnsafeCell::new(Pending { at: 0, length: 0, code: [0; 16] }));

/// The flag, and how many handlers are in flight: between their start and the program's own code.
static STATE: AtomicUsize = AtomicUsize::new(0);
const FLAG: usize = 1;
const ONE: usize = 2;

/// Whoever waits longer for the moment without handlers gives up: nothing has been written then.
const PATIENCE_NS: i64 = 100_000_000;

/// Changes the code at `at` to `new`. False: it cannot be changed, and is as it was. Under the region lock.
pub fn write(at: usize, old: &[u8], new: &[u8]) -> bool {
    if !text::write(at, old) {
        return false;
    }
    let all_parked = park::park_others(park::Patience::WithAll);
    // S1. SAFETY: see Shared.
    unsafe {
        let pending = &mut *PENDING.0.get();
        (pending.at, pending.length) = (at, new.len());
        pending.code[..new.len()].copy_from_slice(new);
    }
    let written = all_parked && raise_flag() && text::write(at, new); // S4
    text::sync();
    STATE.fetch_and(!FLAG, Ordering::SeqCst); // S5
    while STATE.load(Ordering::SeqCst) != 0 {
        sys::sched_yield(); // S6
    }
    park::release();
    written
}

/// S2 and S3: in a moment in which no handler is in flight. False: there was none.
fn raise_flag() -> bool {
    let start = sys::monotonic_ns();
    while STATE.compare_exchange(0, FLAG, Ordering::SeqCst, Ordering::Relaxed).is_err() {
        if sys::monotonic_ns() - start > PATIENCE_NS {
            return false;
        }
        sys::sched_yield();
    }
    true
}

/// A handler of the program is about to start: if code is being changed, writes it. All signals are blocked meanwhile: the
/// patcher would wait for a handler in flight that is parked.
pub fn handler_starts() {
    sys::with_blocked(!0, || {
        let flagged = STATE.fetch_add(ONE, Ordering::SeqCst) & FLAG != 0; // H1
        if flagged {
            // SAFETY: see Shared: who has seen the flag is waited for before the buffers change.
            let pending = unsafe { &*PENDING.0.get() };
            text::write(pending.at, &pending.code[..pending.length]); // H2
            text::sync(); // H3
        }
        STATE.fetch_sub(ONE, Ordering::SeqCst); // H5
    });
}

/// In a forked child nobody is patching, and nobody is in flight.
pub fn after_fork() {
    STATE.store(0, Ordering::SeqCst);
}
