//! The same functions for a program that had its libc's before the agent came: a library that is loaded late interposes nothing by
//! itself, so the agent's functions are written to where the objects of the program keep the addresses of those that they call,
//! their global offset tables. Objects that the program loads from then on are seen by standing in front of dlopen, too.

use alloc::vec::Vec;
use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use libc::{Elf64_Phdr, Elf64_Sym, PT_DYNAMIC, PT_LOAD, dl_phdr_info, size_t};

use super::{calls, checked, contexts, handlers, jumps, mapping, masks, raw, threads};
use crate::maps;
use crate::patch::frames;
use crate::region::{self, Guard};
use crate::sys::{self, PAGE};

/// A function that we stand in front of.
struct Function {
    name: &'static CStr,
    ours: usize,
    /// libc's own.
    theirs: usize,
    /// Is that what the program would find by this name?
    is_first: bool,
}

/// A word that holds the address of such a function: libc's, or not resolved yet; and what we put there.
struct Slot {
    address: usize,
    before: usize,
    ours: usize,
}

struct Slots(UnsafeCell<Vec<Slot>>);

// SAFETY: used under the region lock only.
unsafe impl Sync for Slots {}

static SLOTS: Slots = Slots(UnsafeCell::new(Vec::new()));
/// Are objects that are loaded to be seen?
static ACTIVE: AtomicBool = AtomicBool::new(false);

#[expect(clippy::mut_from_ref, reason = "the lock is the right to change it")]
fn slots(_lock: &Guard) -> &mut Vec<Slot> {
    // SAFETY: under the lock, and no function here keeps it.
    unsafe { &mut *SLOTS.0.get() }
}

/// Has all calls of the objects that are loaded come to us. Where libc may be used.
pub fn begin() {
    ACTIVE.store(true, Ordering::Release);
    REAL_DLOPEN.store(look_up(libc::RTLD_NEXT, c"dlopen"), Ordering::Relaxed);
    find_all();
}

/// No other thread runs. One that was just resolving a function may have written libc's address over ours.
pub fn put_in_place() {
    let lock = region::lock();
    put(slots(&lock), |slot| (slot.before, slot.ours));
}

/// The program's calls go to libc as before. No other thread runs.
pub fn end() {
    ACTIVE.store(false, Ordering::Release);
    let lock = region::lock();
    let slots = slots(&lock);
    put(slots, |slot| (slot.ours, slot.before));
    slots.clear();
}

/// Writes to those slots that hold what they are expected to: the object may be gone. A store at a time, for others may be reading.
fn put(slots: &[Slot], change: impl Fn(&Slot) -> (usize, usize)) {
    let mappings = maps::all();
    for slot in slots {
        let Some(mapping) = mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&slot.address)) else {
            continue;
        };
        let (page, (old, new)) = (slot.address / PAGE * PAGE, change(slot));
        if !mapping.readable || mapping.executable {
            continue;
        }
        // SAFETY: the word is mapped, and aligned.
        let word = unsafe { AtomicUsize::from_ptr(slot.address as *mut usize) };
        if word.load(Ordering::Relaxed) != old {
            continue;
        }
        // SAFETY: tables that were made read-only when all was resolved (RELRO) are so again afterwards.
        unsafe {
            if !mapping.writable && sys::is_error(sys::mprotect(page, PAGE, libc::PROT_READ | libc::PROT_WRITE)) {
                continue;
            }
            word.store(new, Ordering::Release);
            if !mapping.writable {
                sys::mprotect(page, PAGE, libc::PROT_READ);
            }
        }
    }
}

/// Looks through all objects, and writes to their tables.
fn find_all() {
    let mut found = Found { functions: functions(), slots: Vec::new() };
    // SAFETY: the callback gets what we pass, and dlopen and dlclose wait meanwhile.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut found).cast()) };
    // The lock only now: elsewhere it is taken first.
    let lock = region::lock();
    let slots = slots(&lock);
    // Of an object that has taken the place of another one.
    slots.retain(|known| !found.slots.iter().any(|slot| slot.address == known.address));
    put(&found.slots, |slot| (slot.before, slot.ours));
    slots.append(&mut found.slots);
}

fn look_up(scope: *mut c_void, name: &CStr) -> usize {
    // SAFETY: the name is NUL-terminated.
    unsafe { libc::dlsym(scope, name.as_ptr()) as usize }
}

