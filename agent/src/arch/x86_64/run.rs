//! Running one instruction with the program's registers, and plain accesses of an exact width.
//!
//! Both may fault (a page beyond the end of a file, rights the program took away). [`recover`], called by the fault handler,
//! then makes them return `false`.

use core::arch::global_asm;

use super::{Frame, code, cpu};

/// The registers that an instruction runs with, and what it left in them.
#[repr(C)]
pub struct Registers {
    /// In the order of the instruction set. rsp (4) is neither loaded nor stored.
    pub general: [u64; 16],
    pub flags: u64,
    /// Time-stamp counter around the instruction, if it is `timed`.
    pub before: u64,
    pub after: u64,
    /// Vector state to load before and store after; null: the instruction needs none.
    pub vector_state: *mut u8,
    /// Which components of it.
    pub components: u64,
    code: usize,
    stack: usize,
    pub timed: u64,
}

impl Registers {
    pub fn of(frame: &Frame) -> Registers {
        let mut general = [0; 16];
        for (number, value) in general.iter_mut().enumerate() {
            *value = frame.general(number);
        }
        Registers {
            general,
            flags: frame.flags() & super::frame::STATUS_FLAGS,
            before: 0,
            after: 0,
            vector_state: core::ptr::null_mut(),
            components: 0,
            code: 0,
            stack: 0,
            timed: 0,
        }
    }
}

/// x87, SSE, AVX and the three of AVX-512 (SDM volume 1, 13.1); never PKRU, which guards the agent's own memory too.
pub const COMPONENTS: u64 = 0xe7;
/// Linux, asm/sigcontext.h: struct _fpx_sw_bytes at byte 464 of the frame's state tells what follows it.
const MAGIC_OFFSET: usize = 464;
const MAGIC: u32 = 0x4650_5853;
const FEATURES_OFFSET: usize = 472;

/// Which components the frame holds, of those that the agent loads; 0: only the 512 bytes of FXSAVE.
pub fn components(state: *const u8) -> u64 {
    features(state) & COMPONENTS
}

/// All components that the frame holds.
pub fn features(state: *const u8) -> u64 {
    // SAFETY: the kernel's frame always holds the 512 bytes.
    unsafe {
        if state.add(MAGIC_OFFSET).cast::<u32>().read() != MAGIC {
            return 0;
        }
        state.add(FEATURES_OFFSET).cast::<u64>().read()
    }
}

