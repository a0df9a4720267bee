//! One access to a hooked place: asking the recorder, and waiting for its answer.
//!
//! A hit has a slot of the channel from before its first question until after its last. A slot's words each have one writer: its
//! state the thread that has it, the number of the last answer the server. A thread that gives up leaves its slot to the server, which
//! may still be writing to it. Nothing here locks or allocates.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering, fence};

use super::layout::*;
use super::{BASE, Span, covers, each_touched, long, word};
use crate::arch::Frame;
use crate::arch::exec::WIDEST;
use crate::arch::site::Site;
use crate::capture::Row;
use crate::layout::{REASON_NOT_DECODED, REASON_SHIFT, STEPPED, UNKNOWN, VALUE_UNKNOWN};
use crate::region::Region;
use crate::thread::{self, Thread};
use crate::{arena, sys};

type Value = [u8; WIDEST];

/// How long an answer is waited for without sleeping: most take less.
const SPIN_NS: i64 = 10_000;
const SPINS_A_LOOK: usize = 16;
/// Between two looks at whether the server still lives.
const SLICE_NS: i64 = 50_000_000;

/// What the handlers before an access want.
pub enum Verdict {
    /// The access is made as it is.
    Device,
    /// The program reads this, and the device is not touched.
    Answered(Value),
    /// Nothing is written.
    Swallowed,
    /// This is written instead.
    Changed(Value),
}

/// An access that a probe covers, on its way.
pub struct Hit {
    slot: usize,
    index: usize,
    wants: u32,
    /// The slot is not ours any more: nobody is asked again.
    gone: bool,
}

/// Nobody takes over a channel: a server that was found dead stays dead, and is not waited for again.
static DEAD: AtomicBool = AtomicBool::new(false);

fn slot_at(index: usize) -> usize {
    SLOTS_OFFSET + index * SLOT_SIZE
}

impl Hit {
    /// None: no probe covers any of the operand, or nobody is there to answer.
    #[inline]
    pub fn begin(thread: &Thread, frame: &Frame, region: &Region, address: usize, width: usize) -> Option<Hit> {
        if covers(address, width) { begin(thread, frame, region, address, width) } else { None }
    }

    /// The handlers before an access; of a write, with what is to be written. `row` tells the rest.
    pub fn before(&mut self, kind: u8, row: &Row, value: &Value) -> Verdict {
        if !self.ask(PRE, kind, row, value) {
            return Verdict::Device;
        }
        match word(self.slot + S_VERDICT).load(Ordering::Relaxed) {
            ANSWERED => Verdict::Answered(self.value()),
            SWALLOWED => Verdict::Swallowed,
            CHANGED => Verdict::Changed(self.value()),
            _ => Verdict::Device,
        }
    }

    /// The handlers after an access that was made, with what was read or written. Of a read: what the program gets instead.
    pub fn after(&mut self, kind: u8, row: &Row, value: &Value) -> Option<Value> {
        let changed = self.ask(POST, kind, row, value) && word(self.slot + S_VERDICT).load(Ordering::Relaxed) == CHANGED;
        changed.then(|| self.value())
    }

    fn value(&self) -> Value {
        // SAFETY: inside the slot, which is ours; the server has written before it answered.
        unsafe { ((BASE.load(Ordering::Relaxed) + self.slot + S_VALUE) as *const Value).read() }
    }

    /// Asks the server. False: nobody wants to know, or there is no answer.
    fn ask(&mut self, phase: u32, kind: u8, row: &Row, value: &Value) -> bool {
        if self.wants & phase == 0 || self.gone {
            return false;
        }
        let at = |field: usize| word(self.slot + field);
        let numbers = [
            (S_PHASE, phase),
            (S_VERDICT, AS_IT_IS),
            (S_KIND, u32::from(kind)),
            (S_WIDTH, u32::from(row.width)),
            (S_FLAGS, row.flags),
            (S_MAP_ID, row.map_id as u32),
            (S_ASLEEP, 0),
        ];
        for (field, number) in numbers {
            at(field).store(number, Ordering::Relaxed);
        }
        for (field, number) in [(S_OFFSET, row.offset), (S_PC, row.pc), (S_TIME_NS, row.time_ns as u64)] {
            long(self.slot + field).store(number, Ordering::Relaxed);
        }
        // SAFETY: inside the slot, which is ours until the question is asked.
        unsafe { ((BASE.load(Ordering::Relaxed) + self.slot + S_VALUE) as *mut Value).write(*value) };
        let request = at(S_REQUEST).load(Ordering::Relaxed).wrapping_add(1);
        at(S_REQUEST).store(request, Ordering::Release);
        self.asked().store(1, Ordering::Release);
        fence(Ordering::SeqCst);
        if word(H_SERVER_ASLEEP).load(Ordering::Relaxed) != 0 {
            word(H_BELL).fetch_add(1, Ordering::Relaxed);
            sys::futex_wake_all(word(H_BELL).as_ptr());
        }
        self.wait(request)
    }

