//! Tells the trace of the ELF objects that sites are in, so that their addresses can be given names.
//!
//! A row is written when the first site in an object is seen, on the trap path: the dynamic linker is asked by
//! `_dl_find_object`, which takes no lock and may be called anywhere, and the kernel by /proc/self/maps. Where the C library
//! does not have that function (glibc before 2.35, musl), the object's own header tells what it would have told.

use alloc::vec::Vec;
use core::ffi::{CStr, c_int, c_void};
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use libc::{Elf64_Ehdr, Elf64_Phdr, PT_LOAD, PT_NOTE};

use crate::capture::{self, Row};
use crate::layout::{MODULE, ROW_SIZE};
use crate::maps::{self, Mapping};
use crate::sys::PAGE;
use crate::thread;

const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
/// elf.h: rights of a segment, and the type of the note that holds the build id.
const PF_R: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;

/// An object as it is loaded.
struct Object {
    start: usize,
    end: usize,
    bias: usize,
}

/// glibc's struct dl_find_object (dlfcn.h).
#[repr(C)]
struct Found {
    flags: u64,
    start: usize,
    end: usize,
    /// struct link_map, whose first word is the load bias (link.h).
    link_map: *const usize,
    eh_frame: usize,
    reserved: [u64; 7],
}

type FindObject = unsafe extern "C" fn(*const c_void, *mut Found) -> c_int;

/// `_dl_find_object`; null: the C library does not have it.
static FIND_OBJECT: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());

/// Where the object with libc's string functions begins; 0: not known.
static LIBC_START: AtomicUsize = AtomicUsize::new(0);

/// The objects that the trace has been told of, as keys; 0: free. Objects beyond these stay untold.
static TOLD: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];

/// Looks up what note() calls. At the start, when the dynamic linker may be asked for symbols.
pub fn prepare() {
    // SAFETY: the names are NUL-terminated.
    let (function, string_function) = unsafe {
        let symbol = |name: &CStr| libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
        (symbol(c"_dl_find_object"), symbol(c"memcpy"))
    };
    FIND_OBJECT.store(function, Ordering::Relaxed);
    LIBC_START.store(find(string_function as usize).map_or(0, |(object, _)| object.start), Ordering::Relaxed);
}

/// What code is part of.
#[derive(PartialEq, Eq, Debug)]
pub enum Place {
    /// The object with libc's string functions.
    LibC,
    /// Another loaded object.
    Object,
    /// Made at run time, perhaps, and so perhaps made anew.
    Unknown,
}

pub fn place_of(pc: usize) -> Place {
    match find(pc) {
        Some((object, _)) if object.start == LIBC_START.load(Ordering::Relaxed) => Place::LibC,
        Some(_) => Place::Object,
        // Without the dynamic linker's word: code that is mapped from a file.
        None if FIND_OBJECT.load(Ordering::Relaxed).is_null() && first_mapping(pc).is_some() => Place::Object,
        None => Place::Unknown,
    }
}

/// Where the object with the code at `pc` begins, and its load bias.
pub fn object_of(pc: usize) -> Option<(usize, usize)> {
    find(pc).map(|(object, _)| (object.start, object.bias))
}

/// In a forked child, whose objects are told under its own pid, and in a recording that begins.
pub fn forget_told() {
    TOLD.iter().for_each(|slot| slot.store(0, Ordering::Relaxed));
}

/// Tells of the object that the code at `pc` is in, once. If the row finds no room, a later site tries again.
pub fn note(pc: usize) {
    let found = find(pc);
    let known = found.as_ref().map(|(object, link_map)| key(object, *link_map));
    if known.is_some_and(is_told) {
        return;
    }
    let Some(mapping) = first_mapping(found.as_ref().map_or(pc, |(object, _)| object.start)) else { return };
    let header = Header::at(&mapping);
    let Some(object) = found.map(|(object, _)| object).or_else(|| header.as_ref()?.object()) else { return };
    let key = known.unwrap_or_else(|| key(&object, 0));
    let Some(thread) = thread::current() else { return };

    let build_id = header.and_then(|header| header.build_id(&object)).unwrap_or_default();
    let mut extra = Vec::with_capacity(20 + build_id.len() + mapping.path.len());
    extra.extend_from_slice(&(object.start as u64).to_le_bytes());
    extra.extend_from_slice(&(object.end as u64).to_le_bytes());
    extra.extend_from_slice(&(build_id.len() as u32).to_le_bytes());
    extra.extend_from_slice(build_id);
    extra.extend_from_slice(&mapping.path);
    // Told only once there is room for it, and by one thread only.
    if capture::reserve(thread, 1 + extra.len().div_ceil(ROW_SIZE)) && claim(key) {
        capture::write(thread, &Row { value: object.bias as u64, ..Row::new(MODULE) }, &extra);
    }
}

