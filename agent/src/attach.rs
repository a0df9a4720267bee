//! Attaching to a recording in the middle of the program's life, and leaving it: what `mmiotap attach` calls
//! (src/mmiotap/sources/attach.py).
//!
//! It calls by ptrace, in a thread that it has stopped. [`mmiotap_agent_prepare`] is called where libc may be used, while the other
//! threads run. The two others are called while all other threads stand still, and none in the agent's code or in what that calls.
//! They use nothing of libc; and where a thread that stands still holds a lock of the agent's, they do nothing: the recorder lets
//! all go on a little, and asks again.

use core::ffi::c_int;
use core::slice;

use crate::arch::site;
use crate::interpose::{handlers, late};
use crate::maps::{self, Mapping};
use crate::masked::{Masked, masked_of};
use crate::memory::ALLOCATOR;
use crate::signals::OURS;
use crate::thread::{self, Thread};
use crate::{arena, arming, hook, interrupted, mapping, modules, process, region, signals, step, sys};

/// Answers to the recorder.
const DONE: c_int = 0;
const AGAIN: c_int = 1;
const REFUSED: c_int = 2;

/// A thread of the program, as the recorder sees it.
#[repr(C)]
pub struct Stopped {
    /// 0: it is none of libc's.
    thread_pointer: usize,
    stack_pointer: usize,
    /// What it has blocked: before the call as the kernel has it, afterwards as the kernel is to have it.
    mask: u64,
}

/// Makes everything ready, and has the program's calls come to the agent.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn mmiotap_agent_prepare() -> c_int {
    crate::start();
    crate::prepare();
    late::begin();
    DONE
}

/// Joins the recording with this arena, and takes over what is mapped and which handlers are set.
///
/// # Safety
/// See above; `threads` are `count` threads, all that there are.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn mmiotap_agent_attach(arena: c_int, threads: *mut Stopped, count: usize) -> c_int {
    if !is_quiet() {
        return AGAIN;
    }
    if arena::base() != 0 || hook::is_attached() || !arena::attach_open(arena) {
        return REFUSED;
    }
    thread::each(|thread| thread.start_afresh(arena::next_stream_id()));
    site::forget_hits();
    modules::forget_told();
    process::forget_announced();
    arming::begin();
    let (restorers, maps) = (interrupted::restorers(), maps::all());
    // SAFETY: the caller's promise.
    for thread in unsafe { slice::from_raw_parts_mut(threads, count) } {
        // SAFETY: as above.
        unsafe { thread.take_mask(&restorers, &maps) };
    }
    if let Some(thread) = thread::current() {
        process::announce(thread);
    }
    late::put_in_place();
    handlers::take_over();
    mapping::take_over_existing();
    DONE
}

/// Leaves the recording, which is closed, and gives the program back all that it has lent.
///
/// # Safety
/// As for mmiotap_agent_attach.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn mmiotap_agent_detach(threads: *mut Stopped, count: usize) -> c_int {
    if arena::base() == 0 {
        return DONE;
    }
    if !is_quiet() {
        return AGAIN;
    }
    mapping::leave();
    signals::uninstall();
    handlers::give_back();
    late::end();
    thread::each(|thread| {
        thread.start_afresh(0);
        // The kernel keeps it: the thread stands still, and will have it blocked.
        while let Some((signal, _)) = thread.pending.take(OURS) {
            sys::send(thread.pid, thread.tid, signal);
        }
    });
    // SAFETY: the caller's promise.
    for thread in unsafe { slice::from_raw_parts_mut(threads, count) } {
        // SAFETY: as above.
        unsafe { thread.give_mask_back() };
    }
    arena::leave();
    DONE
}

impl Stopped {
    unsafe fn masked(&self) -> Option<&'static mut Masked> {
        // SAFETY: the caller's promise.
        (self.thread_pointer != 0).then(|| unsafe { masked_of(self.thread_pointer) })
    }

    /// From here on the thread only believes that it has our signals blocked; and so it is when the handlers return that it is in.
    unsafe fn take_mask(&mut self, restorers: &[usize], maps: &[Mapping]) {
        let mut believed = self.mask;
        // SAFETY: the caller's promise.
        unsafe {
            interrupted::each(self.stack_pointer, restorers, maps, |frame| match frame.returned(self.stack_pointer) {
                Some(mask) => believed = core::mem::replace(mask, *mask & !OURS),
                None => frame.end_with_us(),
            });
            if let Some(masked) = self.masked() {
                masked.set(believed);
            }
        }
        self.mask &= !OURS;
    }

    /// What the thread believes in comes to be. What is in its frames is believed in already; see wrapped.rs.
    unsafe fn give_mask_back(&mut self) {
        // SAFETY: the caller's promise.
        if let Some(masked) = unsafe { self.masked() } {
            self.mask |= masked.behind_wait();
            masked.set(0);
        }
    }
}

/// Is no thread in the middle of anything of ours?
fn is_quiet() -> bool {
    let mut waiting = false;
    thread::each(|thread: &mut Thread| waiting |= thread.held.is_some() && sys::thread_exists(thread.pid, thread.tid));
    !waiting
        && !region::is_locked()
        && !signals::is_locked()
        && !ALLOCATOR.is_locked()
        && !step::is_under_way()
        && !arming::has_helper()
}
