//! Writing events: rows in segments of the arena, one stream a thread.
//!
//! Invariant: a row is complete before `published` covers it, so a reader, or whoever opens the trace after a crash, never
//! sees half a row. Asynchronous signals are blocked while a row is written; the stream has one writer.

use core::sync::atomic::Ordering;

use crate::arena;
use crate::layout::*;
use crate::sys;
use crate::thread::Thread;

/// How long a thread that waits for a free segment sleeps at a time.
const WAIT_NS: i64 = 200_000;

/// The time of a row that is to have the time at which it is written.
const WHEN_WRITTEN: i64 = 0;

/// One event, before it is written. Bytes beyond the fixed row (wide values, text) are passed beside it.
#[derive(Clone, Copy)]
pub struct Row {
    pub time_ns: i64,
    pub value: u64,
    pub offset: u64,
    pub pc: u64,
    pub flags: u32,
    pub map_id: i32,
    pub duration_ns: u32,
    pub width: u16,
    pub kind: u8,
}

impl Row {
    /// A row of this kind with nothing else in it.
    pub fn new(kind: u8) -> Row {
        Row {
            time_ns: WHEN_WRITTEN,
            value: 0,
            offset: 0,
            pc: 0,
            flags: 0,
            map_id: 0,
            duration_ns: NO_DURATION,
            width: 0,
            kind,
        }
    }
}

fn rows_for(extra: usize) -> usize {
    1 + extra.div_ceil(ROW_SIZE)
}

/// The most bytes that can follow a row.
pub const MAX_EXTRA: usize = 255 * ROW_SIZE;

/// Makes sure that the next `rows` rows have a place, so that the time stamp can be taken after any waiting. False: there
/// is none, and the caller's events are to be counted as lost.
pub fn reserve(thread: &mut Thread, rows: usize) -> bool {
    // Without a segment nothing is left.
    if rows <= thread.log.left as usize {
        return true;
    }
    next_segment(thread)
}

#[cold]
fn next_segment(thread: &mut Thread) -> bool {
    let mut taken = arena::take_segment(thread.pid);
    while taken.is_none() && !arena::is_closed() && arena::recorder_alive() && arena::waits_when_full() {
        // Give the full one back first: if every thread kept its own while it waits, nothing could ever be freed.
        if thread.segment.is_some_and(|segment| segment.lost_after().load(Ordering::Relaxed) == 0) {
            end_stream(thread);
        }
        sys::sleep_ns(WAIT_NS);
        taken = arena::take_segment(thread.pid);
    }
    let Some(segment) = taken else { return false };
    segment.populate();
    segment.begin(thread.stream_id, thread.pid, thread.tid, thread.next_seq());
    if let Some(full) = thread.move_to(Some(segment)) {
        let lost = full.lost_after().load(Ordering::Relaxed);
        if lost != 0 {
            write(thread, &Row { value: lost, ..Row::new(LOST) }, &[]);
            full.lost_after().store(0, Ordering::Release);
        }
        full.set_full();
    }
    true
}

/// Notes that events could not be written, at their place in the stream if there is a segment to note it in.
pub fn count_lost(thread: &Thread, events: u64) {
    match thread.segment {
        Some(segment) => {
            segment.lost_after().fetch_add(events, Ordering::Release);
        }
        None => arena::count_lost_unplaced(events),
    }
}

/// Writes a row and publishes it, or counts it as lost.
pub fn write(thread: &mut Thread, row: &Row, extra: &[u8]) {
    let extra = &extra[..extra.len().min(MAX_EXTRA)];
    let rows = rows_for(extra.len());
    if arena::is_closed() {
        return;
    }
    if !reserve(thread, rows) {
        return count_lost(thread, 1);
    }
    let Some(segment) = thread.segment else { return };
    let time_ns = if row.time_ns == WHEN_WRITTEN { thread.log.clock.now() } else { row.time_ns };
    let address = thread.log.next_row;
    // SAFETY: reserve() made sure that `rows` rows from here are inside the segment, which this thread alone writes.
    unsafe {
        let at = |offset: usize| (address + offset) as *mut u8;
        at(R_TIME_NS).cast::<i64>().write(time_ns);
        at(R_VALUE).cast::<u64>().write(row.value);
        at(R_OFFSET).cast::<u64>().write(row.offset);
        at(R_PC).cast::<u64>().write(row.pc);
        at(R_FLAGS).cast::<u32>().write(row.flags);
        at(R_MAP_ID).cast::<i32>().write(row.map_id);
        at(R_DURATION_NS).cast::<u32>().write(row.duration_ns);
        at(R_WIDTH).cast::<u16>().write(row.width);
        at(R_CPU).cast::<i16>().write(libc::sched_getcpu() as i16);
        at(R_KIND).write(row.kind);
        at(R_EXTRA_ROWS).write((rows - 1) as u8);
        at(R_EXTRA_LEN).cast::<u16>().write(extra.len() as u16);
        // The segment may have been used before: what follows the last field is zero by the format.
        at(R_EXTRA_LEN + 2).cast::<u32>().write(0);
        at(R_EXTRA_LEN + 6).cast::<u64>().write(0);
        at(ROW_SIZE).copy_from_nonoverlapping(extra.as_ptr(), extra.len());
    }
    thread.log.next_row += rows * ROW_SIZE;
    thread.log.left -= rows as u32;
    segment.published().store(thread.used() as u32, Ordering::Release);
}

/// The thread is gone, or has to wait: its segment can be sealed to the end.
pub fn end_stream(thread: &mut Thread) {
    if let Some(full) = thread.move_to(None) {
        full.set_full();
    }
}