/// All of them, in the order of their names.
fn functions() -> Vec<Function> {
    let libcs = [
        (c"mmap", mapping::mmap as *const ()),
        (c"mmap64", mapping::mmap64 as *const ()),
        (c"munmap", mapping::munmap as *const ()),
        (c"mremap", mapping::mremap as *const ()),
        (c"mprotect", mapping::mprotect as *const ()),
        (c"sigaction", handlers::sigaction as *const ()),
        (c"__sigaction", handlers::__sigaction as *const ()),
        (c"signal", handlers::signal as *const ()),
        (c"bsd_signal", handlers::bsd_signal as *const ()),
        (c"ssignal", handlers::ssignal as *const ()),
        (c"sysv_signal", handlers::sysv_signal as *const ()),
        (c"__sysv_signal", handlers::__sysv_signal as *const ()),
        (c"sigprocmask", masks::sigprocmask as *const ()),
        (c"pthread_sigmask", masks::pthread_sigmask as *const ()),
        (c"pthread_attr_setsigmask_np", masks::pthread_attr_setsigmask_np as *const ()),
        (c"pthread_attr_getsigmask_np", masks::pthread_attr_getsigmask_np as *const ()),
        (c"pthread_create", threads::pthread_create as *const ()),
        (c"thrd_create", threads::thrd_create as *const ()),
        (c"dlopen", mmiotap_dlopen as *const ()),
        (raw::NAME, raw::syscall as *const ()),
    ];
    let buffers = calls::FUNCTIONS.iter().map(|&(name, ours)| (name, ours as *const ()));
    let ours = checked::CHECKED.iter().chain(jumps::FUNCTIONS).chain(contexts::FUNCTIONS);
    let mut functions: Vec<Function> = Vec::new();
    for (name, ours) in libcs.into_iter().chain(buffers).chain(ours.copied()) {
        let theirs = look_up(libc::RTLD_NEXT, name);
        let is_first = look_up(libc::RTLD_DEFAULT, name) == theirs;
        functions.push(Function { name, ours: ours as usize, theirs, is_first });
    }
    let (ours, theirs) = (frames::_Unwind_Find_FDE as *const () as usize, frames::real() as usize);
    functions.push(Function { name: c"_Unwind_Find_FDE", ours, theirs, is_first: true });
    functions.retain(|function| function.theirs != 0 && function.theirs != function.ours);
    functions.sort_unstable_by_key(|function| function.name);
    functions
}

struct Found {
    functions: Vec<Function>,
    slots: Vec<Slot>,
}

/// Structures and constants of the ELF specification and the psABI for x86-64.
#[repr(C)]
struct Dynamic {
    tag: i64,
    value: usize,
}

#[repr(C)]
struct Relocation {
    offset: usize,
    kind: u32,
    symbol: u32,
    addend: i64,
}

const DT_NULL: i64 = 0;
const DT_PLTRELSZ: i64 = 2;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_RELA: i64 = 7;
const DT_RELASZ: i64 = 8;
const DT_JMPREL: i64 = 23;
const R_X86_64_64: u32 = 1;
const R_X86_64_GLOB_DAT: u32 = 6;
const R_X86_64_JUMP_SLOT: u32 = 7;

unsafe extern "C" fn visit(info: *mut dl_phdr_info, _: size_t, found: *mut c_void) -> c_int {
    // SAFETY: both are valid for the call, and so are the program headers.
    let (info, found) = unsafe { (&*info, &mut *found.cast::<Found>()) };
    // SAFETY: as above.
    let segments = unsafe { core::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let object = Object { base: info.dlpi_addr as usize, segments };
    if !object.holds(visit as *const () as usize) {
        object.look(found);
    }
    0
}

/// An object that is loaded, and stays so while we look.
struct Object<'a> {
    base: usize,
    segments: &'a [Elf64_Phdr],
}