    fn asked(&self) -> &'static AtomicU8 {
        // SAFETY: as in word().
        unsafe { &*((BASE.load(Ordering::Relaxed) + ASKED_OFFSET + self.index) as *const AtomicU8) }
    }

    fn wait(&mut self, request: u32) -> bool {
        let answered = word(self.slot + S_ANSWERED);
        let is_answered = || answered.load(Ordering::Acquire) == request;
        let began = sys::monotonic_ns();
        loop {
            for _ in 0..SPINS_A_LOOK {
                if is_answered() {
                    return true;
                }
                spin_loop();
            }
            if sys::monotonic_ns() - began > SPIN_NS {
                return self.sleep(answered, request, began);
            }
        }
    }

    #[cold]
    fn sleep(&mut self, answered: &AtomicU32, request: u32, began: i64) -> bool {
        let limit = long(H_LIMIT_NS).load(Ordering::Relaxed) as i64;
        let mut beat = arena::heartbeat();
        word(self.slot + S_ASLEEP).store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        loop {
            let seen = answered.load(Ordering::Acquire);
            if seen == request {
                word(self.slot + S_ASLEEP).store(0, Ordering::Relaxed);
                return true;
            }
            let left = limit - (sys::monotonic_ns() - began);
            if left <= 0 {
                self.leave(GIVEN_UP);
                fail(H_TOO_SLOW);
                return false;
            }
            sys::futex_wait_for(answered.as_ptr(), seen, left.min(SLICE_NS));
            if answered.load(Ordering::Acquire) != request && !server_lives(&mut beat) {
                self.asked().store(0, Ordering::Relaxed);
                self.leave(FREE);
                fail(H_UNSERVED);
                return false;
            }
        }
    }

    fn leave(&mut self, state: u32) {
        self.gone = true;
        word(self.slot + S_STATE).store(state, Ordering::SeqCst);
        if word(H_WAITING).load(Ordering::SeqCst) != 0 {
            word(H_FREED).fetch_add(1, Ordering::Relaxed);
            sys::futex_wake(word(H_FREED).as_ptr(), 1);
        }
    }
}

impl Drop for Hit {
    fn drop(&mut self) {
        if !self.gone {
            self.leave(FREE);
        }
    }
}

#[inline(never)]
fn begin(thread: &Thread, frame: &Frame, region: &Region, address: usize, width: usize) -> Option<Hit> {
    if word(H_SERVER).load(Ordering::Acquire) != SERVING {
        return None;
    }
    if DEAD.load(Ordering::Relaxed) {
        fail(H_UNSERVED);
        return None;
    }
    let index = claim(thread.tid as usize)?;
    let mut hit = Hit { slot: slot_at(index), index, wants: 0, gone: false };
    let at = |field: usize| word(hit.slot + field);
    at(S_PID).store(thread.pid as u32, Ordering::Relaxed);
    at(S_TID).store(thread.tid as u32, Ordering::Relaxed);
    at(S_TENANCY).fetch_add(1, Ordering::SeqCst);
    // Only now: a probe that is found here and is removed later will be waited for, since we have a slot.
    let (wants, count) = note_probes(hit.slot, address, width);
    hit.wants = wants;
    if wants == 0 {
        return None;
    }
    let at = |field: usize| word(hit.slot + field);
    at(S_COUNT).store(count as u32, Ordering::Relaxed);
    long(hit.slot + S_ADDRESS).store(address as u64, Ordering::Relaxed);
    for number in 0..16 {
        long(hit.slot + S_REGISTERS + 8 * number).store(frame.general(number), Ordering::Relaxed);
    }
    long(hit.slot + S_REGISTERS + 8 * 16).store(frame.pc() as u64, Ordering::Relaxed);
    long(hit.slot + S_REGISTERS + 8 * 17).store(frame.flags(), Ordering::Relaxed);
    if at(S_PATH_MAP_ID).load(Ordering::Relaxed) != region.map_id as u32 {
        let path = &region.path[..region.path.len().min(SLOT_SIZE - S_PATH)];
        // SAFETY: inside the slot, which is ours.
        unsafe {
            let room = (BASE.load(Ordering::Relaxed) + hit.slot + S_PATH) as *mut u8;
            room.copy_from_nonoverlapping(path.as_ptr(), path.len());
        }
        at(S_PATH_LENGTH).store(path.len() as u32, Ordering::Relaxed);
        at(S_PATH_MAP_ID).store(region.map_id as u32, Ordering::Relaxed);
    }
    long(H_HITS).fetch_add(1, Ordering::Relaxed);
    Some(hit)
}

