//! Traced mappings: the program's view (the front, armed: PROT_NONE) and the alias behind it.
//!
//! The table is read by trap handlers on every thread and changed by mapping calls. Readers take no lock: they copy an
//! entry and accept it when the sequence number shows that no change was under way (a seqlock). Changes are made under
//! [`lock`], with signals blocked, so the writer cannot be interrupted by a trap of its own thread that would wait for it.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

use crate::{hook, lookaside, signals, sys};

/// How the front was made, which decides what disarming means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Front {
    /// A second mapping of the same file: disarmed by giving it the program's rights back.
    Twin,
    /// A reservation in the place that the real mapping was moved away from (private mappings have one copy of their
    /// pages only; some devices can be mapped once only). It stays armed; disabled, its accesses are not logged.
    Reservation,
}

/// Part of a mapping, or all of it.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    pub start: usize,
    pub end: usize,
    /// Where the same byte is in the alias: address + delta (wrapping).
    pub delta: usize,
    pub map_id: i32,
    /// Where `start` is in the mapping as it was made.
    pub map_offset: u64,
    /// The rights the program gave it.
    pub prot: i32,
    pub front: Front,
    /// What was mapped, for the row of a mapping that mremap makes of it: path, flags, where in the file it begins.
    pub path: &'static [u8],
    pub flags: i32,
    pub file_offset: u64,
}

impl Region {
    pub fn length(&self) -> usize {
        self.end - self.start
    }

    pub fn alias(&self) -> usize {
        self.start.wrapping_add(self.delta)
    }

    /// Are all of these bytes in it?
    pub fn holds(&self, address: usize, width: usize) -> bool {
        address >= self.start && address < self.end && self.end - address >= width
    }

    pub fn overlaps(&self, start: usize, end: usize) -> bool {
        self.start < end && start < self.end
    }

    pub fn offset_of(&self, address: usize) -> u64 {
        self.map_offset + (address - self.start) as u64
    }

    /// Does `next` follow, as a part of the same mapping with the same rights? The kernel sees one mapping then.
    fn continues_in(&self, next: &Region) -> bool {
        self.end == next.start
            && self.delta == next.delta
            && self.map_id == next.map_id
            && self.prot == next.prot
            && self.map_offset + self.length() as u64 == next.map_offset
    }

    /// The part of it inside these bounds.
    fn cut(mut self, start: usize, end: usize) -> Region {
        let new_start = self.start.max(start);
        self.map_offset += (new_start - self.start) as u64;
        self.start = new_start;
        self.end = self.end.min(end);
        self
    }
}

pub const CAPACITY: usize = 4096;

struct Table {
    /// Odd while a change is under way.
    sequence: AtomicUsize,
    count: AtomicUsize,
    /// Sorted by address, without overlaps.
    entries: UnsafeCell<[Region; CAPACITY]>,
}

// SAFETY: changed under the lock; read by copy, validated by the sequence number.
unsafe impl Sync for Table {}

pub const NOTHING: Region = Region {
    start: 0,
    end: 0,
    delta: 0,
    map_id: 0,
    map_offset: 0,
    prot: 0,
    front: Front::Twin,
    path: &[],
    flags: 0,
    file_offset: 0,
};

static TABLE: Table =
    Table { sequence: AtomicUsize::new(0), count: AtomicUsize::new(0), entries: UnsafeCell::new([NOTHING; CAPACITY]) };

static LOCKED: AtomicBool = AtomicBool::new(false);

/// All signals but the agent's own: who waits for the lock can still be parked (see step.rs).
const ASYNCHRONOUS: u64 = !signals::OURS;

/// The right to change the table and the mappings it tells of. Asynchronous signals are blocked while it is held.
pub struct Guard {
    mask: u64,
}

/// Waits for the right to change. Never called by a trap that could have interrupted its holder: the holder blocks signals.
pub fn lock() -> Guard {
    let mask = sys::block_signals(ASYNCHRONOUS);
    while LOCKED.swap(true, Ordering::Acquire) {
        sys::sched_yield();
    }
    Guard { mask }
}

/// Does anybody hold the lock?
pub fn is_locked() -> bool {
    LOCKED.load(Ordering::Acquire)
}

