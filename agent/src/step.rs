//! The kmmio way: open the region, let the thread run its one instruction, close. All accesses go so if `record --smp` says
//! (docs/smp.md); else only those that cannot be run out of line.
//!
//! The invariant of a step that is [`How::Alone`]: while the region is open the other threads of the process are parked, so that
//! none of their accesses slips through, and the region lock is held, so there is one such step at a time and no mapping changes
//! under it. Nothing here allocates: a parked thread may hold the allocator's lock.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use libc::siginfo_t;

use crate::arch::Frame;
use crate::arch::frame::TRAP_FLAG;
use crate::arch::site::{Class, Site, fetch};
use crate::arch::told::{Before, Value};
use crate::capture::{self, Row};
use crate::layout::*;
use crate::region::{self, Front, Region};
use crate::smp::{self, Way};
use crate::thread::{self, Thread};
use crate::{arena, arming, park, signals, sys};

/// An instruction touches at most 32 regions: a gather of 16 elements, each across an edge.
const MAX_OPENED: usize = 32;

/// Threads that can be in a step at the same time. More wait for one of them to end.
const MAX_STEPS: usize = 64;

/// The most rows that one instruction's step writes, in nearly all cases: two, each with a value of 64 bytes.
const ROWS: usize = 4;

/// Who else can access the region while it is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    /// Nobody: all others are parked.
    Alone,
    /// Everybody.
    Shared,
    /// Nobody: the thread alone has rights to this protection key.
    Key(u32),
}

struct Step {
    how: How,
    pc: usize,
    /// What the program's thread goes on with.
    mask: u64,
    trap_flag: u64,
    logging: bool,
    time_ns: i64,
    bytes: [u8; 15],
    length: usize,
    /// Address and width of the operand; 0 where they are not known.
    operand: usize,
    width: usize,
    class: Class,
    before: Option<Before>,
    /// Regions that are open, each with the address that was touched first.
    opened: [(Region, usize); MAX_OPENED],
    count: usize,
}

struct Slot {
    /// The thread whose step it is; 0: nobody's.
    owner: AtomicI32,
    step: UnsafeCell<Step>,
}

// SAFETY: a step is touched by its owner only.
unsafe impl Sync for Slot {}

static SLOTS: [Slot; MAX_STEPS] = [const {
    Slot {
        owner: AtomicI32::new(0),
        step: UnsafeCell::new(Step {
            how: How::Alone,
            pc: 0,
            mask: 0,
            trap_flag: 0,
            logging: false,
            time_ns: 0,
            bytes: [0; 15],
            length: 0,
            operand: 0,
            width: 0,
            class: Class::Step,
            before: None,
            opened: [(region::NOTHING, 0); MAX_OPENED],
            count: 0,
        }),
    }
}; MAX_STEPS];

/// Slots in use, so that who is in no step need not look through them.
static IN_USE: AtomicU32 = AtomicU32::new(0);

/// Is any thread in a step?
pub fn is_under_way() -> bool {
    IN_USE.load(Ordering::Acquire) != 0
}

fn current() -> Option<&'static mut Step> {
    if IN_USE.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let tid = sys::gettid();
    let slot = SLOTS.iter().find(|slot| slot.owner.load(Ordering::Relaxed) == tid)?;
    // SAFETY: the step is this thread's.
    Some(unsafe { &mut *slot.step.get() })
}

/// A step for the calling thread, which is in none. It holds no lock while it waits.
fn take() -> &'static mut Step {
    let tid = sys::gettid();
    IN_USE.fetch_add(1, Ordering::Relaxed);
    loop {
        for slot in &SLOTS {
            if slot.owner.compare_exchange(0, tid, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                // SAFETY: the exchange made it ours.
                return unsafe { &mut *slot.step.get() };
            }
        }
        sys::sched_yield();
    }
}

