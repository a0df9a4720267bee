//! What an instruction does to its memory operand, and the same instruction with that operand elsewhere.

use alloc::vec::Vec;
use iced_x86::{
    Code, CodeSize, CpuidFeature, Decoder, DecoderOptions, Encoder, EncodingKind, FlowControl, Instruction,
    InstructionInfoFactory, MemoryOperand, MemorySize, Mnemonic, OpAccess, OpKind, Register,
};

use super::code;
use super::site::{Class, Parts, Site};
use super::vector::vector_state_size;
use crate::layout::{LOCKED, NONTEMPORAL, RMW, STRING};

/// Makes the decoder's and encoder's tables, which are built at their first use: that takes more stack than a trap may have.
pub fn warm_up() {
    const LOCKED_INC: [u8; 3] = [0xf0, 0xff, 0x00]; // lock inc dword ptr [rax]
    let instruction = Decoder::with_ip(64, &LOCKED_INC, 0, DecoderOptions::NONE).decode();
    core::hint::black_box(site(&instruction));
}

/// Widths that one plain load or store can move.
pub(super) fn is_plain_width(width: usize) -> bool {
    matches!(width, 1 | 2 | 4 | 8 | 16 | 32 | 64)
}

/// The site of an instruction, without its address and bytes.
pub fn site(instruction: &Instruction) -> Site {
    let mut site = Site::new(instruction, classify(instruction));
    site.width = operand_width(instruction);
    site.vector = needs_vector_state(instruction);
    site.bit_offset = bit_offset(instruction);
    if matches!(site.class, Class::Plain | Class::Branch) {
        return site;
    }
    if is_atomic(instruction) && matches!(site.class, Class::Modify) {
        site.class = Class::LockedOpaque;
    }
    if !is_plain_width(site.width) {
        site.class = match site.class {
            Class::Load => Class::Parts(Parts::Whole),
            Class::Store => Class::Parts(Parts::Written),
            Class::NoData | Class::Parts(_) | Class::Stack | Class::Call | Class::Jump => site.class,
            _ => Class::Step,
        };
    }
    let runs_moved = !matches!(
        site.class,
        Class::Step
            | Class::Strings
            | Class::Push
            | Class::Pop
            | Class::Call
            | Class::Jump
            | Class::Stack
            | Class::Gather
            | Class::Parts(Parts::Translated)
    );
    if runs_moved {
        match moved(instruction) {
            Some(moved) => {
                (site.code, site.scratch, site.stack_substitute) = (moved.code, moved.scratch, moved.stack_substitute);
            }
            None => site.class = Class::Step,
        }
    }
    site.flags = row_flags(instruction, site.class);
    site
}

fn operand_width(instruction: &Instruction) -> usize {
    let size = match instruction.memory_size() {
        MemorySize::Xsave | MemorySize::Xsave64 => vector_state_size(),
        size => size.size(),
    };
    if instruction.mnemonic() == Mnemonic::Clzero {
        return 64;
    }
    // Indirect jumps and calls load their target.
    if size == 0 && instruction.flow_control() != FlowControl::Next { 8 } else { size }
}

fn row_flags(instruction: &Instruction, class: Class) -> u32 {
    let mut flags = match class {
        Class::Modify => RMW,
        Class::Exchange => RMW | LOCKED,
        Class::ExchangeAdd | Class::CompareExchange | Class::LockedAdd | Class::LockedOpaque => RMW | LOCKED,
        Class::Strings => STRING,
        _ => 0,
    };
    if is_nontemporal(instruction.mnemonic()) {
        flags |= NONTEMPORAL;
    }
    flags
}

fn is_nontemporal(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Movnti
            | Movntq
            | Movntdq
            | Movntps
            | Movntpd
            | Movntsd
            | Movntss
            | Movntdqa
            | Vmovntdq
            | Vmovntps
            | Vmovntpd
            | Vmovntdqa
            | Maskmovq
            | Maskmovdqu
            | Vmaskmovdqu
    )
}

