//! Pages of regions as patched sites look them up: a small table in place of the walk through [`region`](crate::region).
//!
//! A page gets its entry when an access to it has trapped. Entries are made and cleared under the region lock and read by code
//! of patched sites without one. Invariant: an entry changes only from empty to a page and back to empty; back only when the
//! page's front is no longer armed, or no longer there. So whoever has found its page in an entry may go by the rest of it.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::hook;
use crate::region::{Guard, Region};
use crate::sys::PAGE;

/// As many as 16 bits can number.
pub const ENTRIES: usize = 1 << 16;

/// 32 bytes: arch/x86_64/log.rs finds it by its number, and its fields by their offsets.
#[repr(C)]
pub struct Entry {
    /// Number of the front's page; 0: empty.
    pub page: AtomicUsize,
    /// Address in the alias, less that in the front.
    pub delta: usize,
    /// Offset in the mapping, less the address in the front.
    pub offset: u64,
    pub map_id: i32,
    /// The rights the program gave the mapping.
    pub prot: i32,
}

#[repr(C, align(64))]
pub struct Table(UnsafeCell<[Entry; ENTRIES]>);

// SAFETY: see the invariant; the page number is written last and cleared first.
unsafe impl Sync for Table {}

pub static TABLE: Table = Table(UnsafeCell::new(
    [const { Entry { page: AtomicUsize::new(0), delta: 0, offset: 0, map_id: 0, prot: 0 } }; ENTRIES],
));

/// A first look, at which no flags change: of each entry that is used, the address's bits from [`TAG_SHIFT`] on, plus 1, negated.
/// The bits below choose the entry. So the sum with 1 and an address's own is 0 exactly if its page has the entry.
#[repr(C, align(64))]
pub struct Tags([AtomicUsize; ENTRIES]);

pub static TAGS: Tags = Tags([const { AtomicUsize::new(0) }; ENTRIES]);
pub const TAG_SHIFT: u32 = 28;

fn tag(page: usize) -> &'static AtomicUsize {
    &TAGS.0[page % ENTRIES]
}

fn entry(page: usize) -> *mut Entry {
    // SAFETY: inside the table.
    unsafe { TABLE.0.get().cast::<Entry>().add(page % ENTRIES) }
}

/// Lets patched sites find the page of this address, unless another page has its place or a hook must see what happens there.
pub fn insert(_lock: &Guard, region: &Region, address: usize) {
    let page = address / PAGE;
    let entry = entry(page);
    // SAFETY: under the lock; an empty entry's fields are read by nobody.
    unsafe {
        if (*entry).page.load(Ordering::Relaxed) != 0 || !region.holds(page * PAGE, PAGE) || hook::covers_page(address) {
            return;
        }
        (*entry).delta = region.delta;
        (*entry).offset = region.map_offset.wrapping_sub(region.start as u64);
        (*entry).map_id = region.map_id;
        (*entry).prot = region.prot;
        (*entry).page.store(page, Ordering::Release);
    }
    tag(page).store((address >> TAG_SHIFT).wrapping_add(1).wrapping_neg(), Ordering::Release);
}

/// Is the page of this address to be found?
pub fn holds(address: usize) -> bool {
    // SAFETY: an atomic in the table.
    unsafe { (*entry(address / PAGE)).page.load(Ordering::Relaxed) == address / PAGE }
}

/// Forgets the pages in a range: accesses to them trap, if the front is armed.
pub fn clear(_lock: &Guard, start: usize, end: usize) {
    let pages = start / PAGE..end.div_ceil(PAGE);
    for index in pages.clone().take(ENTRIES) {
        // SAFETY: an atomic in the table.
        let page = unsafe { &(*entry(index)).page };
        if pages.contains(&page.load(Ordering::Relaxed)) {
            tag(index).store(0, Ordering::Release);
            page.store(0, Ordering::Release);
        }
    }
}
