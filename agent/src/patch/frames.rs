//! Thunks as others see them: debuggers, and whoever unwinds the stack in the program itself.
//!
//! Each thunk, and each jump to one, is described by a small ELF object in memory: a symbol, and how to unwind the code
//! ([`Cfi`]). Debuggers find these objects by the interface that gdb made for JIT compilers (gdb manual, "JIT Compilation
//! Interface"). libgcc, which unwinds for C++, for backtrace(3) and for pthread_cancel(3), asks [`_Unwind_Find_FDE`] for the
//! description of an address: that function is here first. libgcc's own way to add descriptions at run time,
//! `__register_frame`, is not used: it allocates with malloc and takes a lock, neither of which may be done on a trap path.
//! perf reads a file ([`jitdump`]).

use alloc::boxed::Box;
use alloc::format;
use core::arch::global_asm;
use core::ffi::{CStr, c_void};
use core::mem::{offset_of, transmute};
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicPtr, Ordering};

use libc::{Elf64_Ehdr, Elf64_Shdr, Elf64_Sym};

use super::{Patch, jitdump, registry};
use crate::arch::cfi::{Cfi, Frames};
use crate::arch::thunk::Thunk;
use crate::futex;
use crate::region::Guard;

// What a debugger looks for: the head of a list of objects, and a function where it sets a breakpoint, called when the list has
// grown. Hidden: a JIT compiler in the program has a list of its own.
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

unsafe extern "C" {
    static mut __jit_debug_descriptor: Descriptor;
    fn __jit_debug_register_code();
}

/// struct jit_descriptor
#[repr(C)]
struct Descriptor {
    version: u32,
    action: u32,
    relevant: *mut Entry,
    first: *mut Entry,
}

/// struct jit_code_entry, and behind it its object.
#[repr(C)]
struct Entry {
    next: *mut Entry,
    previous: *mut Entry,
    address: *const Object,
    size: u64,
    object: Object,
}

const JIT_REGISTER_FN: u32 = 1;

const SECTIONS: usize = 5;
const SYMBOLS: usize = 2;
const NAMES: usize = 80;
/// More than any thunk's description takes.
const FRAMES: usize = 384;

/// All that a debugger wants to know of a piece of code (System V ABI, chapter 4).
#[repr(C)]
struct Object {
    header: Elf64_Ehdr,
    sections: [Elf64_Shdr; SECTIONS],
    symbols: [Elf64_Sym; SYMBOLS],
    names: [u8; NAMES],
    frames: [u8; FRAMES],
}

/// The names of the sections, and where the name of the code begins.
const SECTION_NAMES: &[u8] = b"\0.text\0.eh_frame\0.symtab\0.strtab\0";
const TEXT: u32 = 1;
const EH_FRAME: u32 = 7;
const SYMTAB: u32 = 17;
const STRTAB: u32 = 25;

const SHT_PROGBITS: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_STRTAB: u32 = 3;
const SHT_NOBITS: u32 = 8;
const SHF_ALLOC: u64 = 2;
const SHF_EXECINSTR: u64 = 4;
const STT_FUNC: u8 = 2;