impl Guard {
    /// Keeps the lock beyond the guard's life; the caller sees to the signal mask, and to [`release_kept`].
    pub fn keep(self) {
        core::mem::forget(self);
    }

    /// As keep(), and [`kept_mask`] then gives the mask to restore.
    pub fn keep_with_mask(self) {
        KEPT_MASK.store(self.mask, Ordering::Relaxed);
        self.keep();
    }
}

/// Guarded by the lock.
static KEPT_MASK: AtomicU64 = AtomicU64::new(0);

pub fn kept_mask() -> u64 {
    KEPT_MASK.load(Ordering::Relaxed)
}

pub fn release_kept() {
    LOCKED.store(false, Ordering::Release);
}

/// In a forked child: whoever held the lock in the parent does not exist here.
pub fn after_fork() {
    if TABLE.sequence.load(Ordering::Relaxed) & 1 != 0 {
        TABLE.sequence.fetch_add(1, Ordering::Release);
    }
    release_kept();
}

impl Drop for Guard {
    fn drop(&mut self) {
        release_kept();
        sys::set_signal_mask(self.mask);
    }
}

/// One entry, copied word by word so that a concurrent change cannot make the copy undefined, only wrong; the caller
/// validates.
fn copy_entry(index: usize) -> Region {
    // SAFETY: inside the array; volatile, because a writer may be at work and the sequence check decides.
    unsafe { TABLE.entries.get().cast::<Region>().add(index).read_volatile() }
}

/// What `look` says of the table, for a reader that takes no lock. It is given the number of entries, and asked again if a change
/// came between.
fn read<T>(look: impl Fn(usize) -> T) -> T {
    loop {
        let before = TABLE.sequence.load(Ordering::Acquire);
        if before & 1 == 0 {
            let found = look(TABLE.count.load(Ordering::Relaxed).min(CAPACITY));
            fence(Ordering::Acquire);
            if TABLE.sequence.load(Ordering::Relaxed) == before {
                return found;
            }
        }
        sys::sched_yield();
    }
}

/// The region that holds this address.
pub fn find(address: usize) -> Option<Region> {
    at_or_above(address).filter(|region| region.start <= address)
}

/// The region that holds this address, or else the next one above it.
pub fn at_or_above(address: usize) -> Option<Region> {
    read(|count| {
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = (low + high) / 2;
            if copy_entry(middle).end <= address { low = middle + 1 } else { high = middle }
        }
        (low < count).then(|| copy_entry(low))
    })
}

/// The region whose alias holds this address.
pub fn behind(alias: usize) -> Option<Region> {
    read(|count| (0..count).map(copy_entry).find(|region| alias.wrapping_sub(region.alias()) < region.length()))
}

/// The address in the program's view of one in an alias.
pub fn front_of(alias: usize) -> Option<usize> {
    behind(alias).map(|region| alias.wrapping_sub(region.delta))
}

/// Where the first region begins and the last one ends; 0 while there are none.
static BOUNDS: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// Can any of these bytes be traced? Two comparisons: the table says whether one is.
#[inline]
pub fn is_near(start: usize, length: usize) -> bool {
    start < BOUNDS[1].load(Ordering::Relaxed) && start.saturating_add(length) > BOUNDS[0].load(Ordering::Relaxed)
}

/// Is any of these addresses traced? Lets calls that concern no region go straight on.
pub fn any_in(start: usize, end: usize) -> bool {
    read(|count| (0..count).any(|index| copy_entry(index).overlaps(start, end)))
}

impl Guard {
    fn entries(&mut self) -> &mut [Region] {
        let count = TABLE.count.load(Ordering::Relaxed);
        // SAFETY: we hold the lock; readers only copy.
        unsafe { &mut (&mut *TABLE.entries.get())[..count] }
    }

