//! Hooks: probes whose handlers run in the recorder while the program waits, and may answer its accesses.
//!
//! They are told of by a file beside the arena, the channel (docs/hook-format.md). Which addresses of this process are hooked is
//! worked out when regions or probes change, under the region lock, into a table that traps search without one. The pages in it are never
//! in [`lookaside`](crate::lookaside): patched sites leave them to trap. Without the file, or without probes, all of it costs a trap one load.

mod hit;
pub mod layout;
mod watch;

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

pub use hit::{Hit, Stepped, Verdict, after_step, before_step, forget_step};
use layout::*;
pub use watch::is_helper;

use crate::region::{Guard, Region};
use crate::sys::PAGE;
use crate::{arena, lookaside, rules, sys};

/// Where the channel is mapped; 0: there is none.
static BASE: AtomicUsize = AtomicUsize::new(0);

/// Maps the channel, if there is one beside the arena at this path.
pub fn attach(arena_path: &[u8]) {
    const NAMES: (&[u8], &[u8]) = (b"/arena\0", b"/hooks\0");
    let mut path = [0u8; libc::PATH_MAX as usize];
    let Some(folder) = arena_path.strip_suffix(NAMES.0).filter(|folder| folder.len() + NAMES.1.len() <= path.len()) else {
        return;
    };
    path[..folder.len()].copy_from_slice(folder);
    path[folder.len()..folder.len() + NAMES.1.len()].copy_from_slice(NAMES.1);
    let Some(mapped) = arena::map_shared(&path[..folder.len() + NAMES.1.len()], &HOOK_MAGIC, HOOK_VERSION, HOOKS_SIZE)
    else {
        return;
    };
    BASE.store(mapped, Ordering::Release);
    hit::forget_former_self();
}

pub fn is_attached() -> bool {
    BASE.load(Ordering::Relaxed) != 0
}

pub fn contains(address: usize) -> bool {
    let base = BASE.load(Ordering::Relaxed);
    base != 0 && address.wrapping_sub(base) < HOOKS_SIZE
}

fn word(offset: usize) -> &'static AtomicU32 {
    // SAFETY: the channel stays mapped for the life of the process; only called with aligned offsets inside it.
    unsafe { &*((BASE.load(Ordering::Relaxed) + offset) as *const AtomicU32) }
}

fn long(offset: usize) -> &'static AtomicU64 {
    // SAFETY: as in word().
    unsafe { &*((BASE.load(Ordering::Relaxed) + offset) as *const AtomicU64) }
}

/// Addresses of this process that one probe covers.
#[derive(Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
    /// The probe's entry in the channel, and which of its lives is meant.
    probe: usize,
    incarnation: u32,
}

const NOWHERE: Span = Span { start: 0, end: 0, probe: 0, incarnation: 0 };
const CAPACITY: usize = 4096;

struct Table {
    /// Odd while a change is under way.
    sequence: AtomicUsize,
    /// 0: nothing is hooked, and nobody looks further.
    count: AtomicUsize,
    /// Sorted, without overlaps.
    spans: UnsafeCell<[Span; CAPACITY]>,
    /// The next ones, while they are worked out.
    next: UnsafeCell<[Span; CAPACITY]>,
}

// SAFETY: changed under the region lock; `spans` is read by copy, validated by the sequence number.
unsafe impl Sync for Table {}

static TABLE: Table = Table {
    sequence: AtomicUsize::new(0),
    count: AtomicUsize::new(0),
    spans: UnsafeCell::new([NOWHERE; CAPACITY]),
    next: UnsafeCell::new([NOWHERE; CAPACITY]),
};

/// Calls for each span that these addresses touch; more than once for one if the table changes meanwhile, after `again`.
fn each_touched(address: usize, width: usize, mut again: impl FnMut(), mut visit: impl FnMut(Span)) {
    let end = address.saturating_add(width);
    loop {
        let before = TABLE.sequence.load(Ordering::Acquire);
        if before & 1 == 0 {
            again();
            let count = TABLE.count.load(Ordering::Relaxed).min(CAPACITY);
            // SAFETY: inside the array; volatile, because a writer may be at work and the sequence check decides.
            let span = |index: usize| unsafe { TABLE.spans.get().cast::<Span>().add(index).read_volatile() };
            let (mut low, mut high) = (0, count);
            while low < high {
                let middle = (low + high) / 2;
                if span(middle).end <= address { low = middle + 1 } else { high = middle }
            }
            (low..count).map(span).take_while(|span| span.start < end).for_each(&mut visit);
            fence(Ordering::Acquire);
            if TABLE.sequence.load(Ordering::Relaxed) == before {
                return;
            }
        }
        sys::sched_yield();
    }
}