/// The object by the dynamic linker's word, with the address of its link_map.
fn find(pc: usize) -> Option<(Object, usize)> {
    let function = FIND_OBJECT.load(Ordering::Relaxed);
    if function.is_null() {
        return None;
    }
    // SAFETY: prepare() found it under this name, whose type does not change.
    let function: FindObject = unsafe { core::mem::transmute(function) };
    let mut found = Found { flags: 0, start: 0, end: 0, link_map: core::ptr::null(), eh_frame: 0, reserved: [0; 7] };
    // SAFETY: async-signal-safe (glibc manual, "Dynamic Linker Introspection"); the result is ours.
    if unsafe { function(pc as *const c_void, &raw mut found) } != 0 {
        return None;
    }
    // SAFETY: the object is loaded as long as its code runs, and with it its link_map.
    let bias = unsafe { *found.link_map };
    Some((Object { start: found.start, end: found.end, bias }, found.link_map as usize))
}

/// Objects that follow each other at one address differ in their link_map or their end.
fn key(object: &Object, link_map: usize) -> u64 {
    let mix = |hash: u64, word: usize| (hash ^ word as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    [object.start, object.end, link_map].into_iter().fold(1, mix).max(1)
}

fn is_told(key: u64) -> bool {
    TOLD.iter().map(|slot| slot.load(Ordering::Relaxed)).take_while(|&told| told != 0).any(|told| told == key)
}

/// Takes the key's place in the table. False: another thread was faster, or the table is full.
fn claim(key: u64) -> bool {
    for slot in &TOLD {
        match slot.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(told) if told == key => return false,
            Err(_) => {}
        }
    }
    false
}

/// The mapping where the file that is mapped at `address` begins: the one that holds its ELF header.
fn first_mapping(address: usize) -> Option<Mapping> {
    let mut first: Option<Mapping> = None;
    let mut found = false;
    maps::each(|mapping| {
        let is_here = (mapping.start..mapping.end).contains(&address);
        let same_file = first.as_ref().is_some_and(|first| first.path == mapping.path);
        let begins_file = !same_file && mapping.file_offset == 0 && !mapping.path.is_empty();
        found = is_here && (same_file || begins_file);
        if begins_file {
            first = Some(mapping);
        }
        !is_here
    });
    first.filter(|_| found)
}

/// An ELF header and its program headers, in memory.
struct Header {
    address: usize,
    segments: &'static [Elf64_Phdr],
}

impl Header {
    /// None: the mapping does not begin with a header, or the program headers are elsewhere.
    fn at(mapping: &Mapping) -> Option<Header> {
        let length = mapping.end - mapping.start;
        if !mapping.readable || length < size_of::<Elf64_Ehdr>() {
            return None;
        }
        // SAFETY: the mapping is readable and long enough, and code of its file runs on this thread: it stays.
        let header = unsafe { &*(mapping.start as *const Elf64_Ehdr) };
        let (offset, count) = (header.e_phoff as usize, usize::from(header.e_phnum));
        let fits = offset.checked_add(count * size_of::<Elf64_Phdr>()).is_some_and(|end| end <= length);
        let usual = usize::from(header.e_phentsize) == size_of::<Elf64_Phdr>() && offset % align_of::<Elf64_Phdr>() == 0;
        if header.e_ident[..4] != ELF_MAGIC || !fits || !usual {
            return None;
        }
        // SAFETY: inside the mapping and aligned, as was just seen.
        let segments = unsafe { core::slice::from_raw_parts((mapping.start + offset) as *const Elf64_Phdr, count) };
        Some(Header { address: mapping.start, segments })
    }

    fn loaded(&self) -> impl Iterator<Item = &Elf64_Phdr> {
        self.segments.iter().filter(|segment| segment.p_type == PT_LOAD)
    }

    /// Segments are in order of address (ELF specification), and the first one here holds the header.
    fn object(&self) -> Option<Object> {
        let (first, last) = (self.loaded().next()?, self.loaded().last()?);
        let bias = self.address.wrapping_sub(first.p_vaddr as usize & !(PAGE - 1));
        let end = bias.wrapping_add((last.p_vaddr + last.p_memsz) as usize);
        Some(Object { start: self.address, end, bias })
    }

