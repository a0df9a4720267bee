//! Which code is a thunk's, and which site's: asked by trap handlers, without a lock.
//!
//! Pools and pages are added under the region lock and never removed.

use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::Patch;
use super::space::{LANDING, LANDING_JUMP, POOL, SLOT};
use crate::sys::PAGE;

const MOST_POOLS: usize = 256;
const SLOTS: usize = POOL / SLOT;
/// Pages beyond these are used all the same; only a signal that arrives at the one jump in them shows its address.
const MOST_LANDINGS: usize = 8192;

struct Pool {
    start: AtomicUsize,
    patches: [AtomicPtr<Patch>; SLOTS],
}

static POOLS: [Pool; MOST_POOLS] =
    [const { Pool { start: AtomicUsize::new(0), patches: [const { AtomicPtr::new(null_mut()) }; SLOTS] } }; MOST_POOLS];
static LANDINGS: [AtomicUsize; MOST_LANDINGS] = [const { AtomicUsize::new(0) }; MOST_LANDINGS];

/// False: there are too many.
pub fn add_pool(start: usize) -> bool {
    let free = POOLS.iter().find(|pool| pool.start.load(Ordering::Relaxed) == 0);
    free.inspect(|pool| pool.start.store(start, Ordering::Release)).is_some()
}

pub fn add_landing(page: usize) {
    if let Some(free) = LANDINGS.iter().find(|landing| landing.load(Ordering::Relaxed) == 0) {
        free.store(page, Ordering::Release);
    }
}

fn slot(pc: usize) -> Option<&'static AtomicPtr<Patch>> {
    POOLS
        .iter()
        .map(|pool| (pool, pool.start.load(Ordering::Acquire)))
        .take_while(|&(_, start)| start != 0)
        .find(|&(_, start)| (start..start + POOL).contains(&pc))
        .map(|(pool, start)| &pool.patches[(pc - start) / SLOT])
}

/// The thunk at this slot is this site's. False: there is no such slot.
pub fn set(start: usize, patch: &'static Patch) -> bool {
    let Some(slot) = slot(start) else { return false };
    slot.store((&raw const *patch).cast_mut(), Ordering::Release);
    true
}

/// The site whose thunk the code at `pc` is.
pub fn find(pc: usize) -> Option<&'static Patch> {
    // SAFETY: patches are never freed.
    unsafe { slot(pc)?.load(Ordering::Acquire).as_ref() }
}

/// Is the code at `pc` a jump between a site and its thunk?
pub fn is_landing(pc: usize) -> bool {
    let pages = LANDINGS.iter().map(|landing| landing.load(Ordering::Acquire));
    pages.take_while(|&page| page != 0).any(|page| page == pc / PAGE * PAGE)
}

/// Where the jump at `pc` leads, if it is one between a site and its thunk.
pub fn landing_target(pc: usize) -> Option<usize> {
    if !is_landing(pc) || pc % PAGE > PAGE - LANDING {
        return None;
    }
    // SAFETY: inside a page of jumps, which stays mapped.
    let (jump, target) = unsafe {
        ((pc as *const [u8; LANDING_JUMP.len()]).read(), ((pc + LANDING_JUMP.len()) as *const usize).read_unaligned())
    };
    (jump == LANDING_JUMP).then_some(target)
}
