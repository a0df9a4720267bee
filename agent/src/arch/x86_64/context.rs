//! getcontext, setcontext, swapcontext and makecontext (ucontext.h, sys/ucontext.h; which registers: System V ABI, AMD64 supplement,
//! 3.2.1). libc's own hand the mask to the kernel by instructions of their own; these hand it to contexts.rs.

use core::arch::global_asm;
use core::sync::atomic::{AtomicUsize, Ordering};

use libc::{c_int, ucontext_t};

use super::Frame;
use super::frame::RSP;
use crate::interpose::contexts::{exchange_masks, get_mask, set_mask};

global_asm!(
    ".pushsection .text",
    // Keeps the caller's registers in the context that rdi points to, rcx but as what it is used for. It goes on behind its call.
    ".macro mmiotap_keep",
    "mov [rdi + 40], r8",
    "mov [rdi + 48], r9",
    "mov [rdi + 72], r12",
    "mov [rdi + 80], r13",
    "mov [rdi + 88], r14",
    "mov [rdi + 96], r15",
    "mov [rdi + 104], rdi",
    "mov [rdi + 112], rsi",
    "mov [rdi + 120], rbp",
    "mov [rdi + 128], rbx",
    "mov [rdi + 136], rdx",
    "mov [rdi + 152], rcx",
    "lea rcx, [rsp + 8]",
    "mov [rdi + 160], rcx",
    "mov rcx, [rsp]",
    "mov [rdi + 168], rcx",
    "lea rcx, [rdi + 424]",
    "mov [rdi + 224], rcx",
    "fnstenv [rcx]",
    // It has masked all exceptions.
    "fldenv [rcx]",
    "stmxcsr [rdi + 448]",
    ".endm",
    "mmiotap_getcontext:",
    ".cfi_startproc",
    "mmiotap_keep",
    "sub rsp, 8",
    ".cfi_adjust_cfa_offset 8",
    "call {get_mask}",
    "add rsp, 8",
    ".cfi_adjust_cfa_offset -8",
    "xor eax, eax",
    "ret",
    ".cfi_endproc",
    "mmiotap_setcontext:",
    ".cfi_startproc",
    "push rdi",
    ".cfi_adjust_cfa_offset 8",
    "call {set_mask}",
    "jmp 1f",
    ".cfi_endproc",
    "mmiotap_swapcontext:",
    ".cfi_startproc",
    "mmiotap_keep",
    "push rsi",
    ".cfi_adjust_cfa_offset 8",
    "call {exchange_masks}",
    "1: pop rdx",
    ".cfi_adjust_cfa_offset -8",
    "mov rcx, [rdx + 224]",
    "fldenv [rcx]",
    "ldmxcsr [rdx + 448]",
    ".cfi_endproc",
    // From here on the stack is another one: what is on it is what unwinders find.
    ".cfi_startproc",
    "mov rsp, [rdx + 160]",
    "push qword ptr [rdx + 168]",
    "mov r8, [rdx + 40]",
    "mov r9, [rdx + 48]",
    "mov r12, [rdx + 72]",
    "mov r13, [rdx + 80]",
    "mov r14, [rdx + 88]",
    "mov r15, [rdx + 96]",
    "mov rdi, [rdx + 104]",
    "mov rsi, [rdx + 112]",
    "mov rbp, [rdx + 120]",
    "mov rbx, [rdx + 128]",
    "mov rcx, [rdx + 152]",
    "mov rdx, [rdx + 136]",
    "xor eax, eax",
    "ret",
    ".cfi_endproc",
    // makecontext(context, function, count, ...): libc's own first, with the same arguments, those on the stack with them.
    "mmiotap_makecontext:",
    ".cfi_startproc",
    "push rbp",
    ".cfi_adjust_cfa_offset 8",
    ".cfi_offset rbp, -16",
    "mov rbp, rsp",
    ".cfi_def_cfa_register rbp",
    "push rdi",
    "push rbx",
    "movsxd rbx, edx",
    "sub rbx, 3",
    "jle 3f",
    // An even number of words.
    "test bl, 1",
    "jz 2f",
    "push rbx",
    "2: push qword ptr [rbp + rbx * 8 + 8]",
    "dec rbx",
    "jnz 2b",
    "3: xor eax, eax",
    "call [rip + {libcs_make}]",
    "mov rdi, [rbp - 8]",
    "mov rbx, [rbp - 16]",
    "lea rsp, [rbp - 16]",
    "call {made}",
    "leave",
    ".cfi_def_cfa rsp, 8",
    "ret",
    ".cfi_endproc",
    // A context's function has returned: rbx is where its uc_link is (glibc, sysdeps/unix/sysv/linux/x86_64/makecontext.c).
    ".cfi_startproc",
    ".cfi_undefined rip",
    "nop",
    "mmiotap_context_ends:",
    "cmp qword ptr [rbx], 0",
    "je 4f",
    "mov rdi, [rbx]",
    "mov rsp, rbx",
    "and rsp, -16",
    "call mmiotap_setcontext",
    "4: jmp [rip + {libcs_end}]",
    ".cfi_endproc",
    ".purgem mmiotap_keep",
    ".popsection",
    get_mask = sym get_mask,
    set_mask = sym set_mask,
    exchange_masks = sym exchange_masks,
    libcs_make = sym LIBCS_MAKE,
    made = sym made,
    libcs_end = sym LIBCS_END,
);

unsafe extern "C" {
    pub fn mmiotap_getcontext(context: *mut ucontext_t) -> c_int;
    pub fn mmiotap_setcontext(context: *const ucontext_t) -> c_int;
    pub fn mmiotap_swapcontext(old: *mut ucontext_t, new: *const ucontext_t) -> c_int;
    pub fn mmiotap_makecontext(context: *mut ucontext_t, function: usize, count: c_int, a: usize, b: usize, c: usize);
    static mmiotap_context_ends: u8;
}

/// libc's makecontext, for ours.
pub static LIBCS_MAKE: AtomicUsize = AtomicUsize::new(0);
/// Where libc has functions of contexts return to.
static LIBCS_END: AtomicUsize = AtomicUsize::new(0);

/// libc has made this context, whose function returns to libc: which would go on with uc_link by its own setcontext.
extern "C" fn made(context: &mut ucontext_t) {
    let top = Frame::new(context).general(RSP) as *mut usize;
    // SAFETY: libc has just written there.
    LIBCS_END.store(unsafe { top.replace(&raw const mmiotap_context_ends as usize) }, Ordering::Relaxed);
}

/// Has this thread a shadow stack, which libc's own functions change with the stack? (glibc, x86_64/nptl/tls.h: feature_1.)
pub fn has_shadow_stack() -> bool {
    const SHSTK: u32 = 2;
    let features: u32;
    // SAFETY: a word of libc's thread block.
    unsafe { core::arch::asm!("mov {0:e}, dword ptr fs:[0x48]", out(reg) features, options(nostack, readonly)) };
    features & SHSTK != 0
}
