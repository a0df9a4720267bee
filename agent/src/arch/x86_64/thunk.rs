//! Thunks: what a patched site jumps to. The site's own instruction, made on the alias, with its row written around it.
//!
//! A thunk leaves the red zone alone, keeps registers and flags in a frame below it, and changes no vector register. Its
//! parts, in order:
//!
//! - a first look at the address, quick, for sites that touch ordinary memory too;
//! - a store runs on a copy of its operand in the frame, which tells the value;
//! - registers and flags are kept, and [`log`](super::log) looks at the address: no region there, or nothing that could be logged,
//!   and the thread goes to the part *outside*: everything as it was, and the original instruction, which traps if it must;
//! - the *access*: one load or store of exactly the operand's width;
//! - the row is published, registers and flags come back, and a load's instruction runs on the copy in the frame;
//! - a read-modify-write loads, runs on the copy, and stores, as the processor does without a lock.
//!
//! If the access itself faults, [`Thunk::leave`] puts the thread back before the site with nothing done, and the trap's way takes over.

use alloc::vec::Vec;
use iced_x86::{Code, Encoder, EncodingKind, Instruction, MemoryOperand, Mnemonic, OpKind, Register};

use super::Frame;
use super::cfi::Cfi;
use super::cpu;
use super::decode::without_absolute_address;
use super::frame::{DIRECTION_FLAG, RAX, RCX, RDI, RDX, RSI, RSP, STATUS_FLAGS};
use super::log::{self, Routine};
use super::site::{Class, Site};
use crate::layout::{NONTEMPORAL, PATCHED, R_DURATION_NS, R_VALUE, READ, ROW_SIZE, WRITE};
use crate::lookaside::{self, TAG_SHIFT};
use crate::thread;

/// The frame: below the red zone of 128 bytes (System V ABI, 3.2.2) another 128.
const FRAME: i32 = 256;
/// In the frame: the operand's copy, what a read-modify-write needs again, and the registers.
const COPY: i32 = 0;
const ALIAS: i32 = 0x20;
const THREAD: i32 = 0x28;
const ROW: i32 = 0x30;
const REGISTERS: i32 = 0x40;
const FLAGS: i32 = 0x78;
/// What the shared code changes.
pub const KEPT: [usize; 7] = [RAX, RCX, RDX, RSI, RDI, 8, 9];

/// The most bytes that a thunk takes.
pub const MOST: usize = 768;

/// Where the parts of a placed thunk are.
#[derive(Clone, Copy, Default, Debug)]
pub struct Thunk {
    pub start: usize,
    pub end: usize,
    /// The first instruction that touches the frame: nothing has changed yet but the stack pointer.
    first: usize,
    /// The instructions that touch the alias; the second of a read-modify-write, else 0.
    accesses: [usize; 2],
    /// The original instruction on the copy.
    on_copy: usize,
    /// The original instruction as it is: after the first look, and after the second.
    outside: [usize; 2],
    /// The int3 that every so many accesses to ordinary memory come to.
    pub sample: usize,
}

/// Can this site have a thunk?
pub fn is_possible(site: &Site) -> bool {
    let instruction = &site.instruction;
    let uses_stack = |register: Register| register.is_gpr() && register.full_register() == Register::RSP;
    let known = match (site.class, site.width) {
        (Class::Load | Class::Store, 1 | 2 | 4 | 8) => true,
        (Class::Modify, 1 | 2 | 4 | 8) => !site.vector,
        (Class::Load | Class::LoadDirect | Class::Store, 16 | 32) => is_wide_move(instruction),
        _ => false,
    };
    known
        && site.bit_offset.is_none()
        // Whether it touches its operand at all, only the processor knows: a mask may leave out all of it.
        && !instruction.has_op_mask()
        && !matches!(instruction.segment_prefix(), Register::FS | Register::GS)
        && !uses_stack(instruction.memory_base())
        && !(0..instruction.op_count())
            .any(|op| instruction.op_kind(op) == OpKind::Register && uses_stack(instruction.op_register(op)))
}