/// Does a probe cover any of these bytes?
#[inline]
pub fn covers(address: usize, width: usize) -> bool {
    TABLE.count.load(Ordering::Relaxed) != 0 && {
        let touched = core::cell::Cell::new(false);
        each_touched(address, width, || touched.set(false), |_| touched.set(true));
        touched.get()
    }
}

/// May accesses to the page of this address go past us?
pub fn covers_page(address: usize) -> bool {
    covers(address & !(PAGE - 1), PAGE)
}

/// Regions or probes have changed: works the table out anew.
pub fn look(table: &mut Guard) {
    if BASE.load(Ordering::Relaxed) == 0 {
        return;
    }
    watch::start();
    // SAFETY: we hold the lock.
    let next = unsafe { &mut *TABLE.next.get() };
    let mut count = 0;
    for probe in 0..MAX_PROBES {
        let entry = PROBES_OFFSET + probe * PROBE_SIZE;
        if word(entry + B_STATE).load(Ordering::Acquire) != ACTIVE {
            continue;
        }
        let incarnation = word(entry + B_INCARNATION).load(Ordering::Relaxed);
        for (start, end) in table.all().iter().filter_map(|region| part_of(region, entry)) {
            if count == CAPACITY {
                long(H_NO_ROOM).fetch_add(1, Ordering::Relaxed);
                break;
            }
            next[count] = Span { start, end, probe, incarnation };
            count += 1;
        }
    }
    let next = &mut next[..count];
    next.sort_unstable_by_key(|span| (span.start, span.probe));
    // Whoever adds probes sees to it that they do not overlap, as far as that can be seen there; here the lower one wins.
    for index in 1..count {
        next[index].start = next[index].start.max(next[index - 1].end);
        next[index].end = next[index].end.max(next[index].start);
    }
    let sequence = TABLE.sequence.load(Ordering::Relaxed);
    TABLE.sequence.store(sequence + 1, Ordering::Relaxed);
    fence(Ordering::Release);
    // SAFETY: we hold the lock and the sequence is odd.
    unsafe { (&mut *TABLE.spans.get())[..count].copy_from_slice(next) };
    TABLE.count.store(count, Ordering::Relaxed);
    TABLE.sequence.store(sequence + 2, Ordering::Release);
    for span in next.iter().filter(|span| span.start < span.end) {
        lookaside::clear(table, span.start, span.end);
    }
}

/// What the probe of this entry covers of a region.
fn part_of(region: &Region, entry: usize) -> Option<(usize, usize)> {
    let (start, length) = (long(entry + B_START).load(Ordering::Relaxed), long(entry + B_LENGTH).load(Ordering::Relaxed));
    let end = start.saturating_add(length);
    let in_mapping = || {
        let first = region.map_offset;
        let last = first + region.length() as u64;
        let (start, end) = (start.clamp(first, last), end.clamp(first, last));
        (region.start + (start - first) as usize, region.start + (end - first) as usize)
    };
    let (start, end) = match word(entry + B_BY).load(Ordering::Relaxed) {
        BY_ADDRESS => ((start as usize).max(region.start), (end as usize).min(region.end)),
        BY_MAP_ID if word(entry + B_MAP_ID).load(Ordering::Relaxed) as i32 == region.map_id => in_mapping(),
        BY_RULE if rule_selects(entry, region.path) => in_mapping(),
        _ => return None,
    };
    (start < end).then_some((start, end))
}

/// A rule without a slash also means the last component of the path (src/mmiotap/trace/names.py).
fn rule_selects(entry: usize, path: &[u8]) -> bool {
    const ANONYMOUS: &[u8] = b"anon_inode:";
    // SAFETY: inside the channel; the rule does not change while the entry is active.
    let bytes =
        unsafe { core::slice::from_raw_parts((BASE.load(Ordering::Relaxed) + entry + B_RULE) as *const u8, RULE_SIZE) };
    let rule = bytes.split(|&byte| byte == 0).next().unwrap_or(&[]);
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    let name = name.strip_prefix(ANONYMOUS).unwrap_or(name);
    rules::matches(rule, path) || !rule.contains(&b'/') && rules::matches(rule, name)
}

/// In a forked child: a change may have been under way in the parent, and the helper is there only.
pub fn after_fork() {
    if TABLE.sequence.load(Ordering::Relaxed) & 1 != 0 {
        TABLE.sequence.fetch_add(1, Ordering::Release);
    }
    watch::after_fork();
}
