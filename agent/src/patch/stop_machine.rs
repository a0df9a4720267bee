//! The protocol that ftrace had in 2008: the other threads stand still while the code is changed.
//!
//! The kernel's stop_machine stops the other processors, but not their NMIs, so every NMI that comes in between writes the
//! very same bytes itself before it runs any code that may be changing. In a program the other threads are parked by a signal, and its
//! asynchronous signal handlers have the role of NMIs: they pass through [`handler_starts`]. The steps have the names of
//! protocols/stop_machine.pml.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::text;
use crate::{park, sys};

/// The instruction-pointer buffer and the code buffer.
struct Pending {
    at: usize,
    length: usize,
    code: [u8; 16],
}

struct Shared(UnsafeCell<Pending>);

// SAFETY: written while FLAG is down and nobody is in flight, read while it is up.
unsafe impl Sync for Shared {}

static PENDING: Shared = Shared(UnsafeCell::new(Pending { at: 0, length: 0, code: [0; 16] }));
static FLAG: AtomicBool = AtomicBool::new(false);
/// Handlers that are between their start and the program's own code: there they may be writing. Later they can be parked, as
/// an NMI could not.
static IN_FLIGHT: AtomicUsize = AtomicUsize::new(0);

/// Changes the code at `at` to `new`. False: it cannot be changed, and is as it was. Under the region lock.
pub fn write(at: usize, old: &[u8], new: &[u8]) -> bool {
    if !text::write(at, old) {
        return false;
    }
    // S1. SAFETY: see Shared.
    unsafe {
        let pending = &mut *PENDING.0.get();
        (pending.at, pending.length) = (at, new.len());
        pending.code[..new.len()].copy_from_slice(new);
    }
    FLAG.store(true, Ordering::SeqCst); // S2
    park::park_others(); // S3
    wait_for_handlers();
    let written = text::write(at, new); // S4
    text::sync();
    FLAG.store(false, Ordering::SeqCst); // S5
    wait_for_handlers(); // S6
    park::release();
    written
}

fn wait_for_handlers() {
    while IN_FLIGHT.load(Ordering::SeqCst) != 0 {
        sys::sched_yield();
    }
}

/// A handler of the program is about to start: if code is being changed, writes it. Not to be parked while it is in flight: the
/// patcher would wait for it.
pub fn handler_starts() {
    let mask = sys::block_signals(!0);
    IN_FLIGHT.fetch_add(1, Ordering::SeqCst);
    if FLAG.load(Ordering::SeqCst) {
        // SAFETY: see Shared: who is in flight and has seen the flag is waited for before the buffers change.
        let pending = unsafe { &*PENDING.0.get() };
        text::write(pending.at, &pending.code[..pending.length]);
        text::sync();
    }
    IN_FLIGHT.fetch_sub(1, Ordering::SeqCst);
    sys::set_signal_mask(mask);
}

/// In a forked child nobody is patching, and nobody is in flight.
pub fn after_fork() {
    FLAG.store(false, Ordering::SeqCst);
    IN_FLIGHT.store(0, Ordering::SeqCst);
}
