//! The recording's shared memory, as docs/trace-format.md draws it: header, rules, segment states, segments.

use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::layout::*;
use crate::rules;
use crate::stat::Stat;
use crate::sys::{self, PAGE};

/// Where the arena is mapped; 0: there is no recording, and the agent does nothing at all.
pub static BASE: AtomicUsize = AtomicUsize::new(0);
static LENGTH: AtomicUsize = AtomicUsize::new(0);

/// The recorder shows life at least ten times a second; after this long without it we ask whether it still exists.
const STALE_NS: i64 = 1_000_000_000;

pub fn base() -> usize {
    BASE.load(Ordering::Relaxed)
}

pub fn contains(address: usize) -> bool {
    let base = base();
    base != 0 && address.wrapping_sub(base) < LENGTH.load(Ordering::Relaxed)
}

/// Room for every segment the recorder may ever add, so that growing needs no descriptor here.
const MOST: usize = SEGMENTS_OFFSET + MAX_SEGMENTS * SEGMENT_SIZE;

/// Maps the arena file. False: there is none, or it is not one we understand; the program then runs untraced.
pub fn attach(path: &[u8]) -> bool {
    begin(map_shared(path, &MAGIC, VERSION, MOST))
}

/// As attach(), with a descriptor of the file, which stays the caller's. No other thread runs.
pub fn attach_open(fd: i32) -> bool {
    after_fork();
    DEAD.store(false, Ordering::Relaxed);
    LAST_SEEN_NS.store(0, Ordering::Relaxed);
    NONE_FREE_NS.store(0, Ordering::Relaxed);
    begin(map_open(fd, &MAGIC, VERSION, MOST))
}

fn begin(mapped: Option<usize>) -> bool {
    LENGTH.store(MOST, Ordering::Relaxed);
    BASE.store(mapped.unwrap_or(0), Ordering::Release);
    mapped.is_some()
}

/// Leaves the recording: from here on the agent does nothing. No other thread runs.
pub fn leave() {
    let (base, length) = (BASE.swap(0, Ordering::AcqRel), LENGTH.load(Ordering::Relaxed));
    // SAFETY: nobody writes to it any more.
    unsafe { sys::munmap(base, length) };
}

/// Maps a file that the recorder has made for us, if it is there and begins with these. The path is NUL-terminated.
pub fn map_shared(path: &[u8], magic: &[u8; 8], version: u32, length: usize) -> Option<usize> {
    let fd = sys::open(path, libc::O_RDWR | libc::O_CLOEXEC);
    if sys::is_error(fd) {
        return None;
    }
    let mapped = map_open(fd as i32, magic, version, length);
    sys::close(fd);
    mapped
}

