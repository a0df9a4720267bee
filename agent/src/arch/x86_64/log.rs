//! What all thunks share: finding out whether an address is in a region, and writing the row of its access.
//!
//! Assembly, because it runs between two instructions of the program: it uses the registers that a thunk has saved, and the
//! stack, and nothing else; no vector register above all. It does what `exec.rs` and `capture.rs` do for a trap, in the same
//! order: room, time, access, row, publishing. Where it cannot (no entry for the page, a clock that must be set right, recording
//! disabled) the access is left to trap.

use core::arch::global_asm;
use core::mem::offset_of;

use super::cpu;
use super::frame::{DIRECTION_FLAG, TRAP_FLAG};
use super::run::COMPONENTS;
use crate::clock::Clock;
use crate::layout::*;
use crate::lookaside::{self, Entry};
use crate::signals::OURS;
use crate::sys::{self, PAGE};
use crate::thread::{self, Log, RENEWING, RENEWING_WITH_HELD, Thread};
use crate::{capture, patch};

/// What a thunk says of its site; part of its code.
#[repr(C)]
pub struct Descriptor {
    pub pc: u64,
    pub width: u32,
    pub flags: u32,
    pub kind: u32,
    /// Rights that the mapping must have, PROT_ bits.
    pub rights: u32,
}

const _: () = assert!(offset_of!(Thread, log) == 0 && size_of::<Log>() == 64);

