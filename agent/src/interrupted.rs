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
struct Frame {
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
/// have called for the program in an earlier recording.
pub fn restorers() -> Vec<usize> {
    let mut found = vec![arch::restorer()];
    for action in signals::caught().map(signals::action).filter(|action| action.handler > SIG_IGN) {
        if action.restorer != 0 && !found.contains(&action.restorer) {
            found.push(action.restorer);
        }
    }
    found
}

/// Calls for each frame, from the innermost: with its address, and with the mask that comes back.
///
/// # Safety
/// The thread with this stack pointer stands still, and the mappings are those of the process.
pub unsafe fn each(stack_pointer: usize, restorers: &[usize], maps: &[Mapping], mut visit: impl FnMut(usize, &mut u64)) {
    // The innermost handler may just have returned, and have taken the first word off the stack.
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
        visit(at, &mut frame.mask);
        let below = frame.context[RSP].next_multiple_of(align_of::<Frame>());
        if (from..=at).contains(&below) {
            return;
        }
        from = below;
    }
}
