//! push, pop, call, jmp, ret, enter and leave: what they read and write may be in regions, the stack as well as an operand.

use iced_x86::{Mnemonic, OpKind, Register};

use super::exec::{Access, Outcome};
use super::frame::{RBP, RSP};
use super::parts::{Done, Stop, read, write};
use super::site::Class;

/// Bits of EFLAGS that pushf stores as zeros: resume, virtual-8086 (SDM, PUSHF).
const NOT_PUSHED: u64 = 1 << 16 | 1 << 17;

pub(super) fn execute(access: &mut Access) -> Outcome {
    let mut stack = Stack { pointer: access.frame.general(RSP) as usize, access };
    stack.run().map_or_else(Stop::outcome, |()| Outcome::Done)
}

/// The program's stack as the instruction moves it. The frame is changed after the last access only.
struct Stack<'a, 'b, 'c> {
    access: &'a mut Access<'b, 'c>,
    pointer: usize,
}

impl Stack<'_, '_, '_> {
    fn run(&mut self) -> Done {
        use Mnemonic::*;
        let instruction = &self.access.site.instruction;
        let next = self.access.site.pc + self.access.site.length;
        let moves = instruction.stack_pointer_increment();
        let width = moves.unsigned_abs() as usize;
        let mut pc = next;
        match instruction.mnemonic() {
            Push => {
                let value = self.operand()?;
                self.push(value, width)?;
            }
            Pushfq | Pushf => {
                let flags = self.access.frame.flags() & !NOT_PUSHED;
                self.push(flags, width)?;
            }
            Pop => return self.pop_into_operand(width),
            Jmp | Call if self.access.site.class == Class::Jump || self.access.site.class == Class::Call => {
                pc = self.target(next)?;
            }
            Call => {
                let target = match instruction.op0_kind() {
                    OpKind::NearBranch64 => instruction.near_branch64(),
                    OpKind::Register => self.register(instruction.op0_register())?,
                    _ => return Err(Stop::Step),
                };
                self.push(next as u64, 8)?;
                pc = target as usize;
            }
            Ret => {
                pc = self.pop(8)? as usize;
                self.pointer = self.pointer.wrapping_add(width - 8);
            }
            Leave => {
                self.pointer = self.access.frame.general(RBP) as usize;
                let kept = self.pop(8)?;
                self.access.frame.set_general(RBP, kept);
            }
            Enter => self.enter()?,
            _ => return Err(Stop::Step),
        }
        self.access.frame.set_general(RSP, self.pointer as u64);
        self.access.frame.set_pc(pc);
        Ok(())
    }

    fn load(&mut self, address: usize, width: usize) -> Result<u64, Stop> {
        let mut value = 0u64;
        read(self.access, address, width, &raw mut value as usize)?;
        Ok(value)
    }

    fn push(&mut self, value: u64, width: usize) -> Done {
        let top = self.pointer.wrapping_sub(width);
        let mut stored = value;
        write(self.access, top, width, &raw mut stored as usize)?;
        self.pointer = top;
        Ok(())
    }

    fn pop(&mut self, width: usize) -> Result<u64, Stop> {
        let value = self.load(self.pointer, width)?;
        self.pointer = self.pointer.wrapping_add(width);
        Ok(value)
    }

    fn register(&self, register: Register) -> Result<u64, Stop> {
        self.access.frame.register(register).filter(|_| register.is_gpr()).ok_or(Stop::Step)
    }

    /// What is pushed.
    fn operand(&mut self) -> Result<u64, Stop> {
        let instruction = &self.access.site.instruction;
        match instruction.op0_kind() {
            OpKind::Memory => {
                let address = self.access.site.operand_address(self.access.frame).ok_or(Stop::Step)?;
                self.load(address, self.access.site.width)
            }
            OpKind::Register => self.register(instruction.op0_register()),
            _ => instruction.try_immediate(0).map_err(|_| Stop::Step),
        }
    }

    fn pop_into_operand(&mut self, width: usize) -> Done {
        let site = self.access.site;
        let instruction = &site.instruction;
        let register = instruction.op0_register();
        if instruction.op0_kind() == OpKind::Memory {
            let address = site.operand_address(self.access.frame).ok_or(Stop::Step)?;
            let value = self.pop(width)?;
            // Not push(): it goes where the operand is.
            let mut stored = value;
            write(self.access, address, width, &raw mut stored as usize)?;
            self.access.frame.set_general(RSP, self.pointer as u64);
        } else if register.is_gpr() {
            let value = self.pop(width)?;
            self.access.frame.set_general(RSP, self.pointer as u64);
            let number = register.full_register().number();
            let kept = if width == 8 { 0 } else { self.access.frame.general(number) & !0xffff };
            self.access.frame.set_general(number, kept | value);
        } else {
            return Err(Stop::Step);
        }
        self.access.frame.set_pc(site.pc + site.length);
        Ok(())
    }

    /// Where a jump or a call through memory leads.
    fn target(&mut self, next: usize) -> Result<usize, Stop> {
        let site = self.access.site;
        let instruction = &site.instruction;
        let address = site.operand_address(self.access.frame).ok_or(Stop::Step)?;
        let is_far = instruction.is_call_far_indirect() || instruction.is_jmp_far_indirect();
        let is_call = site.class == Class::Call;
        if !is_far {
            let target = self.load(address, site.width)?;
            if is_call {
                self.push(next as u64, site.width)?;
            }
            return Ok(target as usize);
        }
        // Offset and selector, one access. Another code segment is the processor's affair.
        let mut pointer = [0u8; 16];
        read(self.access, address, site.width, pointer.as_mut_ptr() as usize)?;
        let size = site.width - 2;
        let mut offset = [0u8; 8];
        offset[..size].copy_from_slice(&pointer[..size]);
        let selector = u16::from_le_bytes([pointer[size], pointer[size + 1]]);
        if selector != self.access.frame.code_segment() {
            return Err(Stop::Step);
        }
        if is_call {
            self.push(u64::from(selector), size)?;
            self.push(next as u64, size)?;
        }
        Ok(u64::from_le_bytes(offset) as usize)
    }

    /// SDM, ENTER: the frame pointers of enclosing procedures are copied, and room is made.
    fn enter(&mut self) -> Done {
        let instruction = &self.access.site.instruction;
        let (room, level) = (usize::from(instruction.immediate16()), usize::from(instruction.immediate8_2nd()) & 31);
        let mut base = self.access.frame.general(RBP) as usize;
        self.push(base as u64, 8)?;
        let frame = self.pointer;
        for _ in 1..level {
            base = base.wrapping_sub(8);
            let outer = self.load(base, 8)?;
            self.push(outer, 8)?;
        }
        if level > 0 {
            self.push(frame as u64, 8)?;
        }
        self.pointer = self.pointer.wrapping_sub(room);
        self.access.frame.set_general(RBP, frame as u64);
        Ok(())
    }
}