global_asm!(
    ".pushsection .text",
    ".balign 64",
    "mmiotap_log:",
    // In: rdi address, rsi descriptor. Out: carry clear, rdi address in the alias, r8 the thread, r9 its next row, filled but for
    // value and duration; carry set: nothing can be done. Changes rax, rcx, rdx.
    "mmiotap_enter:",
    ".cfi_startproc",
    "mov rax, rdi",
    "shr rax, 12",
    "movzx ecx, ax",
    "shl ecx, 5",
    "lea rdx, [rip + {table}]",
    "add rdx, rcx",
    "cmp [rdx + {entry_page}], rax",
    "jne 9f",
    // All of the operand in that page, and the rights it takes.
    "mov ecx, edi",
    "and ecx, {page} - 1",
    "add ecx, [rsi + {site_width}]",
    "cmp ecx, {page}",
    "ja 9f",
    "mov ecx, [rsi + {site_rights}]",
    "and ecx, [rdx + {entry_prot}]",
    "cmp ecx, [rsi + {site_rights}]",
    "jne 9f",
    // Room for two rows, in a recording that goes on.
    "mov r8, [rip + mmiotap_thread@GOTTPOFF]",
    "mov r8, fs:[r8]",
    "test r8, r8",
    "jz 9f",
    "cmp dword ptr [r8 + {left}], 2",
    "jb 7f",
    "6:",
    "mov rax, [rip + {arena}]",
    "cmp dword ptr [rax + {enabled}], 0",
    "je 9f",
    "cmp dword ptr [rax + {closed}], 0",
    "jne 9f",
    "mov r9, [r8 + {next_row}]",
    "mov rax, [rdx + {entry_offset}]",
    "add rax, rdi",
    "mov [r9 + {offset}], rax",
    "mov eax, [rdx + {entry_map_id}]",
    "mov [r9 + {map_id}], eax",
    "add rdi, [rdx + {entry_delta}]",
    // rdtscp tells both at once, but waits for everything before it.
    "cmp byte ptr [rip + {rdpid}], 0",
    "je 4f",
    "rdtsc",
    ".byte 0xf3, 0x0f, 0xc7, 0xf9", // rdpid rcx
    "jmp 5f",
    "4: rdtscp",
    "5:",
    "shl rdx, 32",
    "or rax, rdx",
    "mov [r8 + {began}], rax",
    "sub rax, [r8 + {clock_ticks}]",
    "cmp rax, [r8 + {clock_good}]",
    "jae 9f",
    "imul rax, [r8 + {clock_rate}]",
    "shr rax, 32",
    "add rax, [r8 + {clock_ns}]",
    "mov [r9 + {time}], rax",
    // The processor's number is the low 12 bits of TSC_AUX (Linux, arch/x86/include/asm/segment.h, VDSO_CPUNODE_BITS).
    "and ecx, 4095",
    "shl ecx, 16",
    "or ecx, [rsi + {site_width}]",
    "mov [r9 + {width}], ecx",
    "mov rax, [rsi + {site_pc}]",
    "mov [r9 + {pc}], rax",
    "mov eax, [rsi + {site_flags}]",
    "mov [r9 + {flags}], eax",
    "mov dword ptr [r9 + {duration}], -1",
    "mov eax, [rsi + {site_kind}]",
    "mov [r9 + {kind}], rax",
    "mov qword ptr [r9 + {kind} + 8], 0",
    "clc",
    "ret",
    "9: stc",
    "ret",
    // The thread's segment is full, and takes another. It has none yet, or was its parent's: a trap sees to that.
    "7:",
    ".cfi_remember_state",
    "cmp qword ptr [r8 + {published}], 0",
    "je 9b",
    "cmp byte ptr [rip + {xsave}], 0",
    "je 9b",
    "push rbp",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset 6, -16",
    "mov rbp, rsp",
    ".cfi_def_cfa_register 6",
    "push r10",
    ".cfi_offset 10, -24",
    "push r11",
    ".cfi_offset 11, -32",
    "push rdi",
    "push rsi",
    "push rdx",
    "push r8",
    "pushfq",
    // From here on signals are held back until it is 0 again (held.rs).
    "mov dword ptr [r8 + {renewing}], {renewing_alone}",
    "cld",
    "and rsp, -16",
    // What compiled code may change: the vector state.
    "mov r11, [r8 + {vector_copy}]",
    "mov eax, {components}",
    "xor edx, edx",
    "xsave64 [r11]",
    "mov rdi, [rsi + {site_pc}]",
    "call {renew}",
    "mov ecx, eax",
    "mov r8, [rbp - 48]",
    "mov r11, [r8 + {vector_copy}]",
    "mov eax, {components}",
    "xor edx, edx",
    "xrstor64 [r11]",
    "lea rsp, [rbp - 56]",
    // A signal that comes from here on is held back step by step; for one that has come, the steps begin.
    "xor eax, eax",
    "xchg [r8 + {renewing}], eax",
    "cmp eax, {renewing_held}",
    "jne 3f",
    "pushfq",
    "or dword ptr [rsp], {trap}",
    "popfq",
    "3:",
    // Not popfq: it would end these steps. Of the flags only the direction flag is not kept by the thunk.
    "pop rax",
    "test eax, {direction}",
    "jz 8f",
    "std",
    "8:",
    "pop r8",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    "pop r11",
    ".cfi_restore 11",
    "pop r10",
    ".cfi_restore 10",
    "pop rbp",
    ".cfi_restore 6",
    ".cfi_def_cfa 7, 8",
    "test ecx, ecx",
    "jnz 6b",
    "stc",
    "ret",
    ".cfi_restore_state",
    // In: r8 thread. The access under way begins now. Changes rax, rdx.
    "mmiotap_begin:",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov [r8 + {began}], rax",
    "ret",
    // In: r8 thread, r9 row. The access is over: writes how long it took. Changes rax, rcx, rdx.
    "mmiotap_end:",
    "rdtscp",
    "shl rdx, 32",
    "or rax, rdx",
    "sub rax, [r8 + {began}]",
    // Seconds, when the thread was not running: the most that the column can say.
    "mov edx, -2",
    "cmp rax, rdx",
    "cmova rax, rdx",
    "imul rax, [r8 + {clock_rate}]",
    "shr rax, 32",
    "mov [r9 + {duration}], eax",
    "ret",
    // In: the operand's copy in the thunk's frame, r8 thread, r9 row. Publishes the row. Changes rax, rdx, r9.
    "mmiotap_leave:",
    "mov rax, [rsp + 8]",
    "mov [r9 + {value}], rax",
    "mov eax, [r8 + {left}]",
    "dec eax",
    "2: add r9, {row_size}",
    "mov [r8 + {next_row}], r9",
    "mov [r8 + {left}], eax",
    "mov edx, {rows}",
    "sub edx, eax",
    "mov rax, [r8 + {published}]",
    "mov [rax], edx",
    "ret",
    // The same for operands of 16 and 32 bytes, which continue in the next row.
    "mmiotap_leave_wide:",
    "mov rax, [rsp + 8]",
    "mov [r9 + {value}], rax",
    "mov [r9 + {row_size}], rax",
    "mov rax, [rsp + 16]",
    "mov [r9 + {row_size} + 8], rax",
    "mov rax, [rsp + 24]",
    "mov [r9 + {row_size} + 16], rax",
    "mov rax, [rsp + 32]",
    "mov [r9 + {row_size} + 24], rax",
    "3: add r9, {row_size}",
    "mov eax, [r8 + {left}]",
    "sub eax, 2",
    "jmp 2b",
    // The same for a read-modify-write, whose row of the read is complete: makes that of the write.
    "mmiotap_leave_both:",
    "mov rax, [rsp + 8]",
    "mov [r9 + {row_size} + {value}], rax",
    "mov rax, [r9 + {time}]",
    "mov [r9 + {row_size} + {time}], rax",
    "mov rax, [r9 + {offset}]",
    "mov [r9 + {row_size} + {offset}], rax",
    "mov rax, [r9 + {pc}]",
    "mov [r9 + {row_size} + {pc}], rax",
    "mov rax, [r9 + {flags}]",
    "mov [r9 + {row_size} + {flags}], rax",
    "mov eax, [r9 + {width}]",
    "mov [r9 + {row_size} + {width}], eax",
    "mov qword ptr [r9 + {row_size} + {kind}], {write}",
    "mov qword ptr [r9 + {row_size} + {kind} + 8], 0",
    "jmp 3b",
    ".cfi_endproc",
    "mmiotap_log_end:",
    ".popsection",
    page = const PAGE,
    table = sym lookaside::TABLE,
    arena = sym crate::arena::BASE,
    rdpid = sym cpu::RDPID,
    xsave = sym cpu::XSAVE,
    renew = sym renew,
    components = const COMPONENTS,
    direction = const DIRECTION_FLAG,
    trap = const TRAP_FLAG,
    renewing_alone = const RENEWING,
    renewing_held = const RENEWING_WITH_HELD,
    site_pc = const offset_of!(Descriptor, pc),
    site_width = const offset_of!(Descriptor, width),
    site_flags = const offset_of!(Descriptor, flags),
    site_kind = const offset_of!(Descriptor, kind),
    site_rights = const offset_of!(Descriptor, rights),
    entry_page = const offset_of!(Entry, page),
    entry_delta = const offset_of!(Entry, delta),
    entry_offset = const offset_of!(Entry, offset),
    entry_map_id = const offset_of!(Entry, map_id),
    entry_prot = const offset_of!(Entry, prot),
    next_row = const offset_of!(Log, next_row),
    published = const offset_of!(Log, published),
    left = const offset_of!(Log, left),
    renewing = const offset_of!(Log, renewing),
    began = const offset_of!(Log, began),
    clock_ticks = const offset_of!(Log, clock) + offset_of!(Clock, ticks),
    clock_ns = const offset_of!(Log, clock) + offset_of!(Clock, ns),
    clock_rate = const offset_of!(Log, clock) + offset_of!(Clock, rate),
    clock_good = const offset_of!(Log, clock) + offset_of!(Clock, good),
    vector_copy = const offset_of!(Thread, vector_copy),
    enabled = const H_ENABLED,
    closed = const H_CLOSED,
    rows = const ROWS_PER_SEGMENT,
    row_size = const ROW_SIZE,
    time = const R_TIME_NS,
    value = const R_VALUE,
    offset = const R_OFFSET,
    pc = const R_PC,
    flags = const R_FLAGS,
    map_id = const R_MAP_ID,
    duration = const R_DURATION_NS,
    width = const R_WIDTH,
    kind = const R_KIND,
    write = const WRITE as usize,
);