    fn build_id(&self, object: &Object) -> Option<&'static [u8]> {
        self.segments.iter().filter(|segment| segment.p_type == PT_NOTE && self.is_readable(segment)).find_map(|segment| {
            let address = object.bias.wrapping_add(segment.p_vaddr as usize);
            // SAFETY: the notes lie in a readable part of an object that stays loaded while its code runs.
            let notes = unsafe { core::slice::from_raw_parts(address as *const u8, segment.p_filesz as usize) };
            build_id_in(notes, segment.p_align as usize)
        })
    }

    fn is_readable(&self, part: &Elf64_Phdr) -> bool {
        self.loaded().any(|segment| {
            segment.p_flags & PF_R != 0
                && part.p_vaddr >= segment.p_vaddr
                && part.p_vaddr + part.p_filesz <= segment.p_vaddr + segment.p_filesz
        })
    }
}

/// The build id among notes: each has the lengths of its name and its contents, a type, then both, padded.
fn build_id_in(notes: &[u8], alignment: usize) -> Option<&[u8]> {
    const HEAD: usize = 12;
    let padding = if alignment == 8 { 8 } else { 4 };
    let mut rest = notes;
    while rest.len() >= HEAD {
        let word = |at: usize| u32::from_le_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]) as usize;
        let (name_length, length, kind) = (word(0), word(4), word(8) as u32);
        let at = (HEAD + name_length).next_multiple_of(padding);
        let contents = rest.get(at..at + length)?;
        if kind == NT_GNU_BUILD_ID && rest[HEAD..].starts_with(b"GNU\0") {
            return Some(contents);
        }
        rest = rest.get((at + length).next_multiple_of(padding)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;
    use std::os::unix::ffi::OsStrExt;
    use std::process::Command;

    fn own_pc() -> usize {
        own_pc as fn() -> usize as usize
    }

    fn facts(object: &Object) -> (usize, usize, usize) {
        (object.start, object.end, object.bias)
    }

    #[test]
    fn the_linker_and_the_header_tell_the_same_of_the_program_and_of_libc() {
        prepare();
        for pc in [own_pc(), libc::getenv as *const () as usize] {
            let (linked, _) = find(pc).expect("this glibc has _dl_find_object");
            let header = Header::at(&first_mapping(pc).unwrap()).unwrap();
            assert_eq!(facts(&linked), facts(&header.object().unwrap()));
            assert!((linked.start..linked.end).contains(&pc));
            assert_eq!(first_mapping(linked.start).unwrap().start, linked.start);
        }
    }

    #[test]
    fn the_path_is_the_programs_own() {
        let mapping = first_mapping(own_pc()).unwrap();
        assert_eq!(mapping.path, std::env::current_exe().unwrap().as_os_str().as_bytes());
    }

    #[test]
    fn memory_that_is_no_file_is_in_no_object() {
        let memory = sys::anonymous(PAGE).unwrap() as usize;
        assert!(first_mapping(memory).is_none());
        assert!(find(memory).is_none());
    }

    #[test]
    fn the_build_id_is_the_one_that_file_prints() {
        let mapping = first_mapping(libc::getenv as *const () as usize).unwrap();
        let header = Header::at(&mapping).unwrap();
        let id = header.build_id(&header.object().unwrap()).unwrap();
        let id: std::string::String = id.iter().map(|byte| std::format!("{byte:02x}")).collect();
        let path = std::str::from_utf8(&mapping.path).unwrap();
        let notes = Command::new("readelf").args(["-n", path]).output().unwrap();
        let notes = std::string::String::from_utf8(notes.stdout).unwrap();
        assert!(notes.contains(&std::format!("Build ID: {id}")), "{id} is not in {notes}");
    }

    #[test]
    fn notes_are_walked_with_their_padding() {
        let property = b"\x04\0\0\0\x10\0\0\0\x05\0\0\0GNU\0................";
        let id = b"\x04\0\0\0\x03\0\0\0\x03\0\0\0GNU\0\xab\xcd\xef\0";
        let both = [&property[..], &id[..]].concat();
        assert_eq!(build_id_in(&both, 4), Some(&b"\xab\xcd\xef"[..]));
        assert_eq!(build_id_in(&both, 8), Some(&b"\xab\xcd\xef"[..]));
        assert_eq!(build_id_in(property, 4), None);
        assert_eq!(build_id_in(&id[..17], 4), None, "a note that is cut short");
    }

    #[test]
    fn a_key_is_claimed_once_until_a_fork() {
        let key = key(&Object { start: 1, end: 2, bias: 3 }, 4);
        assert!(!is_told(key) && claim(key) && is_told(key) && !claim(key));
        forget_told();
        assert!(!is_told(key) && claim(key));
    }
}
