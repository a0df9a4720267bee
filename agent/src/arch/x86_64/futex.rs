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
    use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
    use std::string::String;
    use std::vec::Vec;

    use super::*;

    fn disassembled(code: &[u8]) -> Vec<String> {
        let mut formatter = IntelFormatter::new();
        let decoded = Decoder::with_ip(64, code, 0, DecoderOptions::NONE).into_iter();
        decoded
            .map(|instruction| {
                let mut text = String::new();
                formatter.format(&instruction, &mut text);
                text
            })
            .collect()
    }

    #[test]
    fn addresses_are_looked_for_in_the_ranges() {
        let code = looking(0x1000, 0x2000);
        let mut expected: Vec<String> = std::vec!["mov rcx,1000h".into()];
        for register in ["rdi", "r10", "r8"] {
            expected.extend([
                std::format!("mov r11,{register}"),
                "sub r11,[rcx]".into(),
                "cmp r11,[rcx+8]".into(),
                "jb short 000000000000003Eh".into(),
            ]);
        }
        let rest = ["add rcx,10h", "cmp qword ptr [rcx],0", "jne short 000000000000000Ah", "jmp qword ptr [40h]", "int3"];
        expected.extend(rest.map(String::from));
        assert_eq!(disassembled(&code[..=NEAR]), expected);
        assert_eq!(code[PLAIN..PLAIN + 8], 0x2000_u64.to_le_bytes());
    }

    #[test]
    fn a_copy_puts_the_registers_back() {
        let Copy { code, ended } = copy(0x1000, 202, [1, 2, 3]);
        let undone = ["mov rcx,0FFFFFFFFFFFFFFFFh", "lea rdi,[rdi+rcx]", "mov rcx,0FFFFFFFFFFFFFFFEh", "lea r10,[r10+rcx]"];
        let undone: Vec<&str> = undone.into_iter().chain(["mov rcx,0FFFFFFFFFFFFFFFDh", "lea r8,[r8+rcx]"]).collect();
        let length = 2 + 42 + 6;
        assert_eq!(disassembled(&code[..2]), ["syscall"]);
        assert_eq!(disassembled(&code[2..length - 6]), undone);
        assert_eq!(code[length..length + 8], 0x1002_u64.to_le_bytes());
        assert_eq!(usize::from(ended[1]) + 2, length + 8);
        let tail = &code[length + 8..];
        assert_eq!(disassembled(&tail[..47])[..6], undone);
        assert_eq!(disassembled(&tail[42..47]), ["mov eax,0CAh"]);
        assert_eq!(tail[53..61], 0x1000_u64.to_le_bytes());
        assert_eq!(disassembled(&copy(0x1000, 202, [0; 3]).code[..2]), ["syscall"]);
    }
}
