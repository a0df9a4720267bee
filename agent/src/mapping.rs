//! Taking mappings over, and keeping front and alias in step with what the program does to them.
//!
//! A mapping that a rule selects becomes a region: the program's address range (the front) loses its rights, and a second
//! mapping of the same file (the alias) is where its accesses are run. All of it happens under the region lock.

use alloc::vec::Vec;

use libc::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MREMAP_FIXED, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE, c_int, off_t,
};

use crate::capture::{self, Row};
use crate::layout::{MAP, UNMAP};
use crate::maps::{self, Mapping};
use crate::region::{self, Front, Guard, Region};
use crate::sys::PAGE;
use crate::{arena, arming, futex, lookaside, patch, paths, signals, sys, thread};

/// The arguments of mmap(2).
pub struct Request {
    pub addr: usize,
    pub length: usize,
    pub prot: c_int,
    pub flags: c_int,
    pub fd: c_int,
    pub offset: off_t,
}

/// # Safety
/// As mmap(2).
pub unsafe fn map(request: &Request) -> isize {
    crate::start();
    let replaces = request.flags & MAP_FIXED != 0
        && region::any_in(request.addr, request.addr.saturating_add(round_up(request.length)));
    let is_file = request.fd >= 0 && request.flags & MAP_ANONYMOUS == 0;
    if arena::base() == 0 || !(is_file || replaces) {
        // SAFETY: the caller's promise.
        return unsafe { request.make(request.addr, request.flags) };
    }
    let mut table = region::lock();
    // SAFETY: the caller's promise.
    let address = unsafe { request.make(request.addr, request.flags) };
    if sys::is_error(address) {
        return address;
    }
    if replaces {
        drop_regions(&mut table, address as usize, address as usize + round_up(request.length));
    }
    if is_file {
        // SAFETY: the mapping was just made and nobody knows of it.
        unsafe { consider(&mut table, request, address as usize) };
    }
    address
}

fn round_up(length: usize) -> usize {
    length.next_multiple_of(PAGE)
}

impl Request {
    unsafe fn make(&self, addr: usize, flags: c_int) -> isize {
        // SAFETY: the caller's promise.
        unsafe { sys::mmap(addr, self.length, self.prot, flags, self.fd, self.offset) }
    }

    /// A second mapping of the same, anywhere.
    fn again(&self) -> Option<usize> {
        let placing = MAP_FIXED | MAP_FIXED_NOREPLACE | libc::MAP_POPULATE | libc::MAP_32BIT;
        if self.flags & libc::MAP_TYPE == libc::MAP_PRIVATE {
            return None;
        }
        let made = |place: usize| {
            // SAFETY: a new mapping disturbs nothing.
            let alias = unsafe { self.make(place, self.flags & !placing) };
            (!sys::is_error(alias)).then_some(alias as usize)
        };
        // io_uring takes no wishes as to the place.
        made(sys::own_place(self.length)).or_else(|| made(0))
    }
}

/// Takes a fresh mapping over if a rule selects its path and it holds data, not code.
unsafe fn consider(table: &mut Guard, request: &Request, address: usize) {
    let Some(path) = paths::of_descriptor(request.fd) else { return };
    if request.prot & PROT_EXEC != 0 {
        return;
    }
    if !arena::selects(&path) {
        return paths::note_unselected(&path);
    }
    let region = Region {
        start: address,
        end: address + round_up(request.length),
        prot: request.prot,
        path: paths::keep(&path),
        flags: request.flags,
        file_offset: request.offset as u64,
        ..region::NOTHING
    };
    // SAFETY: the caller's promise.
    unsafe { take_over(table, region, request.again(), false) };
}

/// Makes a region of a mapping that is as `region` says; `twin` is a second mapping of the same, if it can be had. Does no other thread
/// run?
unsafe fn take_over(table: &mut Guard, mut region: Region, twin: Option<usize>, is_alone: bool) {
    signals::install();
    arena::populate_first();
    region.map_id = arena::next_map_id();
    // SAFETY: the caller's promise.
    match unsafe { steal(twin, region.start, region.length()) } {
        Some((alias, front)) => (region.delta, region.front) = (alias.wrapping_sub(region.start), front),
        None => return count_untraced(),
    }
    // The table first: from the moment the front is armed, its faults must be known.
    if !table.insert(region) {
        // SAFETY: nobody uses the alias yet.
        unsafe { give_back(&region) };
        return count_untraced();
    }
    write_map_row(&region);
    futex::cover(table, &region, is_alone);
    arming::apply(&region);
}

