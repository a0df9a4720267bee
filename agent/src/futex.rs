//! libc's own futex system calls, for locks that are in a region.
//!
//! To the kernel a front is memory without rights, and libc ends a program whose futex fails. The instruction is inside of libc's
//! functions, so it is replaced: once a mapping is taken over that can hold a lock, each of them becomes a jump to its **stub**, which
//! looks whether an address is in such a mapping ([`RANGES`]). If not, a copy of the instruction does what it would have done. If so, a
//! breakpoint leads to [`entered`], which sends the thread to a copy for the alias. Nothing is held while a thread waits in a copy: it
//! may be cancelled, a handler may jump out of it, and the copy stays valid for ever.
//!
//! The stub is no breakpoint itself, for libc takes locks of its own while it has all signals blocked, when a breakpoint would kill.
//!
//! All code here is in memory of this process alone, so that the copies can be ended when a recording is left while forked children
//! use theirs. Changes are made under the region lock; trap handlers look without it.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::null_mut;
use core::slice;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use crate::arch::Frame;
use crate::arch::futex::{self, ADDRESSES, REGISTERS, SLOT};
use crate::arch::inline::{self, BREAKPOINT, SYSCALL};
use crate::inline::Object;
use crate::interpose::given::HandedOn;
use crate::interpose::shapes;
use crate::patch::{self, frames, text};
use crate::region::{self, Guard, Region};
use crate::sys::{self, PAGE};
use crate::{maps, twin};

const NUMBER: u32 = libc::SYS_futex as u32;

/// What is added to the arguments that are addresses.
type Added = [usize; ADDRESSES.len()];

/// One of libc's `syscall` instructions by which it asks for a futex, or may.
struct Site {
    at: usize,
    stub: usize,
    /// What its two bytes become. Where no jump can be had, a breakpoint.
    changed: [u8; 2],
    /// The copy with nothing added, which every recording uses again.
    plain: usize,
    plain_ended: [u8; 2],
    /// The last one that was made of the others.
    copies: AtomicPtr<Copy>,
}

/// The instruction elsewhere.
struct Copy {
    added: Added,
    start: usize,
    /// What ends it.
    ended: [u8; 2],
    next: *mut Copy,
}

/// Sorted, and their stubs in the same order; written once.
static SITES: AtomicPtr<Site> = AtomicPtr::new(null_mut());
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// Are they replaced? Changed under the lock.
static ACTIVE: AtomicBool = AtomicBool::new(false);

const MOST_RANGES: usize = 64;

/// Where mappings are that can hold a lock: start and length; the first with the start 0 is the end. What a stub finds here it asks
/// about, so there may be too much; of what is armed nothing is missing. Changed under the lock.
static RANGES: [[AtomicUsize; 2]; MOST_RANGES + 1] = [const { [AtomicUsize::new(0), AtomicUsize::new(0)] }; MOST_RANGES + 1];

/// Where stubs and copies are, and how much of it is used; under the lock. A slot for each piece.
const CODE: usize = SLOTS * SLOT;
const SLOTS: usize = 8192;
static START: AtomicUsize = AtomicUsize::new(0);
static USED: AtomicUsize = AtomicUsize::new(0);
/// By slot, how it is unwound.
static FRAMES: [AtomicPtr<c_void>; SLOTS] = [const { AtomicPtr::new(null_mut()) }; SLOTS];

fn sites() -> &'static [Site] {
    let count = COUNT.load(Ordering::Acquire);
    if count == 0 {
        return &[];
    }
    // SAFETY: the sites were leaked before they were counted.
    unsafe { slice::from_raw_parts(SITES.load(Ordering::Relaxed), count) }
}

/// A region that is about to be armed: futexes in it are seen from here on, if it can hold one. Are there no other threads that run?
pub fn cover(lock: &Guard, region: &Region, is_alone: bool) {
    if !can_hold_lock(region.path) {
        return;
    }
    add_range(region);
    if !ACTIVE.swap(true, Ordering::Relaxed) {
        begin(lock, is_alone);
    }
}

