//! What the agent knows of each thread.
//!
//! The pointer to it lives in an initial-exec TLS word: one load from %fs, never a lazy allocation (a general-dynamic TLS
//! access may call malloc, which a trap may have interrupted).

use core::arch::{asm, global_asm};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::arch::{self, Registers};
use crate::arena::{self, Segment};
use crate::clock::Clock;
use crate::held::Held;
use crate::hook::Stepped;
use crate::layout::{ROW_SIZE, ROWS_PER_SEGMENT};
use crate::masked::Pending;
use crate::{capture, process, sys};

global_asm!(
    ".pushsection .tbss, \"awT\", @nobits",
    // The compiler may put those who use them into other object files.
    ".globl mmiotap_thread, mmiotap_ordinary",
    ".hidden mmiotap_thread, mmiotap_ordinary",
    ".balign 8",
    "mmiotap_thread: .zero 8",
    "mmiotap_ordinary: .zero 8",
    ".popsection",
);

/// A fault in code that the agent ran for the program: what the kernel said of it.
#[derive(Clone, Copy, Default)]
pub struct Fault {
    pub signal: i32,
    pub code: i32,
    pub address: usize,
}

/// What the code of patched sites works on: arch/x86_64/log.rs names its fields by their offsets. All zeros mean that
/// there is no room, and are what a forked child finds (MADV_WIPEONFORK), whose rows must not go to its parent's segment.
pub const RENEWING: u32 = 1;
/// And a signal is held back meanwhile.
pub const RENEWING_WITH_HELD: u32 = 2;

#[repr(C)]
pub struct Log {
    /// Address of the next free row in the segment.
    pub next_row: usize,
    /// Address of the segment's count of published rows.
    pub published: usize,
    /// Free rows in the segment.
    pub left: u32,
    /// Not 0 while the thread takes a new segment in the middle of a thunk: [`RENEWING`], [`RENEWING_WITH_HELD`].
    pub renewing: u32,
    /// Time-stamp counter at the start of the access under way.
    pub began: u64,
    pub clock: Clock,
}

#[repr(C, align(64))]
pub struct Thread {
    pub log: Log,
    /// Operands run through here; aligned like the address they stand for, so twice the widest access.
    pub buffer: [u8; 128],
    pub pid: i32,
    pub tid: i32,
    pub stream_id: u32,
    pub segment: Option<Segment>,
    /// Sequence number of the first row in the segment; without a segment, of the next row.
    pub first_seq: u64,
    pub fault: Fault,
    /// What run() is running with; null while it is not running.
    pub registers: *const Registers,
    /// A signal that waits until the thread has left a thunk.
    pub held: Option<Held>,
    /// A step that a hook has seen begin.
    pub stepped: Option<Stepped>,
    pub pending: Pending,
    /// Room for a copy of the vector state (see vector.rs).
    pub vector_copy: *mut u8,
    /// Two more such rooms, for operands of any width; see copies().
    copies: *mut u8,
    /// Room for a page of what the kernel has read or written (see kernel.rs).
    pub page: *mut u8,
    next: *mut Thread,
}

impl Thread {
    /// Two places for copies of an operand, at the same distance from a cache line as the operand itself.
    pub fn copies(&mut self, address: usize) -> [usize; 2] {
        let first = self.copies as usize + address % LINE;
        [first, first + copy_size()]
    }

    /// Rows used in the segment.
    pub fn used(&self) -> usize {
        if self.segment.is_some() { ROWS_PER_SEGMENT - self.log.left as usize } else { 0 }
    }

    /// Sequence number of the next row.
    pub fn next_seq(&self) -> u64 {
        self.first_seq + self.used() as u64
    }

    /// Its rows go to a recording that begins, or to none. The segments of the one before are gone.
    pub fn start_afresh(&mut self, stream_id: u32) {
        (self.stream_id, self.segment, self.first_seq) = (stream_id, None, 0);
        (self.log.next_row, self.log.published, self.log.left) = (0, 0, 0);
    }

    /// From here on rows go to this segment. Returns the one before.
    pub fn move_to(&mut self, segment: Option<Segment>) -> Option<Segment> {
        self.first_seq = self.next_seq();
        self.log.left = if segment.is_some() { ROWS_PER_SEGMENT as u32 } else { 0 };
        if let Some(segment) = segment {
            self.log.next_row = segment.address() + ROW_SIZE;
            self.log.published = segment.published().as_ptr() as usize;
        }
        core::mem::replace(&mut self.segment, segment)
    }
}

const LINE: usize = 64;

/// Room for a copy of the widest operand there is, that of xsave, wherever in a cache line it begins.
fn copy_size() -> usize {
    arch::vector_state_size().next_multiple_of(LINE) + LINE
}

static ALL: AtomicPtr<Thread> = AtomicPtr::new(null_mut());
static SPAWNED: AtomicU32 = AtomicU32::new(0);

fn slot() -> *mut *mut Thread {
    let slot;
    // SAFETY: reads the word's offset from the GOT and the thread pointer from %fs:0.
    unsafe {
        asm!("mov {0}, qword ptr [rip + mmiotap_thread@GOTTPOFF]", "add {0}, qword ptr fs:[0]", out(reg) slot,
             options(nostack, readonly));
    }
    slot
}

