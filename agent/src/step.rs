//! The kmmio way, for what cannot be run out of line: open the region, let the thread run its one instruction, close.
//!
//! While the region is open the other threads of the process are parked, so that none of their accesses slips through. The
//! region lock is held from the opening to the closing, so there is one step at a time and no mapping changes under it.
//! Nothing here allocates: a parked thread may hold the allocator's lock.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicI32, Ordering};

use libc::siginfo_t;

use crate::arch::Frame;
use crate::arch::frame::TRAP_FLAG;
use crate::arch::site::{Site, fetch};
use crate::capture::{self, Row};
use crate::layout::*;
use crate::region::{self, Front, Region};
use crate::{arena, park, signals, sys, thread};

/// An instruction touches at most 32 regions: a gather of 16 elements, each across an edge.
const MAX_OPENED: usize = 32;

struct Step {
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
    /// Regions that are open, each with the address that was touched first.
    opened: [(Region, usize); MAX_OPENED],
    count: usize,
}

struct Current(UnsafeCell<Step>);

// SAFETY: touched by the thread that OWNER names only.
unsafe impl Sync for Current {}

static CURRENT: Current = Current(UnsafeCell::new(Step {
    pc: 0,
    mask: 0,
    trap_flag: 0,
    logging: false,
    time_ns: 0,
    bytes: [0; 15],
    length: 0,
    operand: 0,
    width: 0,
    opened: [(region::NOTHING, 0); MAX_OPENED],
    count: 0,
}));

/// The thread that is in a step; 0: none is.
static OWNER: AtomicI32 = AtomicI32::new(0);

fn current() -> Option<&'static mut Step> {
    let owner = OWNER.load(Ordering::Relaxed);
    // SAFETY: the step is this thread's.
    (owner != 0 && owner == sys::gettid()).then(|| unsafe { &mut *CURRENT.0.get() })
}

/// Opens the region at `touched` and sends the thread to run its instruction there.
#[inline(never)]
pub fn begin(frame: &mut Frame, site: Option<&Site>, touched: usize, logging: bool) {
    let guard = region::lock();
    // Only now nothing changes any more. If the region has gone meanwhile, the access faults again and is the program's.
    let Some(region) = region::find(touched) else { return };
    park::park_others(park::Patience::OnceEach);
    guard.keep();
    // SAFETY: we hold the lock, and OWNER is nobody.
    let step = unsafe { &mut *CURRENT.0.get() };
    step.pc = site.map_or(frame.pc(), |site| site.pc);
    step.mask = frame.mask();
    step.trap_flag = frame.flags() & TRAP_FLAG;
    step.logging = logging;
    step.time_ns = thread::current().map_or_else(sys::monotonic_ns, |thread| thread.log.clock.now());
    (step.bytes, step.length) = site.map_or_else(|| fetch(frame.pc()), |site| (site.bytes, site.length));
    step.operand = site.and_then(|site| site.operand_address(frame)).unwrap_or(0);
    step.width = site.map_or(0, |site| site.width);
    step.count = 0;
    OWNER.store(sys::gettid(), Ordering::Relaxed);
    open(step, region, touched);
    frame.set_mask(step.mask | !signals::OURS);
    frame.set_flags(frame.flags() | TRAP_FLAG);
}

/// The stepped instruction has touched one region more. False: no step of this thread is in progress.
pub fn open_another(region: &Region, touched: usize) -> bool {
    let Some(step) = current() else { return false };
    if step.count == MAX_OPENED {
        return false;
    }
    open(step, *region, touched);
    true
}

fn open(step: &mut Step, region: Region, touched: usize) {
    step.opened[step.count] = (region, touched);
    step.count += 1;
    // SAFETY: the region is in the table and we hold its lock; the other threads are parked.
    unsafe {
        match region.front {
            Front::Twin => sys::mprotect(region.start, region.length(), region.prot),
            Front::Reservation => sys::move_mapping(region.alias(), region.start, region.length()),
        };
    }
}

fn close(step: &Step) {
    for (region, _) in &step.opened[..step.count] {
        // SAFETY: as in open().
        unsafe {
            match region.front {
                Front::Twin => {
                    sys::mprotect(region.start, region.length(), libc::PROT_NONE);
                }
                Front::Reservation => {
                    sys::move_mapping(region.start, region.alias(), region.length());
                    sys::reserve(region.start, region.length());
                }
            }
        }
    }
    OWNER.store(0, Ordering::Relaxed);
    region::release_kept();
    park::release();
}

/// A trap: if it ends a step of this thread, closes and writes the events. False: the trap is the program's.
#[inline(never)]
pub fn finish(info: &siginfo_t, frame: &mut Frame) -> bool {
    if info.si_code <= 0 {
        return false;
    }
    let Some(step) = current() else { return false };
    let program_traps = step.trap_flag != 0;
    if step.logging {
        write_rows(step);
    }
    give_back(step, frame);
    // Whoever single-steps the program itself gets its trap too.
    !program_traps
}

fn write_rows(step: &Step) {
    for (region, touched) in &step.opened[..step.count] {
        // The processor reports some byte of the access, not always its first.
        let start = if region.holds(step.operand, 1) { step.operand } else { *touched };
        let row = Row {
            time_ns: step.time_ns,
            pc: step.pc as u64,
            map_id: region.map_id,
            offset: region.offset_of(start),
            width: step.width as u16,
            flags: STEPPED | VALUE_UNKNOWN | REASON_NOT_DECODED << REASON_SHIFT,
            ..Row::new(UNKNOWN)
        };
        match thread::current() {
            Some(thread) => capture::write(thread, &row, &step.bytes[..step.length]),
            None => arena::count_lost_unplaced(1),
        }
    }
}

/// A fault that is the program's own: if it came in a step, closes, so that the program's handler finds things as they were.
pub fn abandon(frame: &mut Frame) {
    if let Some(step) = current() {
        give_back(step, frame);
    }
}

fn give_back(step: &Step, frame: &mut Frame) {
    frame.set_mask(step.mask);
    frame.set_flags(frame.flags() & !TRAP_FLAG | step.trap_flag);
    close(step);
}

/// In a forked child: a step was another thread's, which does not exist here.
pub fn after_fork() {
    OWNER.store(0, Ordering::Relaxed);
}
