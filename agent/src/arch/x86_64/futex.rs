//! What takes the place of a `syscall` by which libc waits for a lock, or wakes who does. Neither the stack nor flags nor a register is
//! used but rcx and r11: the kernel destroys these two, and no code relies on the flags behind a system call.

use super::inline::SYSCALL;

/// Room for the longest piece of code here.
pub const SLOT: usize = 128;

/// Arguments that can be addresses, by their places: uaddr, val2 or the timeout, uaddr2; and the registers that they are in.
pub const ADDRESSES: [usize; 3] = [0, 3, 4];
pub const REGISTERS: [usize; 3] = [7, 10, 8];

/// Jumps to the address in the eight bytes behind it.
const JUMP: [u8; 6] = [0xff, 0x25, 0, 0, 0, 0];

/// Where in [`looking`] the breakpoint is, and the address where it goes on otherwise.
pub const NEAR: usize = 62;
pub const PLAIN: usize = 64;

/// Code that looks whether one of the addresses is in one of these ranges, each a start and a length, of which the first with the
/// start 0 is the end: if so, it comes to a breakpoint; if not, it goes on at `plain`, a word that may change.
pub fn looking(ranges: usize, plain: usize) -> [u8; SLOT] {
    let mut code = Code::new();
    code.put(&[0x48, 0xb9]).put(&ranges.to_le_bytes()); // mov rcx, ranges
    let next = code.length;
    for register in REGISTERS {
        code.put(&[0x49 | ((register >> 3) as u8) << 2, 0x89, 0xc3 | ((register & 7) as u8) << 3]); // mov r11, register
        code.put(&[0x4c, 0x2b, 0x19]); // sub r11, [rcx]
        code.put(&[0x4c, 0x3b, 0x59, 8]); // cmp r11, [rcx + 8]
        let behind = code.length + 2;
        code.put(&[0x72, (NEAR - behind) as u8]); // jb
    }
    code.put(&[0x48, 0x83, 0xc1, 16]); // add rcx, 16
    code.put(&[0x48, 0x83, 0x39, 0]); // cmp qword ptr [rcx], 0
    let behind = code.length + 2;
    code.put(&[0x75, (next as isize - behind as isize) as u8]); // jne
    code.put(&JUMP[..2]).put(&((PLAIN - NEAR) as u32).to_le_bytes());
    code.put(&[0xcc, 0]).put(&plain.to_le_bytes());
    code.bytes
}

/// The system call, with so much added to each of the registers. Behind it they are as they were.
pub struct Copy {
    pub code: [u8; SLOT],
    /// Written over its beginning, which is the system call, this sends a thread that comes there, or was interrupted and begins
    /// anew, back to libc's own.
    pub ended: [u8; 2],
}

/// The copy of the system call with this number at this address.
pub fn copy(site: usize, number: u32, added: [usize; 3]) -> Copy {
    let mut code = Code::new();
    code.put(&SYSCALL).undo(added).put(&JUMP).put(&(site + SYSCALL.len()).to_le_bytes());
    let ended = [0xeb, (code.length - SYSCALL.len()) as u8]; // jmp
    code.undo(added);
    if added != [0; 3] {
        // It may go on by the number of restart_syscall, with the address that the kernel has kept: it is to begin anew.
        code.put(&[0xb8]).put(&number.to_le_bytes()); // mov eax, number
    }
    code.put(&JUMP).put(&site.to_le_bytes());
    Copy { code: code.bytes, ended }
}

struct Code {
    bytes: [u8; SLOT],
    length: usize,
}

impl Code {
    fn new() -> Code {
        Code { bytes: [0; SLOT], length: 0 }
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Code {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
        self
    }

    fn undo(&mut self, added: [usize; 3]) -> &mut Code {
        for (register, added) in REGISTERS.into_iter().zip(added).filter(|&(_, added)| added != 0) {
            let (high, low) = ((register >> 3) as u8, (register & 7) as u8);
            self.put(&[0x48, 0xb9]).put(&added.wrapping_neg().to_le_bytes()); // mov rcx, -added
            self.put(&[0x48 | high << 2 | high, 0x8d, 0x04 | low << 3, 0x08 | low]); // lea register, [register + rcx]
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions, Instruction};
    use std::string::String;
    use std::vec::Vec;

    use super::*;

    fn decoded(code: &[u8]) -> Vec<Instruction> {
        Decoder::with_ip(64, code, 0, DecoderOptions::NONE).into_iter().collect()
    }

    /// What each does, to which register, and the registers of its address.
    fn told(instruction: &Instruction) -> String {
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        std::format!("{:?} {:?} {base:?} {index:?}", instruction.mnemonic(), instruction.op0_register())
    }

    #[test]
    fn addresses_are_looked_for_in_the_ranges() {
        let code = looking(0x1000, 0x2000);
        let found = decoded(&code[..=NEAR]);
        assert_eq!((found[0].op0_register(), found[0].immediate(1)), (iced_x86::Register::RCX, 0x1000));
        for (register, part) in ["RDI", "R10", "R8"].iter().zip(found[1..13].chunks(4)) {
            assert_eq!(std::format!("{:?}", part[0].op1_register()), *register);
            let expected = ["Mov R11 None None", "Sub R11 RCX None", "Cmp R11 RCX None", "Jb None None None"];
            assert_eq!(part.iter().map(told).collect::<Vec<_>>(), expected);
            assert_eq!((part[1].memory_displacement64(), part[2].memory_displacement64()), (0, 8));
            assert_eq!(part[3].near_branch_target(), NEAR as u64);
        }
        let rest =
            ["Add RCX None None", "Cmp None RCX None", "Jne None None None", "Jmp None RIP None", "Int3 None None None"];
        assert_eq!(found[13..].iter().map(told).collect::<Vec<_>>(), rest);
        assert_eq!(found[15].near_branch_target(), found[1].ip());
        assert_eq!(found[16].ip_rel_memory_address(), PLAIN as u64);
        assert_eq!(code[PLAIN..PLAIN + 8], 0x2000_u64.to_le_bytes());
    }

    #[test]
    fn a_copy_puts_the_registers_back() {
        let Copy { code, ended } = copy(0x1000, 202, [1, 2, 3]);
        let undone: Vec<String> = ["RDI", "R10", "R8"]
            .iter()
            .flat_map(|name| ["Mov RCX None None".into(), std::format!("Lea {name} {name} RCX")])
            .collect();
        let back = 2 + 42 + JUMP.len();
        let found = decoded(&code[..back]);
        assert_eq!(told(&found[0]), "Syscall None None None");
        assert_eq!(found[1..7].iter().map(told).collect::<Vec<_>>(), undone);
        let added: Vec<u64> = found[1..7].iter().step_by(2).map(|load| load.immediate(1).wrapping_neg()).collect();
        assert_eq!(added, [1, 2, 3]);
        assert_eq!(code[back..back + 8], 0x1002_u64.to_le_bytes());
        let tail = usize::from(ended[1]) + 2;
        assert_eq!(tail, back + 8);
        let found = decoded(&code[tail..tail + 53]);
        assert_eq!(found[..6].iter().map(told).collect::<Vec<_>>(), undone);
        assert_eq!((told(&found[6]), found[6].immediate32()), ("Mov EAX None None".into(), 202));
        assert_eq!(code[tail + 53..tail + 61], 0x1000_u64.to_le_bytes());
    }
}