/// Does it move 16 or 32 bytes between memory and one of the first 16 vector registers, and nothing else?
fn is_wide_move(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    let moves = matches!(
        instruction.mnemonic(),
        Movups | Movupd | Movaps | Movapd | Movdqu | Movdqa | Lddqu | Movntps | Movntpd | Movntdq | Movntdqa
    ) || matches!(
        instruction.mnemonic(),
        Vmovups | Vmovupd | Vmovaps | Vmovapd | Vmovdqu | Vmovdqa | Vlddqu | Vmovntps | Vmovntpd | Vmovntdq | Vmovntdqa
    );
    moves && matches!(instruction.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
}

/// The code of a site's thunk for this address, and what unwinders must know of it. None: it cannot be encoded there.
pub fn build(site: &Site, start: usize, timed: bool) -> Option<(Vec<u8>, Thunk, Cfi)> {
    let thunk = Thunk { start, ..Thunk::default() };
    let cfi = Cfi::new(start, site.pc + site.length);
    let mut code = Assembler { bytes: Vec::with_capacity(MOST), calls: Vec::new(), start, thunk, cfi };
    let is_wide = site.width > 8;
    let on_copy = with_operand_at(&site.instruction, Register::RSP, COPY);
    code.lea_rsp(-FRAME);
    code.thunk.first = code.here();
    if cpu::has(&cpu::BMI2) {
        code.first_look(site)?;
    }
    if site.class == Class::Store && !is_wide {
        code.thunk.on_copy = code.here();
        code.instruction(&on_copy)?;
    }
    code.move_stack(STORE, RDI, kept_at(RDI));
    code.operand_address(&site.instruction)?;
    code.keep();
    let descriptor = code.lea_rsi();
    code.call(Routine::Enter);
    let outside = code.jump_if_carry();
    code.cfi.remember(code.here());
    code.thunk.accesses[0] = code.here();
    match site.class {
        _ if is_wide => {
            code.instruction(&with_operand_at(&site.instruction, Register::RDI, 0))?;
            code.call_if(timed, Routine::End);
            code.instruction(&wide_copy(&site.instruction)?)?;
            code.call(Routine::LeaveWide);
            code.bring_back();
        }
        Class::Load => {
            code.load_rax_from_rdi(site.width);
            code.move_stack(STORE, RAX, COPY);
            code.call_if(timed, Routine::End);
            code.call(Routine::Leave);
            code.bring_back();
            code.thunk.on_copy = code.here();
            code.instruction(&on_copy)?;
        }
        Class::Store => {
            code.load_copy(site.width);
            code.move_stack(STORE, RAX, COPY);
            code.thunk.accesses[0] = code.here();
            code.store_rax_to_rdi(site);
            code.call_if(timed, Routine::End);
            code.call(Routine::Leave);
            code.bring_back();
        }
        _ => {
            code.load_rax_from_rdi(site.width);
            code.move_stack(STORE, RAX, COPY);
            code.value_of_row();
            code.move_stack(STORE, RDI, ALIAS);
            code.move_stack(STORE, 8, THREAD);
            code.move_stack(STORE, 9, ROW);
            code.call_if(timed, Routine::End);
            code.bring_back();
            code.thunk.on_copy = code.here();
            code.instruction(&on_copy)?;
            code.move_stack(STORE, RDI, kept_at(RDI));
            code.keep();
            code.move_stack(LOAD, RDI, ALIAS);
            code.move_stack(LOAD, 8, THREAD);
            code.move_stack(LOAD, 9, ROW);
            code.call_if(timed, Routine::Begin);
            code.load_copy(site.width);
            code.move_stack(STORE, RAX, COPY);
            code.thunk.accesses[1] = code.here();
            code.store_rax_to_rdi(site);
            code.next_row(true);
            code.no_duration();
            code.call_if(timed, Routine::End);
            code.next_row(false);
            code.call(Routine::LeaveBoth);
            code.bring_back();
        }
    }
    code.lea_rsp(FRAME);
    code.jump(site.pc + site.length)?;
    code.set_relative(outside, code.here())?;
    code.cfi.recall(code.here());
    code.bring_back();
    code.thunk.outside[1] = code.original(site)?;
    code.addresses_of_routines()?;
    code.set_relative(descriptor, code.here())?;
    code.descriptor(site);
    code.bytes.resize(code.bytes.len().next_multiple_of(8), 0);
    code.cfi.back_is_at(code.here());
    code.push_bytes(&((site.pc + site.length) as u64).to_le_bytes());
    code.thunk.end = code.here();
    (code.bytes.len() <= MOST).then_some((code.bytes, code.thunk, code.cfi))
}

impl Thunk {
    /// The original instruction, to be run in the program's own view.
    pub fn original(&self) -> usize {
        self.outside[1]
    }

    /// If the thread has faulted because it has no stack for the frame, as where that is in a region, or at its end: it goes on with the
    /// original instruction, which needs none. False: that is not why.
    pub fn pass(&self, frame: &mut Frame) -> bool {
        let is_first = frame.pc() == self.first;
        if is_first {
            frame.set_general(RSP, frame.general(RSP).wrapping_add(FRAME as u64));
            frame.set_pc(self.original());
        }
        is_first
    }

    /// The thread has faulted in this thunk: puts it before the site, with the registers it had there. Returns whether the
    /// address of the fault is one in the alias. None: not at an instruction that can fault.
    pub fn leave(&self, frame: &mut Frame, site: usize) -> Option<bool> {
        let pc = frame.pc();
        let stack = frame.general(RSP) as usize;
        if !self.outside.contains(&pc) {
            if self.accesses.contains(&pc) {
                for register in KEPT {
                    frame.set_general(register, read(stack + kept_at(register) as usize));
                }
                let kept = read(stack + FLAGS as usize);
                // lahf put the flags but the overflow flag into ah, seto that into al.
                let changed = STATUS_FLAGS & !DIRECTION_FLAG;
                frame.set_flags(frame.flags() & !changed | (kept >> 8 | (kept & 1) << 11) & changed);
            } else if pc != self.on_copy {
                return None;
            }
            frame.set_general(RSP, (stack + FRAME as usize) as u64);
        }
        frame.set_pc(site);
        Some(self.accesses.contains(&pc))
    }
}

fn read(address: usize) -> u64 {
    // SAFETY: the thunk's frame on this thread's stack.
    unsafe { (address as *const u64).read() }
}

fn kept_at(register: usize) -> i32 {
    let index = KEPT.iter().position(|&kept| kept == register).unwrap_or(0);
    REGISTERS + 8 * index as i32
}

/// The instruction with its operand elsewhere.
fn with_operand_at(original: &Instruction, base: Register, offset: i32) -> Instruction {
    let mut instruction = without_absolute_address(original);
    instruction.set_memory_base(base);
    instruction.set_memory_index(Register::None);
    instruction.set_memory_index_scale(1);
    instruction.set_memory_displacement64(offset as u64);
    instruction.set_memory_displ_size(0);
    instruction.set_segment_prefix(Register::None);
    instruction
}

/// What puts the register of a wide move into the copy. The copy is not aligned, so it may be another instruction.
fn wide_copy(original: &Instruction) -> Option<Instruction> {
    let register = (0..2).map(|op| original.op_register(op)).find(|register| *register != Register::None)?;
    let code = match (original.encoding(), register.size()) {
        (EncodingKind::Legacy, _) => Code::Movups_xmmm128_xmm,
        (_, 16) => Code::VEX_Vmovups_xmmm128_xmm,
        _ => Code::VEX_Vmovups_ymmm256_ymm,
    };
    let copy = MemoryOperand::with_base_displ(Register::RSP, i64::from(COPY));
    Instruction::with2(code, copy, register).ok()
}

const STORE: u8 = 0x89;
const LOAD: u8 = 0x8b;

struct Assembler {
    bytes: Vec<u8>,
    /// Calls whose target's address is still to be placed.
    calls: Vec<(Later, Routine)>,
    start: usize,
    thunk: Thunk,
    cfi: Cfi,
}

/// The place of a displacement that is not known yet.
type Later = usize;

impl Assembler {
    fn here(&self) -> usize {
        self.start + self.bytes.len()
    }

    fn push_bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn instruction(&mut self, instruction: &Instruction) -> Option<()> {
        let mut encoder = Encoder::try_new(64).ok()?;
        encoder.set_buffer(Vec::with_capacity(16));
        encoder.encode(instruction, self.here() as u64).ok()?;
        self.bytes.extend_from_slice(&encoder.take_buffer());
        Some(())
    }

    /// lea rsp, [rsp + by]: leaves the flags alone.
    fn lea_rsp(&mut self, by: i32) {
        self.push_bytes(&[0x48, 0x8d, 0xa4, 0x24]);
        self.push_bytes(&by.to_le_bytes());
        self.cfi.depth(self.here(), if by < 0 { FRAME as usize } else { 0 });
    }

    /// mov between a register and [rsp + offset].
    fn move_stack(&mut self, opcode: u8, register: usize, offset: i32) {
        let rex = 0x48 | if register >= 8 { 4 } else { 0 };
        self.push_bytes(&[rex, opcode, 0x44 | (register as u8 & 7) << 3, 0x24, offset as u8]);
        if KEPT.contains(&register) && offset == kept_at(register) {
            match opcode {
                STORE => self.cfi.kept(self.here(), register, (FRAME - offset) as usize),
                _ => self.cfi.brought_back(self.here(), register),
            }
        }
    }

    /// rdi = the address of the operand.
    fn operand_address(&mut self, original: &Instruction) -> Option<()> {
        let (base, index) = (original.memory_base(), original.memory_index());
        if base == Register::None && index == Register::None {
            self.push_bytes(&[0x48, 0xbf]);
            self.push_bytes(&original.memory_displacement64().to_le_bytes());
            return Some(());
        }
        let memory = MemoryOperand::new(
            base,
            index,
            original.memory_index_scale(),
            original.memory_displacement64() as i64,
            original.memory_displ_size(),
            false,
            Register::None,
        );
        self.instruction(&Instruction::with2(Code::Lea_r64_m, Register::RDI, memory).ok()?)
    }

    /// The way of accesses to ordinary memory: a look at the tags, for which three registers and no flags are needed. What is
    /// perhaps in a region goes on behind it, with everything as it was.
    fn first_look(&mut self, site: &Site) -> Option<()> {
        const LOOKING: [usize; 3] = [RCX, RDX, RDI];
        LOOKING.into_iter().for_each(|register| self.move_stack(STORE, register, kept_at(register)));
        self.operand_address(&site.instruction)?;
        self.push_bytes(&[0xb9, TAG_SHIFT as u8, 0, 0, 0]); // mov ecx, 28
        self.push_bytes(&[0xc4, 0xe2, 0xf3, 0xf7, 0xcf]); // shrx rcx, rdi, rcx
        self.push_bytes(&[0xba, 12, 0, 0, 0]); // mov edx, 12
        self.push_bytes(&[0xc4, 0xe2, 0xeb, 0xf7, 0xd7]); // shrx rdx, rdi, rdx
        self.push_bytes(&[0x0f, 0xb7, 0xd2]); // movzx edx, dx
        self.push_bytes(&[0x48, 0xbf]); // mov rdi, tags
        self.push_bytes(&(&raw const lookaside::TAGS as u64).to_le_bytes());
        self.push_bytes(&[0x48, 0x8b, 0x3c, 0xd7]); // mov rdi, [rdi + 8 * rdx]
        self.push_bytes(&[0x48, 0x8d, 0x4c, 0x39, 1]); // lea rcx, [rcx + rdi + 1]
        let found = self.jump_if_rcx_is_0();
        // Of so many accesses that come here one is looked at (patch/mod.rs): is the site worth its thunk?
        let counter = thread::ordinary_offset().to_le_bytes();
        self.push_bytes(&[0x64, 0x48, 0x8b, 0x0c, 0x25]); // mov rcx, fs:[counter]
        self.push_bytes(&counter);
        self.push_bytes(&[0x48, 0x8d, 0x49, 1]); // lea rcx, [rcx + 1]
        self.push_bytes(&[0x64, 0x48, 0x89, 0x0c, 0x25]); // mov fs:[counter], rcx
        self.push_bytes(&counter);
        self.push_bytes(&[0x0f, 0xb7, 0xc9]); // movzx ecx, cx
        let sample = self.jump_if_rcx_is_0();
        let go_on = self.bytes.len();
        self.cfi.remember(self.here());
        LOOKING.into_iter().for_each(|register| self.move_stack(LOAD, register, kept_at(register)));
        self.thunk.outside[0] = self.original(site)?;
        self.cfi.recall(self.here());
        self.land(sample)?;
        self.thunk.sample = self.here();
        self.push_bytes(&[0xcc, 0xeb]); // int3; jmp go_on
        let back = i8::try_from(go_on as isize - (self.bytes.len() + 1) as isize).ok()?;
        self.push_bytes(&back.to_le_bytes());
        self.land(found)?;
        LOOKING.into_iter().for_each(|register| self.move_stack(LOAD, register, kept_at(register)));
        Some(())
    }

    /// The end of an access that is not ours: the stack pointer, the instruction, and back. Returns where the instruction is.
    fn original(&mut self, site: &Site) -> Option<usize> {
        self.lea_rsp(FRAME);
        let at = self.here();
        self.instruction(&site.instruction)?;
        self.jump(site.pc + site.length)?;
        Some(at)
    }

    fn jump_if_rcx_is_0(&mut self) -> Later {
        self.push_bytes(&[0xe3, 0]);
        self.bytes.len() - 1
    }

    /// A short jump comes here.
    fn land(&mut self, jump: Later) -> Option<()> {
        self.bytes[jump] = u8::try_from(self.bytes.len() - (jump + 1)).ok().filter(|&distance| distance < 128)?;
        Some(())
    }

    /// Keeps registers (rdi is kept already) and flags.
    fn keep(&mut self) {
        KEPT.into_iter()
            .filter(|&register| register != RDI)
            .for_each(|register| self.move_stack(STORE, register, kept_at(register)));
        self.push_bytes(&[0x9f, 0x0f, 0x90, 0xc0]); // lahf; seto al
        self.move_stack(STORE, RAX, FLAGS);
    }

    fn bring_back(&mut self) {
        self.move_stack(LOAD, RAX, FLAGS);
        self.push_bytes(&[0x04, 0x7f, 0x9e]); // add al, 127: overflows if al is 1; sahf
        KEPT.into_iter().for_each(|register| self.move_stack(LOAD, register, kept_at(register)));
    }

    /// lea rsi, [rip + …]
    fn lea_rsi(&mut self) -> Later {
        self.push_bytes(&[0x48, 0x8d, 0x35, 0, 0, 0, 0]);
        self.bytes.len() - 4
    }

    /// call [rip + …]
    fn call(&mut self, routine: Routine) {
        self.push_bytes(&[0xff, 0x15, 0, 0, 0, 0]);
        self.calls.push((self.bytes.len() - 4, routine));
    }

    fn call_if(&mut self, wanted: bool, routine: Routine) {
        if wanted {
            self.call(routine);
        }
    }

    /// What the calls read.
    fn addresses_of_routines(&mut self) -> Option<()> {
        for (at, routine) in core::mem::take(&mut self.calls) {
            self.set_relative(at, self.here())?;
            self.push_bytes(&(routine.address() as u64).to_le_bytes());
        }
        Some(())
    }

    /// mov [r9 + R_VALUE], rax
    fn value_of_row(&mut self) {
        self.push_bytes(&[0x49, 0x89, 0x41, R_VALUE as u8]);
    }

    /// r9 to the next row, or back: lea r9, [r9 ± ROW_SIZE]
    fn next_row(&mut self, forward: bool) {
        let by = if forward { ROW_SIZE as i8 } else { -(ROW_SIZE as i8) };
        self.push_bytes(&[0x4d, 0x8d, 0x49, by as u8]);
    }

    /// mov dword ptr [r9 + R_DURATION_NS], -1
    fn no_duration(&mut self) {
        self.push_bytes(&[0x41, 0xc7, 0x41, R_DURATION_NS as u8, 0xff, 0xff, 0xff, 0xff]);
    }

    fn jump_if_carry(&mut self) -> Later {
        self.push_bytes(&[0x0f, 0x82, 0, 0, 0, 0]);
        self.bytes.len() - 4
    }

    fn jump(&mut self, target: usize) -> Option<()> {
        self.push_bytes(&[0xe9, 0, 0, 0, 0]);
        self.set_relative(self.bytes.len() - 4, target)
    }

    fn set_relative(&mut self, at: Later, target: usize) -> Option<()> {
        let from = self.start + at + 4;
        let distance = i32::try_from(target.wrapping_sub(from) as isize).ok()?;
        self.bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        Some(())
    }

    /// rax = [rdi], the rest zero: the access of a load.
    fn load_rax_from_rdi(&mut self, width: usize) {
        self.push_bytes(match width {
            1 => &[0x0f, 0xb6, 0x07],
            2 => &[0x0f, 0xb7, 0x07],
            4 => &[0x8b, 0x07],
            _ => &[0x48, 0x8b, 0x07],
        });
    }

    /// [rdi] = rax: the access of a store, past the caches where the instruction goes past them.
    fn store_rax_to_rdi(&mut self, site: &Site) {
        let passes_caches = site.flags & NONTEMPORAL != 0;
        self.push_bytes(match (site.width, passes_caches) {
            (1, _) => &[0x88, 0x07],
            (2, _) => &[0x66, 0x89, 0x07],
            (4, false) => &[0x89, 0x07],
            (4, true) => &[0x0f, 0xc3, 0x07],
            (_, false) => &[0x48, 0x89, 0x07],
            (_, true) => &[0x48, 0x0f, 0xc3, 0x07],
        });
    }

    /// rax = the copy in the frame, the rest zero.
    fn load_copy(&mut self, width: usize) {
        self.push_bytes(match width {
            1 => &[0x0f, 0xb6, 0x44, 0x24, COPY as u8],
            2 => &[0x0f, 0xb7, 0x44, 0x24, COPY as u8],
            4 => &[0x8b, 0x44, 0x24, COPY as u8],
            _ => &[0x48, 0x8b, 0x44, 0x24, COPY as u8],
        });
    }

    fn descriptor(&mut self, site: &Site) {
        let kind = if site.class == Class::Store { WRITE } else { READ };
        let rights = match site.class {
            Class::Load | Class::LoadDirect => libc::PROT_READ,
            Class::Store => libc::PROT_WRITE,
            _ => libc::PROT_READ | libc::PROT_WRITE,
        };
        let descriptor = log::Descriptor {
            pc: site.pc as u64,
            width: site.width as u32,
            flags: site.flags | PATCHED,
            // What does not fit into the row's value is in a row behind it.
            kind: u32::from(kind) | if site.width > 8 { 1 << 8 | (site.width as u32) << 16 } else { 0 },
            rights: rights as u32,
        };
        // SAFETY: plain words without padding.
        let bytes: [u8; size_of::<log::Descriptor>()] = unsafe { core::mem::transmute(descriptor) };
        self.push_bytes(&bytes);
    }
}