/// No driver keeps a lock in its device's registers.
fn can_hold_lock(path: &[u8]) -> bool {
    let is_in = |folder: &&[u8]| path.starts_with(folder);
    let devices: [&[u8]; 4] = [b"/dev/", b"/sys/", b"/proc/", b"anon_inode:"];
    let memory: [&[u8]; 2] = [b"/dev/shm/", b"/dev/zero"];
    !devices.iter().any(is_in) || memory.iter().any(is_in)
}

fn add_range(region: &Region) {
    let bounds = |[start, length]: &[AtomicUsize; 2]| {
        let start = start.load(Ordering::Relaxed);
        (start, start + length.load(Ordering::Relaxed))
    };
    let ranges = &RANGES[..MOST_RANGES];
    if ranges.iter().map(bounds).any(|(start, end)| start <= region.start && region.end <= end) {
        return;
    }
    for range in ranges {
        let (start, end) = bounds(range);
        if start == 0 || !region::any_in(start, end) {
            return set_range(range, region.start, region.length());
        }
    }
    // More than there is room for: from the first to the last of two.
    let (start, end) = bounds(&ranges[MOST_RANGES - 1]);
    let (start, end) = (start.min(region.start), end.max(region.end));
    set_range(&ranges[MOST_RANGES - 1], start, end - start);
}

/// In an order in which a stub never finds less than there was: in between it reaches as far as both.
fn set_range([start, length]: &[AtomicUsize; 2], new_start: usize, new_length: usize) {
    let (old_start, old_length) = (start.load(Ordering::Relaxed), length.load(Ordering::Relaxed));
    length.store((old_start + old_length).max(new_start + new_length), Ordering::Release);
    start.store(new_start, Ordering::Release);
    length.store(new_length, Ordering::Release);
}

/// A jump from a system call of libc's leads to this far from its end: the bytes behind it are nearly always those of a comparison with
/// -4096 (cmp rax, 0xfffffffffffff000), of which four are the displacement (patch/jump.rs, with a prefix).
const LANDING: isize =
    i32::from_le_bytes([0x48, 0x3d, 0x00, 0xf0]) as isize + (patch::LONGEST_JUMP - SYSCALL.len()) as isize;

/// Where the jumps will lead, kept free from the program's start on, for it might be taken when they are needed: start and length.
static KEPT: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// The program starts.
pub fn keep_room() {
    let Some(code) = Object::of_libc().and_then(|libc| libc.code()) else { return };
    let start = code.start.wrapping_add_signed(LANDING) / PAGE * PAGE;
    let length = code.len() + PAGE;
    if twin::keep(start, length) {
        KEPT[0].store(start, Ordering::Relaxed);
        KEPT[1].store(length, Ordering::Relaxed);
    }
}

/// Gives it up, for the jumps' own pages; what is left of it, if the program has taken some without asking.
fn use_room() {
    let [start, length] = [&KEPT[0], &KEPT[1]].map(|word| word.swap(0, Ordering::Relaxed));
    maps::each(|line| {
        let is_in = line.start < start + length && start < line.end;
        let is_kept = line.path.starts_with(twin::PATH) && !line.readable && !line.executable;
        if is_in && is_kept {
            // SAFETY: made by keep_room().
            unsafe { sys::munmap(line.start, line.end - line.start) };
        }
        line.end < start + length
    });
}

