//! sigsetjmp, siglongjmp and their like: the mask that is kept, and comes back, is what the thread believes in.
//!
//! libc's sigsetjmp asks the kernel for it. Ours keeps the same registers in the same way, so libc's siglongjmp finds what it expects, in a
//! recording and after it; only the mask that it is given is one for the kernel.

use core::arch::global_asm;
use core::ffi::{CStr, c_int};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use libc::SIG_BLOCK;

use super::calls::name;
use super::contexts::are_ours;
use super::masks;
use crate::arena;
use crate::masked::masked;
use crate::signals::OURS;

/// libc's struct __jmp_buf_tag (setjmp.h).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Buffer {
    registers: [u64; 8],
    mask_was_saved: c_int,
    mask: [u64; 16],
}

/// Where in `registers` the stack pointer is.
const STACK_POINTER: usize = 6;

/// The registers are kept. libc itself has buffers without room for a mask.
extern "C" fn save_mask(buffer: *mut Buffer, wanted: c_int) {
    let mask = if wanted != 0 { masks::kernel_mask(SIG_BLOCK, None).ok() } else { None };
    // SAFETY: the program's buffer, which has a mask if one is wanted.
    unsafe {
        (*buffer).mask_was_saved = c_int::from(mask.is_some());
        if let Some(mask) = mask {
            (*buffer).mask[0] = mask;
        }
    }
}

/// The thread is about to jump. Returns whether it is to do so by `copy`, whose mask is one for the kernel.
extern "C" fn jumps(buffer: &Buffer, copy: &mut Buffer) -> bool {
    if buffer.mask_was_saved == 0 || arena::base() == 0 {
        return false;
    }
    *copy = *buffer;
    copy.mask[0] &= !OURS;
    masked().set(buffer.mask[0]);
    masked().send_pending();
    true
}

/// Does libc keep registers as we do? (glibc, sysdeps/x86_64/setjmp.S; x86_64/pointer_guard.h.)
static ARE_ALIKE: AtomicBool = AtomicBool::new(false);

extern "C" fn is_ours() -> bool {
    are_ours() && ARE_ALIKE.load(Ordering::Relaxed)
}

global_asm!(
    ".pushsection .text",
    // What the pointer guard is for: nobody is to write an address there that knows not the word at fs:0x30.
    ".macro mmiotap_guard register",
    "xor \\register, qword ptr fs:[0x30]",
    "rol \\register, 17",
    ".endm",
    // int sigsetjmp(buffer, saves_mask), by libc's function if it is not for us.
    ".macro mmiotap_set_jump real",
    ".cfi_startproc",
    "push rdi",
    ".cfi_adjust_cfa_offset 8",
    "push rsi",
    ".cfi_adjust_cfa_offset 8",
    "sub rsp, 8",
    ".cfi_adjust_cfa_offset 8",
    "call {is_ours}",
    "add rsp, 8",
    ".cfi_adjust_cfa_offset -8",
    "pop rsi",
    ".cfi_adjust_cfa_offset -8",
    "pop rdi",
    ".cfi_adjust_cfa_offset -8",
    "test al, al",
    "jnz mmiotap_keep_registers",
    "jmp \\real",
    ".cfi_endproc",
    ".endm",
    "mmiotap_keep_registers:",
    ".cfi_startproc",
    "mov [rdi], rbx",
    "mov rax, rbp",
    "mmiotap_guard rax",
    "mov [rdi + 8], rax",
    "mov [rdi + 16], r12",
    "mov [rdi + 24], r13",
    "mov [rdi + 32], r14",
    "mov [rdi + 40], r15",
    "lea rax, [rsp + 8]",
    "mmiotap_guard rax",
    "mov [rdi + 48], rax",
    "mov rax, [rsp]",
    "mmiotap_guard rax",
    "mov [rdi + 56], rax",
    "sub rsp, 8",
    ".cfi_adjust_cfa_offset 8",
    "call {save_mask}",
    "add rsp, 8",
    ".cfi_adjust_cfa_offset -8",
    "xor eax, eax",
    "ret",
    ".cfi_endproc",
    "mmiotap_guarded: mov rax, rdi",
    "mmiotap_guard rax",
    "ret",
    // void siglongjmp(buffer, number)
    ".macro mmiotap_jump real",
    ".cfi_startproc",
    "push rsi",
    ".cfi_adjust_cfa_offset 8",
    "push rdi",
    ".cfi_adjust_cfa_offset 8",
    "sub rsp, 216",
    ".cfi_adjust_cfa_offset 216",
    "mov rsi, rsp",
    "call {jumps}",
    "mov rdi, rsp",
    "test al, al",
    "cmovz rdi, [rsp + 216]",
    "mov rsi, [rsp + 224]",
    "call \\real",
    "ud2",
    ".cfi_endproc",
    ".endm",
    ".popsection",
    is_ours = sym is_ours,
    save_mask = sym save_mask,
    jumps = sym jumps,
);

