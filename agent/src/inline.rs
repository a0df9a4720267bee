//! System calls by which the program maps and sets up signals itself, past libc, as liburing does: it has them inlined.
//!
//! They are looked for once, in the objects that are there at the start, function by function as their unwind tables say where those
//! are: so instructions are taken apart from where they begin. In place of the first byte of each such `syscall` comes a breakpoint; all
//! other system calls, and other instructions, are as they were. What a thread that comes there asks for is looked at then, and is done as if libc's
//! function had been called, or by the same instruction elsewhere.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::{c_int, c_void};
use core::ops::Range;
use core::slice;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use libc::{Elf64_Ehdr, Elf64_Phdr, PF_X, PT_GNU_EH_FRAME, PT_LOAD, dl_phdr_info, size_t};

use crate::arch::{Frame, inline};
use crate::interpose::raw;
use crate::patch::text;
use crate::{modules, region, signals};

/// A `syscall` that has a breakpoint.
#[derive(Clone, Copy)]
struct Site {
    at: usize,
    /// The same instruction elsewhere.
    copy: usize,
}

/// Sorted; written once.
static SITES: AtomicPtr<Site> = AtomicPtr::new(core::ptr::null_mut());
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn sites() -> &'static [Site] {
    let count = COUNT.load(Ordering::Acquire);
    if count == 0 {
        return &[];
    }
    // SAFETY: the sites were leaked before they were counted.
    unsafe { slice::from_raw_parts(SITES.load(Ordering::Relaxed), count) }
}

/// Looks for them, before any thread but this one runs. Where code cannot be written they stay as they are.
pub fn find() {
    let mut found: Vec<Site> = Vec::new();
    // SAFETY: the callback gets what we pass.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut found).cast()) };
    if found.is_empty() {
        return;
    }
    found.sort_unstable_by_key(|site| site.at);
    let found = Box::leak(found.into_boxed_slice());
    // First all that a breakpoint needs.
    SITES.store(found.as_mut_ptr(), Ordering::Relaxed);
    COUNT.store(found.len(), Ordering::Release);
    {
        let _table = region::lock();
        signals::install();
    }
    for site in found {
        text::write(site.at, &[inline::BREAKPOINT]);
    }
    text::sync();
}

/// A breakpoint: is it one of ours?
pub fn entered(at: usize, frame: &mut Frame) -> bool {
    let Ok(index) = sites().binary_search_by_key(&at, |site| site.at) else { return false };
    let (number, arguments) = inline::asked(frame);
    match raw::answered(number, arguments, frame) {
        Some(result) => inline::answer(frame, at, result),
        None => frame.set_pc(sites()[index].copy),
    }
    true
}

unsafe extern "C" fn visit(info: *mut dl_phdr_info, _: size_t, found: *mut c_void) -> c_int {
    // SAFETY: both are valid for the call, and so are the program headers.
    let (info, found) = unsafe { (&*info, &mut *found.cast::<Vec<Site>>()) };
    // SAFETY: as above.
    let segments = unsafe { slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let object = Object { base: info.dlpi_addr as usize, segments };
    if !object.is_left_alone() {
        object.look(found);
    }
    0
}

/// An object that is loaded.
pub struct Object<'a> {
    base: usize,
    segments: &'a [Elf64_Phdr],
}

/// What `.eh_frame_hdr` begins with (LSB Core, 10.6.2): a version and three encodings, and what these say of the tables that linkers
/// make: the address of .eh_frame, the number of functions, and for each, sorted, where it begins and where its entry is, both from here.
const HEADER: [u8; 4] = [1, 0x1b, 0x03, 0x3b];

impl Object<'_> {
    /// libc, found without the dynamic linker's lock. None: it is not known where it is.
    pub fn of_libc() -> Option<Object<'static>> {
        let (start, base) = modules::object_of(raw::real()).filter(|_| raw::is_found())?;
        // SAFETY: an object begins with its header, and the table is in its first segment; libc stays.
        let segments = unsafe {
            let header = &*(start as *const Elf64_Ehdr);
            slice::from_raw_parts((start + header.e_phoff as usize) as *const Elf64_Phdr, usize::from(header.e_phnum))
        };
        Some(Object { base, segments })
    }

    /// Ours, libc, the dynamic loader and the kernel's: their system calls are not the program's.
    fn is_left_alone(&self) -> bool {
        // SAFETY: what the kernel has told.
        let [loader, kernels] = [libc::AT_BASE, libc::AT_SYSINFO_EHDR].map(|kind| unsafe { libc::getauxval(kind) as usize });
        let others = [visit as *const () as usize, raw::real(), kernels];
        self.base == loader || others.iter().any(|&address| self.code_end(address).is_some())
    }

    /// Where its executable segments are.
    fn segments_of_code(&self) -> impl Iterator<Item = Range<usize>> {
        let is_code = |segment: &&Elf64_Phdr| segment.p_type == PT_LOAD && segment.p_flags & PF_X != 0;
        self.segments.iter().filter(is_code).map(|segment| {
            let start = self.base + segment.p_vaddr as usize;
            start..start + segment.p_memsz as usize
        })
    }

    /// The first of them.
    pub fn code(&self) -> Option<Range<usize>> {
        self.segments_of_code().next()
    }

    /// The end of the one that holds this address.
    fn code_end(&self, address: usize) -> Option<usize> {
        self.segments_of_code().find(|code| code.contains(&address)).map(|code| code.end)
    }

    fn look(&self, found: &mut Vec<Site>) {
        self.each_function(|begin, code| {
            inline::each_system_call(code, |call| {
                if call.number.is_some_and(|number| raw::is_ours(number as i64)) {
                    let at = begin + call.offset;
                    found.extend(inline::place(at).map(|copy| Site { at, copy }));
                }
            });
        });
    }

    /// Calls for each function that has an entry in the unwind tables: with its address, and its code.
    pub fn each_function(&self, mut visit: impl FnMut(usize, &[u8])) {
        let Some(segment) = self.segments.iter().find(|segment| segment.p_type == PT_GNU_EH_FRAME) else { return };
        let start = self.base + segment.p_vaddr as usize;
        // SAFETY: part of the object, which is loaded; the table is as long as it says.
        let (head, words) = unsafe {
            let count = ((start + 8) as *const u32).read_unaligned() as usize;
            (*(start as *const [u8; 4]), slice::from_raw_parts((start + 12) as *const [[u8; 4]; 2], count))
        };
        if head != HEADER {
            return;
        }
        for entry in words {
            let [begin, entry] = entry.map(|word| start.wrapping_add_signed(i32::from_le_bytes(word) as isize));
            // SAFETY: a function's entry: its length, that of its head, its begin from there, and its size (LSB Core, 10.6.1.2).
            let [from, size] = unsafe { *((entry + 8) as *const [[u8; 4]; 2]) };
            let (from, size) = (i32::from_le_bytes(from) as isize, u32::from_le_bytes(size) as usize);
            // Encoded in another way, or not code.
            let is_plain = (entry + 8).wrapping_add_signed(from) == begin;
            if is_plain && self.code_end(begin).is_some_and(|end| end - begin >= size) {
                // SAFETY: inside an executable segment.
                visit(begin, unsafe { slice::from_raw_parts(begin as *const u8, size) });
            }
        }
    }
}