global_asm!(
    ".pushsection .text",
    // bool mmiotap_run(struct Registers *rdi). `call` goes through our own stack slot: no register is free.
    "mmiotap_run:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "sub rsp, 40",
    "mov [rsp], rdi",
    "mov rax, [rdi + 168]", // code
    "mov [rsp + 8], rax",
    "mov [rdi + 176], rsp", // stack, for recover()
    "mov rcx, [rdi + 152]",
    "test rcx, rcx",
    "jz 2f",
    "mov eax, [rdi + 160]",
    "xor edx, edx",
    "test eax, eax",
    "jz 6f",
    "xrstor64 [rcx]",
    "jmp 2f",
    "6: fxrstor64 [rcx]",
    "2:",
    "cmp qword ptr [rdi + 184], 0", // timed
    "je 7f",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov [rdi + 136], rax",
    "7:",
    "push qword ptr [rdi + 128]",
    "popfq",
    "mov rax, [rdi]",
    "mov rcx, [rdi + 8]",
    "mov rdx, [rdi + 16]",
    "mov rbx, [rdi + 24]",
    "mov rbp, [rdi + 40]",
    "mov rsi, [rdi + 48]",
    "mov r8, [rdi + 64]",
    "mov r9, [rdi + 72]",
    "mov r10, [rdi + 80]",
    "mov r11, [rdi + 88]",
    "mov r12, [rdi + 96]",
    "mov r13, [rdi + 104]",
    "mov r14, [rdi + 112]",
    "mov r15, [rdi + 120]",
    "mov rdi, [rdi + 56]",
    "call [rsp + 8]",
    "mov [rsp + 16], rdi",
    "mov rdi, [rsp]",
    "mov [rdi], rax",
    "mov [rdi + 8], rcx",
    "mov [rdi + 16], rdx",
    "mov [rdi + 24], rbx",
    "mov [rdi + 40], rbp",
    "mov [rdi + 48], rsi",
    "mov [rdi + 64], r8",
    "mov [rdi + 72], r9",
    "mov [rdi + 80], r10",
    "mov [rdi + 88], r11",
    "mov [rdi + 96], r12",
    "mov [rdi + 104], r13",
    "mov [rdi + 112], r14",
    "mov [rdi + 120], r15",
    "mov rax, [rsp + 16]",
    "mov [rdi + 56], rax",
    "pushfq",
    "pop qword ptr [rdi + 128]",
    "cld",
    "cmp qword ptr [rdi + 184], 0",
    "je 8f",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov [rdi + 144], rax",
    "8:",
    "mov rcx, [rdi + 152]",
    "test rcx, rcx",
    "jz 4f",
    "mov eax, [rdi + 160]",
    "xor edx, edx",
    "test eax, eax",
    "jz 3f",
    "xsave64 [rcx]",
    "jmp 4f",
    "3: fxsave64 [rcx]",
    "4: mov eax, 1",
    "5: add rsp, 40",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    "mmiotap_run_fault: xor eax, eax",
    "jmp 5b",
    // bool mmiotap_load_N(const void *rdi, void *rsi): one access to rdi of exactly N bytes; store: to rsi.
    "mmiotap_access:",
    "mmiotap_load_1: mov al, [rdi]",
    "mov [rsi], al",
    "mov eax, 1",
    "ret",
    "mmiotap_load_2: mov ax, [rdi]",
    "mov [rsi], ax",
    "mov eax, 1",
    "ret",
    "mmiotap_load_4: mov eax, [rdi]",
    "mov [rsi], eax",
    "mov eax, 1",
    "ret",
    "mmiotap_load_8: mov rax, [rdi]",
    "mov [rsi], rax",
    "mov eax, 1",
    "ret",
    "mmiotap_load_16: movups xmm0, [rdi]",
    "movups [rsi], xmm0",
    "mov eax, 1",
    "ret",
    "mmiotap_load_32: vmovups ymm0, [rdi]",
    "vmovups [rsi], ymm0",
    "vzeroupper",
    "mov eax, 1",
    "ret",
    "mmiotap_load_64: vmovups zmm0, [rdi]",
    "vmovups [rsi], zmm0",
    "vzeroupper",
    "mov eax, 1",
    "ret",
    // unsigned mmiotap_xadd_N(void *rdi, void *rsi): *rdi += *rsi, locked; *rsi = what it was.
    "mmiotap_xadd_1: mov al, [rsi]",
    "lock xadd [rdi], al",
    "mov [rsi], al",
    "mov eax, 1",
    "ret",
    "mmiotap_xadd_2: mov ax, [rsi]",
    "lock xadd [rdi], ax",
    "mov [rsi], ax",
    "mov eax, 1",
    "ret",
    "mmiotap_xadd_4: mov eax, [rsi]",
    "lock xadd [rdi], eax",
    "mov [rsi], eax",
    "mov eax, 1",
    "ret",
    "mmiotap_xadd_8: mov rax, [rsi]",
    "lock xadd [rdi], rax",
    "mov [rsi], rax",
    "mov eax, 1",
    "ret",
    "mmiotap_access_end:",
    "mmiotap_access_fault: xor eax, eax",
    "ret",
    // A handler of the program is due: what wrapped.rs says is called in our place, on the same stack and with the same arguments.
    "mmiotap_signal_entry:",
    ".cfi_startproc",
    "endbr64",
    "push rdi",
    ".cfi_adjust_cfa_offset 8",
    "push rsi",
    ".cfi_adjust_cfa_offset 8",
    "push rdx",
    ".cfi_adjust_cfa_offset 8",
    "lea rcx, [rsp + 24]",
    "call {enter}",
    "pop rdx",
    ".cfi_adjust_cfa_offset -8",
    "pop rsi",
    ".cfi_adjust_cfa_offset -8",
    "pop rdi",
    ".cfi_adjust_cfa_offset -8",
    "test rax, rax",
    "jz 9f",
    "jmp rax",
    "9: ret",
    ".cfi_endproc",
    // Where handlers return to, the program's and then the agent's own, with the interrupted registers in the ucontext_t
    // (sys/ucontext.h) that rsp points to. Unwinders know a signal frame by the last two instructions, or by what is said of it here:
    // DWARF's number of each register, and where it is. They look one byte before the address of return, so the description begins there.
    ".macro mmiotap_kept register, offset",
    ".cfi_escape 0x10, \\register, 3, 0x77, (\\offset & 0x7f) | 0x80, \\offset >> 7", // DW_CFA_expression: rsp + offset
    ".endm",
    ".balign 16",
    ".cfi_startproc",
    ".cfi_signal_frame",
    ".cfi_escape 0x0f, 4, 0x77, 0xa0, 1, 6", // DW_CFA_def_cfa_expression: what rsp + 160 points to
    "mmiotap_kept 8, 40",
    "mmiotap_kept 9, 48",
    "mmiotap_kept 10, 56",
    "mmiotap_kept 11, 64",
    "mmiotap_kept 12, 72",
    "mmiotap_kept 13, 80",
    "mmiotap_kept 14, 88",
    "mmiotap_kept 15, 96",
    "mmiotap_kept 5, 104",
    "mmiotap_kept 4, 112",
    "mmiotap_kept 6, 120",
    "mmiotap_kept 3, 128",
    "mmiotap_kept 1, 136",
    "mmiotap_kept 0, 144",
    "mmiotap_kept 2, 152",
    "mmiotap_kept 7, 160",
    "mmiotap_kept 16, 168",
    "nop",
    "mmiotap_handler_end: mov rdi, rsp",
    "call {leave}",
    "mmiotap_restorer: mov rax, 15",
    "syscall",
    ".cfi_endproc",
    ".purgem mmiotap_kept",
    ".popsection",
    enter = sym crate::wrapped::enter,
    leave = sym crate::wrapped::leave,
);

