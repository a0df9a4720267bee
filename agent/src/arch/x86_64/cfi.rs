//! What an unwinder must know of a thunk, in DWARF's words: at each of its instructions, where the program's registers are.
//!
//! Nobody calls a thunk. For an unwinder it is a function that the site's instruction has called: it returns behind that
//! instruction, and since unwinders look for a caller one byte before the address of its return, they find the site. Nothing is
//! pushed for that call, so the frame's address (CFA) is the program's own stack pointer.
//!
//! Numbers: DWARF 5, 6.4 and 7.24; System V ABI for x86-64, 3.6.2 and 3.7.

use alloc::vec::Vec;

use super::thunk::KEPT;

const ADVANCE: u8 = 0x40;
const OFFSET: u8 = 0x80;
const RESTORE: u8 = 0xc0;
const ADVANCE_4: u8 = 0x04;
const SAME_VALUE: u8 = 0x08;
const REMEMBER_STATE: u8 = 0x0a;
const RESTORE_STATE: u8 = 0x0b;
const DEFINE_CFA: u8 = 0x0c;
const DEFINE_CFA_OFFSET: u8 = 0x0e;
const AT_EXPRESSION: u8 = 0x10;
const VALUE_OF_EXPRESSION: u8 = 0x16;
const OP_CONSTANT_8: u8 = 0x0e;
/// -8 as a signed LEB128: offsets are given in words below the CFA.
const WORDS_DOWN: u8 = 0x78;
/// Addresses are given as signed 64-bit distances from where they stand (LSB, "DWARF Exception Header Encoding").
const RELATIVE_8: u8 = 0x1c;

const STACK_POINTER: u8 = 7;
const RETURN_ADDRESS: u8 = 16;

/// DWARF's numbers of the first eight registers.
const NUMBERS: [u8; 8] = [0, 2, 1, 3, 7, 6, 4, 5];

fn number(register: usize) -> u8 {
    NUMBERS.get(register).copied().unwrap_or(register as u8)
}

/// A finished description.
pub struct Frames {
    pub bytes: Vec<u8>,
    /// Where in it the FDE begins.
    pub fde: usize,
}

impl Frames {
    /// It will be so far behind the start of its code.
    pub fn place(&mut self, behind: usize) {
        let from = self.fde + 8;
        let distance = 0_usize.wrapping_sub(behind + from);
        self.bytes[from..from + 8].copy_from_slice(&(distance as u64).to_le_bytes());
    }
}

/// The description of a piece of code, as .eh_frame has it: what all such have in common (a CIE), and its own (an FDE).
pub struct Cfi {
    bytes: Vec<u8>,
    /// Where the FDE begins, and in it the rule for the address of return.
    own: usize,
    rule: usize,
    start: usize,
    /// The address up to which the rules so far hold.
    at: usize,
}

impl Cfi {
    /// Code that begins at `start` and goes on at `back`. The program's registers are where they belong, the stack pointer too.
    pub fn new(start: usize, back: usize) -> Cfi {
        let mut cfi = Cfi { bytes: Vec::with_capacity(256), own: 0, rule: 0, start, at: start };
        // No length yet, a CIE, version 1; it says how addresses are given; steps in bytes, offsets in words.
        cfi.bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 1, b'z', b'R', 0, 1, WORDS_DOWN, RETURN_ADDRESS]);
        cfi.bytes.extend_from_slice(&[1, RELATIVE_8]);
        cfi.bytes.extend_from_slice(&[DEFINE_CFA, STACK_POINTER, 0]);
        KEPT.into_iter().for_each(|register| cfi.bytes.extend_from_slice(&[SAME_VALUE, number(register)]));
        cfi.end_entry(0);
        cfi.own = cfi.bytes.len();
        // No length yet, how far back the CIE is, and the range, which is not known yet.
        cfi.bytes.extend_from_slice(&[0; 4]);
        cfi.bytes.extend_from_slice(&(cfi.own as u32 + 4).to_le_bytes());
        cfi.bytes.extend_from_slice(&[0; 17]);
        cfi.rule = cfi.bytes.len();
        cfi.bytes.extend_from_slice(&[VALUE_OF_EXPRESSION, RETURN_ADDRESS, 9, OP_CONSTANT_8]);
        cfi.bytes.extend_from_slice(&(back as u64).to_le_bytes());
        cfi
    }

    /// The address where the code goes on is also in memory at `word`, a multiple of 8: libunwind, and with it perf, knows no
    /// registers with a constant value.
    pub fn back_is_at(&mut self, word: usize) {
        self.bytes[self.rule] = AT_EXPRESSION;
        self.bytes[self.rule + 4..self.rule + 12].copy_from_slice(&(word as u64).to_le_bytes());
    }

    /// From `at` on the stack pointer is `depth` below the program's, a multiple of 128.
    pub fn depth(&mut self, at: usize, depth: usize) {
        self.advance(at);
        // As an unsigned LEB128.
        self.bytes.extend_from_slice(&[DEFINE_CFA_OFFSET, 0x80, (depth >> 7) as u8]);
    }

    /// From `at` on the register's value is in the stack, `below` the program's stack pointer.
    pub fn kept(&mut self, at: usize, register: usize, below: usize) {
        self.advance(at);
        self.bytes.extend_from_slice(&[OFFSET | number(register), (below / 8) as u8]);
    }

    /// From `at` on it is in the register again.
    pub fn brought_back(&mut self, at: usize, register: usize) {
        self.advance(at);
        self.bytes.push(RESTORE | number(register));
    }

    /// All is as at `at` again, later ([`Cfi::recall`]).
    pub fn remember(&mut self, at: usize) {
        self.advance(at);
        self.bytes.push(REMEMBER_STATE);
    }

    pub fn recall(&mut self, at: usize) {
        self.advance(at);
        self.bytes.push(RESTORE_STATE);
    }

    /// The code ends here.
    pub fn end(mut self, at: usize) -> Frames {
        self.bytes[self.own + 16..self.own + 24].copy_from_slice(&((at - self.start) as u64).to_le_bytes());
        self.end_entry(self.own);
        Frames { bytes: self.bytes, fde: self.own }
    }

    fn advance(&mut self, to: usize) {
        let by = to - self.at;
        self.at = to;
        match by {
            0 => {}
            1..0x40 => self.bytes.push(ADVANCE | by as u8),
            _ => {
                self.bytes.push(ADVANCE_4);
                self.bytes.extend_from_slice(&(by as u32).to_le_bytes());
            }
        }
    }

    /// Fills up to a multiple of 8 with zeros, which say nothing, and writes the length of what began at `start`.
    fn end_entry(&mut self, start: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let length = self.bytes.len() - start - 4;
        self.bytes[start..start + 4].copy_from_slice(&(length as u32).to_le_bytes());
    }
}
