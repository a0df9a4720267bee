//! Accesses that the kernel makes: system calls that are given pointers into a region.
//!
//! To the kernel a front is memory without rights. It is given the alias in its place ([`split`], [`reach`]), and what it did there is
//! written down when the call has come back ([`Call::end`]), for only the result says how much that was.

use core::mem::MaybeUninit;
use core::slice;

use libc::iovec;

use crate::capture::{self, Row};
use crate::layout::*;
use crate::region::{self, Region};
use crate::sys::PAGE;
use crate::thread::{self, Thread};
use crate::{arch, arena, modules, signals, sys};

/// Where addresses of programs end (asm/page_64_types.h, TASK_SIZE_MAX with four levels of page tables).
const END_OF_MEMORY: usize = (1 << 47) - PAGE;

/// Parts that a structure may be in.
const FEW: usize = 8;

/// Which way the bytes of a call go, as the region sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Read,
    Write,
}

/// Buffers as the kernel is to have them, at most `N`. What finds no room is left out: the call then moves less than it was asked to.
pub struct Parts<const N: usize> {
    parts: [iovec; N],
    count: usize,
    pub touches_region: bool,
}

impl<const N: usize> Parts<N> {
    pub fn new() -> Parts<N> {
        let nothing = iovec { iov_base: core::ptr::null_mut(), iov_len: 0 };
        Parts { parts: [nothing; N], count: 0, touches_region: false }
    }

    pub fn as_slice(&self) -> &[iovec] {
        &self.parts[..self.count]
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes those back that were added last.
    pub fn truncate(&mut self, count: usize) {
        self.count = count;
    }

    /// Adds a buffer of the program's: a part for each region in it, and for what is between them. False: there is no room.
    pub fn add(&mut self, start: usize, length: usize) -> bool {
        let (mut at, end) = (start, start.wrapping_add(length));
        // The kernel looks at the whole before it moves anything (access_ok): what it will refuse it gets as it is.
        let is_refused = end < start || end > END_OF_MEMORY;
        loop {
            let next = region::at_or_above(at).filter(|region| region.start < end && !is_refused);
            let (to, delta) = match next {
                Some(region) if region.start <= at => (region.end.min(end), region.delta),
                Some(region) => (region.start, 0),
                None => (end, 0),
            };
            self.touches_region |= next.is_some();
            let Some(part) = self.parts.get_mut(self.count) else { return false };
            *part = iovec { iov_base: at.wrapping_add(delta) as *mut _, iov_len: to.wrapping_sub(at) };
            self.count += 1;
            if to == end {
                return true;
            }
            at = to;
        }
    }
}

/// Where all of these bytes are that the program has at this address: in the alias, if they are in one region.
pub fn reach(address: usize, length: usize) -> usize {
    match region::find(address) {
        Some(region) if region.holds(address, length) => address.wrapping_add(region.delta),
        _ => address,
    }
}

/// Is any of these bytes in a region?
pub fn touches(address: usize, length: usize) -> bool {
    region::at_or_above(address).is_some_and(|region| region.start < address.saturating_add(length))
}

/// Copies a structure of whole words that the program has given us, as the kernel would: false, if it is not there.
///
/// # Safety
/// `to` is ours, and has room for all of it.
pub unsafe fn fetch<T>(from: usize, to: *mut T) -> bool {
    let length = size_of::<T>();
    let whole = reach(from, length);
    let is_split = whole == from && touches(from, length);
    (0..length).step_by(8).all(|offset| {
        let word = if is_split { reach(from + offset, 8) } else { whole.wrapping_add(offset) };
        // SAFETY: a fault is recovered from; the caller's promise for the other side.
        unsafe { arch::copy(word, to as usize + offset, 8) }
    })
}

/// The word of 4 bytes that the program has at this address, a socklen_t or the like; 0 if it is not there.
pub fn word(from: usize) -> u32 {
    if from == 0 {
        return 0;
    }
    let (from, mut word) = (reach(from, size_of::<u32>()), 0u32);
    // SAFETY: the word is ours; a fault on the other side is recovered from.
    unsafe { arch::copy(from, &raw mut word as usize, size_of::<u32>()) };
    word
}

/// The same the other way, for one word of 4 or 8 bytes. Where the program may not write, the kernel has said so by now.
pub fn store<T>(from: &T, to: usize) -> bool {
    // SAFETY: the program has asked for its word to be written.
    unsafe { arch::copy(&raw const *from as usize, reach(to, size_of::<T>()), size_of::<T>()) }
}

/// When a call began, if nothing was recorded then: its rows have the time at which they are written.
const UNKNOWN_NS: i64 = 0;

/// A call under way. Nothing of ours is held meanwhile: it may be cancelled, and a handler may jump out of it.
pub struct Call {
    /// Where the program goes on.
    caller: usize,
    began_ns: i64,
}

impl Call {
    pub fn begin(caller: usize) -> Call {
        Call { caller, began_ns: alone(|thread| thread.log.clock.now()).unwrap_or(UNKNOWN_NS) }
    }