unsafe extern "C" {
    fn mmiotap_guarded(address: usize) -> u64;
}

macro_rules! in_front {
    ($($name:ident as $symbol:literal: $before:literal, $code:literal, $real:ident;)*) => {
        $(
            /// libc's function. In place of one that was not looked up yet, what does that.
            static $real: AtomicPtr<()> = {
                unsafe extern "C" {
                    #[link_name = concat!($symbol, "_first")]
                    fn first();
                }
                AtomicPtr::new(first as *mut ())
            };

            /// # Safety
            /// As the function of this name in the C library.
            #[cfg_attr(not(test), unsafe(no_mangle))]
            pub unsafe extern "C" fn $name(buffer: usize, number: c_int) -> c_int {
                unsafe extern "C" {
                    #[link_name = $symbol]
                    fn front(buffer: usize, number: c_int) -> c_int;
                }
                // SAFETY: the caller's promise. It is a jump: what is kept is the stack of the program's call.
                unsafe { front(buffer, number) }
            }

            global_asm!(
                ".pushsection .text",
                concat!($symbol, ":"),
                $before,
                concat!($code, " [rip+{real}]"),
                concat!($symbol, "_first:"),
                "push rdi",
                "push rsi",
                "sub rsp, 8",
                "call {prepare}",
                "add rsp, 8",
                "pop rsi",
                "pop rdi",
                "jmp [rip + {real}]",
                ".popsection",
                prepare = sym prepare,
                real = sym $real,
            );
        )*

        /// All of them, with their names.
        pub const FUNCTIONS: &[(&CStr, *const ())] = &[$((name(concat!(stringify!($name), "\0")), $name as *const ())),*];
        const REALS: &[&AtomicPtr<()>] = &[$(&$real),*];
    };
}

// setjmp itself always keeps the mask, and has no argument that says so.
in_front! {
    __sigsetjmp as "mmiotap___sigsetjmp": "", "mmiotap_set_jump", SIGSETJMP;
    setjmp as "mmiotap_setjmp": "mov esi, 1", "mmiotap_set_jump", SETJMP;
    longjmp as "mmiotap_longjmp": "", "mmiotap_jump", LONGJMP;
    _longjmp as "mmiotap__longjmp": "", "mmiotap_jump", LONGJMP_BSD;
    siglongjmp as "mmiotap_siglongjmp": "", "mmiotap_jump", SIGLONGJMP;
    __longjmp_chk as "mmiotap___longjmp_chk": "", "mmiotap_jump", LONGJMP_CHECKED;
}

/// Looks libc's functions up: at the start, for some are called where nothing may be looked up.
pub extern "C" fn prepare() {
    for ((name, _), real) in FUNCTIONS.iter().zip(REALS) {
        // SAFETY: the name is NUL-terminated.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
        if !found.is_null() {
            real.store(found.cast(), Ordering::Relaxed);
        }
    }
    let mut buffer = Buffer { registers: [0; 8], mask_was_saved: 0, mask: [0; 16] };
    let here = &raw mut buffer as usize;
    // SAFETY: libc's function, into whose buffer nobody will jump.
    let near = unsafe {
        let set: unsafe extern "C" fn(usize, c_int) -> c_int = core::mem::transmute(SIGSETJMP.load(Ordering::Relaxed));
        set(here, 0);
        // Its caller's frame has the buffer.
        (here - 1024..=here).step_by(8).any(|address| mmiotap_guarded(address) == buffer.registers[STACK_POINTER])
    };
    ARE_ALIKE.store(near, Ordering::Relaxed);
}
