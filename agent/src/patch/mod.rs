//! Patching: a site that keeps trapping becomes a jump to its thunk.
//!
//! All changes are made under the region lock. Trap handlers and patched code look without it. A thunk, once placed, stays
//! valid for ever: a thread may be in it, or on its way, when the site has long been given back.
//!
//! A punned jump consists partly of the bytes behind its site. While it is in place those bytes must not change, so whoever
//! changes code first gives back the punned sites before it that use it ([`change_with_neighbours`]), and patches them again afterwards.

mod breakpoint;
pub mod frames;
pub mod jitdump;
mod jump;
pub mod registry;
mod room;
mod space;
pub mod stop_machine;
pub mod text;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::arch::cpu;
use crate::arch::site::{self, Site};
use crate::arch::thunk::{self, Thunk};
use crate::capture::{self, Row};
use crate::layout::*;
use crate::region::{self, Guard};
use crate::{arena, modules, thread};
pub use jump::LONGEST as LONGEST_JUMP;
use jump::{Jump, Planned, Way};
use room::Room;

/// A site that has a thunk.
pub struct Patch {
    pub site: &'static Site,
    pub thunk: Thunk,
    /// Does the thunk measure how long accesses take?
    timed: bool,
    /// How to unwind the thunk: its FDE, or null.
    fde: *const c_void,
    /// Is the jump in place? Changed under the lock.
    active: AtomicBool,
    /// Is there no jump for it until the code behind it is another? Changed under the lock.
    waits: AtomicBool,
    /// The jump that is, or was last, in one word: its bytes and their number. Changed under the lock.
    jump: AtomicU64,
    /// Samples of accesses to ordinary memory, and to regions; see sampled().
    ordinary: AtomicU32,
    device: AtomicU32,
}

impl Patch {
    fn jump(&self) -> Jump {
        let word = self.jump.load(Ordering::Acquire).to_le_bytes();
        let mut bytes = [0; jump::LONGEST];
        bytes.copy_from_slice(&word[..jump::LONGEST]);
        Jump { bytes, length: usize::from(word[7]) }
    }

    fn set_jump(&self, jump: &Jump) {
        let mut word = [0; 8];
        word[..jump::LONGEST].copy_from_slice(&jump.bytes);
        word[7] = jump.length as u8;
        self.jump.store(u64::from_le_bytes(word), Ordering::Release);
    }

    /// Can this be what is at the site: its own code, the jump, or something between the two?
    pub fn explains(&self, now: &[u8]) -> bool {
        let (own, jump) = (&self.site.bytes, self.jump());
        let is_tail = |(index, &byte): (usize, &u8)| byte == own[index] || index < jump.length && byte == jump.bytes[index];
        now[0] == breakpoint::INT3 && now.iter().enumerate().skip(1).all(is_tail) || now.iter().enumerate().all(is_tail)
    }

    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// How many of the site's bytes the jump changes.
    fn changed(&self) -> usize {
        self.jump().length.min(self.site.length)
    }

    /// Does its jump consist of bytes in this range behind its site, or may it, once there is one?
    fn leans_on(&self, start: usize, end: usize) -> bool {
        let longest = if self.is_active() { self.jump().length } else { jump::LONGEST };
        let may = self.is_active() || self.waits.load(Ordering::Relaxed);
        may && self.site.pc + self.site.length < end && start < self.site.pc + longest
    }
}

struct Patches(UnsafeCell<Vec<&'static Patch>>);

// SAFETY: used under the region lock only.
unsafe impl Sync for Patches {}

static PATCHES: Patches = Patches(UnsafeCell::new(Vec::new()));

fn all(_lock: &Guard) -> Vec<&'static Patch> {
    // SAFETY: under the lock, and copied.
    unsafe { (*PATCHES.0.get()).clone() }
}

/// The protocols, as the arena's header and the tests number them.
const BREAKPOINT: u32 = 0;
const STOP_MACHINE: u32 = 1;

/// Why a site stays trapped: one of WHY_….
type Why = u32;

/// Counts an access that the agent has run at a site, and patches the site when it has become hot. Called by trap handlers.
pub fn count(site: &'static Site) {
    let hits = site.hits.fetch_add(1, Ordering::Relaxed) + 1;
    if hits == 1 {
        // A recording that was attached to later than the site was made has not been told of it.
        modules::note(site.pc);
        tell(site, SITE_SEEN, WHY_NONE);
    }
    let threshold = arena::patch_after();
    if threshold != 0 && hits == threshold {
        let lock = region::lock();
        // If it has ended meanwhile, all sites have been given their code back already.
        if !arena::is_logging() {
            return;
        }
        if let Err(why) = patch(&lock, site, arena::patch_protocol()) {
            tell(site, SITE_TRAPPED, why);
        }
    }
}