/// Replaces libc's instructions, which are looked for the first time.
fn begin(lock: &Guard, is_alone: bool) {
    if sites().is_empty() {
        find(lock);
    }
    let begun: Vec<(usize, [u8; 2])> = sites().iter().map(|site| (site.plain, SYSCALL)).collect();
    if !text::write_all(&begun) {
        return; // libc stays as it is
    }
    let changes = sites().iter().map(|site| (site.at, site.changed));
    if is_alone {
        text::write_all(&changes.collect::<Vec<_>>());
        return;
    }
    // As patch/breakpoint.rs, all at once: until the end the breakpoint leads to the stub as well.
    changes.clone().for_each(|(at, _)| _ = text::write(at, &[BREAKPOINT]));
    if text::sync() {
        changes.clone().for_each(|(at, [_, tail])| _ = text::write(at + 1, &[tail]));
        if text::sync() {
            changes.for_each(|(at, [head, _])| _ = text::write(at, &[head]));
            text::sync();
        }
    }
}

/// Looks for them in libc, function by function, as inline.rs does in the program. A number that comes by a way which is not followed may
/// be that of futex, where the function has that number in it at all.
fn find(lock: &Guard) {
    let (Some(libc), Some(start)) = (Object::of_libc(), twin::own(CODE)) else { return };
    START.store(start, Ordering::Release);
    let mut found: Vec<(usize, bool)> = Vec::new();
    libc.each_function(|begin, code| {
        if !code.windows(4).any(|bytes| bytes == NUMBER.to_le_bytes()) {
            return;
        }
        inline::each_system_call(code, |call| {
            if call.number.is_none_or(|number| number == u64::from(NUMBER)) {
                let is_private = call.second.is_some_and(|operation| operation & libc::FUTEX_PRIVATE_FLAG as u64 != 0);
                found.push((begin + call.offset, is_private));
            }
        });
    });
    found.sort_unstable();
    use_room();
    let ways: Vec<(usize, usize)> = found.iter().map_while(|&(at, _)| Some((at, new_slot()?))).collect();
    let (mut sites, mut code): (Vec<Site>, Vec<_>) = (Vec::new(), Vec::new());
    for ((&(at, stub), jump), (_, is_private)) in ways.iter().zip(patch::jumps_of_two(lock, &ways)).zip(found) {
        // A lock that is private wherever it is, is libc's own, which it also takes with all signals blocked: no breakpoint there.
        let Some(plain) = new_slot().filter(|_| jump.is_some() || !is_private) else { continue };
        let copy = futex::copy(at, NUMBER, [0; ADDRESSES.len()]);
        code.extend([(stub, futex::looking(&raw const RANGES as usize, plain)), (plain, copy.code)]);
        [stub, plain].into_iter().for_each(|slot| tell(lock, at, slot));
        let changed = jump.unwrap_or([BREAKPOINT, SYSCALL[1]]);
        sites.push(Site { at, stub, changed, plain, plain_ended: copy.ended, copies: AtomicPtr::new(null_mut()) });
    }
    code.sort_unstable_by_key(|&(at, _)| at);
    if !text::write_all(&code) {
        return;
    }
    let sites = Box::leak(sites.into_boxed_slice());
    SITES.store(sites.as_mut_ptr(), Ordering::Relaxed);
    COUNT.store(sites.len(), Ordering::Release);
}

fn new_slot() -> Option<usize> {
    let used = USED.load(Ordering::Relaxed);
    if used == SLOTS {
        return None;
    }
    USED.store(used + 1, Ordering::Relaxed);
    Some(START.load(Ordering::Relaxed) + used * SLOT)
}

fn tell(lock: &Guard, site: usize, slot: usize) {
    let fde = frames::tell_copy(lock, site, site + SYSCALL.len(), slot, slot + SLOT);
    FRAMES[(slot - START.load(Ordering::Relaxed)) / SLOT].store(fde.cast_mut(), Ordering::Release);
}

/// How the code at `pc` is unwound, if it is here: its FDE, and where it begins.
pub fn frames(pc: usize) -> Option<(*const c_void, usize)> {
    let start = START.load(Ordering::Acquire);
    let slot = pc.wrapping_sub(start) / SLOT;
    let fde = FRAMES.get(slot).filter(|_| start != 0)?.load(Ordering::Acquire);
    (!fde.is_null()).then_some((fde.cast_const(), start + slot * SLOT))
}

