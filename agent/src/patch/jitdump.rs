//! Thunks as perf sees them.
//!
//! perf reads of code that was made at run time in a file that grows with it (Linux, tools/perf/Documentation/
//! jitdump-specification.txt), and finds the file because a page of it is mapped. `perf inject --jit` then makes ELF files
//! of what is in there. The file is written into the folder that $MMIOTAP_JITDUMP names, and only if it names one.

use alloc::format;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::ffi::CStr;

use libc::{MAP_PRIVATE, O_APPEND, O_CLOEXEC, O_CREAT, O_EXCL, O_NOFOLLOW, O_RDWR, O_WRONLY, PROT_EXEC, PROT_READ};

use crate::arch::cfi::Frames;
use crate::region::Guard;
use crate::sys;

const VARIABLE: &CStr = c"MMIOTAP_JITDUMP";

const MAGIC: u32 = 0x4a69_5444;
const VERSION: u32 = 1;
const HEADER: u32 = 40;
const CODE_LOAD: u32 = 0;
const UNWINDING_INFO: u32 = 4;

struct Dump {
    /// With its NUL; empty: there is none.
    path: Vec<u8>,
    /// Whose it is: not a forked child's.
    pid: i32,
    /// Pieces of code in it.
    count: u64,
}

struct Shared(UnsafeCell<Dump>);

// SAFETY: written at the start, then used under the region lock only.
unsafe impl Sync for Shared {}

static DUMP: Shared = Shared(UnsafeCell::new(Dump { path: Vec::new(), pid: 0, count: 0 }));

/// Begins the file, if there is to be one. At the start.
pub fn prepare() {
    // SAFETY: the name is NUL-terminated, and the environment in place before any constructor runs.
    let folder = unsafe { libc::getenv(VARIABLE.as_ptr()) };
    if folder.is_null() {
        return;
    }
    let pid = sys::getpid();
    // SAFETY: getenv returns a NUL-terminated string.
    let mut path = unsafe { CStr::from_ptr(folder) }.to_bytes().to_vec();
    path.extend_from_slice(format!("/jit-{pid}.dump\0").as_bytes());
    let mut header = Vec::with_capacity(HEADER as usize);
    [MAGIC, VERSION, HEADER, u32::from(libc::EM_X86_64), 0, pid as u32].into_iter().for_each(|word| push(&mut header, word));
    [sys::monotonic_ns() as u64, 0].into_iter().for_each(|word| push_8(&mut header, word));
    if append(&path, O_CREAT | O_EXCL, &header, true) {
        // SAFETY: nobody else uses it yet.
        unsafe { *DUMP.0.get() = Dump { path, pid, count: 0 } };
    }
}

/// Tells of a piece of code.
pub fn tell(_lock: &Guard, name: &str, start: usize, end: usize, frames: &Frames) {
    // SAFETY: under the lock.
    let dump = unsafe { &mut *DUMP.0.get() };
    let pid = sys::getpid();
    if dump.path.is_empty() || dump.pid != pid {
        return;
    }
    // SAFETY: a thunk, or a jump to one: readable, and nobody writes to it any more.
    let code = unsafe { core::slice::from_raw_parts(start as *const u8, end - start) };
    let mut records = Vec::with_capacity(2048);
    unwinding_info(&mut records, frames, code.len());
    let at = begin(&mut records, CODE_LOAD);
    push(&mut records, pid as u32);
    push(&mut records, sys::gettid() as u32);
    [start as u64, start as u64, code.len() as u64, dump.count].into_iter().for_each(|word| push_8(&mut records, word));
    records.extend_from_slice(name.as_bytes());
    records.push(0);
    records.extend_from_slice(code);
    finish(&mut records, at);
    dump.count += 1;
    append(&dump.path, 0, &records, false);
}

/// What perf places behind the code: how to unwind it, and a table for finding that (LSB, ".eh_frame_hdr").
fn unwinding_info(records: &mut Vec<u8>, frames: &Frames, code_length: usize) {
    const HEAD: usize = 12;
    /// In the files that perf makes this much comes before the code. perf 6.1 forgets that when it looks for the table, and so
    /// finds what is so much further on: the same table, as seen from there.
    const FORGOTTEN: usize = 0x80;
    const TABLE: usize = FORGOTTEN + HEAD + 8;
    let behind = code_length.next_multiple_of(8);
    let mut frames = Frames { bytes: frames.bytes.clone(), fde: frames.fde };
    frames.place(behind);
    // Zeros end it.
    frames.bytes.extend_from_slice(&[0; 8]);
    let length = frames.bytes.len();
    let mut table = Vec::with_capacity(TABLE);
    // Version 1; addresses are distances in 32 bits, those in the table from the start of all this.
    table.extend_from_slice(&[1, 0x1b, 0x03, 0x3b]);
    push(&mut table, (length as u32 + 4).wrapping_neg());
    push(&mut table, 1);
    for further in [0, FORGOTTEN] {
        table.resize(HEAD + further, 0);
        push(&mut table, ((behind + length + further) as u32).wrapping_neg());
        push(&mut table, ((length - frames.fde + further) as u32).wrapping_neg());
    }
    let at = begin(records, UNWINDING_INFO);
    let whole = length + table.len();
    [whole, table.len(), whole].into_iter().for_each(|word| push_8(records, word as u64));
    records.extend_from_slice(&frames.bytes);
    records.extend_from_slice(&table);
    finish(records, at);
}

fn begin(records: &mut Vec<u8>, kind: u32) -> usize {
    let at = records.len();
    push(records, kind);
    push(records, 0);
    push_8(records, sys::monotonic_ns() as u64);
    at
}

/// Writes the length of the record that began at `at`, a multiple of 8.
fn finish(records: &mut Vec<u8>, at: usize) {
    records.resize(at + (records.len() - at).next_multiple_of(8), 0);
    let length = (records.len() - at) as u32;
    records[at + 4..at + 8].copy_from_slice(&length.to_le_bytes());
}

fn push(to: &mut Vec<u8>, word: u32) {
    to.extend_from_slice(&word.to_le_bytes());
}

fn push_8(to: &mut Vec<u8>, word: u64) {
    to.extend_from_slice(&word.to_le_bytes());
}

/// Adds to the file, and maps a page of it for perf to see. False: that could not be done.
fn append(path: &[u8], flags: i32, bytes: &[u8], mark: bool) -> bool {
    const OWNERS: usize = 0o600;
    let access = if mark { O_RDWR } else { O_WRONLY };
    let flags = flags | access | O_APPEND | O_CLOEXEC | O_NOFOLLOW;
    let (at, path) = (libc::AT_FDCWD as usize, path.as_ptr() as usize);
    // SAFETY: the path is NUL-terminated.
    let fd = unsafe { sys::syscall6(libc::SYS_openat, at, path, flags as usize, OWNERS, 0, 0) };
    if sys::is_error(fd) {
        return false;
    }
    // SAFETY: the kernel reads our bytes; a new mapping disturbs nothing.
    let (written, mapped) = unsafe {
        let written = sys::syscall3(libc::SYS_write, fd as usize, bytes.as_ptr() as usize, bytes.len());
        (written, if mark { sys::mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd as i32, 0) } else { 0 })
    };
    sys::close(fd);
    written as usize == bytes.len() && !sys::is_error(mapped)
}