/// Notes that a site is stepped, which no thunk can do.
pub fn note_stepped(site: &'static Site) {
    if site.hits.fetch_add(1, Ordering::Relaxed) == 0 {
        tell(site, SITE_TRAPPED, WHY_INSTRUCTION);
    }
}

/// Makes a site a jump, if it is none.
fn patch(lock: &Guard, site: &'static Site, protocol: u32) -> Result<(), Why> {
    let room = Room::now();
    let patch = match site.patch().filter(|patch| patch.timed == arena::wants_latency()) {
        Some(patch) => patch,
        None => prepare(lock, &room, site)?,
    };
    if patch.is_active() {
        return Ok(());
    }
    change_with_neighbours(lock, &room, patch, protocol, Change::Patch)
}

/// Gives a site its own code back.
fn unpatch(lock: &Guard, patch: &'static Patch, protocol: u32) -> Result<(), Why> {
    change_with_neighbours(lock, &Room::now(), patch, protocol, Change::Unpatch)
}

/// The site's thunk.
fn prepare(lock: &Guard, room: &Room, site: &'static Site) -> Result<&'static Patch, Why> {
    match modules::place_of(site.pc) {
        modules::Place::LibC => return Err(WHY_LIBC),
        modules::Place::Unknown => return Err(WHY_CHANGED),
        modules::Place::Object => {}
    }
    if !thunk::is_possible(site) {
        return Err(WHY_INSTRUCTION);
    }
    if !cpu::has(&cpu::RDTSCP) {
        return Err(WHY_NO_CLOCK);
    }
    let slot = space::slot(lock, room, site.pc).ok_or(WHY_NO_TARGET)?;
    let timed = arena::wants_latency();
    let Some((code, thunk, cfi)) = thunk::build(site, slot, timed) else {
        space::give_back(lock, slot);
        return Err(WHY_NO_TARGET);
    };
    space::fill(lock, slot, &code);
    let fde = frames::tell(lock, site.pc, &thunk, cfi);
    let patch = Box::leak(Box::new(Patch {
        site,
        thunk,
        timed,
        fde,
        active: AtomicBool::new(false),
        waits: AtomicBool::new(false),
        jump: AtomicU64::new(0),
        ordinary: AtomicU32::new(0),
        device: AtomicU32::new(0),
    }));
    if !registry::set(slot, patch) {
        return Err(WHY_NO_TARGET);
    }
    site.set_patch(patch);
    // SAFETY: under the lock.
    unsafe { (*PATCHES.0.get()).push(patch) };
    Ok(patch)
}

fn put_in_place(patch: &'static Patch, jump: Option<Jump>, protocol: u32) -> Result<(), Why> {
    patch.waits.store(jump.is_none(), Ordering::Relaxed);
    let (site, jump) = (patch.site, jump.ok_or(WHY_NO_TARGET)?);
    patch.set_jump(&jump);
    let changed = patch.changed();
    change(site.pc, &site.bytes[..changed], &jump.bytes[..changed], protocol)?;
    patch.active.store(true, Ordering::Release);
    tell(site, jump.state(site.length), WHY_NONE);
    Ok(())
}

fn take_away(patch: &'static Patch, protocol: u32) -> Result<(), Why> {
    if !patch.is_active() {
        return Ok(());
    }
    let (site, changed) = (patch.site, patch.changed());
    let result = change(site.pc, &patch.jump().bytes[..changed], &site.bytes[..changed], protocol);
    if result != Err(WHY_NOT_WRITABLE) {
        patch.active.store(false, Ordering::Release);
    }
    result
}

/// Writes code by a protocol, over code that must be what we believe it to be.
fn change(at: usize, old: &[u8], new: &[u8], protocol: u32) -> Result<(), Why> {
    let mut now = [0; jump::LONGEST];
    if !text::read(at, &mut now[..old.len()]) || now[..old.len()] != *old {
        return Err(WHY_CHANGED);
    }
    let write = if protocol == STOP_MACHINE { stop_machine::write } else { breakpoint::write };
    if write(at, old, new) { Ok(()) } else { Err(WHY_NOT_WRITABLE) }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Patch,
    Unpatch,
}

/// Changes a site's code while no punned jump leans on it; those that did are patched anew, for what they lean on is new. So are
/// those for which there was no jump with the code that was.
fn change_with_neighbours(lock: &Guard, room: &Room, patch: &'static Patch, protocol: u32, what: Change) -> Result<(), Why> {
    // From the lowest: nothing leans on it. What has changed meanwhile is no patch any more.
    let mut to_do: Vec<&'static Patch> = Vec::new();
    let mut result = Ok(());
    for neighbour in leaning_on(lock, patch).into_iter().rev() {
        match take_away(neighbour, protocol) {
            Ok(()) => to_do.push(neighbour),
            Err(WHY_CHANGED) => {}
            refused => result = refused,
        }
    }
    if result.is_ok() {
        match what {
            Change::Patch => to_do.push(patch),
            Change::Unpatch => result = take_away(patch, protocol),
        }
    }
    // From the highest: it decides what the others lean on.
    to_do.reverse();
    for (&one, jump) in to_do.iter().zip(plan(lock, room, &to_do)) {
        match put_in_place(one, jump, protocol) {
            Err(why) if core::ptr::eq(one, patch) => result = Err(why),
            Err(why) => tell(one.site, SITE_TRAPPED, why),
            Ok(()) => {}
        }
    }
    result
}

/// The punned sites whose jumps lean on this one's bytes, or on those of one that does, and those that wait; the highest first.
fn leaning_on(lock: &Guard, patch: &'static Patch) -> Vec<&'static Patch> {
    let all = all(lock);
    let mut found: Vec<&'static Patch> = Vec::new();
    let mut next = Some(patch);
    while let Some(leant_on) = next {
        let (start, end) = (leant_on.site.pc, leant_on.site.pc + leant_on.site.length);
        for &other in all.iter().filter(|other| other.leans_on(start, end)) {
            if !found.iter().any(|known| core::ptr::eq(*known, other)) {
                found.push(other);
            }
        }
        found.sort_unstable_by_key(|other| core::cmp::Reverse(other.site.pc));
        // The next one down, until nothing leans on the lowest.
        next = found.iter().copied().find(|other| other.site.pc < start);
    }
    found
}

/// Jumps for these sites, the highest first, each of which may lean on those before it. The first one's decides whether there are
/// jumps for the others, so a few are tried.
fn plan(lock: &Guard, room: &Room, patches: &[&'static Patch]) -> Vec<Option<Jump>> {
    const TRIES: usize = 16;
    let mut best: Vec<Option<Jump>> = Vec::new();
    for others in 0..TRIES {
        let (mut jumps, mut planned) = (Vec::new(), Vec::new());
        for (index, patch) in patches.iter().enumerate() {
            let Site { pc: site, length, .. } = *patch.site;
            let way = Way { site, length, thunk: patch.thunk.start, planned: &planned };
            let jump = way.jump(lock, room, if index == 0 { others } else { 0 });
            if let Some(Jump { bytes, length: whole }) = jump {
                planned.push(Planned { at: site, bytes, length: whole.min(length) });
            }
            jumps.push(jump);
        }
        let found = jumps.iter().flatten().count();
        if others == 0 || found > best.iter().flatten().count() {
            best = jumps;
        }
        if best.iter().all(Option::is_some) || found == 0 {
            break;
        }
    }
    best
}

/// Jumps from instructions of two bytes, each with where to: their first two bytes, for the rest is there already. None: there is no
/// such jump. The code behind such an instruction is read, and must not be patched: it is libc's, which never is.
pub fn jumps_of_two(lock: &Guard, ways: &[(usize, usize)]) -> Vec<Option<[u8; 2]>> {
    const LENGTH: usize = 2;
    let room = Room::now();
    let jump = |&(site, thunk): &(usize, usize)| {
        let mut behind = Planned { at: site + LENGTH, bytes: [0; jump::LONGEST], length: jump::LONGEST - LENGTH };
        // SAFETY: the middle of libc's code.
        let known = unsafe { *(behind.at as *const [u8; jump::LONGEST - LENGTH]) };
        behind.bytes[..behind.length].copy_from_slice(&known);
        Way { site, length: LENGTH, thunk, planned: &[behind] }.jump(lock, &room, 0)
    };
    ways.iter().map(|way| jump(way).map(|jump| [jump.bytes[0], jump.bytes[1]])).collect()
}

/// Gives all sites their code back: recording is disabled. They may become hot again.
pub fn disable(lock: &Guard) {
    give_all_back(lock, arena::patch_protocol());
}

/// The same where no other thread runs.
pub fn leave(lock: &Guard) {
    give_all_back(lock, BREAKPOINT);
}

fn give_all_back(lock: &Guard, protocol: u32) {
    let mut all = all(lock);
    // From the lowest: nothing leans on it.
    all.sort_unstable_by_key(|patch| patch.site.pc);
    for patch in all {
        if patch.waits.swap(false, Ordering::Relaxed) {
            patch.site.hits.store(0, Ordering::Relaxed);
        }
        if patch.is_active() && take_away(patch, protocol).is_ok() {
            patch.site.hits.store(0, Ordering::Relaxed);
            tell(patch.site, SITE_BACK, WHY_DISABLED);
        }
    }
}

/// An access has trapped at a site that is patched: a thread that was on its way while it became so, or the jump has gone, with the
/// object that it was in, and that object is back.
pub fn look_again(patch: &'static Patch) {
    let lock = region::lock();
    let mut now = [0; jump::LONGEST];
    let own = &patch.site.bytes[..patch.changed()];
    if patch.is_active() && text::read(patch.site.pc, &mut now[..own.len()]) && now[..own.len()] == *own {
        patch.active.store(false, Ordering::Release);
        if let Err(why) = self::patch(&lock, patch.site, arena::patch_protocol()) {
            tell(patch.site, SITE_TRAPPED, why);
        }
    }
}

/// A thread's every 65,536th access to ordinary memory from a thunk traps, and at every 1,023rd to a region its segment is full.
/// Counted at their sites, the two tell what a site is mostly used for.
const ORDINARY: u64 = 65_536;
const DEVICE: u64 = ROWS_PER_SEGMENT as u64;
/// What a patched site costs ordinary memory, about a nanosecond, this many times, is what a trap costs.
const WORTH_A_TRAP: u64 = 2048;

/// Is this the int3 that samples accesses to ordinary memory? Then the thread goes on behind it.
pub fn sampled(pc: usize) -> bool {
    let Some(patch) = registry::find(pc).filter(|patch| patch.thunk.sample == pc) else { return false };
    let ordinary = u64::from(patch.ordinary.fetch_add(1, Ordering::Relaxed) + 1) * ORDINARY;
    let device = u64::from(patch.device.load(Ordering::Relaxed) + 1) * DEVICE;
    if ordinary / WORTH_A_TRAP > device {
        let lock = region::lock();
        if patch.is_active() && unpatch(&lock, patch, arena::patch_protocol()).is_ok() {
            tell(patch.site, SITE_BACK, WHY_ORDINARY);
        }
    }
    true
}

/// An access to a region from a thunk has trapped.
pub fn trapped(patch: &Patch) {
    patch.device.fetch_add(1, Ordering::Relaxed);
}

/// The thread's segment is full, in this site's thunk.
pub fn renewed(pc: usize) {
    if let Some(patch) = site::known(pc).and_then(Site::patch) {
        trapped(patch);
    }
}

/// Where a thread goes on that has trapped at this address by an int3 of ours. None: it is not one.
pub fn behind_breakpoint(pc: usize) -> Option<usize> {
    Some(site::known(pc)?.patch()?.thunk.start)
}

/// Is the thread on its way between a site and the code behind it?
pub fn is_under_way(pc: usize) -> bool {
    registry::find(pc).is_some() || registry::is_landing(pc) || crate::arch::log::contains(pc)
}

fn tell(site: &Site, state: u32, why: Why) {
    let Some(thread) = thread::current() else { return };
    let row = Row {
        pc: site.pc as u64,
        width: site.width as u16,
        value: u64::from(site.hits.load(Ordering::Relaxed)),
        flags: state | why << WHY_SHIFT,
        ..Row::new(SITE)
    };
    capture::write(thread, &row, &site.bytes[..site.length]);
}

/// In a forked child, under the lock of its own.
pub fn after_fork() {
    stop_machine::after_fork();
    space::after_fork(&region::lock());
}

/// For tests: patches the site at this address, which must have been seen. 1: it is patched now.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn mmiotap_agent_patch(pc: usize, protocol: i32) -> i32 {
    toggle(pc, |lock, site| patch(lock, site, protocol as u32))
}

/// For tests: gives the site at this address its own code back. 1: it is not patched now.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn mmiotap_agent_unpatch(pc: usize, protocol: i32) -> i32 {
    toggle(pc, |lock, site| site.patch().map_or(Ok(()), |patch| unpatch(lock, patch, protocol as u32)))
}

fn toggle(pc: usize, work: impl FnOnce(&Guard, &'static Site) -> Result<(), Why>) -> i32 {
    let lock = region::lock();
    let Some(site) = site::known(pc) else { return 0 };
    i32::from(work(&lock, site).is_ok())
}
