//! What mmiotap loads into the program that it records.
//!
//! The way of an access: [`interpose`] sees the program map a device, [`mapping`] takes the mapping over, a touch faults into
//! [`fault`], [`arch`] runs the instruction against the alias, [`capture`] writes the event into the [`arena`].
#![cfg_attr(not(test), no_std)]
// The exported functions, through which all else is reached, are not exported from the test program: it would trace itself.
#![cfg_attr(test, allow(dead_code))]

extern crate alloc;

mod arch;
mod arena;
mod arming;
mod attach;
mod capture;
mod clock;
mod fault;
mod futex;
mod held;
mod hook;
mod inline;
mod interpose;
mod interrupted;
mod kernel;
mod layout;
mod lookaside;
mod mapping;
mod maps;
mod masked;
mod memory;
mod modules;
mod park;
mod patch;
mod paths;
mod process;
mod region;
mod rules;
mod signals;
mod smp;
mod stat;
mod step;
mod sys;
mod thread;
mod twin;
mod wrapped;

use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Where the recorder says which recording this process belongs to.
const ARENA_VARIABLE: &CStr = c"MMIOTAP_ARENA";

const NEW: u32 = 0;
const STARTING: u32 = 1;
const READY: u32 = 2;

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// Attaches to the recording, if there is one: before main, or when the first interposed call comes even earlier.
pub(crate) fn start() {
    static STATE: AtomicU32 = AtomicU32::new(NEW);
    if STATE.load(Ordering::Acquire) == READY {
        return;
    }
    // What runs before all constructors, AddressSanitizer does, runs before libc's own, which finds the environment: a
    // later call will look.
    // SAFETY: a pointer of libc's, written by that constructor, when there is one thread.
    if unsafe { environ }.is_null() || STATE.compare_exchange(NEW, STARTING, Ordering::Acquire, Ordering::Relaxed).is_err() {
        return;
    }
    // SAFETY: the environment is in place.
    let path = unsafe { libc::getenv(ARENA_VARIABLE.as_ptr()) };
    if !path.is_null() {
        // SAFETY: getenv returns a NUL-terminated string.
        let path = unsafe { CStr::from_ptr(path) };
        // All else first: with the arena there, the agent is at work.
        prepare();
        hook::attach(path.to_bytes_with_nul());
        if arena::attach(path.to_bytes_with_nul()) {
            interpose::masks::take_over();
            inline::find();
            futex::keep_room();
        }
    }
    STATE.store(READY, Ordering::Release);
}

/// Once, where the dynamic linker and libc may be asked.
fn prepare() {
    static PREPARED: AtomicBool = AtomicBool::new(false);
    if !PREPARED.swap(true, Ordering::AcqRel) {
        process::prepare();
        arch::prepare();
        clock::prepare();
        modules::prepare();
        patch::jitdump::prepare();
    }
}

extern "C" fn constructor() {
    interpose::calls::prepare();
    interpose::raw::prepare();
    interpose::jumps::prepare();
    start();
}

#[cfg(not(test))]
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

/// Writes a mark into the trace: include/mmiotap.h calls it, and so does the Python package. Does nothing when nothing is
/// recorded. At most 16,320 bytes of the text are kept.
///
/// # Safety
/// `text` is a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmiotap_agent_mark(text: *const c_char) {
    start();
    if arena::base() == 0 || text.is_null() {
        return;
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    sys::with_blocked(!signals::OURS, || {
        if let Some(thread) = thread::current() {
            capture::write(thread, &capture::Row::new(layout::MARK), text.to_bytes());
        }
    });
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // SAFETY: abort takes no arguments. A broken agent must not go on inside somebody else's program.
    unsafe { libc::abort() }
}

// The precompiled core libraries name two routines of unwinding, though nothing here unwinds. Hidden: a traced program that
// is written in Rust or C++ has real ones of these names.
#[cfg(not(test))]
core::arch::global_asm!(
    ".pushsection .text",
    ".globl rust_eh_personality, _Unwind_Resume",
    ".hidden rust_eh_personality, _Unwind_Resume",
    "rust_eh_personality: _Unwind_Resume: ud2",
    ".popsection",
);
