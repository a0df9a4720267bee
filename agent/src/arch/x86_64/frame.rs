//! A thread that a signal has stopped: its registers as the kernel saved them.

use iced_x86::{ConditionCode, Register};
use libc::ucontext_t;

/// The trap flag of EFLAGS: single step.
pub const TRAP_FLAG: u64 = 1 << 8;
/// The direction flag of EFLAGS: string instructions run downwards.
pub const DIRECTION_FLAG: u64 = 1 << 10;
/// Flags that instructions read and write: CF PF AF ZF SF DF OF.
pub const STATUS_FLAGS: u64 = 0xcd5;

/// Where the kernel's signal frame keeps the general registers, in the order of the instruction set (rax, rcx, rdx, rbx,
/// rsp, rbp, rsi, rdi, r8 …): indices into gregs of sys/ucontext.h.
const GREGS: [usize; 16] = [13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7];
const RIP: usize = 16;
const EFLAGS: usize = 17;
/// The code segment's selector in the low 16 bits.
const SEGMENTS: usize = 18;
const ERROR: usize = 19;
const CR2: usize = 22;

pub const RAX: usize = 0;
pub const RCX: usize = 1;
pub const RDX: usize = 2;
pub const RSP: usize = 4;
pub const RBP: usize = 5;
pub const RSI: usize = 6;
pub const RDI: usize = 7;

pub struct Frame<'a> {
    context: &'a mut ucontext_t,
}

impl<'a> Frame<'a> {
    pub fn new(context: &'a mut ucontext_t) -> Frame<'a> {
        Frame { context }
    }

    pub fn pc(&self) -> usize {
        self.context.uc_mcontext.gregs[RIP] as usize
    }

    pub fn set_pc(&mut self, pc: usize) {
        self.context.uc_mcontext.gregs[RIP] = pc as i64;
    }

    pub fn flags(&self) -> u64 {
        self.context.uc_mcontext.gregs[EFLAGS] as u64
    }

    pub fn set_flags(&mut self, flags: u64) {
        self.context.uc_mcontext.gregs[EFLAGS] = flags as i64;
    }

    /// The selector of the code segment.
    pub fn code_segment(&self) -> u16 {
        self.context.uc_mcontext.gregs[SEGMENTS] as u16
    }

    /// A general register, numbered as the instruction set does.
    pub fn general(&self, number: usize) -> u64 {
        self.context.uc_mcontext.gregs[GREGS[number]] as u64
    }

    pub fn set_general(&mut self, number: usize, value: u64) {
        self.context.uc_mcontext.gregs[GREGS[number]] = value as i64;
    }

    /// Do the flags meet this condition? (SDM volume 1, appendix B.)
    pub fn meets(&self, condition: ConditionCode) -> bool {
        let flag = |bit: u32| self.flags() & (1 << bit) != 0;
        let (carry, parity, zero, sign, overflow) = (flag(0), flag(2), flag(6), flag(7), flag(11));
        match condition {
            ConditionCode::None => true,
            ConditionCode::o => overflow,
            ConditionCode::no => !overflow,
            ConditionCode::b => carry,
            ConditionCode::ae => !carry,
            ConditionCode::e => zero,
            ConditionCode::ne => !zero,
            ConditionCode::be => carry || zero,
            ConditionCode::a => !carry && !zero,
            ConditionCode::s => sign,
            ConditionCode::ns => !sign,
            ConditionCode::p => parity,
            ConditionCode::np => !parity,
            ConditionCode::l => sign != overflow,
            ConditionCode::ge => sign == overflow,
            ConditionCode::le => zero || sign != overflow,
            ConditionCode::g => !zero && sign == overflow,
        }
    }

    /// Was the fault a write? (Page-fault error code, SDM volume 3, 4.7.)
    pub fn is_write(&self) -> bool {
        self.context.uc_mcontext.gregs[ERROR] & 2 != 0
    }

    /// Was the fault the fetch of an instruction?
    pub fn is_fetch(&self) -> bool {
        self.context.uc_mcontext.gregs[ERROR] & 16 != 0
    }

    /// What a handler of the program finds as the address of the fault, beside that of its siginfo.
    pub fn set_fault_address(&mut self, address: usize) {
        self.context.uc_mcontext.gregs[CR2] = address as i64;
    }

    /// The signal mask that the thread goes on with.
    pub fn mask(&self) -> u64 {
        // SAFETY: the kernel's part of a signal set is its first 8 bytes (asm/signal.h).
        unsafe { (&raw const self.context.uc_sigmask).cast::<u64>().read() }
    }

    pub fn set_mask(&mut self, mask: u64) {
        // SAFETY: as above.
        unsafe { (&raw mut self.context.uc_sigmask).cast::<u64>().write(mask) };
    }

    /// The saved vector and x87 state, in the layout of XSAVE.
    pub fn vector_state(&self) -> *mut u8 {
        self.context.uc_mcontext.fpregs.cast()
    }

    /// The value of a register that takes part in an address: general, instruction pointer excluded, or segment base.
    pub fn register(&self, register: Register) -> Option<u64> {
        if register.is_gpr() {
            let value = self.general(register.number());
            return Some(match register.size() {
                8 => value,
                4 => value & 0xffff_ffff,
                _ => value & 0xffff,
            });
        }
        match register {
            Register::FS => Some(segment_base(ARCH_GET_FS)),
            Register::GS => Some(segment_base(ARCH_GET_GS)),
            Register::CS | Register::DS | Register::ES | Register::SS => Some(0),
            _ => None,
        }
    }
}

/// Codes of arch_prctl(2).
const ARCH_GET_FS: usize = 0x1003;
const ARCH_GET_GS: usize = 0x1004;

fn segment_base(which: usize) -> u64 {
    let mut base = 0u64;
    // SAFETY: the kernel writes eight bytes to our variable.
    unsafe { crate::sys::syscall3(libc::SYS_arch_prctl, which, &raw mut base as usize, 0) };
    base
}
