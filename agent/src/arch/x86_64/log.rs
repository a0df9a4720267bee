//! What all thunks share: finding out whether an address is in a region, and writing the row of its access.
//!
//! Assembly, because it runs between two instructions of the program: it uses the registers that a thunk has saved, and the
//! stack, and nothing else; no vector register above all. It does what `exec.rs` and `capture.rs` do for a trap, in the same
//! order: room, time, access, row, publishing. Where it cannot (no room, no entry for the page, a clock that must be set right,
//! recording disabled) the access is left to trap.

use core::arch::global_asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::layout::*;
use crate::lookaside;
use crate::thread::{Log, Thread};

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

static HAS_RDPID: AtomicBool = AtomicBool::new(false);

/// Asks the processor what it has. False: it cannot tell the time and its number, and there can be no thunks. It needs rdtscp (CPUID
/// 0x80000001, edx bit 27); rdpid (CPUID 7, ecx bit 22) is better.
#[allow(unused_unsafe)] // __cpuid was unsafe to call in older Rust
pub fn prepare() -> bool {
    const EXTENDED: u32 = 0x8000_0001;
    const FEATURES: u32 = 7;
    // SAFETY: every x86-64 processor has the instruction and the first two leaves.
    unsafe {
        let has_rdpid = __cpuid(0).eax >= FEATURES && __cpuid_count(FEATURES, 0).ecx & (1 << 22) != 0;
        HAS_RDPID.store(has_rdpid, Ordering::Relaxed);
        __cpuid(EXTENDED).edx & (1 << 27) != 0
    }
}

const _: () = assert!(offset_of!(Thread, log) == 0 && size_of::<Log>() == 64 && offset_of!(Log, clock) == 32);

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
    "cmp [rdx], rax",
    "jne 9f",
    // All of the operand in that page, and the rights it takes.
    "mov ecx, edi",
    "and ecx, 4095",
    "add ecx, [rsi + 8]",
    "cmp ecx, 4096",
    "ja 9f",
    "mov ecx, [rsi + 20]",
    "and ecx, [rdx + 28]",
    "cmp ecx, [rsi + 20]",
    "jne 9f",
    // Room for two rows, in a recording that goes on.
    "mov r8, [rip + mmiotap_thread@GOTTPOFF]",
    "mov r8, fs:[r8]",
    "test r8, r8",
    "jz 9f",
    "cmp dword ptr [r8 + 16], 2",
    "jb 9f",
    "mov rax, [rip + {arena}]",
    "cmp dword ptr [rax + {enabled}], 0",
    "je 9f",
    "cmp dword ptr [rax + {closed}], 0",
    "jne 9f",
    "mov r9, [r8]",
    "mov rax, [rdx + 16]",
    "add rax, rdi",
    "mov [r9 + {offset}], rax",
    "mov eax, [rdx + 24]",
    "mov [r9 + {map_id}], eax",
    "add rdi, [rdx + 8]",
    // rdtscp tells both at once, but waits for everything before it.
    "cmp byte ptr [rip + {has_rdpid}], 0",
    "je 4f",
    "rdtsc",
    ".byte 0xf3, 0x0f, 0xc7, 0xf9", // rdpid rcx
    "jmp 5f",
    "4: rdtscp",
    "5:",
    "shl rdx, 32",
    "or rax, rdx",
    "mov [r8 + 24], rax",
    "sub rax, [r8 + 32]",
    "cmp rax, [r8 + 56]",
    "jae 9f",
    "imul rax, [r8 + 48]",
    "shr rax, 32",
    "add rax, [r8 + 40]",
    "mov [r9 + {time}], rax",
    // The processor's number is the low 12 bits of TSC_AUX (Linux, arch/x86/include/asm/segment.h, VDSO_CPUNODE_BITS).
    "and ecx, 4095",
    "shl ecx, 16",
    "or ecx, [rsi + 8]",
    "mov [r9 + {width}], ecx",
    "mov rax, [rsi]",
    "mov [r9 + {pc}], rax",
    "mov eax, [rsi + 12]",
    "mov [r9 + {flags}], eax",
    "mov dword ptr [r9 + {duration}], -1",
    "mov eax, [rsi + 16]",
    "mov [r9 + {kind}], rax",
    "mov qword ptr [r9 + {kind} + 8], 0",
    "clc",
    "ret",
    "9: stc",
    "ret",
    // In: r8 thread. The access under way begins now. Changes rax, rdx.
    "mmiotap_begin:",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov [r8 + 24], rax",
    "ret",
    // In: r8 thread, r9 row. The access is over: writes how long it took. Changes rax, rcx, rdx.
    "mmiotap_end:",
    "rdtscp",
    "shl rdx, 32",
    "or rax, rdx",
    "sub rax, [r8 + 24]",
    // Seconds, when the thread was not running: the most that the column can say.
    "mov edx, -2",
    "cmp rax, rdx",
    "cmova rax, rdx",
    "imul rax, [r8 + 48]",
    "shr rax, 32",
    "mov [r9 + {duration}], eax",
    "ret",
    // In: the operand's copy in the thunk's frame, r8 thread, r9 row. Publishes the row. Changes rax, rdx, r9.
    "mmiotap_leave:",
    "mov rax, [rsp + 8]",
    "mov [r9 + {value}], rax",
    "mov eax, [r8 + 16]",
    "dec eax",
    "2: add r9, {row_size}",
    "mov [r8], r9",
    "mov [r8 + 16], eax",
    "mov edx, {rows}",
    "sub edx, eax",
    "mov rax, [r8 + 8]",
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
    "mov eax, [r8 + 16]",
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
    table = sym lookaside::TABLE,
    arena = sym crate::arena::BASE,
    has_rdpid = sym HAS_RDPID,
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
const _: () = assert!(R_KIND + 16 == ROW_SIZE && lookaside::PAGE == 4096 && size_of::<lookaside::Entry>() == 32);

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
