//! Address space for what patched sites jump to: thunks near their sites, and single pages exactly where a punned jump leads.
//!
//! All under the region lock.

use alloc::vec::Vec;
use core::cell::UnsafeCell;

use super::room::Room;
use super::{frames, registry};
use crate::region::Guard;
use crate::sys::PAGE;
use crate::twin::{self, Twin};

/// Thunks are placed in slots of this size, so that a thunk is found from any address in it.
pub const SLOT: usize = 1024;
pub const POOL: usize = 16 * PAGE;
/// How far a jump with 32 bits of displacement surely reaches, from anywhere in a site to anywhere in a pool.
const REACH: usize = (1 << 31) - 2 * POOL;
/// What a page where punned jumps arrive holds: jumps on, to thunks: jmp [rip + 0], and behind it the address.
pub const LANDING_JUMP: [u8; 6] = [0xff, 0x25, 0, 0, 0, 0];
pub const LANDING: usize = LANDING_JUMP.len() + 8;

struct Pool {
    place: Twin,
    used: usize,
}

struct Landing {
    place: Twin,
    /// The jumps in it: at which offset, and where to. They stay: a thread may be on its way through one.
    taken: Vec<(usize, usize)>,
}

struct Space {
    pools: Vec<Pool>,
    landings: Vec<Landing>,
}

struct Shared(UnsafeCell<Space>);

// SAFETY: used under the region lock only.
unsafe impl Sync for Shared {}

static SPACE: Shared = Shared(UnsafeCell::new(Space { pools: Vec::new(), landings: Vec::new() }));

#[expect(clippy::mut_from_ref, reason = "the lock is the right to change it")]
fn space(_lock: &Guard) -> &mut Space {
    // SAFETY: under the lock, and no function here keeps it.
    unsafe { &mut *SPACE.0.get() }
}

/// A free slot that jumps reach from `near`, and that reach it. None: no such address space, or the system refuses.
pub fn slot(lock: &Guard, room: &Room, near: usize) -> Option<usize> {
    let space = space(lock);
    let reaches = |pool: &Pool| pool.place.executable.abs_diff(near) < REACH && pool.used < POOL;
    if !space.pools.iter().any(reaches) {
        let at = room.gap_near(near, POOL).filter(|at| at.abs_diff(near) < REACH)?;
        let place = twin::map(Some(at), POOL)?;
        registry::add_pool(at);
        space.pools.push(Pool { place, used: 0 });
    }
    let pool = space.pools.iter_mut().find(|pool| reaches(pool))?;
    pool.used += SLOT;
    Some(pool.place.executable + pool.used - SLOT)
}

/// Puts code into a slot. Nobody runs it before a jump leads there.
pub fn fill(lock: &Guard, slot: usize, code: &[u8]) {
    for pool in &space(lock).pools {
        let offset = slot.wrapping_sub(pool.place.executable);
        if offset < POOL && code.len() <= SLOT {
            // SAFETY: inside the pool's writable mapping, in a slot that was given out.
            unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), (pool.place.writable + offset) as *mut u8, code.len()) };
        }
    }
}

/// Gives the last slot back: its thunk cannot be had.
pub fn give_back(lock: &Guard, slot: usize) {
    if let Some(pool) = space(lock).pools.iter_mut().find(|pool| pool.place.executable + pool.used - SLOT == slot) {
        pool.used -= SLOT;
    }
}

/// Makes a jump to `target` at exactly this address. False: the address cannot be had.
pub fn land(lock: &Guard, room: &Room, at: usize, target: usize) -> bool {
    let (page, offset) = (at / PAGE * PAGE, at % PAGE);
    if offset + LANDING > PAGE {
        return false;
    }
    let space = space(lock);
    let known = space.landings.iter().position(|landing| landing.place.executable == page);
    let Some(index) = known.or_else(|| {
        if !room.is_free(page) {
            return None;
        }
        let place = twin::map(Some(page), PAGE)?;
        registry::add_landing(page);
        space.landings.push(Landing { place, taken: Vec::new() });
        Some(space.landings.len() - 1)
    }) else {
        return false;
    };
    let landing = &mut space.landings[index];
    if landing.taken.contains(&(offset, target)) {
        return true;
    }
    if landing.taken.iter().any(|taken| taken.0.abs_diff(offset) < LANDING) {
        return false;
    }
    landing.taken.push((offset, target));
    let mut jump = [0; LANDING];
    jump[..LANDING_JUMP.len()].copy_from_slice(&LANDING_JUMP);
    jump[LANDING_JUMP.len()..].copy_from_slice(&(target as u64).to_le_bytes());
    // SAFETY: inside the page's writable mapping, at bytes that nothing else uses.
    unsafe { core::ptr::copy_nonoverlapping(jump.as_ptr(), (landing.place.writable + offset) as *mut u8, jump.len()) };
    frames::tell_landing(lock, at, LANDING, target);
    true
}

/// Pages where jumps arrive already.
pub fn landings(lock: &Guard) -> Vec<usize> {
    space(lock).landings.iter().map(|landing| landing.place.executable).collect()
}

/// In a forked child: the files are shared with the parent, so nothing is added to them any more.
pub fn after_fork(lock: &Guard) {
    let space = space(lock);
    space.pools.iter_mut().for_each(|pool| pool.used = POOL);
    for landing in &mut space.landings {
        // Everything else in the page is taken, too.
        let jumps = landing.taken.clone();
        let is_free = |offset: &usize| !jumps.iter().any(|taken| taken.0 == *offset);
        landing.taken.extend((0..PAGE).step_by(LANDING).filter(is_free).map(|offset| (offset, 0)));
    }
}
