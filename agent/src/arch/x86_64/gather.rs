//! Gathers and scatters: an access an element, each at an address of its own.
//!
//! Elements are done from the lowest on, and the mask of each that is done is cleared, as the processor does (SDM, VPGATHERDD and
//! VPSCATTERDD): after a fault the instruction goes on with those that are left.

use iced_x86::{EncodingKind, OpKind, Register};

use super::exec::{Access, Outcome, WIDEST};
use super::parts::{Done, Stop, read, write};
use super::run::Registers;
use super::vector::{clear_vector, mask_register, put_vector, set_mask_register, store_vector};

type Vector = [u8; WIDEST];

pub(super) fn execute(access: &mut Access) -> Outcome {
    let registers = access.registers();
    match Elements::of(access, &registers) {
        Some(mut elements) => {
            let done = elements.run(access);
            elements.keep(&registers, done.is_ok());
            if let Err(stop) = done {
                return stop.outcome();
            }
            access.finish(&registers);
            Outcome::Done
        }
        None => Outcome::Step,
    }
}

struct Elements {
    /// The vector register that is filled or stored, its bytes that take part, and what it holds.
    data: Register,
    is_gather: bool,
    value: Vector,
    size: usize,
    count: usize,
    index: Vector,
    /// Operand that is memory.
    memory: u32,
    /// Elements that are still to be done: of a vector register, or a mask register.
    mask: u64,
    mask_vector: Option<(Register, Vector)>,
    mask_number: usize,
}

fn contents(registers: &Registers, register: Register) -> Vector {
    let mut value = [0; WIDEST];
    store_vector(registers, register.number(), value.as_mut_ptr() as usize, register.size());
    value
}

impl Elements {
    fn of(access: &Access, registers: &Registers) -> Option<Elements> {
        if registers.components == 0 {
            return None;
        }
        let instruction = &access.site.instruction;
        let memory = (0..instruction.op_count()).find(|&op| instruction.op_kind(op) == OpKind::Memory)?;
        let data = instruction.op_register(1 - memory);
        let index = instruction.memory_index();
        let index_size = if instruction.is_vsib64() { 8 } else { 4 };
        let size = access.site.width;
        let count = (data.size() / size).min(index.size() / index_size);
        let is_evex = instruction.encoding() == EncodingKind::EVEX;
        let (mut mask, mut mask_vector) = (0, None);
        if is_evex {
            mask = mask_register(registers, instruction.op_mask().number());
        } else {
            let register = instruction.op_register(2);
            let value = contents(registers, register);
            for element in 0..count {
                mask |= u64::from(value[(element + 1) * size - 1] >> 7) << element;
            }
            mask_vector = Some((register, value));
        }
        Some(Elements {
            data,
            is_gather: memory == 1,
            value: contents(registers, data),
            size,
            count,
            index: contents(registers, index),
            memory,
            mask,
            mask_vector,
            mask_number: instruction.op_mask().number(),
        })
    }

    fn address(&self, access: &Access, element: usize) -> Option<usize> {
        let instruction = &access.site.instruction;
        let vector = instruction.memory_index();
        let address = instruction.virtual_address(self.memory, element, |register, element, size| {
            if register != vector {
                return access.frame.register(register);
            }
            let mut index = [0; 8];
            index[..size].copy_from_slice(&self.index[element * size..(element + 1) * size]);
            Some(u64::from_le_bytes(index))
        });
        address.map(|address| address as usize)
    }

    fn run(&mut self, access: &mut Access) -> Done {
        for element in 0..self.count {
            if self.mask & (1 << element) == 0 {
                continue;
            }
            let address = self.address(access, element).ok_or(Stop::Step)?;
            let at = self.value[element * self.size..].as_mut_ptr() as usize;
            if self.is_gather {
                read(access, address, self.size, at)?;
            } else {
                write(access, address, self.size, at)?;
            }
            self.mask &= !(1 << element);
            if let Some((_, value)) = &mut self.mask_vector {
                value[element * self.size..(element + 1) * self.size].fill(0);
            }
        }
        Ok(())
    }

    /// Gives the program its registers back, as they are now. What is not an element is zero when all is done.
    fn keep(&mut self, registers: &Registers, is_done: bool) {
        if self.is_gather {
            if is_done {
                self.value[self.count * self.size..].fill(0);
                clear_vector(registers, self.data.number());
            }
            put_vector(registers, self.data.number(), &self.value[..self.data.size()]);
        }
        match &mut self.mask_vector {
            Some((register, value)) => {
                if is_done {
                    value.fill(0);
                    clear_vector(registers, register.number());
                }
                put_vector(registers, register.number(), &value[..register.size()]);
            }
            None => set_mask_register(registers, self.mask_number, if is_done { 0 } else { self.mask }),
        }
    }
}
