//! A thread that libc does not know of.

use core::arch::asm;
use core::ffi::c_int;

/// Starts a thread on this stack, which runs `entry`; its id is written to `tid`, and 0 when it has ended. False: the kernel
/// refused.
///
/// # Safety
/// The stack (its upper end, aligned to 16) is free until `*tid` is 0 again; `entry` uses nothing thread-local.
pub unsafe fn spawn(stack: usize, tid: *mut c_int, entry: extern "C" fn() -> !) -> bool {
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_CLEARTID;
    let ret: isize;
    // SAFETY: clone(2) for x86-64: flags, stack, parent's tid, child's tid. The child never comes out of the block.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "call r9",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone as isize => ret,
            in("rdi") flags as usize, in("rsi") stack, in("rdx") tid, in("r10") tid, in("r8") 0usize, in("r9") entry,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    ret > 0
}
