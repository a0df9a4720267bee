//! The four ways of an access on several processors (docs/smp.md), and the protection key of one of them.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::layout::{SMP_LOCK, SMP_PRIVATE, SMP_STEP};
use crate::region::{Front, Region};
use crate::{arena, sys};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Accesses run on the alias; what cannot is stepped as in `Lock`.
    Emulate,
    /// The front opens for all threads, and others slip through.
    Step,
    /// The front opens while the other threads are parked.
    Lock,
    /// The front has a protection key to which no thread has rights, but for the length of its own step.
    Private,
}

pub fn way() -> Way {
    match arena::smp() {
        SMP_STEP => Way::Step,
        SMP_LOCK => Way::Lock,
        // The recorder has made sure that there are keys. If the program has taken all of them, locking misses nothing either.
        SMP_PRIVATE if key().is_none() => Way::Lock,
        SMP_PRIVATE => Way::Private,
        _ => Way::Emulate,
    }
}

/// Are this region's accesses run on its alias? Always, if its front is but a reservation: such a one cannot be opened for
/// several threads at a time.
pub fn emulates(region: &Region) -> bool {
    region.front == Front::Reservation || way() == Way::Emulate
}

const NOT_ASKED: u32 = 0;
const NO_KEY: u32 = u32::MAX;

/// The key of armed fronts, in the way `Private`; forked children inherit it. None: the system has none to give.
pub fn key() -> Option<u32> {
    static KEY: AtomicU32 = AtomicU32::new(NOT_ASKED);
    if arena::smp() != SMP_PRIVATE {
        return None;
    }
    if KEY.load(Ordering::Acquire) == NOT_ASKED {
        // The threads that exist have no rights to it yet, nor do those that they will start (Documentation/core-api/protection-keys.rst).
        let new = u32::try_from(sys::pkey_alloc()).unwrap_or(NO_KEY);
        // If another thread was faster, a key of sixteen stays unused.
        let _ = KEY.compare_exchange(NOT_ASKED, new, Ordering::AcqRel, Ordering::Acquire);
    }
    Some(KEY.load(Ordering::Acquire)).filter(|&key| key != NO_KEY)
}