unsafe extern "C" {
    fn mmiotap_run(registers: *mut Registers) -> bool;
    static mmiotap_run_fault: u8;
    static mmiotap_access: u8;
    static mmiotap_access_end: u8;
    static mmiotap_access_fault: u8;
    static mmiotap_handler_end: u8;
    static mmiotap_restorer: u8;
    static mmiotap_signal_entry: u8;
}

/// Flag of the kernel's sigaction: it names a restorer (asm/signal.h).
pub const SA_RESTORER: u64 = 0x0400_0000;

/// The code that ends a signal handler: the system call rt_sigreturn.
pub fn restorer() -> usize {
    &raw const mmiotap_restorer as usize
}

/// Where a handler of the program's returns to; see wrapped.rs.
pub fn handler_end() -> usize {
    &raw const mmiotap_handler_end as usize
}

/// What the kernel calls in place of the program's handlers; see wrapped.rs.
pub fn signal_entry() -> usize {
    &raw const mmiotap_signal_entry as usize
}

/// Moves exactly one operand from the first address to the second.
type Access = unsafe extern "C" fn(*const u8, *mut u8) -> bool;

macro_rules! accesses {
    ($($name:ident),*) => { unsafe extern "C" { $(fn $name(from: *const u8, to: *mut u8) -> bool;)* } };
}
accesses!(mmiotap_load_1, mmiotap_load_2, mmiotap_load_4, mmiotap_load_8);
accesses!(mmiotap_load_16, mmiotap_load_32, mmiotap_load_64);
accesses!(mmiotap_xadd_1, mmiotap_xadd_2, mmiotap_xadd_4, mmiotap_xadd_8);

/// Copies one operand by one load and one store of exactly `width` bytes, or, where there is no such access, by a few of 8, 4, 2
/// bytes and one. False: it faulted.
///
/// # Safety
/// Both sides must be addresses that the program itself was about to access, or ours.
pub unsafe fn copy(from: usize, to: usize, width: usize) -> bool {
    let access: Access = match width {
        1 => mmiotap_load_1,
        2 => mmiotap_load_2,
        4 => mmiotap_load_4,
        8 => mmiotap_load_8,
        16 => mmiotap_load_16,
        32 if cpu::has(&cpu::AVX) => mmiotap_load_32,
        64 if cpu::has(&cpu::AVX512) => mmiotap_load_64,
        _ => {
            let mut done = 0;
            return core::iter::from_fn(|| {
                let part = [8, 4, 2, 1].into_iter().find(|part| done + part <= width)?;
                done += part;
                Some((done - part, part))
            })
            // SAFETY: the caller's promise.
            .all(|(start, part)| unsafe { copy(from + start, to + start, part) });
        }
    };
    // SAFETY: the caller's promise; a fault is recovered from.
    unsafe { access(from as *const u8, to as *mut u8) }
}

/// One locked exchange-and-add of exactly `width` bytes; `operand` is replaced by the old value. False: it faulted.
///
/// # Safety
/// As for copy.
pub unsafe fn exchange_add(at: usize, operand: usize, width: usize) -> bool {
    let access: Access = match width {
        1 => mmiotap_xadd_1,
        2 => mmiotap_xadd_2,
        4 => mmiotap_xadd_4,
        8 => mmiotap_xadd_8,
        _ => return false,
    };
    // SAFETY: the caller's promise; a fault is recovered from.
    unsafe { access(at as *const u8, operand as *mut u8) }
}

/// Runs placed code with these registers. False: it faulted, and the registers are as they were.
///
/// # Safety
/// The code is one instruction of the program's own, its memory operand moved to an address that the instruction may use.
pub unsafe fn run(registers: &mut Registers, code: usize) -> bool {
    registers.code = code;
    // SAFETY: the caller's promise; a fault is recovered from.
    unsafe { mmiotap_run(registers) }
}

/// Is this address in code that runs something for the program?
pub fn runs(pc: usize) -> bool {
    let (start, end) = (&raw const mmiotap_access as usize, &raw const mmiotap_access_end as usize);
    (start..end).contains(&pc) || code::contains(pc)
}

/// If a fault happened in code that we ran for the program, lets that code's caller see it and returns true.
///
/// `stack_of_run` is where run() keeps its stack pointer: the registers in use by this thread, null if none are.
pub fn recover(frame: &mut Frame, registers: *const Registers) -> bool {
    let pc = frame.pc();
    let address = |label: &'static u8| &raw const *label as usize;
    // SAFETY: labels of the assembly above.
    let (start, end, fault, run_fault) = unsafe {
        (address(&mmiotap_access), address(&mmiotap_access_end), address(&mmiotap_access_fault), address(&mmiotap_run_fault))
    };
    if (start..end).contains(&pc) {
        frame.set_pc(fault);
    } else if code::contains(pc) && !registers.is_null() {
        // SAFETY: run() is on this thread's stack, below which the signal frame lies.
        frame.set_general(super::frame::RSP, unsafe { (*registers).stack } as u64);
        frame.set_pc(run_fault);
        frame.set_flags(frame.flags() & !super::frame::DIRECTION_FLAG);
    } else {
        return false;
    }
    true
}