    /// `done` bytes of these parts were read or written. errno stays as it is.
    pub fn end(&self, way: Way, parts: &[iovec], done: usize) {
        alone(|thread| {
            let ended_ns = thread.log.clock.now();
            modules::note(self.caller);
            let mut left = done;
            for part in parts {
                let (start, length) = (part.iov_base as usize, part.iov_len.min(left));
                if let Some(region) = region::behind(start) {
                    self.write_rows(thread, &region, way, start, length, ended_ns);
                }
                left -= length;
            }
        });
    }

    /// The same of bytes that the program has at this address, as far as they are in regions.
    pub fn end_all(&self, way: Way, address: usize, length: usize) {
        let mut parts = Parts::<FEW>::new();
        parts.add(address, length);
        if parts.touches_region {
            self.end(way, parts.as_slice(), length);
        }
    }

    /// The kernel was given this address, and nobody knows what it did there, nor how far.
    pub fn end_unknown(&self, alias: usize) {
        alone(|thread| {
            modules::note(self.caller);
            if let Some(region) = region::behind(alias) {
                let flags = SYSCALL | VALUE_UNKNOWN | REASON_SYSCALL << REASON_SHIFT;
                capture::write(thread, &Row { flags, ..self.row(&region, UNKNOWN, alias, self.began_ns) }, &[]);
            }
        });
    }

    /// A row for each page.
    fn write_rows(&self, thread: &mut Thread, region: &Region, way: Way, start: usize, length: usize, ended_ns: i64) {
        // The kernel reads what is there when it is called; what it writes is there when it comes back.
        let (kind, time_ns) = if way == Way::Read { (READ, self.began_ns) } else { (WRITE, ended_ns) };
        let took = u32::try_from(ended_ns - self.began_ns).unwrap_or(NO_DURATION - 1);
        let duration_ns = if arena::wants_latency() && self.began_ns != UNKNOWN_NS { took } else { NO_DURATION };
        let (mut at, end) = (start, start + length);
        while at < end {
            let to = (at - at % PAGE + PAGE).min(end);
            let row = Row { duration_ns, width: (to - at) as u16, ..self.row(region, kind, at, time_ns) };
            write(thread, row, at);
            at = to;
        }
    }

