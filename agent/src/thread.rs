//! What the agent knows of each thread.
//!
//! The pointer to it lives in an initial-exec TLS word: one load from %fs, never a lazy allocation (a general-dynamic TLS
//! access may call malloc, which a trap may have interrupted).

use core::arch::{asm, global_asm};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use libc::{c_int, siginfo_t};

use crate::arch::{self, Frame, Registers};
use crate::arena::{self, Segment};
use crate::clock::Clock;
use crate::held::Held;
use crate::hook::Stepped;
use crate::layout::{ROW_SIZE, ROWS_PER_SEGMENT};
use crate::signals::{OURS, SIGNALS, bit};
use crate::{capture, process, signals, sys};

global_asm!(
    ".pushsection .tbss, \"awT\", @nobits",
    // The compiler may put those who use them into other object files.
    ".globl mmiotap_thread, mmiotap_masked, mmiotap_ordinary",
    ".hidden mmiotap_thread, mmiotap_masked, mmiotap_ordinary",
    ".balign 16",
    "mmiotap_thread: .zero 8",
    "mmiotap_masked: .zero 32",
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

/// Signals of ours that were sent, and not raised by a fault, while the thread believed that it had them blocked. One of a number is
/// kept, as the kernel does.
pub struct Pending {
    set: u64,
    infos: [siginfo_t; SIGNALS.len()],
}

impl Pending {
    pub fn add(&mut self, signal: c_int, info: &siginfo_t) {
        if self.set & bit(signal) == 0 {
            self.set |= bit(signal);
            self.infos[signals::index(signal)] = *info;
        }
    }

    pub fn all(&self) -> u64 {
        self.set
    }

    /// One of these, if it waits.
    pub fn take(&mut self, wanted: u64) -> Option<(c_int, siginfo_t)> {
        let signal = SIGNALS.into_iter().find(|&signal| self.set & wanted & bit(signal) != 0)?;
        self.set &= !bit(signal);
        Some((signal, self.infos[signals::index(signal)]))
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

/// What a thread believes of our signals (bits as in a kernel signal set). All zeros: that none is blocked.
///
/// Invariant: as the kernel's mask would be without us. What changes a mask changes this: the functions of masks.rs, jumps.rs and
/// contexts.rs, and a handler's beginning and end.
#[repr(C)]
pub struct Masked {
    /// Which of them it has blocked.
    pub believed: u64,
    /// What is believed behind a call that waits with a mask of its own; see begin_wait().
    outside: u64,
    /// All of that call's mask.
    during: u64,
    is_waiting: bool,
}

impl Masked {
    /// A call waits with this mask (sigsuspend and its like). It puts the one before back, or a handler's end does that comes in between.
    /// Returns what end_wait() is to know.
    pub fn begin_wait(&mut self, mask: u64) -> bool {
        (self.outside, self.during, self.is_waiting) = (self.believed, mask, true);
        self.believed = mask & OURS;
        self.send_pending()
    }

    /// The call has come back, and with it the kernel's mask, which may have had blocked what was sent again.
    pub fn end_wait(&mut self, was_sent: bool) {
        if self.is_waiting {
            self.set(self.outside);
        }
        if was_sent {
            sys::unblock_signals(OURS);
        }
    }

    /// What it believes in when no call waits.
    pub fn behind_wait(&self) -> u64 {
        if self.is_waiting { self.outside } else { self.believed }
    }

    pub fn set(&mut self, mask: u64) {
        (self.believed, self.is_waiting) = (mask & OURS, false);
    }

    /// Sends those again that need wait no longer. They come when the kernel's mask lets them through: it has them blocked now, and is
    /// about to be set by whoever has called. False: there are none.
    pub fn send_pending(&mut self) -> bool {
        let mut sent = false;
        while let Some((signal, info)) = existing().and_then(|thread| thread.pending.take(!self.believed)) {
            sys::block_signals(bit(signal));
            sent |= sys::queue_signal(sys::getpid(), sys::gettid(), signal, &info);
        }
        sent
    }

    /// A handler of the program's begins, that has these blocked beside what is blocked already. `frame` gets the mask that the
    /// handler finds there, and may change. Returns what is blocked already, but for our signals.
    pub fn enter_handler(&mut self, blocks: u64, frame: &mut Frame) -> u64 {
        let blocked = if self.is_waiting { self.during } else { frame.mask() };
        frame.set_mask(frame.mask() & !OURS | self.behind_wait());
        self.set(self.believed | blocks);
        blocked & !OURS
    }

    /// It has returned: what it has left in its frame is believed in, and not for the kernel to know.
    pub fn leave_handler(&mut self, frame: &mut Frame) {
        self.set(frame.mask());
        self.send_pending();
        frame.set_mask(frame.mask() & !OURS);
    }
}

/// The calling thread's.
pub fn masked() -> &'static mut Masked {
    let slot: *mut Masked;
    // SAFETY: as in slot(); the words belong to this thread alone.
    unsafe {
        asm!("mov {0}, qword ptr [rip + mmiotap_masked@GOTTPOFF]", "add {0}, qword ptr fs:[0]", out(reg) slot,
             options(nostack, readonly));
        &mut *slot
    }
}

/// Those of the thread with this thread pointer (%fs:0).
///
/// # Safety
/// The thread is one of libc's, and stands still.
pub unsafe fn masked_of(thread_pointer: usize) -> &'static mut Masked {
    let offset: usize;
    // SAFETY: reads the words' offset from the GOT; they are in the thread's static TLS, and the thread does not use them now.
    unsafe {
        asm!("mov {0}, qword ptr [rip + mmiotap_masked@GOTTPOFF]", out(reg) offset, options(nostack, readonly));
        &mut *(thread_pointer.wrapping_add(offset) as *mut Masked)
    }
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
            thread.pending.set = 0;
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