impl Object<'_> {
    fn holds(&self, address: usize) -> bool {
        let offset = address.wrapping_sub(self.base);
        let holds = |segment: &&Elf64_Phdr| offset.wrapping_sub(segment.p_vaddr as usize) < segment.p_memsz as usize;
        self.segments.iter().filter(|segment| segment.p_type == PT_LOAD).any(|segment| holds(&segment))
    }

    fn entry(&self, wanted: i64) -> Option<usize> {
        let dynamic = self.segments.iter().find(|segment| segment.p_type == PT_DYNAMIC)?;
        let mut at = self.base.wrapping_add(dynamic.p_vaddr as usize) as *const Dynamic;
        loop {
            // SAFETY: the table is part of the object, and ends with DT_NULL.
            let entry = unsafe { &*at };
            match entry.tag {
                DT_NULL => return None,
                tag if tag == wanted => return Some(entry.value),
                // SAFETY: as above.
                _ => at = unsafe { at.add(1) },
            }
        }
    }

    /// Where a table is. glibc writes the address in place of the offset, but not to tables that are read-only.
    fn table(&self, wanted: i64) -> Option<usize> {
        self.entry(wanted).map(|value| if value < self.base { value + self.base } else { value })
    }

    fn look(&self, found: &mut Found) {
        let (Some(symbols), Some(names)) = (self.table(DT_SYMTAB), self.table(DT_STRTAB)) else { return };
        for (table, size) in [(DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)] {
            let (Some(table), Some(size)) = (self.table(table), self.entry(size)) else { continue };
            // SAFETY: as the dynamic section says.
            let relocations =
                unsafe { core::slice::from_raw_parts(table as *const Relocation, size / size_of::<Relocation>()) };
            for relocation in relocations {
                let is_address = matches!(relocation.kind, R_X86_64_64 | R_X86_64_GLOB_DAT | R_X86_64_JUMP_SLOT);
                if !is_address || relocation.symbol == 0 || relocation.addend != 0 {
                    continue;
                }
                // SAFETY: the object's own tables.
                let name = unsafe {
                    let symbol = &*(symbols as *const Elf64_Sym).add(relocation.symbol as usize);
                    CStr::from_ptr((names + symbol.st_name as usize) as *const c_char)
                };
                let Ok(index) = found.functions.binary_search_by_key(&name, |function| function.name) else { continue };
                let function = &found.functions[index];
                let address = self.base.wrapping_add(relocation.offset);
                // SAFETY: a word of the object that its relocation is about.
                let before = unsafe { (address as *const usize).read_volatile() };
                let unresolved = relocation.kind == R_X86_64_JUMP_SLOT && function.is_first && self.holds(before);
                if before == function.theirs || unresolved {
                    found.slots.push(Slot { address, before, ours: function.ours });
                }
            }
        }
    }
}

static REAL_DLOPEN: AtomicUsize = AtomicUsize::new(0);

// dlopen looks for a name without a slash where the RUNPATH of its caller's object says, and knows its caller by where it
// returns to. So it returns to a `ret` of the caller's object, and that one to us.
global_asm!(
    ".pushsection .text",
    ".type mmiotap_dlopen, @function",
    "mmiotap_dlopen:",
    "push rdi",
    "push rsi",
    "sub rsp, 8",
    "mov rdi, [rsp + 24]",
    "call {find_return}",
    "add rsp, 8",
    "pop rsi",
    "pop rdi",
    "test rax, rax",
    "jz 2f",
    "lea rcx, [rip + 3f]",
    "push rcx",
    "push rax",
    "2: jmp [rip + {real}]",
    "3: test rax, rax",
    "jz 4f",
    "push rax",
    "call {look_again}",
    "pop rax",
    "4: ret",
    ".size mmiotap_dlopen, . - mmiotap_dlopen",
    ".popsection",
    find_return = sym find_return,
    look_again = sym look_again,
    real = sym REAL_DLOPEN,
);

unsafe extern "C" {
    fn mmiotap_dlopen(path: *const c_char, mode: c_int) -> *mut c_void;
}

/// A `ret` in the same code as this address. 0: there is none.
extern "C" fn find_return(near: usize) -> usize {
    const RETURN: u8 = 0xc3;
    let mut found = 0;
    maps::each(|mapping| {
        let is_here = (mapping.start..mapping.end).contains(&near);
        if is_here && mapping.readable && mapping.executable {
            // SAFETY: readable, and in use by our caller.
            let code = unsafe { core::slice::from_raw_parts(near as *const u8, mapping.end - near) };
            found = code.iter().position(|&byte| byte == RETURN).map_or(0, |offset| near + offset);
        }
        !is_here
    });
    found
}

extern "C" fn look_again() {
    if ACTIVE.load(Ordering::Acquire) {
        find_all();
        // SAFETY: no arguments. What we did not find is nothing that the program has asked for.
        unsafe { libc::dlerror() };
    }
}