    fn row(&self, region: &Region, kind: u8, alias: usize, time_ns: i64) -> Row {
        Row {
            time_ns,
            pc: self.caller as u64,
            map_id: region.map_id,
            offset: region.offset_of(alias.wrapping_sub(region.delta)),
            flags: SYSCALL,
            ..Row::new(kind)
        }
    }
}

/// Writes a row with what is at this address now, if that is memory. A device's registers are not read for it.
fn write(thread: &mut Thread, mut row: Row, at: usize) {
    let width = usize::from(row.width);
    // SAFETY: a page of this thread's own, that nothing else here refers to.
    let data = unsafe { slice::from_raw_parts_mut(thread.page, width) };
    if !look(at, data) {
        row.flags |= VALUE_UNKNOWN | REASON_SYSCALL << REASON_SHIFT;
        return capture::write(thread, &row, &[]);
    }
    row.value = u64::from_le_bytes(core::array::from_fn(|index| data.get(index).copied().unwrap_or(0)));
    capture::write(thread, &row, if width > 8 { data } else { &[] });
}

/// Copies memory of our own by the kernel, which refuses what is no memory (VM_IO, VM_PFNMAP: mm/gup.c, check_vma_flags).
fn look(at: usize, data: &mut [u8]) -> bool {
    // SAFETY: the kernel writes to `data` only.
    unsafe { copied(libc::SYS_process_vm_readv, data.as_mut_ptr() as usize, at, data.len()) }
}

unsafe fn copied(number: libc::c_long, here: usize, there: usize, length: usize) -> bool {
    let there = iovec { iov_base: there as *mut _, iov_len: length };
    // SAFETY: the caller's promise.
    unsafe { copied_parts(number, here, &[there], length) }
}

unsafe fn copied_parts(number: libc::c_long, here: usize, there: &[iovec], length: usize) -> bool {
    let here = iovec { iov_base: here as *mut _, iov_len: length };
    let (here, parts) = (&raw const here as usize, there.as_ptr() as usize);
    // SAFETY: the caller's promise.
    let copied = unsafe { sys::syscall6(number, sys::getpid() as usize, here, 1, parts, there.len(), 0) };
    copied == length as isize
}

/// Copies what the program has at this address, of which a part is in a region. False: that is no memory, or not there.
pub fn copy_in(from: usize, to: usize, length: usize) -> bool {
    let mut parts = Parts::<FEW>::new();
    // SAFETY: the memory is the caller's own.
    parts.add(from, length) && unsafe { copied_parts(libc::SYS_process_vm_readv, to, parts.as_slice(), length) }
}

/// The same the other way.
pub fn copy_out(from: usize, to: usize, length: usize) -> bool {
    let mut parts = Parts::<FEW>::new();
    // SAFETY: the program has asked for it to be written.
    parts.add(to, length) && unsafe { copied_parts(libc::SYS_process_vm_writev, from, parts.as_slice(), length) }
}

/// How long the text is that the kernel has written to this address, its zero included.
pub fn text_length(address: usize, room: usize) -> usize {
    let mut at = 0;
    while at < room {
        let mut piece = [0; 64];
        let there = reach(address + at, 1);
        let length = (room - at).min(piece.len() - there % piece.len());
        // The piece ends where a line of the cache does: it is in one region, or in none.
        if !look(there, &mut piece[..length]) {
            return room;
        }
        if let Some(end) = piece[..length].iter().position(|&byte| byte == 0) {
            return at + end + 1;
        }
        at += length;
    }
    room
}

/// A structure of numbers that the program has given us by its address: None if it is not there, Some(None) if it gave none.
pub fn get<T>(from: usize) -> Option<Option<T>> {
    if from == 0 {
        return Some(None);
    }
    let mut found = MaybeUninit::<T>::uninit();
    // SAFETY: it is numbers, and filled in where it is looked at.
    unsafe {
        let here = found.as_mut_ptr() as usize;
        copied(libc::SYS_process_vm_readv, here, reach(from, size_of::<T>()), size_of::<T>())
            .then(|| Some(found.assume_init()))
    }
}

/// Writes one to where the program has asked for it. False: it cannot be written there.
pub fn put<T>(to: usize, value: &T) -> bool {
    let here = &raw const *value as usize;
    // SAFETY: the program has said that it is to be written there.
    unsafe { copied(libc::SYS_process_vm_writev, here, reach(to, size_of::<T>()), size_of::<T>()) }
}

/// With asynchronous signals blocked, if there is a recording that wants to know.
fn alone<T>(work: impl FnOnce(&mut Thread) -> T) -> Option<T> {
    if arena::base() == 0 {
        return None;
    }
    // Unless it was left meanwhile.
    let is_wanted = || arena::base() != 0 && arena::is_logging();
    sys::with_blocked(!signals::OURS, || is_wanted().then(thread::current).flatten().map(work))
}
