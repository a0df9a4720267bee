//! The handler of the agent's signals: which of them are accesses to a region, and what becomes of those.

use libc::{SIGBUS, SIGFPE, SIGSEGV, SIGTRAP, c_int, c_void, siginfo_t, ucontext_t};

use crate::arch::exec::{self, Outcome};
use crate::arch::{self, Frame, ahead, site};
use crate::region::{self, Region};
use crate::thread::{self, Fault};
use crate::{arena, arming, park, signals, step};

/// Where si_addr is in a siginfo_t (asm-generic/siginfo.h).
const SI_ADDR: usize = 16;

pub fn address_of(info: &siginfo_t) -> usize {
    // SAFETY: inside the structure.
    unsafe { (&raw const *info).cast::<u8>().add(SI_ADDR).cast::<usize>().read() }
}

/// What is to be done with a signal.
enum Verdict {
    /// It was ours; the thread goes on.
    Taken,
    /// The program is to have it, as this signal.
    Program(c_int),
}

pub extern "C" fn handler(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes both, and they are this thread's.
    let (info, context) = unsafe { (&mut *info, &mut *context.cast::<ucontext_t>()) };
    let mut frame = Frame::new(context);
    let verdict = match signal {
        SIGSEGV => segmentation(info, &mut frame),
        SIGBUS => bus(info, &mut frame),
        SIGFPE => arithmetic(info, &mut frame),
        _ => trap(info, &mut frame),
    };
    if let Verdict::Program(signal) = verdict {
        signals::hand_on(signal, info, context);
    }
}

fn segmentation(info: &mut siginfo_t, frame: &mut Frame) -> Verdict {
    if info.si_code <= 0 {
        return Verdict::Program(SIGSEGV);
    }
    if recovered(SIGSEGV, info, frame) {
        return Verdict::Taken;
    }
    let touched = address_of(info);
    let region = match region::find(touched) {
        Some(region) if !frame.is_fetch() && allows(&region, frame.is_write()) => region,
        _ => {
            step::abandon(frame);
            return Verdict::Program(SIGSEGV);
        }
    };
    if step::open_another(&region, touched) {
        return Verdict::Taken;
    }
    let logging = arena::is_logging();
    if !logging && arming::disarm(&region) {
        return Verdict::Taken;
    }
    access(info, frame, &region, touched, logging)
}

/// Would the program have been allowed to do this, with the rights that it gave its mapping? x86 has no write-only pages.
pub fn allows(region: &Region, is_write: bool) -> bool {
    let needed = if is_write { libc::PROT_WRITE } else { libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC };
    region.prot & needed != 0
}

fn access(info: &mut siginfo_t, frame: &mut Frame, region: &Region, touched: usize, logging: bool) -> Verdict {
    // The site first: a new one writes a row of its own.
    let site = site::find(frame.pc());
    let outcome = match (site, thread::current()) {
        (Some(site), Some(thread)) => {
            let outcome = exec::execute(thread, frame, site, region, touched, logging);
            if outcome == Outcome::Done {
                ahead::go_on(thread, frame, site.pc);
            }
            outcome
        }
        _ => Outcome::Step,
    };
    match outcome {
        Outcome::Done => Verdict::Taken,
        Outcome::Step => {
            step::begin(frame, site, touched, logging);
            Verdict::Taken
        }
        Outcome::Fault => {
            let Some(thread) = thread::current() else { return Verdict::Program(SIGSEGV) };
            let fault = thread.fault;
            let address = match fault.signal {
                // The address of the instruction: the program's own, not that of our copy of it.
                SIGFPE => frame.pc(),
                _ => region::front_of(fault.address).unwrap_or(fault.address),
            };
            info.si_signo = fault.signal;
            info.si_code = fault.code;
            // SAFETY: inside the structure.
            unsafe { (&raw mut *info).cast::<u8>().add(SI_ADDR).cast::<usize>().write(address) };
            frame.set_fault_address(address);
            Verdict::Program(fault.signal)
        }
    }
}

fn bus(info: &siginfo_t, frame: &mut Frame) -> Verdict {
    if info.si_code <= 0 {
        return Verdict::Program(SIGBUS);
    }
    let address = address_of(info);
    if arena::contains(address) {
        // The arena's file was cut short. The program must not suffer: it writes to memory that nobody reads.
        arena::detach(address);
        return Verdict::Taken;
    }
    if recovered(SIGBUS, info, frame) {
        return Verdict::Taken;
    }
    step::abandon(frame);
    Verdict::Program(SIGBUS)
}

/// A division by zero and its like, with an operand in a region or elsewhere.
fn arithmetic(info: &siginfo_t, frame: &mut Frame) -> Verdict {
    if info.si_code > 0 {
        if recovered(SIGFPE, info, frame) {
            return Verdict::Taken;
        }
        step::abandon(frame);
    }
    Verdict::Program(SIGFPE)
}

fn trap(info: &siginfo_t, frame: &mut Frame) -> Verdict {
    if park::is_parking(info) {
        park::stay_parked();
        return Verdict::Taken;
    }
    // A debug trap without a step of ours belongs to somebody else.
    if step::finish(info, frame) { Verdict::Taken } else { Verdict::Program(SIGTRAP) }
}

/// If the agent was running something for the program, lets that see the fault.
fn recovered(signal: c_int, info: &siginfo_t, frame: &mut Frame) -> bool {
    if !arch::runs(frame.pc()) {
        return false;
    }
    let Some(thread) = thread::current() else { return false };
    thread.fault = Fault { signal, code: info.si_code, address: address_of(info) };
    arch::recover(frame, thread.registers)
}