/// A slot for the calling thread; waits for one as long as for an answer.
fn claim(start: usize) -> Option<usize> {
    claim_now(start).or_else(|| {
        let freed = word(H_FREED);
        let end = sys::monotonic_ns() + long(H_LIMIT_NS).load(Ordering::Relaxed) as i64;
        word(H_WAITING).fetch_add(1, Ordering::SeqCst);
        let claimed = loop {
            let seen = freed.load(Ordering::SeqCst);
            let left = end - sys::monotonic_ns();
            let claimed = claim_now(start);
            if claimed.is_some() || left <= 0 {
                break claimed;
            }
            sys::futex_wait_for(freed.as_ptr(), seen, left.min(SLICE_NS));
        };
        word(H_WAITING).fetch_sub(1, Ordering::Relaxed);
        if claimed.is_none() {
            fail(H_NO_SLOT);
        }
        claimed
    })
}

fn claim_now(start: usize) -> Option<usize> {
    let free = |index: &usize| {
        let state = word(slot_at(*index) + S_STATE);
        state.load(Ordering::Relaxed) == FREE
            && state.compare_exchange(FREE, CLAIMED, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    };
    (0..MAX_SLOTS).map(|number| (start + number) % MAX_SLOTS).find(free)
}

/// Writes which probes an access touches into its slot. What their handlers want, and how many they are.
fn note_probes(slot: usize, address: usize, width: usize) -> (u32, usize) {
    let found = core::cell::Cell::new((0, 0));
    let note = |span: Span| {
        let entry = PROBES_OFFSET + span.probe * PROBE_SIZE;
        let (wants, count) = found.get();
        let is_there = word(entry + B_STATE).load(Ordering::SeqCst) == ACTIVE
            && word(entry + B_INCARNATION).load(Ordering::Relaxed) == span.incarnation;
        if is_there && count < MAX_HIT {
            // SAFETY: inside the slot, which is ours.
            unsafe {
                ((BASE.load(Ordering::Relaxed) + slot + S_PROBES) as *mut u16).add(count).write(span.probe as u16);
            }
            found.set((wants | word(entry + B_WANTS).load(Ordering::Relaxed), count + 1));
        }
    };
    each_touched(address, width, || found.set((0, 0)), note);
    found.get()
}

/// Does the server live? It need not show it while a handler runs, but its process does, ten times a second; if that stands still too,
/// the file system is asked.
fn server_lives(beat: &mut u32) -> bool {
    if word(H_SERVER).load(Ordering::Acquire) != SERVING {
        return false;
    }
    let now = arena::heartbeat();
    if core::mem::replace(beat, now) != now {
        return true;
    }
    let (pid, start) = (word(H_SERVER_PID).load(Ordering::Relaxed), long(H_SERVER_START).load(Ordering::Relaxed));
    let lives = arena::process_start(pid) == Some(start);
    DEAD.store(!lives, Ordering::Relaxed);
    lives
}

/// An access that could not be answered: the device answers it, or the program ends, as the recorder has said.
#[cold]
fn fail(counter: usize) {
    long(counter).fetch_add(1, Ordering::Relaxed);
    let is_over = word(H_SERVER).load(Ordering::Acquire) == OVER;
    if word(H_ON_FAILURE).load(Ordering::Relaxed) == STOP && !is_over {
        sys::kill(sys::getpid(), libc::SIGKILL);
    }
}

/// A program that executes another one gives back the slots of its threads, which are gone.
pub fn forget_former_self() {
    let pid = sys::getpid() as u32;
    for slot in (0..MAX_SLOTS).map(slot_at) {
        if word(slot + S_STATE).load(Ordering::Relaxed) == CLAIMED && word(slot + S_PID).load(Ordering::Relaxed) == pid {
            word(slot + S_STATE).store(GIVEN_UP, Ordering::Release);
        }
    }
}

/// An instruction that cannot be run out of line, and that the thread is about to step: it can only be observed.
pub struct Stepped {
    hit: Hit,
    row: Row,
}

pub fn before_step(thread: &mut Thread, frame: &Frame, site: Option<&Site>, region: &Region, touched: usize) {
    let operand = site.and_then(|site| site.operand_address(frame)).filter(|&address| region.holds(address, 1));
    let (address, width) = (operand.unwrap_or(touched), site.map_or(0, |site| site.width));
    let Some(mut hit) = Hit::begin(thread, frame, region, address, width.clamp(1, WIDEST)) else { return };
    let row = Row {
        time_ns: thread.log.clock.now(),
        pc: frame.pc() as u64,
        map_id: region.map_id,
        offset: region.offset_of(address),
        width: width as u16,
        flags: STEPPED | VALUE_UNKNOWN | REASON_NOT_DECODED << REASON_SHIFT,
        ..Row::new(UNKNOWN)
    };
    hit.before(UNKNOWN, &row, &[0; WIDEST]);
    thread.stepped = Some(Stepped { hit, row });
}

/// The step is over.
pub fn after_step() {
    if let Some(mut stepped) = thread::existing().and_then(|thread| thread.stepped.take()) {
        stepped.hit.after(UNKNOWN, &stepped.row, &[0; WIDEST]);
    }
}

/// The step has not come to its end: the access faults in the program.
pub fn forget_step() {
    if let Some(thread) = thread::existing() {
        thread.stepped = None;
    }
}