fn give_up() {
    let tid = sys::gettid();
    if let Some(slot) = SLOTS.iter().find(|slot| slot.owner.load(Ordering::Relaxed) == tid) {
        slot.owner.store(0, Ordering::Release);
        IN_USE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Opens the region at `touched` and sends the thread to run its instruction there. False: it cannot be opened, and the fault is
/// the program's.
#[inline(never)]
pub fn begin(frame: &mut Frame, site: Option<&'static Site>, touched: usize, logging: bool) -> bool {
    let mut thread = thread::current();
    let step = take();
    step.before = match (&mut thread, site) {
        (Some(thread), Some(site)) if logging => Before::new(thread, frame, site),
        _ => None,
    };
    if let Some(thread) = thread.as_mut().filter(|_| logging) {
        // Room first: the time stamp comes after any waiting. If there is none, write() counts the events as lost.
        capture::reserve(thread, ROWS);
    }
    step.how = how(step, touched);
    if step.how == How::Alone {
        region::lock().keep();
        park::park_others(park::Patience::OnceEach);
    }
    step.pc = site.map_or(frame.pc(), |site| site.pc);
    step.mask = frame.mask();
    step.trap_flag = frame.flags() & TRAP_FLAG;
    step.logging = logging;
    step.time_ns = thread.map_or_else(sys::monotonic_ns, |thread| thread.log.clock.now());
    (step.bytes, step.length) = site.map_or_else(|| fetch(frame.pc()), |site| (site.bytes, site.length));
    step.operand = site.and_then(|site| site.operand_address(frame)).unwrap_or(0);
    step.width = site.map_or(0, |site| site.width);
    step.class = site.map_or(Class::Step, |site| site.class);
    step.count = 0;
    frame.set_mask(step.mask | !signals::OURS);
    frame.set_flags(frame.flags() | TRAP_FLAG);
    // All that it is known to touch at once: at a second fault the device would see the first access again.
    let others = step.before.map_or([None; 2], |before| before.places);
    let places = others.into_iter().flatten().map(|(_, address)| address);
    let opened = core::iter::once(touched).chain(places).all(|address| open(step, frame, address) != Opened::No);
    if !opened {
        give_back(step, frame);
        give_up();
    }
    opened
}

/// How the regions at these addresses can be opened.
fn how(step: &Step, touched: usize) -> How {
    let places = step.before.map_or([None; 2], |before| before.places);
    let addresses = places.into_iter().flatten().map(|(_, address)| address);
    // A reservation's mapping is in one place at a time.
    let moves = core::iter::once(touched)
        .chain(addresses)
        .any(|address| region::find(address).is_some_and(|region| region.front == Front::Reservation));
    // With the key every region is open, and no fault would tell of one that is not known beforehand.
    let is_known = step.before.is_some_and(|before| {
        before.places.into_iter().flatten().all(|(_, address)| {
            let last = address.wrapping_add(before.site.width.max(1) - 1);
            region::find(address).map(|region| region.start) == region::find(last).map(|region| region.start)
        })
    });
    match (smp::way(), smp::key()) {
        (Way::Step, _) if !moves => How::Shared,
        (Way::Private, Some(key)) if !moves && is_known => How::Key(key),
        _ => How::Alone,
    }
}

/// What came of an attempt to open.
#[derive(PartialEq, Eq)]
enum Opened {
    Yes,
    /// There is no region, or no more.
    Gone,
    No,
}

/// Opens what is at this address, if it is not open already.
fn open(step: &mut Step, frame: &mut Frame, address: usize) -> Opened {
    if step.opened[..step.count].iter().any(|(region, _)| region.holds(address, 1)) {
        return Opened::Yes;
    }
    // In a step that is not alone the region may change at any time; the lock sees to it that the rights are those of one moment.
    let guard = (step.how == How::Shared).then(region::lock);
    let Some(region) = region::find(address) else { return Opened::Gone };
    let done = match (step.how, region.front) {
        (How::Key(key), Front::Twin) => frame.allow(key),
        (How::Alone | How::Shared, Front::Twin) => arming::open(&region),
        // SAFETY: the region is in the table and we hold its lock; the other threads are parked.
        (How::Alone, Front::Reservation) => unsafe {
            !sys::is_error(sys::move_mapping(region.alias(), region.start, region.length()))
        },
        (How::Shared | How::Key(_), Front::Reservation) => false,
    };
    drop(guard);
    if !done || step.count == MAX_OPENED {
        return Opened::No;
    }
    step.opened[step.count] = (region, address);
    step.count += 1;
    Opened::Yes
}

/// Whose a fault in a region is.
#[derive(PartialEq, Eq)]
pub enum Hit {
    /// It begins an access.
    New,
    /// Part of the access that is being stepped, which can go on.
    Same,
    /// The region is open, and the thread faults all the same.
    Program,
}

/// A fault in a region: what does it mean, if this thread is in a step?
pub fn hit(frame: &mut Frame, region: &Region, touched: usize) -> Hit {
    let Some(step) = current() else { return Hit::New };
    let known = step.opened[..step.count].iter().position(|(opened, _)| opened.holds(touched, 1));
    let goes_on = match (known, step.how) {
        // The recursive hit of 2008: another thread's step has closed it meanwhile. Harmless: it is opened again.
        (Some(_), How::Shared) => {
            arena::count_recursive();
            let _guard = region::lock();
            arming::open(region)
        }
        (Some(_), _) => false,
        (None, How::Alone) => open(step, frame, touched) == Opened::Yes,
        (None, _) if region.front == Front::Twin => open(step, frame, touched) == Opened::Yes,
        // It needs the other threads parked. Nothing has happened yet: the access begins again.
        (None, _) => {
            give_back(step, frame);
            give_up();
            return Hit::New;
        }
    };
    if goes_on { Hit::Same } else { Hit::Program }
}

fn close(step: &Step, frame: &mut Frame) {
    for (region, touched) in &step.opened[..step.count] {
        match (step.how, region.front) {
            (How::Key(key), _) => _ = frame.deny(key),
            (How::Shared, _) => {
                // As it is now: it may have gone, or recording may have been disabled.
                let _guard = region::lock();
                region::find(*touched).iter().for_each(arming::apply);
            }
            (How::Alone, Front::Twin) => arming::apply(region),
            // SAFETY: as in open().
            (How::Alone, Front::Reservation) => unsafe {
                sys::move_mapping(region.start, region.alias(), region.length());
                sys::reserve(region.start, region.length());
            },
        }
    }
    if step.how == How::Alone {
        region::release_kept();
        park::release();
    }
}

/// A trap: if it ends a step of this thread, closes and writes the events. False: the trap is the program's.
#[inline(never)]
pub fn finish(info: &siginfo_t, frame: &mut Frame) -> bool {
    if info.si_code <= 0 {
        return false;
    }
    let Some(step) = current() else { return false };
    let program_traps = step.trap_flag != 0;
    complete(frame);
    // Whoever single-steps the program itself gets its trap too.
    !program_traps
}

/// The access of this thread's step, if it is in one, has been made: closes and writes the events.
pub fn complete(frame: &mut Frame) {
    let Some(step) = current() else { return };
    give_back(step, frame);
    if step.logging {
        match thread::current() {
            Some(thread) => write_rows(step, thread, frame),
            None => arena::count_lost_unplaced(step.count as u64),
        }
    }
    give_up();
}

/// An event for each access to an opened region.
fn write_rows(step: &Step, thread: &mut Thread, frame: &mut Frame) {
    if step.class == Class::NoData {
        return;
    }
    let opened = &step.opened[..step.count];
    let mut told = [false; MAX_OPENED];
    let accesses = step.before.map(|before| before.after(thread, frame));
    for seen in accesses.into_iter().flatten().flatten() {
        let Some(place) = opened.iter().position(|(region, _)| region.holds(seen.address, step.width)) else { continue };
        told[place] = true;
        let flags = step.before.map_or(0, |before| before.site.flags) | STEPPED;
        let row = row(step, &opened[place].0, seen.address, seen.kind, flags);
        write(thread, row, seen.value, step.width);
    }
    // What is not taken apart, or lies across an edge.
    for ((region, touched), _) in opened.iter().zip(told).filter(|(_, told)| !told) {
        // The processor reports some byte of the access, not always its first.
        let start = if region.holds(step.operand, 1) { step.operand } else { *touched };
        let flags = STEPPED | VALUE_UNKNOWN | REASON_NOT_DECODED << REASON_SHIFT;
        capture::write(thread, &row(step, region, start, UNKNOWN, flags), &step.bytes[..step.length]);
    }
}

fn row(step: &Step, region: &Region, address: usize, kind: u8, flags: u32) -> Row {
    Row {
        time_ns: step.time_ns,
        pc: step.pc as u64,
        map_id: region.map_id,
        offset: region.offset_of(address),
        width: step.width as u16,
        flags,
        ..Row::new(kind)
    }
}

fn write(thread: &mut Thread, mut row: Row, value: Option<Value>, width: usize) {
    let Some(value) = value else {
        row.flags |= VALUE_UNKNOWN | REASON_STEPPED << REASON_SHIFT;
        return capture::write(thread, &row, &[]);
    };
    row.value = u64::from_le_bytes(core::array::from_fn(|index| value[index]));
    capture::write(thread, &row, if width > 8 { &value[..width] } else { &[] });
}

/// A fault that is the program's own: if it came in a step, closes, so that the program's handler finds things as they were.
pub fn abandon(frame: &mut Frame) {
    if let Some(step) = current() {
        give_back(step, frame);
        give_up();
    }
}

fn give_back(step: &Step, frame: &mut Frame) {
    frame.set_mask(step.mask);
    frame.set_flags(frame.flags() & !TRAP_FLAG | step.trap_flag);
    close(step, frame);
}

/// In a forked child: a step was another thread's, which does not exist here.
pub fn after_fork() {
    SLOTS.iter().for_each(|slot| slot.owner.store(0, Ordering::Relaxed));
    IN_USE.store(0, Ordering::Relaxed);
}