/// Takes over what is mapped already, as consider() does what is being mapped. No other thread runs.
///
/// Files of which the process executes a part are left alone: the dynamic loader has mapped them, with what is data to them.
pub fn take_over_existing() {
    let mut table = region::lock();
    paths::forget_unselected();
    let lines = maps::all();
    let code: Vec<&[u8]> = lines.iter().filter(|line| line.executable).map(|line| line.path.as_slice()).collect();
    for line in &lines {
        let is_file = !matches!(line.path.first(), None | Some(b'['));
        if !is_file || arena::contains(line.start) || code.contains(&line.path.as_slice()) {
            continue;
        }
        if arena::selects(&line.path) {
            // SAFETY: nobody can touch it now.
            unsafe { take_over(&mut table, region_of(line), twin_of(line), true) };
        } else if line.shared {
            paths::note_unselected(&line.path);
        }
    }
}

fn region_of(line: &Mapping) -> Region {
    let prot = [(line.readable, PROT_READ), (line.writable, PROT_WRITE)];
    Region {
        start: line.start,
        end: line.end,
        prot: prot.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum(),
        path: paths::keep(&line.path),
        flags: if line.shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE },
        file_offset: line.file_offset as u64,
        ..region::NOTHING
    }
}

/// A second mapping of what is mapped here: the kernel makes one of anything but devices; of those, by their descriptors.
fn twin_of(line: &Mapping) -> Option<usize> {
    if !line.shared {
        return None;
    }
    let region = region_of(line);
    let length = region.length();
    // SAFETY: with an old size of 0, mremap(2) leaves the old mapping alone; the new place is one of our own.
    let again = unsafe {
        let place = sys::mmap(sys::own_place(length), length, PROT_NONE, RESERVED, -1, 0);
        sys::mremap(line.start, 0, length, libc::MREMAP_MAYMOVE | MREMAP_FIXED, place as usize)
    };
    if !sys::is_error(again) {
        return Some(again as usize);
    }
    paths::descriptors_of(&line.path).into_iter().find_map(|fd| {
        let flags = libc::MAP_SHARED;
        Request { addr: 0, length, prot: region.prot, flags, fd, offset: line.file_offset as off_t }.again()
    })
}

/// Gives every mapping back to the program, and its sites their code. No other thread runs.
pub fn leave() {
    let mut table = region::lock();
    lookaside::clear(&table, 0, usize::MAX);
    patch::leave(&table);
    while let Some(region) = table.first_in(0, usize::MAX) {
        arming::open(&region);
        // SAFETY: no thread is on its way to the alias.
        unsafe { give_back(&region) };
        table.remove(region.start, region.end);
    }
    futex::leave(&table);
}

/// Address space that nothing uses.
const RESERVED: c_int = libc::MAP_PRIVATE | MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// The real mapping at an address of our own, and how the program's place looks then. None: it cannot be had.
unsafe fn steal(twin: Option<usize>, address: usize, length: usize) -> Option<(usize, Front)> {
    if let Some(alias) = twin {
        return Some((alias, Front::Twin));
    }
    // Private, or a device that can be mapped once only: the mapping itself moves.
    // SAFETY: a new mapping disturbs nothing, and is replaced by the program's, which nobody knows of yet.
    unsafe {
        let place = sys::mmap(sys::own_place(length), length, PROT_NONE, RESERVED, -1, 0);
        if sys::is_error(place) || sys::is_error(sys::move_mapping(address, place as usize, length)) {
            return None;
        }
        sys::reserve(address, length);
        Some((place as usize, Front::Reservation))
    }
}

unsafe fn give_back(region: &Region) {
    // SAFETY: the caller's promise.
    unsafe {
        match region.front {
            Front::Twin => sys::munmap(region.alias(), region.length()),
            Front::Reservation => sys::move_mapping(region.alias(), region.start, region.length()),
        };
    }
}

/// A mapping that a rule selects and that runs untraced must not go unnoticed.
fn count_untraced() {
    arena::count_lost_unplaced(1);
}

/// Forgets the regions in a range whose front is gone: their aliases go, and rows tell of it.
fn drop_regions(table: &mut Guard, start: usize, end: usize) {
    while let Some(part) = table.first_in(start, end) {
        write_unmap_row(&part);
        if !table.remove(part.start, part.end) {
            // No room for the two sides of the hole. The mapping is gone, and a fault in it is the program's own.
            return count_untraced();
        }
        // SAFETY: no region leads to this alias any more.
        unsafe { sys::munmap(part.alias(), part.length()) };
    }
}

/// # Safety
/// As munmap(2).
pub unsafe fn unmap(addr: usize, length: usize) -> isize {
    let mut table = region::lock();
    // SAFETY: the caller's promise.
    let ret = unsafe { sys::munmap(addr, length) };
    if !sys::is_error(ret) {
        drop_regions(&mut table, addr, addr.saturating_add(round_up(length)));
    }
    ret
}

