//! String instructions: movs, stos, lods, scas and cmps, once or repeated. Each element is an access of its own, made and
//! logged in the order of the processor.
//!
//! The frame always stands between two elements, as after an interrupt: whatever ends the work early (a fault, the end of
//! a region, the end of a turn), the program, or the next trap, can go on from there.

use core::arch::x86_64::_rdtsc;

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::exec::{Access, Outcome};
use super::frame::{DIRECTION_FLAG, Frame, RAX, RCX, RDI, RSI};
use super::run::copy;
use crate::capture::{self, Row};
use crate::clock;
use crate::layout::{READ, WRITE};
use crate::region::{self, Region};

/// Elements a turn. After it the instruction traps again, and signals get in between, as on the processor.
const TURN: usize = 4096;

const CARRY: u64 = 1 << 0;
const PARITY: u64 = 1 << 2;
const ADJUST: u64 = 1 << 4;
const ZERO: u64 = 1 << 6;
const SIGN: u64 = 1 << 7;
const OVERFLOW: u64 = 1 << 11;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operation {
    Move,
    Store,
    Load,
    Scan,
    Compare,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Repeat {
    Once,
    Count,
    WhileEqual,
    WhileUnequal,
}

/// Why an element could not be done.
enum Stop {
    /// It lies across the end of a region. Nothing has happened to it yet.
    Straddles,
    Fault,
}

/// One side of an element.
struct Side {
    /// As the program names it.
    address: usize,
    /// Where it is accessed: in the alias, or where the program says if it is plain memory.
    at: usize,
    region: Option<Region>,
}

struct StringInstruction {
    operation: Operation,
    repeat: Repeat,
    width: usize,
    /// What rsi and rdi move by, modulo 2⁶⁴.
    step: u64,
    /// The bits of rsi, rdi and rcx that take part: 32 with an address-size prefix, and the others become zero.
    mask: u64,
    /// The base of the source's segment; the destination's is always 0.
    base: u64,
}

/// Runs the instruction that the frame stands at. Done with the frame still there: it has more to do, and will trap again.
pub(super) fn execute(access: &mut Access) -> Outcome {
    let Some(string) = StringInstruction::of(access) else { return Outcome::Step };
    let behind = access.site.pc + access.site.length;
    if string.repeat != Repeat::Once && access.frame.general(RCX) & string.mask == 0 {
        access.frame.set_pc(behind);
        return Outcome::Done;
    }
    let flags = access.frame.flags();
    for done in 0..TURN {
        match string.element(access) {
            Ok(()) => {}
            Err(Stop::Straddles) if done == 0 => return Outcome::Step,
            Err(Stop::Straddles) => return Outcome::Done,
            Err(Stop::Fault) => {
                // SDM, REP: after a fault the flags are those from before the instruction.
                access.frame.set_flags(flags);
                return Outcome::Fault;
            }
        }
        if !string.goes_on(access.frame) {
            access.frame.set_pc(behind);
            return Outcome::Done;
        }
    }
    Outcome::Done
}

impl StringInstruction {
    fn of(access: &Access) -> Option<StringInstruction> {
        let instruction = &access.site.instruction;
        let width = access.site.width;
        let operation = operation(instruction.mnemonic())?;
        let downwards = access.frame.flags() & DIRECTION_FLAG != 0;
        Some(StringInstruction {
            operation,
            repeat: repeat(instruction, operation),
            width,
            step: if downwards { (width as u64).wrapping_neg() } else { width as u64 },
            mask: if has_short_addresses(instruction) { u64::from(u32::MAX) } else { u64::MAX },
            base: access.frame.register(instruction.memory_segment())?,
        })
    }

    /// Does one element. What it changes in the frame, it changes after its last access.
    fn element(&self, access: &mut Access) -> Result<(), Stop> {
        // Both operands of cmps fit.
        let slot = access.thread.buffer.as_mut_ptr() as usize;
        let other = slot + 8;
        match self.operation {
            Operation::Move => {
                let (source, destination) = (self.side(access, RSI)?, self.side(access, RDI)?);
                transfer(access, READ, &source, slot)?;
                transfer(access, WRITE, &destination, slot)?;
                self.advance(access.frame, &[RSI, RDI]);
            }
            Operation::Store => {
                let destination = self.side(access, RDI)?;
                // SAFETY: the buffer is this thread's, and aligned.
                unsafe { (slot as *mut u64).write(access.frame.general(RAX)) };
                transfer(access, WRITE, &destination, slot)?;
                self.advance(access.frame, &[RDI]);
            }
            Operation::Load => {
                let source = self.side(access, RSI)?;
                let value = transfer(access, READ, &source, slot)?;
                let kept = match self.width {
                    // Writing eax clears the upper half of rax; writing al or ax keeps the rest.
                    4 | 8 => 0,
                    width => access.frame.general(RAX) & !low_bits(width),
                };
                access.frame.set_general(RAX, kept | value);
                self.advance(access.frame, &[RSI]);
            }
            Operation::Scan => {
                let destination = self.side(access, RDI)?;
                let value = transfer(access, READ, &destination, slot)?;
                self.compare(access.frame, access.frame.general(RAX), value);
                self.advance(access.frame, &[RDI]);
            }
            Operation::Compare => {
                let (source, destination) = (self.side(access, RSI)?, self.side(access, RDI)?);
                let left = transfer(access, READ, &source, slot)?;
                let right = transfer(access, READ, &destination, other)?;
                self.compare(access.frame, left, right);
                self.advance(access.frame, &[RSI, RDI]);
            }
        }
        Ok(())
    }

    /// The element that rsi or rdi points to.
    fn side(&self, access: &Access, register: usize) -> Result<Side, Stop> {
        let base = if register == RSI { self.base } else { 0 };
        let address = base.wrapping_add(access.frame.general(register) & self.mask) as usize;
        let last = address.wrapping_add(self.width - 1);
        match (region::find(address), region::find(last)) {
            (None, None) => Ok(Side { address, at: address, region: None }),
            (Some(region), _) if region.holds(address, self.width) => {
                Ok(Side { address, at: address.wrapping_add(region.delta), region: Some(region) })
            }
            _ => Err(Stop::Straddles),
        }
    }

    fn advance(&self, frame: &mut Frame, registers: &[usize]) {
        for &register in registers {
            frame.set_general(register, frame.general(register).wrapping_add(self.step) & self.mask);
        }
    }

    fn compare(&self, frame: &mut Frame, left: u64, right: u64) {
        const CHANGED: u64 = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW;
        frame.set_flags(frame.flags() & !CHANGED | compare_flags(left, right, self.width));
    }

    /// Counts the element that is done. Is there another?
    fn goes_on(&self, frame: &mut Frame) -> bool {
        if self.repeat == Repeat::Once {
            return false;
        }
        let left = frame.general(RCX).wrapping_sub(1) & self.mask;
        frame.set_general(RCX, left);
        let equal = frame.flags() & ZERO != 0;
        left != 0
            && match self.repeat {
                Repeat::Once | Repeat::Count => true,
                Repeat::WhileEqual => equal,
                Repeat::WhileUnequal => !equal,
            }
    }
}

fn operation(mnemonic: Mnemonic) -> Option<Operation> {
    use Mnemonic::*;
    Some(match mnemonic {
        Movsb | Movsw | Movsd | Movsq => Operation::Move,
        Stosb | Stosw | Stosd | Stosq => Operation::Store,
        Lodsb | Lodsw | Lodsd | Lodsq => Operation::Load,
        Scasb | Scasw | Scasd | Scasq => Operation::Scan,
        Cmpsb | Cmpsw | Cmpsd | Cmpsq => Operation::Compare,
        _ => return None,
    })
}

/// For instructions that compare nothing, both prefixes mean the count alone.
fn repeat(instruction: &Instruction, operation: Operation) -> Repeat {
    let compares = matches!(operation, Operation::Scan | Operation::Compare);
    match (instruction.has_repe_prefix(), instruction.has_repne_prefix()) {
        (false, false) => Repeat::Once,
        _ if !compares => Repeat::Count,
        (true, _) => Repeat::WhileEqual,
        (false, true) => Repeat::WhileUnequal,
    }
}

fn has_short_addresses(instruction: &Instruction) -> bool {
    (0..instruction.op_count())
        .any(|operand| matches!(instruction.op_kind(operand), OpKind::MemorySegESI | OpKind::MemoryESEDI))
}

/// One access between an element's side and a slot of our buffer, logged if the side is in a region. The answer is what was
/// moved. A read is logged even if the write that belongs to it then faults: the device has seen it.
fn transfer(access: &mut Access, kind: u8, side: &Side, slot: usize) -> Result<u64, Stop> {
    let width = access.site.width;
    let (from, to) = if kind == READ { (side.at, slot) } else { (slot, side.at) };
    // SAFETY: one side is our buffer, the other what the program was about to access, or its alias.
    let run = || if unsafe { copy(from, to, width) } { Ok(()) } else { Err(Stop::Fault) };
    // SAFETY: the slot is in our buffer, which is aligned.
    let moved = || unsafe { (slot as *const u64).read() } & low_bits(width);
    let Some(region) = side.region.filter(|_| access.logging) else {
        run()?;
        return Ok(moved());
    };
    // Room first: the time stamp comes after any waiting. Without room, write() counts the event as lost.
    capture::reserve(access.thread, 1);
    let mut row = Row {
        pc: access.site.pc as u64,
        map_id: region.map_id,
        offset: region.offset_of(side.address),
        width: width as u16,
        flags: access.site.flags,
        ..Row::new(kind)
    };
    // SAFETY: reading the time-stamp counter has no effect.
    let before = unsafe { _rdtsc() };
    run()?;
    // SAFETY: as above.
    row.duration_ns = clock::duration_ns(before, unsafe { _rdtsc() });
    row.value = moved();
    capture::write(access.thread, &row, &[]);
    Ok(row.value)
}

/// The bits of a value of this many bytes.
fn low_bits(width: usize) -> u64 {
    u64::MAX >> (64 - 8 * width)
}

/// The status flags as `cmp left, right` sets them, on the low `width` bytes of both (SDM volume 1, 3.4.3.1).
fn compare_flags(left: u64, right: u64, width: usize) -> u64 {
    let bits = low_bits(width);
    let (left, right) = (left & bits, right & bits);
    let result = left.wrapping_sub(right) & bits;
    let sign = bits ^ (bits >> 1);
    let when = |condition: bool, flag: u64| if condition { flag } else { 0 };
    when(left < right, CARRY)
        | when((result as u8).count_ones() % 2 == 0, PARITY)
        | when((left ^ right ^ result) & 0x10 != 0, ADJUST)
        | when(result == 0, ZERO)
        | when(result & sign != 0, SIGN)
        | when((left ^ right) & (left ^ result) & sign != 0, OVERFLOW)
}