    fn change(&mut self, work: impl FnOnce(&mut [Region; CAPACITY], &mut usize)) {
        let sequence = TABLE.sequence.load(Ordering::Relaxed);
        TABLE.sequence.store(sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        let mut count = TABLE.count.load(Ordering::Relaxed);
        // SAFETY: we hold the lock and the sequence is odd.
        let entries = unsafe { &mut *TABLE.entries.get() };
        work(entries, &mut count);
        TABLE.count.store(count, Ordering::Relaxed);
        let bounds = if count == 0 { [0; 2] } else { [entries[0].start, entries[count - 1].end] };
        BOUNDS.iter().zip(bounds).for_each(|(bound, now)| bound.store(now, Ordering::Relaxed));
        TABLE.sequence.store(sequence + 2, Ordering::Release);
    }

    /// Every region, in order of address.
    pub fn all(&mut self) -> &[Region] {
        self.entries()
    }

    /// The first region that overlaps these bounds, cut to them.
    pub fn first_in(&mut self, start: usize, end: usize) -> Option<Region> {
        self.entries().iter().find(|region| region.overlaps(start, end)).map(|region| region.cut(start, end))
    }

    /// Adds a region where none is, as part of its neighbours if it continues them. False: the table is full.
    pub fn insert(&mut self, region: Region) -> bool {
        if TABLE.count.load(Ordering::Relaxed) == CAPACITY {
            return false;
        }
        self.change(|entries, count| {
            let place = entries[..*count].partition_point(|entry| entry.start < region.start);
            entries.copy_within(place..*count, place + 1);
            entries[place] = region;
            *count += 1;
            for left in [place, place.wrapping_sub(1)] {
                if left < *count - 1 && entries[left].continues_in(&entries[left + 1]) {
                    entries[left].end = entries[left + 1].end;
                    entries.copy_within(left + 2..*count, left + 1);
                    *count -= 1;
                }
            }
        });
        hook::look(self);
        true
    }

    /// Cuts a hole into the table. What remains of a region on either side stays. False: no room for the second half.
    pub fn remove(&mut self, start: usize, end: usize) -> bool {
        let Some(index) = self.entries().iter().position(|region| region.overlaps(start, end)) else {
            hook::look(self);
            return true;
        };
        let old = self.entries()[index];
        let left = (old.start < start).then(|| old.cut(0, start));
        let right = (end < old.end).then(|| old.cut(end, usize::MAX));
        if left.is_some() && right.is_some() && TABLE.count.load(Ordering::Relaxed) == CAPACITY {
            return false;
        }
        lookaside::clear(self, start, end);
        self.change(|entries, count| match (left, right) {
            (Some(left), Some(right)) => {
                entries.copy_within(index + 1..*count, index + 2);
                (entries[index], entries[index + 1]) = (left, right);
                *count += 1;
            }
            (Some(part), None) | (None, Some(part)) => entries[index] = part,
            (None, None) => {
                entries.copy_within(index + 1..*count, index);
                *count -= 1;
            }
        });
        self.remove(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(start: usize, end: usize) -> Region {
        Region { start, end, delta: 0x1000_0000, map_id: 1, ..NOTHING }
    }

    #[test]
    fn holes_leave_the_sides_with_their_offsets() {
        let mut table = lock();
        assert!(table.insert(region(0x5000, 0x6000)));
        assert!(table.insert(region(0x1000, 0x4000)));
        assert!(table.remove(0x2000, 0x3000));
        let seen: std::vec::Vec<_> = table.all().iter().map(|r| (r.start, r.end, r.map_offset)).collect();
        assert_eq!(seen, [(0x1000, 0x2000, 0), (0x3000, 0x4000, 0x2000), (0x5000, 0x6000, 0)]);
        assert_eq!(find(0x3abc).map(|r| r.offset_of(0x3abc)), Some(0x2abc));
        assert!(find(0x2000).is_none() && find(0x4000).is_none());
        assert_eq!(at_or_above(0x2000).map(|r| r.start), Some(0x3000));
        assert!(at_or_above(0x6000).is_none());
        assert_eq!(behind(0x1000_3abc).map(|r| r.start), Some(0x3000));
        assert!(is_near(0xfff, 2) && is_near(0x5fff, 1) && !is_near(0xfff, 1) && !is_near(0x6000, usize::MAX));
        let middle = Region { map_offset: 0x1000, ..region(0x2000, 0x3000) };
        assert!(table.insert(middle));
        let seen: std::vec::Vec<_> = table.all().iter().map(|r| (r.start, r.end, r.map_offset)).collect();
        assert_eq!(seen, [(0x1000, 0x4000, 0), (0x5000, 0x6000, 0)]);
        assert!(table.remove(0, usize::MAX));
        assert!(!any_in(0, usize::MAX) && !is_near(0, usize::MAX));
    }
}