fn map_open(fd: i32, magic: &[u8; 8], version: u32, length: usize) -> Option<usize> {
    let mut head = [0u8; 16];
    let known = sys::read(fd as isize, &mut head) == 16
        && head[..8] == *magic
        && head[H_VERSION..H_VERSION + 4] == version.to_le_bytes();
    if !known {
        return None;
    }
    let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
    // SAFETY: a new mapping disturbs nothing.
    let mapped = unsafe { sys::mmap(sys::own_place(length), length, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
    if sys::is_error(mapped) {
        return None;
    }
    // SAFETY: our own mapping; its contents need not be in the program's core files.
    unsafe { sys::syscall3(libc::SYS_madvise, mapped as usize, length, libc::MADV_DONTDUMP as usize) };
    Some(mapped as usize)
}

/// The page at this address, of the arena or the hooks' channel, has gone from its file: other memory takes its place, which nobody reads.
pub fn detach(address: usize) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: a page of our own mapping.
    unsafe { sys::mmap(address & !(PAGE - 1), PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
}

fn word(offset: usize) -> &'static AtomicU32 {
    // SAFETY: the arena stays mapped for the life of the process, and the offsets are aligned.
    unsafe { &*((base() + offset) as *const AtomicU32) }
}

pub fn enabled_word() -> &'static AtomicU32 {
    word(H_ENABLED)
}

/// Are accesses to be logged now?
pub fn is_logging() -> bool {
    word(H_ENABLED).load(Ordering::Relaxed) != 0 && !is_closed()
}

pub fn is_closed() -> bool {
    word(H_CLOSED).load(Ordering::Relaxed) != 0
}

pub fn wants_latency() -> bool {
    word(H_LATENCY).load(Ordering::Relaxed) != 0
}

/// A site is patched after so many accesses; 0: never.
pub fn patch_after() -> u32 {
    word(H_PATCH).load(Ordering::Relaxed)
}

/// By which protocol; see patch/mod.rs.
pub fn patch_protocol() -> u32 {
    word(H_PROTOCOL).load(Ordering::Relaxed)
}

/// Which of the four ways accesses go; see smp.rs.
pub fn smp() -> u32 {
    word(H_SMP).load(Ordering::Relaxed)
}

pub fn count_recursive() {
    // SAFETY: as in word().
    unsafe { &*((base() + H_RECURSIVE) as *const AtomicU64) }.fetch_add(1, Ordering::Relaxed);
}

pub fn waits_when_full() -> bool {
    word(H_ON_FULL).load(Ordering::Relaxed) == 0
}

pub fn next_map_id() -> i32 {
    word(H_NEXT_MAP_ID).fetch_add(1, Ordering::Relaxed) as i32
}

pub fn next_stream_id() -> u32 {
    word(H_NEXT_STREAM_ID).fetch_add(1, Ordering::Relaxed)
}

pub fn count_lost_unplaced(events: u64) {
    // SAFETY: as in word().
    unsafe { &*((base() + H_LOST_UNPLACED) as *const AtomicU64) }.fetch_add(events, Ordering::Relaxed);
}

/// Does a rule select this path?
pub fn selects(path: &[u8]) -> bool {
    // SAFETY: the rules' bytes do not change while a recording runs.
    let rules = unsafe { core::slice::from_raw_parts((base() + RULES_OFFSET) as *const u8, RULES_SIZE) };
    rules.split(|&byte| byte == 0).take_while(|rule| !rule.is_empty()).any(|rule| rules::matches(rule, path))
}

fn state(segment: usize) -> &'static AtomicU32 {
    word(STATES_OFFSET + 4 * segment)
}

/// When a look at all segments found none free (0: never); and for how long nobody looks again, for it takes some microseconds,
/// which each event would pay while the recorder is behind and events are dropped. When it is gone nobody looks ever again.
static NONE_FREE_NS: AtomicI64 = AtomicI64::new(0);
const LOOK_AGAIN_NS: i64 = 100_000;

/// Takes the first free segment for a thread of this process, if there is one. The first ones are used again and again, so that a
/// recording that does not fill the arena stays in memory that is at hand.
pub fn take_segment(pid: i32) -> Option<Segment> {
    let (now, before) = (sys::monotonic_ns(), NONE_FREE_NS.load(Ordering::Relaxed));
    if before != 0 && (now - before < LOOK_AGAIN_NS || DEAD.load(Ordering::Relaxed)) {
        return None;
    }
    let count = (word(H_SEGMENT_COUNT).load(Ordering::Acquire) as usize).min(MAX_SEGMENTS);
    for index in 0..count {
        let free = state(index).load(Ordering::Relaxed) == FREE;
        // With whose it is in the same step: if the process dies before it writes the header, the recorder knows.
        let owned = OWNED | (pid as u32) << STATE_BITS;
        if free && state(index).compare_exchange(FREE, owned, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return Some(Segment { index });
        }
    }
    NONE_FREE_NS.store(now, Ordering::Relaxed);
    None
}

/// Segments whose pages this process has brought in, a bit each.
static POPULATED: [AtomicU64; MAX_SEGMENTS / 64] = [const { AtomicU64::new(0) }; MAX_SEGMENTS / 64];

/// Brings in the segments that the recorder keeps at hand: before the driver's first access rather than between two of them.
pub fn populate_first() {
    let segments = (word(H_SEGMENT_COUNT).load(Ordering::Relaxed) as usize).min(SEGMENTS_AT_HAND) / 64 * 64;
    if POPULATED[0].load(Ordering::Relaxed) == 0 {
        POPULATED[..segments / 64].iter().for_each(|bits| bits.store(!0, Ordering::Relaxed));
        populate(Segment { index: 0 }.address(), segments * SEGMENT_SIZE);
    }
}