/// A copy of the site's instruction, there for ever. None: there is no room for it.
fn add_copy(lock: &Guard, site: &Site, added: Added) -> Option<usize> {
    let start = new_slot()?;
    let futex::Copy { code, ended } = futex::copy(site.at, NUMBER, added);
    if !text::write(start, &code) {
        return None;
    }
    tell(lock, site.at, start);
    let next = site.copies.load(Ordering::Relaxed);
    site.copies.store(Box::into_raw(Box::new(Copy { added, start, ended, next })), Ordering::Release);
    Some(start)
}

impl Site {
    fn copies(&self) -> impl Iterator<Item = &'static Copy> {
        // SAFETY: copies are never freed.
        let at = |copy: *const Copy| unsafe { copy.as_ref() };
        core::iter::successors(at(self.copies.load(Ordering::Acquire)), move |copy| at(copy.next))
    }

    fn copy(&self, added: Added) -> Option<usize> {
        if added == [0; ADDRESSES.len()] {
            return Some(self.plain);
        }
        self.copies().find(|copy| copy.added == added).map(|copy| copy.start)
    }

    /// Sends a thread on whose futex, if it is one, may be in a region.
    fn go_on(&'static self, frame: &mut Frame) {
        let (number, arguments) = inline::asked(frame);
        // One that was interrupted goes on by the second number. If it began before its mapping was taken over, the kernel has kept the
        // front's address. Asked anew it ends at the same time: libc's times are absolute.
        let is_futex = [NUMBER as i64, libc::SYS_restart_syscall].contains(&(number as i64));
        let handed_on = HandedOn::new(if is_futex { shapes::lock(&arguments) } else { &[] }, arguments);
        if handed_on.is_changed() {
            handed_on.begun(self.at + SYSCALL.len());
        }
        let reached = handed_on.ours;
        let added = ADDRESSES.map(|argument| reached[argument].wrapping_sub(arguments[argument]));
        let made = || {
            let lock = region::lock();
            self.copy(added).or_else(|| add_copy(&lock, self, added))
        };
        let Some(copy) = self.copy(added).or_else(made) else {
            // It fails there as it would have.
            return frame.set_pc(self.plain);
        };
        if handed_on.is_changed() {
            frame.set_general(0, u64::from(NUMBER));
        }
        for (register, argument) in REGISTERS.into_iter().zip(ADDRESSES) {
            frame.set_general(register, reached[argument] as u64);
        }
        frame.set_pc(copy);
    }
}

/// A breakpoint: is it one of ours?
pub fn entered(at: usize, frame: &mut Frame) -> bool {
    let sites = sites();
    if let Ok(index) = sites.binary_search_by_key(&at, |site| site.at) {
        frame.set_pc(sites[index].stub);
        return true;
    }
    let Ok(index) = sites.binary_search_by_key(&at, |site| site.stub + futex::NEAR) else { return false };
    sites[index].go_on(frame);
    true
}

/// Gives libc its code back. Threads that wait in a copy begin anew at libc's own instruction. No other thread runs.
pub fn leave(_lock: &Guard) {
    for [start, length] in &RANGES {
        length.store(0, Ordering::Relaxed);
        start.store(0, Ordering::Relaxed);
    }
    if !ACTIVE.swap(false, Ordering::Relaxed) {
        return;
    }
    let mut ended: Vec<(usize, [u8; 2])> = Vec::new();
    for site in sites() {
        ended.push((site.plain, site.plain_ended));
        ended.extend(site.copies().map(|copy| (copy.start, copy.ended)));
        site.copies.store(null_mut(), Ordering::Release);
    }
    ended.sort_unstable();
    text::write_all(&ended);
    text::write_all(&sites().iter().map(|site| (site.at, SYSCALL)).collect::<Vec<_>>());
}
