//! Handlers under way in a thread that stands still: what the kernel has laid on its stack for each, to go on with afterwards.
//!
//! A thread that is attached to in the middle of a handler has signals blocked because of that, and not because it has asked for it;
//! and when the handler returns, the kernel takes the mask from there.

use alloc::vec;
use alloc::vec::Vec;

use libc::SIG_IGN;

use crate::maps::Mapping;
use crate::{arch, signals};

/// The kernel's struct rt_sigframe (x86-64, asm/sigframe.h): the restorer's address, a ucontext, and a siginfo that is filled in for
/// handlers with SA_SIGINFO only.
#[repr(C)]
pub struct Frame {
    restorer: usize,
    /// uc_flags, uc_link, uc_stack.
    head: [usize; 5],
    /// struct sigcontext_64 (asm/sigcontext.h): r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, …
    context: [usize; 32],
    mask: u64,
}

const RSP: usize = 15;
/// The word with cs in its low half, and what it is for 64-bit code.
const SEGMENTS: usize = 18;
const USER_CS: usize = 0x33;
/// All that uc_flags can have (uapi/asm/ucontext.h).
const UC_FLAGS: usize = 7;

impl Frame {
    /// The mask that comes next, if the handler of this frame has just returned: it has taken the first word off the stack.
    pub fn returned(&mut self, stack_pointer: usize) -> Option<&mut u64> {
        (stack_pointer == &raw const self.head as usize).then_some(&mut self.mask)
    }

    /// The handler is to return as those do that were called through us (wrapped.rs).
    pub fn end_with_us(&mut self) {
        if self.restorer != arch::restorer() {
            self.restorer = arch::handler_end();
        }
    }

    /// Stacks hold remains of older frames, too; this one is whole.
    fn is_likely(&self, restorers: &[usize]) -> bool {
        let [flags, link, ..] = self.head;
        restorers.contains(&self.restorer) && flags <= UC_FLAGS && link == 0 && self.context[SEGMENTS] & 0xffff == USER_CS
    }
}

/// How far from the stack pointer a frame is looked for, and how many.
const REACH: usize = 1 << 20;
const MOST: usize = 16;

/// What frames begin with: what libc, or whoever set the handlers, has told the kernel to return to; and ours, of handlers that we
/// have called for the program in an earlier recording: its own that we stood before, and the agent's that called them.
pub fn restorers() -> Vec<usize> {
    let mut found = vec![arch::restorer(), arch::handler_end()];
    for action in signals::caught().map(signals::action).filter(|action| action.handler > SIG_IGN) {
        if action.restorer != 0 && !found.contains(&action.restorer) {
            found.push(action.restorer);
        }
    }
    found
}

/// Calls for each frame, from the innermost.
///
/// # Safety
/// The thread with this stack pointer stands still, and the mappings are those of the process.
pub unsafe fn each(stack_pointer: usize, restorers: &[usize], maps: &[Mapping], mut visit: impl FnMut(&mut Frame)) {
    // The innermost handler may just have returned.
    let mut from = stack_pointer.next_multiple_of(align_of::<Frame>()).saturating_sub(size_of::<usize>());
    for _ in 0..MOST {
        let Some(stack) = maps.iter().find(|map| map.readable && map.writable && (map.start..map.end).contains(&from))
        else {
            return;
        };
        let to = stack.end.saturating_sub(size_of::<Frame>()).min(from + REACH);
        let found = (from..to).step_by(size_of::<usize>()).find(|&at| {
            // SAFETY: inside the mapping, aligned, and numbers.
            let frame = unsafe { &*(at as *const Frame) };
            frame.is_likely(restorers)
        });
        let Some(at) = found else { return };
        // SAFETY: as above, and its thread stands still.
        let frame = unsafe { &mut *(at as *mut Frame) };
        visit(frame);
        let below = frame.context[RSP].next_multiple_of(align_of::<Frame>());
        if (from..=at).contains(&below) {
            return;
        }
        from = below;
    }
}