/// # Safety
/// As mprotect(2).
pub unsafe fn protect(addr: usize, length: usize, prot: c_int) -> isize {
    let mut table = region::lock();
    let end = addr.saturating_add(round_up(length));
    let mut at = addr;
    while at < end {
        let part = table.first_in(at, end);
        let outside = part.map_or(end, |part| part.start);
        if at < outside {
            // SAFETY: the caller's promise.
            let ret = unsafe { sys::mprotect(at, outside - at, prot) };
            if sys::is_error(ret) {
                return ret;
            }
        }
        let Some(part) = part else { break };
        let ret = protect_part(&mut table, &part, prot);
        if sys::is_error(ret) {
            return ret;
        }
        at = part.end;
    }
    if length == 0 {
        // SAFETY: changes nothing, but checks the address.
        return unsafe { sys::mprotect(addr, 0, prot) };
    }
    0
}

fn protect_part(table: &mut Guard, part: &Region, prot: c_int) -> isize {
    if prot & PROT_EXEC != 0 {
        // Code is fetched by the processor itself: such a mapping is the program's alone from here on.
        return release(table, part, prot);
    }
    // SAFETY: the alias has the rights that the program gave its mapping.
    let ret = unsafe { sys::mprotect(part.alias(), part.length(), prot) };
    if sys::is_error(ret) {
        return ret;
    }
    let changed = Region { prot, ..*part };
    if table.remove(part.start, part.end) && table.insert(changed) {
        arming::apply(&changed);
        return 0;
    }
    -(libc::ENOMEM as isize)
}

/// Gives part of a mapping back to the program: from here on it is not traced.
fn release(table: &mut Guard, part: &Region, prot: c_int) -> isize {
    write_unmap_row(part);
    if !table.remove(part.start, part.end) {
        return -(libc::ENOMEM as isize);
    }
    arming::open(part);
    // SAFETY: no region leads to the alias any more.
    unsafe {
        give_back(part);
        sys::mprotect(part.start, part.length(), prot)
    }
}

/// # Safety
/// As mremap(2).
pub unsafe fn remap(addr: usize, old: usize, new: usize, flags: c_int, to: usize) -> isize {
    let mut table = region::lock();
    let old_end = addr.saturating_add(round_up(old).max(1));
    let region = table.first_in(addr, old_end);
    if region.is_some_and(|part| part.start != addr || part.end != old_end) {
        // Several mappings at once: kernels before 6.17 refuse that too (mremap(2), EFAULT).
        return -(libc::EFAULT as isize);
    }
    // SAFETY: the caller's promise.
    let moved = unsafe { sys::mremap(addr, old, new, flags, to) };
    if sys::is_error(moved) {
        return moved;
    }
    let (moved, new_end) = (moved as usize, moved as usize + round_up(new));
    if flags & MREMAP_FIXED != 0 {
        drop_regions(&mut table, moved, new_end);
    }
    if let Some(part) = region {
        follow(&mut table, &part, old, round_up(new), moved, flags);
    }
    moved as isize
}

/// The front of this part has become `moved`, this long; the alias follows. It is a mapping of its own in the trace.
fn follow(table: &mut Guard, part: &Region, old: usize, length: usize, moved: usize, flags: c_int) {
    let leaves_old = old == 0 || flags & libc::MREMAP_DONTUNMAP != 0;
    // SAFETY: the alias is ours; nobody runs an access in it that the program has not raced with its own mremap.
    let alias = unsafe {
        let from = part.alias();
        let to = sys::own_place(length);
        let how = libc::MREMAP_MAYMOVE | MREMAP_FIXED;
        sys::mremap(from, if leaves_old { 0 } else { round_up(old) }, length, how, to)
    };
    if !leaves_old {
        write_unmap_row(part);
        table.remove(part.start, part.end);
    }
    let region = Region {
        start: moved,
        end: moved + length,
        delta: (alias as usize).wrapping_sub(moved),
        map_id: arena::next_map_id(),
        map_offset: 0,
        file_offset: part.file_offset + part.map_offset,
        ..*part
    };
    if sys::is_error(alias) || !table.insert(region) {
        return count_untraced();
    }
    futex::cover(table, &region, false);
    write_map_row(&region);
}

fn write_map_row(region: &Region) {
    let mut extra = Vec::with_capacity(24 + region.path.len());
    extra.extend_from_slice(&(region.length() as u64).to_le_bytes());
    extra.extend_from_slice(&region.file_offset.to_le_bytes());
    extra.extend_from_slice(&(region.prot as u32).to_le_bytes());
    extra.extend_from_slice(&(region.flags as u32).to_le_bytes());
    extra.extend_from_slice(region.path);
    let row = Row { map_id: region.map_id, value: region.start as u64, ..Row::new(MAP) };
    write(&row, &extra);
}

fn write_unmap_row(part: &Region) {
    let row = Row { map_id: part.map_id, offset: part.map_offset, value: part.length() as u64, ..Row::new(UNMAP) };
    write(&row, &[]);
}

fn write(row: &Row, extra: &[u8]) {
    match thread::current() {
        Some(thread) => capture::write(thread, row, extra),
        None => arena::count_lost_unplaced(1),
    }
}