/// Where a thread counts the accesses of its patched sites to ordinary memory: the offset from %fs:0.
pub fn ordinary_offset() -> i32 {
    let offset: i64;
    // SAFETY: reads the word's offset from the GOT.
    unsafe {
        asm!("mov {0}, qword ptr [rip + mmiotap_ordinary@GOTTPOFF]", out(reg) offset, options(nostack, readonly));
    }
    offset as i32
}

/// The calling thread's own record, made at its first use. None: no memory for it, the caller goes on without.
///
/// Asynchronous signals are blocked in every caller, so a record is never made twice.
pub fn current() -> Option<&'static mut Thread> {
    process::notice_fork();
    // SAFETY: the word is this thread's; it is null or points to a Thread that nobody else uses while this thread lives.
    unsafe {
        let slot = slot();
        if (*slot).is_null() {
            *slot = take_over_dead().or_else(create)?;
            let thread = &mut **slot;
            (thread.pid, thread.tid) = (sys::getpid(), sys::gettid());
            thread.stream_id = arena::next_stream_id();
            (thread.segment, thread.first_seq) = (None, 0);
            thread.log.left = 0;
            thread.pending.forget();
            process::announce(thread);
        }
        Some(&mut **slot)
    }
}

/// Do signals of ours wait for this thread?
pub fn has_pending() -> bool {
    arena::base() != 0 && existing().is_some_and(|thread| thread.pending.all() != 0)
}

/// The same if it has been made, and is not a forking parent's.
pub fn existing() -> Option<&'static mut Thread> {
    process::notice_fork();
    // SAFETY: as in current().
    unsafe { (*slot()).as_mut() }
}

fn create() -> Option<*mut Thread> {
    // Whole pages: see Log.
    const RECORD: usize = size_of::<Thread>().next_multiple_of(4096);
    let vector_copy = arch::vector_state_size().next_multiple_of(LINE);
    let copies = vector_copy + 2 * copy_size();
    let memory = sys::anonymous(RECORD + copies.next_multiple_of(sys::PAGE) + sys::PAGE)?;
    let thread = memory.cast::<Thread>();
    // SAFETY: our own fresh memory; it changes what a forked child finds in it.
    unsafe { sys::syscall3(libc::SYS_madvise, memory as usize, RECORD, libc::MADV_WIPEONFORK as usize) };
    // SAFETY: fresh zeroed memory, page-aligned; all-zero is a valid Thread but for the Options, written here.
    unsafe {
        (&raw mut (*thread).segment).write(None);
        (&raw mut (*thread).held).write(None);
        (&raw mut (*thread).stepped).write(None);
        (*thread).vector_copy = memory.add(RECORD);
        (*thread).copies = memory.add(RECORD + vector_copy);
        (*thread).page = memory.add(RECORD + copies.next_multiple_of(sys::PAGE));
    }
    let mut head = ALL.load(Ordering::Acquire);
    loop {
        // SAFETY: not shared yet.
        unsafe { (*thread).next = head };
        match ALL.compare_exchange(head, thread, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Some(thread),
            Err(now) => head = now,
        }
    }
}

/// The record of a thread that has ended, so that a program that starts threads for ever does not grow. Looks at a few only.
fn take_over_dead() -> Option<*mut Thread> {
    const LOOKS: usize = 4;
    let start = SPAWNED.fetch_add(1, Ordering::Relaxed) as usize;
    let pid = sys::getpid();
    let mut thread = ALL.load(Ordering::Acquire);
    let mut count = 0;
    while !thread.is_null() {
        count += 1;
        // SAFETY: records are never freed.
        thread = unsafe { (*thread).next };
    }
    let mut thread = ALL.load(Ordering::Acquire);
    for index in 0..count {
        // SAFETY: as above; tid is read atomically because two new threads may look at the same record.
        let (tid, next) = unsafe { (AtomicU32::from_ptr((&raw mut (*thread).tid).cast()), (*thread).next) };
        let seen = tid.load(Ordering::Acquire);
        if (index + count - start % count) % count < LOOKS
            && seen != 0
            && !sys::thread_exists(pid, seen as i32)
            && tid.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            // SAFETY: its thread is gone and the exchange made it ours.
            capture::end_stream(unsafe { &mut *thread });
            return Some(thread);
        }
        thread = next;
    }
    None
}

/// Calls for every record. No other thread runs.
pub fn each(mut visit: impl FnMut(&mut Thread)) {
    let mut thread = ALL.load(Ordering::Acquire);
    // SAFETY: records are never freed, and nobody uses them now.
    while let Some(record) = unsafe { thread.as_mut() } {
        visit(record);
        thread = record.next;
    }
}

/// In a forked child: the records are the parent's threads'; this thread starts afresh, in a stream of its own.
pub fn after_fork() {
    ALL.store(null_mut(), Ordering::Release);
    // SAFETY: this thread's own word. The parent's record is left alone: its segment is the parent's.
    unsafe { *slot() = null_mut() };
}
