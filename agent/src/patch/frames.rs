//! Thunks as others see them: debuggers, and what unwinds the stack in the program itself.
//!
//! Each thunk, and each jump to one, is described by a small ELF object in memory: a symbol, and how to unwind the code
//! ([`Cfi`]). Debuggers find these objects by the interface that gdb made for JIT compilers (gdb manual, "JIT Compilation
//! Interface"; lldb has it too). libgcc, which unwinds for C++, for backtrace(3) and for pthread_cancel(3), asks
//! `_Unwind_Find_FDE` for the description of an address. That function is here first: its own way for code made at run time
//! (`__register_frame`) allocates with malloc and takes a lock, neither of which may be done on a trap path.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use core::arch::global_asm;
use core::ffi::c_void;
use core::mem::transmute;
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicPtr, Ordering};

use super::registry;
use crate::arch::cfi::Cfi;
use crate::region::Guard;

// What a debugger looks for: a list of objects, and a function with a breakpoint of its own in it. Hidden: a JIT compiler in the program has
// its own of these names.
global_asm!(
    ".pushsection .text",
    ".globl __jit_debug_register_code",
    ".hidden __jit_debug_register_code",
    ".type __jit_debug_register_code, @function",
    "__jit_debug_register_code: ret",
    ".size __jit_debug_register_code, 1",
    ".popsection",
    ".pushsection .data",
    ".globl __jit_debug_descriptor",
    ".hidden __jit_debug_descriptor",
    ".type __jit_debug_descriptor, @object",
    ".balign 8",
    "__jit_debug_descriptor: .long 1, 0",
    ".quad 0, 0",
    ".size __jit_debug_descriptor, 24",
    ".popsection",
);

/// The list's head (struct jit_descriptor).
#[repr(C)]
struct Descriptor {
    version: u32,
    action: u32,
    relevant: *mut Entry,
    first: *mut Entry,
}

/// struct jit_code_entry
#[repr(C)]
struct Entry {
    next: *mut Entry,
    previous: *mut Entry,
    object: *const u8,
    size: u64,
}

const REGISTER: u32 = 1;

unsafe extern "C" {
    static mut __jit_debug_descriptor: Descriptor;
    fn __jit_debug_register_code();
}

/// Tells of a piece of code, for ever. Returns its FDE.
pub fn tell(_lock: &Guard, name: &str, site: usize, start: usize, end: usize, cfi: Cfi) -> *const c_void {
    let (frames, fde) = cfi.end(end);
    let (object, frames_at) = object(&format!("mmiotap_{name}_of_{site:#x}"), start, end, &frames);
    let object = Box::leak(object.into_boxed_slice());
    let descriptor = &raw mut __jit_debug_descriptor;
    // SAFETY: the list is changed under the lock only; a debugger reads it while the program stands still.
    unsafe {
        let first = (*descriptor).first;
        let entry = Entry { next: first, previous: null_mut(), object: object.as_ptr(), size: object.len() as u64 };
        let entry = Box::leak(Box::new(entry));
        if let Some(first) = first.as_mut() {
            first.previous = entry;
        }
        (*descriptor).first = entry;
        (*descriptor).relevant = entry;
        (*descriptor).action = REGISTER;
        __jit_debug_register_code();
    }
    object[frames_at + fde..].as_ptr().cast()
}

/// Tells of the jump at `start` to this site's thunk.
pub fn tell_landing(lock: &Guard, start: usize, length: usize, thunk: usize) {
    if let Some(patch) = registry::find(thunk) {
        let site = patch.site;
        tell(lock, "jump", site.pc, start, start + length, Cfi::new(start, site.pc + site.length));
    }
}

/// An ELF object (System V ABI, chapter 4) with one function, and where in it the description of its frames begins.
fn object(name: &str, start: usize, end: usize, frames: &[u8]) -> (Vec<u8>, usize) {
    const HEADER: usize = 64;
    const NAMES: &[u8] = b"\0.text\0.eh_frame\0.symtab\0.strtab\0";
    const TEXT: u32 = 1;
    const EH_FRAME: u32 = 7;
    const SYMTAB: u32 = 17;
    const STRTAB: u32 = 25;
    const { assert!(NAMES[EH_FRAME as usize + 1] == b'e' && NAMES[SYMTAB as usize + 2] == b'y' && NAMES[STRTAB as usize + 2] == b't') };

    let mut object = Vec::with_capacity(1024);
    object.resize(HEADER, 0);
    let frames_at = object.len();
    object.extend_from_slice(frames);
    object.extend_from_slice(&[0; 8]);
    let symbols_at = object.len();
    object.extend_from_slice(&[0; 24]);
    // A function, local, in the first section, at its beginning.
    push(&mut object, &[NAMES.len() as u64 | (libc::STT_FUNC_ << 32) | 1 << 48, 0, (end - start) as u64]);
    let names_at = object.len();
    object.extend_from_slice(NAMES);
    object.extend_from_slice(name.as_bytes());
    object.push(0);
    object.resize(object.len().next_multiple_of(8), 0);
    let sections_at = object.len();
    (object, frames_at)
}