impl Object {
    fn new(name: &str, start: usize, end: usize) -> Object {
        // SAFETY: numbers, for which 0 is a value.
        let mut object: Object = unsafe { core::mem::zeroed() };
        let header = &mut object.header;
        header.e_ident[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        (header.e_type, header.e_machine, header.e_version) = (libc::ET_REL, libc::EM_X86_64, 1);
        (header.e_ehsize, header.e_shentsize) = (size_of::<Elf64_Ehdr>() as u16, size_of::<Elf64_Shdr>() as u16);
        (header.e_shoff, header.e_shnum, header.e_shstrndx) = (offset_of!(Object, sections) as u64, SECTIONS as u16, 4);

        object.names[..SECTION_NAMES.len()].copy_from_slice(SECTION_NAMES);
        let room = &mut object.names[SECTION_NAMES.len()..NAMES - 1];
        let length = name.len().min(room.len());
        room[..length].copy_from_slice(&name.as_bytes()[..length]);

        let section = |name, kind, offset: usize, size: usize| Elf64_Shdr {
            sh_name: name,
            sh_type: kind,
            sh_flags: 0,
            sh_addr: 0,
            sh_offset: offset as u64,
            sh_size: size as u64,
            sh_link: 0,
            sh_info: 0,
            sh_addralign: 8,
            sh_entsize: 0,
        };
        let code = section(TEXT, SHT_NOBITS, 0, end - start);
        object.sections[1] =
            Elf64_Shdr { sh_flags: SHF_ALLOC | SHF_EXECINSTR, sh_addr: start as u64, sh_addralign: 1, ..code };
        let frames = section(EH_FRAME, SHT_PROGBITS, offset_of!(Object, frames), FRAMES);
        object.sections[2] = Elf64_Shdr { sh_flags: SHF_ALLOC, ..frames };
        let symbols = section(SYMTAB, SHT_SYMTAB, offset_of!(Object, symbols), SYMBOLS * size_of::<Elf64_Sym>());
        let (strings, locals) = (4, SYMBOLS as u32);
        object.sections[3] =
            Elf64_Shdr { sh_link: strings, sh_info: locals, sh_entsize: size_of::<Elf64_Sym>() as u64, ..symbols };
        object.sections[4] = section(STRTAB, SHT_STRTAB, offset_of!(Object, names), NAMES);

        let symbol = &mut object.symbols[1];
        (symbol.st_name, symbol.st_info, symbol.st_shndx) = (SECTION_NAMES.len() as u32, STT_FUNC, 1);
        symbol.st_size = (end - start) as u64;
        object
    }

    /// What four zeros end. False: there is no room for it.
    fn set_frames(&mut self, mut frames: Frames) -> bool {
        let address = self.frames.as_ptr() as usize;
        let code = &self.sections[1];
        frames.place(address.wrapping_sub(code.sh_addr as usize));
        if frames.bytes.len() + 4 > FRAMES {
            return false;
        }
        self.frames[..frames.bytes.len()].copy_from_slice(&frames.bytes);
        self.sections[2].sh_addr = address as u64;
        true
    }
}

/// Tells of this site's thunk, which is there for ever. Returns its FDE; null: it has none.
pub fn tell(lock: &Guard, site: usize, thunk: &Thunk, cfi: Cfi) -> *const c_void {
    let name = format!("mmiotap_thunk_of_{site:#x}");
    let frames = cfi.end(thunk.end);
    jitdump::tell(lock, &name, thunk.start, thunk.end, &frames);
    register(lock, &name, thunk.start, thunk.end, frames)
}

/// Tells of a jump to this thunk.
pub fn tell_landing(lock: &Guard, start: usize, length: usize, thunk: usize) {
    if let Some(Patch { site, .. }) = registry::find(thunk) {
        let (name, end) = (format!("mmiotap_jump_of_{:#x}", site.pc), start + length);
        register(lock, &name, start, end, Cfi::new(start, site.pc + site.length).end(end));
    }
}

/// Tells of code that a thread runs in place of the instruction at `site`, which goes on at `back`. It uses no stack, and changes no
/// register that functions keep. Returns its FDE, as tell().
pub fn tell_copy(lock: &Guard, site: usize, back: usize, start: usize, end: usize) -> *const c_void {
    let name = format!("mmiotap_copy_of_{site:#x}");
    register(lock, &name, start, end, Cfi::new(start, back).end(end))
}

/// Tells debuggers.
fn register(_lock: &Guard, name: &str, start: usize, end: usize, frames: Frames) -> *const c_void {
    let (size, fde) = (size_of::<Object>() as u64, frames.fde);
    let object = Object::new(name, start, end);
    let entry = Box::leak(Box::new(Entry { next: null_mut(), previous: null_mut(), address: null(), size, object }));
    if !entry.object.set_frames(frames) {
        return null();
    }
    entry.address = &raw const entry.object;
    let fde = entry.object.frames[fde..].as_ptr().cast();
    let descriptor = &raw mut __jit_debug_descriptor;
    // SAFETY: the list changes under the lock; a debugger reads it while the program stands still.
    unsafe {
        let entry = &raw mut *entry;
        (*entry).next = (*descriptor).first;
        if let Some(next) = (*entry).next.as_mut() {
            next.previous = entry;
        }
        (*descriptor).first = entry;
        (*descriptor).relevant = entry;
        (*descriptor).action = JIT_REGISTER_FN;
        __jit_debug_register_code();
    }
    fde
}

/// libgcc's struct dwarf_eh_bases (unwind-dw2-fde.h).
#[repr(C)]
pub struct Bases {
    text: *const c_void,
    data: *const c_void,
    function: *const c_void,
}

type FindFde = unsafe extern "C" fn(*const c_void, *mut Bases) -> *const c_void;

/// libgcc asks: which FDE describes the code at `pc`? Null: none is known.
///
/// # Safety
/// `bases` is the caller's, to be filled.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[allow(non_snake_case)] // it stands in for a function of this name
pub unsafe extern "C" fn _Unwind_Find_FDE(pc: *const c_void, bases: *mut Bases) -> *const c_void {
    if let Some((fde, function)) = find(pc as usize) {
        // SAFETY: the caller's promise.
        unsafe { *bases = Bases { text: null(), data: null(), function: function as *const c_void } };
        return fde;
    }
    let real = real();
    if real.is_null() {
        return null();
    }
    // SAFETY: libgcc has it under this name, whose type does not change (it is exported since GCC 3.0).
    let real: FindFde = unsafe { transmute(real) };
    // SAFETY: the caller's promise.
    unsafe { real(pc, bases) }
}

/// The FDE, and the start of the code that it is about.
fn find(pc: usize) -> Option<(*const c_void, usize)> {
    if let Some(patch) = registry::find(pc).filter(|patch| pc < patch.thunk.end && !patch.fde.is_null()) {
        return Some((patch.fde, patch.thunk.start));
    }
    if let Some(found) = futex::frames(pc) {
        return Some(found);
    }
    // At a jump to a thunk all is as at the thunk's beginning: there it is, as far as the FDE goes.
    let target = registry::landing_target(pc)?;
    if let Some((fde, _)) = futex::frames(target) {
        return Some((fde, pc));
    }
    let patch = registry::find(target).filter(|patch| !patch.fde.is_null())?;
    Some((patch.fde, pc))
}

/// libgcc's own function, looked up when it is first needed: when libgcc, which calls it, is there. Null: not found.
pub fn real() -> *mut c_void {
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
    const LIBGCC: &CStr = c"libgcc_s.so.1";
    const NAME: &CStr = c"_Unwind_Find_FDE";
    if REAL.load(Ordering::Relaxed).is_null() {
        // SAFETY: the names are NUL-terminated; nothing is loaded, and libgcc stays from now on.
        let found = unsafe {
            let libgcc = libc::dlopen(LIBGCC.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            libc::dlsym(if libgcc.is_null() { libc::RTLD_NEXT } else { libgcc }, NAME.as_ptr())
        };
        REAL.store(found, Ordering::Relaxed);
    }
    REAL.load(Ordering::Relaxed)
}