// width and processor, flags and map id, duration and both, kind and what follows are moved together.
const _: () = assert!(R_CPU == R_WIDTH + 2 && R_MAP_ID == R_FLAGS + 4 && R_WIDTH == R_DURATION_NS + 4);
const _: () = assert!(lookaside::ENTRIES == 1 << 16);
const _: () = assert!(R_KIND + 16 == ROW_SIZE && PAGE == 1 << 12 && size_of::<lookaside::Entry>() == 32);

/// Takes a new segment for the calling thread, which is at the thunk of this site. False: there is none.
extern "C" fn renew(site: usize) -> bool {
    sys::with_blocked(!OURS, || {
        patch::renewed(site);
        thread::current().is_some_and(|thread| capture::reserve(thread, 2))
    })
}

unsafe extern "C" {
    static mmiotap_log: u8;
    static mmiotap_log_end: u8;
    static mmiotap_enter: u8;
    static mmiotap_begin: u8;
    static mmiotap_end: u8;
    static mmiotap_leave: u8;
    static mmiotap_leave_wide: u8;
    static mmiotap_leave_both: u8;
}

/// The routines that thunks call.
#[derive(Clone, Copy)]
pub enum Routine {
    Enter,
    Begin,
    End,
    Leave,
    LeaveWide,
    LeaveBoth,
}

impl Routine {
    pub fn address(self) -> usize {
        let routine = match self {
            Routine::Enter => &raw const mmiotap_enter,
            Routine::Begin => &raw const mmiotap_begin,
            Routine::End => &raw const mmiotap_end,
            Routine::Leave => &raw const mmiotap_leave,
            Routine::LeaveWide => &raw const mmiotap_leave_wide,
            Routine::LeaveBoth => &raw const mmiotap_leave_both,
        };
        routine as usize
    }
}

/// Is this address in the code here, which runs as a part of some thunk?
pub fn contains(pc: usize) -> bool {
    (&raw const mmiotap_log as usize..&raw const mmiotap_log_end as usize).contains(&pc)
}
