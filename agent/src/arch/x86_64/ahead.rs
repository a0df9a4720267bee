//! Going on in the agent for a while.
//!
//! A driver that has touched its device often does so again a few instructions later: it polls, or fills a ring. A trap costs
//! microseconds, so after an access the agent runs the instructions that follow by itself, one by one, as long as they are of
//! the plainest kind: registers, ordinary memory, jumps nearby, and accesses to regions, which are logged as ever. Whatever else
//! comes is left to the processor: the thread goes on there.
//!
//! Code is looked at in the page of the access only: that page can be read, its neighbours perhaps not.

use super::exec::{Access, Outcome, execute};
use super::frame::TRAP_FLAG;
use super::run::Registers;
use super::site::{self, Class};
use crate::fault::allows;
use crate::patch::Patch;
use crate::smp::{self, Way};
use crate::sys::PAGE;
use crate::thread::Thread;
use crate::{arena, hook, patch, region};

use super::Frame;

/// No more hooked accesses after so long: the program's signals wait for their handlers, too.
const HOOKED_NS: i64 = 100_000;
/// Asynchronous signals wait for so many instructions: some microseconds.
const MOST: usize = 256;
const LONGEST: usize = 15;

/// Runs what follows the access that the instruction at `accessed` made, from where the frame stands.
pub fn go_on(thread: &mut Thread, frame: &mut Frame, accessed: usize) {
    let page = accessed / PAGE;
    // Whoever single-steps the program wants to see each instruction; and only the one way runs accesses here.
    if frame.flags() & TRAP_FLAG != 0 || smp::way() != Way::Emulate {
        return;
    }
    let mut hooked_since = None;
    for _ in 0..MOST {
        let pc = frame.pc();
        if pc / PAGE != page || (pc + LONGEST) / PAGE != page {
            return;
        }
        let Some(site) = site::find(pc) else { return };
        // It needs no trap.
        if site.patch().is_some_and(Patch::is_active) {
            return;
        }
        match site.class {
            Class::Plain => {
                let mut access = Access::new(thread, frame, site, false);
                let mut registers = Registers::of(access.frame);
                if !access.run(&mut registers) {
                    return;
                }
                access.finish(&registers);
            }
            Class::Branch => frame.set_pc(if frame.meets(site.condition) { site.target } else { pc + site.length }),
            Class::Load | Class::Store | Class::Modify | Class::Exchange | Class::ExchangeAdd | Class::CompareExchange => {
                if !touch(thread, frame, site, &mut hooked_since) {
                    return;
                }
            }
            _ => return,
        }
    }
}

/// One instruction with a memory operand. False: it is left to the processor, and nothing has happened.
fn touch(thread: &mut Thread, frame: &mut Frame, site: &'static site::Site, hooked_since: &mut Option<i64>) -> bool {
    // A mask may leave out all of the operand. Then most instructions do not touch it, and only the processor knows which.
    if site.instruction.has_op_mask() {
        return false;
    }
    let Some(address) = site.operand_address(frame) else { return false };
    let Some(region) = region::find(address) else {
        // Ordinary memory. If the operand reaches into a region behind, that faults here, and then in the program.
        let mut access = Access::new(thread, frame, site, false);
        let mut registers = Registers::of(access.frame);
        if site.vector || !access.moved(&mut registers, address) {
            return false;
        }
        access.finish(&registers);
        return true;
    };
    let is_hooked = hook::covers(address, site.width);
    if is_hooked {
        let now = thread.log.clock.now();
        if now - *hooked_since.get_or_insert(now) > HOOKED_NS {
            return false;
        }
    }
    let allowed = allows(&region, site.class != Class::Load);
    // Disabled: the program must trap once more, and find the region open.
    let done = allowed && arena::is_logging() && execute(thread, frame, site, &region, address, true) == Outcome::Done;
    if done && !is_hooked {
        patch::count(site);
    }
    done
}