/// At once it costs a fraction of what it costs fault by fault. If it fails (Linux before 5.14, a file that was cut short), the
/// rows' own faults are left to do it.
fn populate(address: usize, length: usize) {
    // SAFETY: our own mapping; what the pages hold stays as it is.
    unsafe { sys::syscall3(libc::SYS_madvise, address, length, libc::MADV_POPULATE_WRITE as usize) };
}

/// In a forked child: it has the mapping, but none of its pages.
pub fn after_fork() {
    POPULATED.iter().for_each(|bits| bits.store(0, Ordering::Relaxed));
}

/// A segment of the arena that one thread writes.
#[derive(Clone, Copy)]
pub struct Segment {
    pub index: usize,
}

impl Segment {
    pub fn address(self) -> usize {
        base() + SEGMENTS_OFFSET + self.index * SEGMENT_SIZE
    }

    fn field<T>(self, offset: usize) -> *mut T {
        (self.address() + offset) as *mut T
    }

    /// Brings the pages in at once, at this process' first use of them.
    pub fn populate(self) {
        let bit = 1 << (self.index % 64);
        if POPULATED[self.index / 64].fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            populate(self.address(), SEGMENT_SIZE);
        }
    }

    /// Writes the header. The rows of whoever had the segment before are gone with it.
    pub fn begin(self, stream_id: u32, pid: i32, tid: i32, base_seq: u64) {
        self.published().store(0, Ordering::Release);
        // SAFETY: the segment is ours alone until we store FULL; readers look at rows below `published` only.
        unsafe {
            self.field::<u32>(S_STREAM_ID).write(stream_id);
            self.field::<i32>(S_PID).write(pid);
            self.field::<i32>(S_TID).write(tid);
            self.field::<u64>(S_BASE_SEQ).write(base_seq);
            self.field::<u64>(S_LOST_AFTER).write(0);
        }
    }

    pub fn published(self) -> &'static AtomicU32 {
        // SAFETY: as in word().
        unsafe { &*self.field(S_PUBLISHED) }
    }

    pub fn lost_after(self) -> &'static AtomicU64 {
        // SAFETY: as in word().
        unsafe { &*self.field(S_LOST_AFTER) }
    }

    pub fn set_full(self) {
        state(self.index).store(FULL, Ordering::Release);
    }
}

/// What the recorder counts up while it lives.
pub fn heartbeat() -> u32 {
    word(H_HEARTBEAT).load(Ordering::Relaxed)
}

/// Nobody takes over a recording: who was found dead stays dead, and is not waited for again.
static DEAD: AtomicBool = AtomicBool::new(false);
static LAST_SEEN_NS: AtomicI64 = AtomicI64::new(0);

/// Does the recorder still run? Called by threads that wait for it; asks the file system only when its heart stands still.
#[inline(never)]
pub fn recorder_alive() -> bool {
    static LAST_BEAT: AtomicU32 = AtomicU32::new(0);
    if DEAD.load(Ordering::Relaxed) {
        return false;
    }
    let now = sys::monotonic_ns();
    let beat = heartbeat();
    if LAST_BEAT.swap(beat, Ordering::Relaxed) != beat || LAST_SEEN_NS.load(Ordering::Relaxed) == 0 {
        LAST_SEEN_NS.store(now, Ordering::Relaxed);
        return true;
    }
    if now - LAST_SEEN_NS.load(Ordering::Relaxed) < STALE_NS {
        return true;
    }
    LAST_SEEN_NS.store(now, Ordering::Relaxed);
    let pid = word(H_RECORDER_PID).load(Ordering::Relaxed);
    // SAFETY: as in word().
    let start = unsafe { *((base() + H_RECORDER_START) as *const u64) };
    let alive = process_start(pid) == Some(start);
    DEAD.store(!alive, Ordering::Relaxed);
    alive
}

/// When a process started, in the kernel's ticks; None when there is no such process, or a zombie.
pub fn process_start(pid: u32) -> Option<u64> {
    const STATE: usize = 3;
    const START: usize = 22;
    let stat = Stat::of_process(pid)?;
    if matches!(stat.field(STATE)?, b"Z" | b"X") { None } else { stat.number(START) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn knows_its_own_start_and_no_process_0() {
        assert!(super::process_start(std::process::id()).is_some_and(|start| start > 0));
        assert_eq!(super::process_start(0), None);
    }
}
