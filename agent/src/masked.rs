//! What threads believe of the agent's signals, which the kernel never has blocked.

use core::arch::{asm, global_asm};

use libc::{c_int, siginfo_t};

use crate::arch::Frame;
use crate::signals::{self, OURS, SIGNALS, bit};
use crate::{sys, thread};

// As in thread.rs: a word in initial-exec TLS is one load away.
global_asm!(
    ".pushsection .tbss, \"awT\", @nobits",
    ".globl mmiotap_masked",
    ".hidden mmiotap_masked",
    ".balign 8",
    "mmiotap_masked: .zero 32",
    ".popsection",
);

const _: () = assert!(size_of::<Masked>() == 32);

/// What a thread believes of our signals (bits as in a kernel signal set). All zeros: that none is blocked.
///
/// Invariant: as the kernel's mask would be without us. What changes a mask changes this: the functions of masks.rs, jumps.rs and
/// contexts.rs, and a handler's beginning and end.
#[repr(C)]
pub struct Masked {
    /// Which of them it has blocked.
    pub believed: u64,
    /// What is believed behind a call that waits with a mask of its own; see begin_wait().
    outside: u64,
    /// All of that call's mask.
    during: u64,
    is_waiting: bool,
}

impl Masked {
    /// A call waits with this mask (sigsuspend and its like). It puts the one before back, or a handler's end does that comes in between.
    /// Returns what end_wait() is to know.
    pub fn begin_wait(&mut self, mask: u64) -> bool {
        (self.outside, self.during, self.is_waiting) = (self.believed, mask, true);
        self.believed = mask & OURS;
        self.send_pending()
    }

    /// The call has come back, and with it the kernel's mask, which may have had blocked what was sent again.
    pub fn end_wait(&mut self, was_sent: bool) {
        if self.is_waiting {
            self.set(self.outside);
        }
        if was_sent {
            sys::unblock_signals(OURS);
        }
    }

    /// What it believes in when no call waits.
    pub fn behind_wait(&self) -> u64 {
        if self.is_waiting { self.outside } else { self.believed }
    }

    pub fn set(&mut self, mask: u64) {
        (self.believed, self.is_waiting) = (mask & OURS, false);
    }

    /// Sends those again that need wait no longer. They come when the kernel's mask lets them through: it has them blocked now, and is
    /// about to be set by whoever has called. False: there are none.
    pub fn send_pending(&mut self) -> bool {
        let mut sent = false;
        while let Some((signal, info)) = thread::existing().and_then(|thread| thread.pending.take(!self.believed)) {
            sys::block_signals(bit(signal));
            sent |= sys::queue_signal(sys::getpid(), sys::gettid(), signal, &info);
        }
        sent
    }

    /// A handler of the program's begins, that has these blocked beside what is blocked already. `frame` gets the mask that the
    /// handler finds there, and may change. Returns what is blocked already, but for our signals.
    pub fn enter_handler(&mut self, blocks: u64, frame: &mut Frame) -> u64 {
        let blocked = if self.is_waiting { self.during } else { frame.mask() };
        frame.set_mask(frame.mask() & !OURS | self.behind_wait());
        self.set(self.believed | blocks);
        blocked & !OURS
    }

    /// It has returned: what it has left in its frame is believed in, and not for the kernel to know.
    pub fn leave_handler(&mut self, frame: &mut Frame) {
        self.set(frame.mask());
        self.send_pending();
        frame.set_mask(frame.mask() & !OURS);
    }
}

/// The calling thread's.
pub fn masked() -> &'static mut Masked {
    let slot: *mut Masked;
    // SAFETY: reads the words' offset from the GOT and the thread pointer from %fs:0; the words belong to this thread alone.
    unsafe {
        asm!("mov {0}, qword ptr [rip + mmiotap_masked@GOTTPOFF]", "add {0}, qword ptr fs:[0]", out(reg) slot,
             options(nostack, readonly));
        &mut *slot
    }
}

/// Those of the thread with this thread pointer (%fs:0).
///
/// # Safety
/// The thread is one of libc's, and stands still.
pub unsafe fn masked_of(thread_pointer: usize) -> &'static mut Masked {
    let offset: usize;
    // SAFETY: reads the words' offset from the GOT; they are in the thread's static TLS, and the thread does not use them now.
    unsafe {
        asm!("mov {0}, qword ptr [rip + mmiotap_masked@GOTTPOFF]", out(reg) offset, options(nostack, readonly));
        &mut *(thread_pointer.wrapping_add(offset) as *mut Masked)
    }
}

/// Signals of ours that were sent, and not raised by a fault, while the thread believed that it had them blocked. One of a number is
/// kept, as the kernel does.
pub struct Pending {
    set: u64,
    infos: [siginfo_t; SIGNALS.len()],
}

impl Pending {
    pub fn add(&mut self, signal: c_int, info: &siginfo_t) {
        if self.set & bit(signal) == 0 {
            self.set |= bit(signal);
            self.infos[signals::index(signal)] = *info;
        }
    }

    /// It is another thread's from here on.
    pub fn forget(&mut self) {
        self.set = 0;
    }

    pub fn all(&self) -> u64 {
        self.set
    }

    /// One of these, if it waits.
    pub fn take(&mut self, wanted: u64) -> Option<(c_int, siginfo_t)> {
        let signal = SIGNALS.into_iter().find(|&signal| self.set & wanted & bit(signal) != 0)?;
        self.set &= !bit(signal);
        Some((signal, self.infos[signals::index(signal)]))
    }
}