fn classify(instruction: &Instruction) -> Class {
    use Mnemonic::*;
    let mnemonic = instruction.mnemonic();
    match mnemonic {
        Movsb | Movsw | Movsd | Movsq | Stosb | Stosw | Stosd | Stosq | Lodsb | Lodsw | Lodsd | Lodsq | Scasb | Scasw
        | Scasd | Scasq | Cmpsb | Cmpsw | Cmpsd | Cmpsq
            // movsd and cmpsd are also the names of SSE2 moves and compares.
            if instruction.is_string_instruction() =>
        {
            return Class::Strings;
        }
        Clflush | Clflushopt | Clwb | Cldemote => return Class::NoData,
        // Which of their elements they touch depends on a register.
        Vmaskmovps | Vmaskmovpd | Vpmaskmovd | Vpmaskmovq => {
            let is_load = instruction.op_kind(0) == OpKind::Register;
            return Class::Parts(if is_load { Parts::Elements } else { Parts::Written });
        }
        Maskmovq | Maskmovdqu | Vmaskmovdqu | Clzero | Xsavec | Xsavec64 | Xsave | Xsave64 | Xsaveopt | Xsaveopt64 => {
            let is_store = matches!(mnemonic, Maskmovq | Maskmovdqu | Vmaskmovdqu | Clzero);
            return Class::Parts(if is_store { Parts::Written } else { Parts::Saved });
        }
        Xrstor | Xrstor64 => return Class::Parts(Parts::Restored),
        Movdir64b | Enqcmd => return Class::Parts(Parts::Direct),
        Xlatb => return Class::Parts(Parts::Translated),
        _ => {}
    }
    // They set registers that the agent cannot run with: its own thread's, or tiles, which are not moved along.
    if sets_thread_pointer(instruction) || instruction.cpuid_features().contains(&CpuidFeature::AMX_TILE) {
        return Class::Step;
    }
    if instruction.is_jcc_short_or_near() || instruction.is_jmp_short_or_near() {
        return Class::Branch;
    }
    if is_plain(instruction) {
        return Class::Plain;
    }
    if is_stack(instruction) {
        return Class::Stack;
    }
    let explicit = (0..instruction.op_count()).filter(|&op| instruction.op_kind(op) == OpKind::Memory).count();
    if explicit != 1 {
        return Class::Step;
    }
    if instruction.is_vsib() {
        // Those that prefetch have no register to fill.
        return if instruction.op_count() == 1 { Class::Step } else { Class::Gather };
    }
    if let Some(parts) = masked(instruction) {
        return Class::Parts(parts);
    }
    match mnemonic {
        Push => return Class::Push,
        Pop => return Class::Pop,
        Call => return Class::Call,
        Jmp => return Class::Jump,
        Movntdqa | Vmovntdqa => return Class::LoadDirect,
        Xchg => return Class::Exchange,
        _ => {}
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let [memory] = info.used_memory() else { return Class::Step };
    match (memory.access(), instruction.has_lock_prefix()) {
        (OpAccess::Read, _) => Class::Load,
        // A conditional move always loads (SDM, CMOVcc).
        (OpAccess::CondRead, _) if is_conditional_move(mnemonic) => Class::Load,
        (OpAccess::Write, _) => Class::Store,
        (OpAccess::ReadWrite | OpAccess::ReadCondWrite, false) => Class::Modify,
        (OpAccess::ReadWrite | OpAccess::ReadCondWrite, true) => match mnemonic {
            Xadd => Class::ExchangeAdd,
            Cmpxchg | Cmpxchg8b | Cmpxchg16b => Class::CompareExchange,
            Add | Sub | Adc | Sbb | Inc | Dec => Class::LockedAdd,
            _ => Class::LockedOpaque,
        },
        _ => Class::Step,
    }
}

/// Does it work on general registers and flags alone, and the same wherever it stands?
fn is_plain(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    let known = matches!(
        instruction.mnemonic(),
        Mov | Movzx
            | Movsx
            | Movsxd
            | Lea
            | Add
            | Sub
            | Adc
            | Sbb
            | And
            | Or
            | Xor
            | Not
            | Neg
            | Inc
            | Dec
            | Cmp
            | Test
            | Shl
            | Shr
            | Sar
            | Rol
            | Ror
            | Imul
            | Bswap
            | Bt
            | Cdq
            | Cqo
            | Cdqe
            | Cwde
            | Nop
            | Pause
            | Endbr64
            | Mfence
            | Lfence
            | Sfence
            | Sete
            | Setne
            | Seta
            | Setae
            | Setb
            | Setbe
            | Setg
            | Setge
            | Setl
            | Setle
            | Sets
            | Setns
    ) || is_conditional_move(instruction.mnemonic());
    let is_general = |register: Register| register.is_gpr() && register.full_register() != Register::RSP;
    known
        && (0..instruction.op_count()).all(|op| match instruction.op_kind(op) {
            OpKind::Register => is_general(instruction.op_register(op)),
            // lea and long nops name memory and do not touch it.
            OpKind::Memory => {
                matches!(instruction.mnemonic(), Lea | Nop)
                    && [instruction.memory_base(), instruction.memory_index()]
                        .into_iter()
                        .all(|register| register == Register::None || is_general(register))
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => false,
            _ => true,
        })
}

fn is_conditional_move(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Cmova
            | Cmovae
            | Cmovb
            | Cmovbe
            | Cmove
            | Cmovg
            | Cmovge
            | Cmovl
            | Cmovle
            | Cmovne
            | Cmovno
            | Cmovnp
            | Cmovns
            | Cmovo
            | Cmovp
            | Cmovs
    )
}

/// Is it an operand in memory that the instruction names itself, or that rdi points to (maskmovdqu)?
pub(super) fn is_memory(kind: OpKind) -> bool {
    matches!(kind, OpKind::Memory | OpKind::MemorySegRDI | OpKind::MemorySegEDI)
}

/// Is the stack all that it touches? Those with operands of 16 bits are left out, but for push and pop.
fn is_stack(instruction: &Instruction) -> bool {
    use Code::*;
    let in_register = instruction.op0_kind() == OpKind::Register;
    (in_register && matches!(instruction.code(), Call_rm64 | Push_rm64 | Push_rm16 | Pop_rm64 | Pop_rm16))
        || matches!(
            instruction.code(),
            Push_r64
                | Push_r16
                | Pushq_imm8
                | Pushq_imm32
                | Pushw_imm8
                | Push_imm16
                | Pushfq
                | Pop_r64
                | Pop_r16
                | Call_rel32_64
                | Retnq
                | Retnq_imm16
                | Leaveq
                | Enterq_imm16_imm8
        )
}

/// Does it load fs or gs?
fn sets_thread_pointer(instruction: &Instruction) -> bool {
    matches!(instruction.op0_register(), Register::FS | Register::GS)
        || matches!(instruction.mnemonic(), Mnemonic::Lfs | Mnemonic::Lgs)
}

/// Is it atomic without a lock prefix? (RAO-INT, CMPccXADD.)
fn is_atomic(instruction: &Instruction) -> bool {
    let features = instruction.cpuid_features();
    features.contains(&CpuidFeature::RAO_INT) || features.contains(&CpuidFeature::CMPCCXADD)
}

/// How an instruction with a mask register uses it on memory. None: it is not known, or all of the operand is loaded anyway.
fn masked(instruction: &Instruction) -> Option<Parts> {
    use Mnemonic::*;
    if !instruction.has_op_mask() {
        return None;
    }
    if instruction.op_kind(0) == OpKind::Memory {
        return Some(Parts::Written);
    }
    match instruction.mnemonic() {
        Vmovdqu8 | Vmovdqu16 | Vmovdqu32 | Vmovdqu64 | Vmovdqa32 | Vmovdqa64 | Vmovups | Vmovupd | Vmovaps | Vmovapd => {
            Some(Parts::Elements)
        }
        Vexpandps | Vexpandpd | Vpexpandb | Vpexpandw | Vpexpandd | Vpexpandq => Some(Parts::Packed),
        _ => None,
    }
}

/// Does it read or write registers other than the general ones and the flags?
fn needs_vector_state(instruction: &Instruction) -> bool {
    instruction.encoding() != EncodingKind::Legacy
        || instruction.cpuid_features().iter().any(|feature| {
            use CpuidFeature::*;
            matches!(
                feature,
                FPU | FPU287
                    | FPU387
                    | FPU287XL_ONLY
                    | FPU387SL_ONLY
                    | MMX
                    | D3NOW
                    | D3NOWEXT
                    | SSE
                    | SSE2
                    | SSE3
                    | SSE4A
                    | SSSE3
                    | SSE4_1
                    | SSE4_2
                    | AES
                    | PCLMULQDQ
                    | SHA
                    | GFNI
                    | FXSR
                    | XSAVE
                    | XSAVEOPT
                    | XSAVEC
            )
        })
}

/// bt, bts, btr and btc with the bit number in a register: bits beyond the operand's width move its address.
fn bit_offset(instruction: &Instruction) -> Option<Register> {
    use Mnemonic::*;
    let counts = matches!(instruction.mnemonic(), Bt | Bts | Btr | Btc) && instruction.op_kind(1) == OpKind::Register;
    counts.then(|| instruction.op_register(1))
}

struct Moved {
    code: usize,
    scratch: usize,
    stack_substitute: Option<usize>,
}

/// The same instruction with its memory operand at a scratch register, followed by a return, placed where it can run.
fn moved(original: &Instruction) -> Option<Moved> {
    let mut instruction = without_absolute_address(original);
    let mut registers: [bool; 16] = [false; 16];
    let mut high_byte = false;
    for op in 0..instruction.op_count() {
        let register = instruction.op_register(op);
        if instruction.op_kind(op) == OpKind::Register && register.is_gpr() {
            high_byte |= matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
            registers[register.full_register().number()] = true;
        }
    }
    for op in 0..instruction.op_count() {
        // VEX instructions name a second source in a way of its own, but iced lists it as an operand too.
        let register = instruction.op_register(op);
        if instruction.op_kind(op) == OpKind::Register && register.is_gpr() && register.full_register() == Register::RSP {
            let substitute = (8..16).find(|&number| !registers[number])?;
            registers[substitute] = true;
            instruction.set_op_register(op, same_size(register, substitute));
        }
    }
    let stack_substitute = (registers[super::frame::RSP])
        .then(|| (8..16).rev().find(|&number| registers[number] && !uses(original, number)))
        .flatten();
    // These name no base: rax, rdi.
    let implied = match instruction.mnemonic() {
        Mnemonic::Clzero => Some(super::frame::RAX),
        _ => (0..instruction.op_count())
            .any(|op| is_memory(instruction.op_kind(op)) && instruction.op_kind(op) != OpKind::Memory)
            .then_some(super::frame::RDI),
    };
    // rax, rcx, rdx and rbx may be operands that are not written out; a high byte register rules out those that need REX.
    let scratch = if let Some(implied) = implied {
        implied
    } else if high_byte {
        [super::frame::RSI, super::frame::RDI].into_iter().find(|&number| !registers[number])?
    } else {
        (8..16).find(|&number| !registers[number])?
    };
    match implied {
        // Without an address-size prefix.
        Some(super::frame::RAX) => instruction.set_code(Code::Clzeroq),
        Some(_) => instruction.set_op0_kind(OpKind::MemorySegRDI),
        None => {
            instruction.set_memory_base(general64(scratch));
            instruction.set_memory_index(Register::None);
            instruction.set_memory_index_scale(1);
            instruction.set_memory_displacement64(0);
            instruction.set_memory_displ_size(0);
        }
    }
    instruction.set_segment_prefix(Register::None);
    instruction.set_code_size(CodeSize::Code64);

    let mut encoder = Encoder::try_new(64).ok()?;
    encoder.set_buffer(Vec::with_capacity(32));
    encoder.encode(&instruction, 0).ok()?;
    let mut bytes = encoder.take_buffer();
    bytes.push(0xc3); // ret
    Some(Moved { code: code::place(&bytes)?, scratch, stack_substitute })
}

fn uses(instruction: &Instruction, number: usize) -> bool {
    (0..instruction.op_count()).any(|op| {
        let register = instruction.op_register(op);
        instruction.op_kind(op) == OpKind::Register && register.is_gpr() && register.full_register().number() == number
    })
}

/// The 64-bit general register of this number.
fn general64(number: usize) -> Register {
    Register::RAX + number as u32
}

/// The register of this number, as wide as the one given (which is no high byte).
fn same_size(like: Register, number: usize) -> Register {
    match like.size() {
        8 => Register::RAX + number as u32,
        4 => Register::EAX + number as u32,
        2 => Register::AX + number as u32,
        // r8b to r15b; iced numbers the byte registers with ah, ch, dh and bh in between.
        _ => Register::R8L + (number as u32 - 8),
    }
}

/// `mov` with a 64-bit absolute address (moffs) as the `mov` with a register-based one.
pub fn without_absolute_address(instruction: &Instruction) -> Instruction {
    let (code, load) = match instruction.code() {
        Code::Mov_AL_moffs8 => (Code::Mov_r8_rm8, true),
        Code::Mov_AX_moffs16 => (Code::Mov_r16_rm16, true),
        Code::Mov_EAX_moffs32 => (Code::Mov_r32_rm32, true),
        Code::Mov_RAX_moffs64 => (Code::Mov_r64_rm64, true),
        Code::Mov_moffs8_AL => (Code::Mov_rm8_r8, false),
        Code::Mov_moffs16_AX => (Code::Mov_rm16_r16, false),
        Code::Mov_moffs32_EAX => (Code::Mov_rm32_r32, false),
        Code::Mov_moffs64_RAX => (Code::Mov_rm64_r64, false),
        _ => return *instruction,
    };
    let memory = MemoryOperand::with_base(Register::RAX);
    let register = instruction.op_register(if load { 0 } else { 1 });
    let built = if load { Instruction::with2(code, register, memory) } else { Instruction::with2(code, memory, register) };
    built.unwrap_or(*instruction)
}
