//! `syscall` instructions in the program's own code: which there are, and what a thread that has come to one asks for.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

use super::frame::{RAX, RCX, RSI};
use super::{Frame, code};

pub const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// A `syscall` in the code of a function, and what is known there: its number, and its second argument.
pub struct SystemCall {
    pub offset: usize,
    pub number: Option<u64>,
    pub second: Option<u64>,
}

/// Calls for each in the code of one function.
pub fn each_system_call(function: &[u8], mut visit: impl FnMut(SystemCall)) {
    if !function.windows(2).any(|pair| pair == SYSCALL) {
        return;
    }
    let mut decoder = Decoder::new(64, function, DecoderOptions::NONE);
    let (mut known, mut factory) = ([None; 16], InstructionInfoFactory::new());
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.mnemonic() == Mnemonic::Syscall {
            visit(SystemCall { offset: instruction.ip() as usize, number: known[RAX], second: known[RSI] });
        }
        follow(&mut known, &instruction, &mut factory);
    }
}

/// Those that a function gives back as they were: rbx, rsp, rbp, r12 to r15.
const KEPT: [usize; 7] = [3, 4, 5, 12, 13, 14, 15];

/// What the registers hold behind this instruction, of what is constant.
fn follow(known: &mut [Option<u64>; 16], instruction: &Instruction, factory: &mut InstructionInfoFactory) {
    let (first, second) = (instruction.op0_register(), instruction.op1_register());
    let moves = instruction.mnemonic() == Mnemonic::Mov && first.is_gpr() && first.size() >= 4;
    let value = match instruction.op1_kind() {
        OpKind::Immediate32 | OpKind::Immediate64 | OpKind::Immediate32to64 if moves => Some(instruction.immediate(1)),
        OpKind::Register if moves && second.is_gpr() => known[second.number()].map(|value| cut(value, first)),
        _ => None,
    };
    for used in factory.info(instruction).used_registers() {
        let writes = !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None | OpAccess::NoMemAccess);
        let register = used.register().full_register();
        if writes && register.is_gpr64() {
            known[register.number()] = None;
        }
    }
    if let Some(value) = value {
        known[first.number()] = Some(value);
    }
    match instruction.flow_control() {
        FlowControl::Next | FlowControl::ConditionalBranch => {}
        FlowControl::Call | FlowControl::IndirectCall if instruction.mnemonic() != Mnemonic::Syscall => {
            (0..16).filter(|register| !KEPT.contains(register)).for_each(|register| known[register] = None);
        }
        _ if instruction.mnemonic() == Mnemonic::Syscall => known[RAX] = None,
        _ => *known = [None; 16],
    }
}

fn cut(value: u64, register: Register) -> u64 {
    if register.size() == 4 { value & 0xffff_ffff } else { value }
}

/// The same system call elsewhere, and from there back behind this one. None: there is no room.
pub fn place(at: usize) -> Option<usize> {
    let mut code = [0u8; 16];
    code[..2].copy_from_slice(&SYSCALL);
    // jmp [rip]: what follows is the address.
    code[2..8].copy_from_slice(&[0xff, 0x25, 0, 0, 0, 0]);
    code[8..].copy_from_slice(&((at + SYSCALL.len()) as u64).to_le_bytes());
    code::place(&code)
}

/// What is written over its first byte.
pub const BREAKPOINT: u8 = 0xcc;

/// The number, and the arguments in their order (System V ABI, AMD64 supplement, A.2.1).
pub fn asked(frame: &Frame) -> (u64, [usize; 6]) {
    const ARGUMENTS: [usize; 6] = [7, 6, 2, 10, 8, 9];
    (frame.general(RAX), ARGUMENTS.map(|register| frame.general(register) as usize))
}

/// The thread finds itself behind the system call at this address, as the kernel would have left it.
pub fn answer(frame: &mut Frame, at: usize, result: isize) {
    const R11: usize = 11;
    frame.set_general(RAX, result as u64);
    frame.set_general(RCX, (at + SYSCALL.len()) as u64);
    frame.set_general(R11, frame.flags());
    frame.set_pc(at + SYSCALL.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_by_registers_and_go_with_what_is_written() {
        // mov edx,11; mov eax,9; syscall; mov eax,edx; syscall; mov al,1; syscall; mov eax,10; call $+5; syscall
        let function = [
            0xba, 11, 0, 0, 0, 0xb8, 9, 0, 0, 0, 0x0f, 0x05, 0x89, 0xd0, 0x0f, 0x05, 0xb0, 1, 0x0f, 0x05, 0xb8, 10, 0, 0, 0,
            0xe8, 0, 0, 0, 0, 0x0f, 0x05,
        ];
        let mut found = std::vec::Vec::new();
        each_system_call(&function, |call| found.push((call.offset, call.number)));
        assert_eq!(found, [(10, Some(9)), (14, Some(11)), (18, None), (30, None)]);
    }
}
