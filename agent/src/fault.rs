//! The handler of the agent's signals: which of them are accesses to a region, and what becomes of those.

use libc::{SIGBUS, SIGFPE, SIGSEGV, SIGTRAP, c_int, c_void, siginfo_t, ucontext_t};

use crate::arch::exec::{self, Outcome};
use crate::arch::site::Site;
use crate::arch::{self, Frame, ahead, site};
use crate::patch::{self, Patch, registry};
use crate::region::{self, Region};
use crate::step::Hit;
use crate::thread::{self, Fault};
use crate::{arena, arming, futex, held, hook, inline, lookaside, park, signals, smp, step};

/// Where si_addr is in a siginfo_t (asm-generic/siginfo.h).
const SI_ADDR: usize = 16;
/// si_code of an int3 (asm-generic/siginfo.h; arch/x86/kernel/traps.c, do_int3_user).
const SI_KERNEL: c_int = 0x80;

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
        if info.si_code <= 0 && held::hold(signal, info, &mut frame) {
            return;
        }
        held::release(&mut frame);
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
    let patch = registry::find(frame.pc());
    if patch.is_some_and(|patch| patch.thunk.pass(frame)) {
        return Verdict::Taken;
    }
    let patch = patch.filter(|patch| leave(patch, info, frame));
    let touched = address_of(info);
    let region = match region::find(touched) {
        Some(region) if !frame.is_fetch() && allows(&region, frame.is_write()) => region,
        _ => {
            abandon(frame);
            return Verdict::Program(SIGSEGV);
        }
    };
    match step::hit(frame, &region, touched) {
        Hit::New => {}
        Hit::Same => return Verdict::Taken,
        Hit::Program => {
            abandon(frame);
            return Verdict::Program(SIGSEGV);
        }
    }
    let logging = arena::is_logging();
    if !logging && arming::disarm(&region) {
        return Verdict::Taken;
    }
    if let Some(patch) = patch.filter(|_| logging) {
        patch::trapped(patch);
        if !lookaside::holds(touched) {
            lookaside::insert(&region::lock(), &region, touched);
        }
    }
    access(info, frame, &region, touched, logging, patch.is_some())
}

/// If the fault came in a thunk: puts the thread before the thunk's site, as if it had come there.
fn leave_thunk(info: &mut siginfo_t, frame: &mut Frame) -> Option<&'static Patch> {
    registry::find(frame.pc()).filter(|patch| leave(patch, info, frame))
}

/// The same, of the patch whose thunk it is. False: not at an instruction that can fault.
fn leave(patch: &Patch, info: &mut siginfo_t, frame: &mut Frame) -> bool {
    let Some(touches_alias) = patch.thunk.leave(frame, patch.site.pc) else { return false };
    if touches_alias {
        set_address(info, region::front_of(address_of(info)).unwrap_or(address_of(info)));
    }
    true
}

fn set_address(info: &mut siginfo_t, address: usize) {
    // SAFETY: inside the structure.
    unsafe { (&raw mut *info).cast::<u8>().add(SI_ADDR).cast::<usize>().write(address) };
}

/// Would the program have been allowed to do this, with the rights that it gave its mapping? x86 has no write-only pages.
pub fn allows(region: &Region, is_write: bool) -> bool {
    let needed = if is_write { libc::PROT_WRITE } else { libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC };
    region.prot & needed != 0
}

fn access(
    info: &mut siginfo_t,
    frame: &mut Frame,
    region: &Region,
    touched: usize,
    logging: bool,
    from_thunk: bool,
) -> Verdict {
    // The site first: a new one writes a row of its own.
    let site = site::find(frame.pc());
    let outcome = match (site, thread::current()) {
        (Some(site), Some(thread)) if smp::emulates(region) => {
            let outcome = exec::execute(thread, frame, site, region, touched, logging);
            match site.patch().filter(|patch| patch.is_active()) {
                Some(patch) if !from_thunk => patch::look_again(patch),
                None if outcome == Outcome::Done => {
                    // A site that is hooked traps again in any case.
                    if !hook::covers(touched, 1) {
                        patch::count(site);
                    }
                    ahead::go_on(thread, frame, site.pc);
                }
                _ => {}
            }
            outcome
        }
        _ => Outcome::Step,
    };
    match outcome {
        Outcome::Done => Verdict::Taken,
        Outcome::Step => {
            if let Some(thread) = thread::current().filter(|_| logging) {
                hook::before_step(thread, frame, site, region, touched);
            }
            // What stands at a patched site is a jump; in its thunk is the instruction.
            match site {
                Some(site) if smp::emulates(region) => patch::note_stepped(site),
                Some(site) => patch::count(site),
                None => {}
            }
            if let Some(patch) = site.and_then(Site::patch) {
                frame.set_pc(patch.thunk.original());
            }
            if step::begin(frame, site, touched, logging) {
                return Verdict::Taken;
            }
            hook::forget_step();
            Verdict::Program(SIGSEGV)
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
            set_address(info, address);
            frame.set_fault_address(address);
            Verdict::Program(fault.signal)
        }
    }
}

fn bus(info: &mut siginfo_t, frame: &mut Frame) -> Verdict {
    if info.si_code <= 0 {
        return Verdict::Program(SIGBUS);
    }
    let address = address_of(info);
    if arena::contains(address) || hook::contains(address) {
        // The file was cut short. The program must not suffer: it writes to memory that nobody reads.
        arena::detach(address);
        return Verdict::Taken;
    }
    if recovered(SIGBUS, info, frame) {
        return Verdict::Taken;
    }
    leave_thunk(info, frame);
    abandon(frame);
    Verdict::Program(SIGBUS)
}

/// A division by zero and its like, with an operand in a region or elsewhere; or a request to park.
fn arithmetic(info: &mut siginfo_t, frame: &mut Frame) -> Verdict {
    if park::is_parking(info) {
        park::stay_parked();
        return Verdict::Taken;
    }
    if info.si_code > 0 {
        if recovered(SIGFPE, info, frame) {
            return Verdict::Taken;
        }
        if leave_thunk(info, frame).is_some() {
            set_address(info, frame.pc());
        }
        // A division error comes after the load.
        step::complete(frame);
        abandon(frame);
    }
    Verdict::Program(SIGFPE)
}

fn trap(info: &siginfo_t, frame: &mut Frame) -> Verdict {
    let int3 = frame.pc().wrapping_sub(1);
    if info.si_code == SI_KERNEL {
        if patch::sampled(int3) {
            return Verdict::Taken;
        }
        if let Some(thunk) = patch::behind_breakpoint(int3) {
            frame.set_pc(thunk);
            return Verdict::Taken;
        }
        if inline::entered(int3, frame) || futex::entered(int3, frame) {
            return Verdict::Taken;
        }
    }
    // A debug trap without a step of ours belongs to somebody else.
    let stepped = step::finish(info, frame);
    hook::after_step();
    if held::go_on(info, frame) || stepped { Verdict::Taken } else { Verdict::Program(SIGTRAP) }
}

/// A step whose access is the program's own fault.
fn abandon(frame: &mut Frame) {
    step::abandon(frame);
    hook::forget_step();
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
