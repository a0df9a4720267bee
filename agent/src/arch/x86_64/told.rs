//! What is known of an access that the processor makes itself: its registers before and after tell, ordinary memory does, and so
//! does a run on a copy. The device is never read for it.

use iced_x86::{Mnemonic, OpKind, Register};

use super::decode::is_plain_width;
use super::exec::{Access, WIDEST, is_high_byte};
use super::frame::{Frame, RAX, RDX, RSP};
use super::run::{Registers, components, copy};
use super::site::{Class, Site};
use super::{string, vector};
use crate::layout::{READ, WRITE};
use crate::region;
use crate::thread::Thread;

pub type Value = [u8; WIDEST];

/// One access, as the program makes it.
pub struct Seen {
    pub kind: u8,
    pub address: usize,
    /// None: nothing tells.
    pub value: Option<Value>,
}

/// An instruction that is about to be stepped.
#[derive(Clone, Copy)]
pub struct Before {
    pub site: &'static Site,
    general: [u64; 16],
    /// Kind and address of what it will touch, in order.
    pub places: [Option<(u8, usize)>; 2],
    /// What it stores, or would if it stored, or moves from ordinary memory.
    value: Option<Value>,
}

impl Before {
    /// None: the instruction is one that the agent does not take apart.
    pub fn new(thread: &mut Thread, frame: &mut Frame, site: &'static Site) -> Option<Before> {
        let in_parts = matches!(site.class, Class::Parts(_) | Class::Gather | Class::Stack) || !is_plain_width(site.width);
        if in_parts || matches!(site.class, Class::Step | Class::Plain | Class::Branch) {
            return None;
        }
        let places = places(site, frame)?;
        let value = match (site.class, places) {
            (Class::Strings, [Some((READ, source)), Some((WRITE, _))]) => ordinary(thread, source, site.width),
            (Class::Strings, [Some((WRITE, _)), None]) => Some(low(frame.general(RAX))),
            (Class::Pop, _) => ordinary(thread, frame.general(RSP) as usize, site.width),
            (Class::Store | Class::Exchange | Class::ExchangeAdd | Class::CompareExchange, [Some((_, address)), _]) => {
                trial(&mut Access::new(thread, frame, site, false), address)
            }
            _ => None,
        };
        Some(Before { site, general: Registers::of(frame).general, places, value })
    }

    /// What it did, now that the frame stands behind it.
    pub fn after(&self, thread: &mut Thread, frame: &mut Frame) -> [Option<Seen>; 2] {
        let site = self.site;
        let (read, written) = match site.class {
            Class::Load | Class::LoadDirect => (self.loaded(frame), None),
            Class::Store | Class::Pop => (None, self.value),
            Class::Push => (ordinary(thread, frame.general(RSP) as usize, site.width), None),
            Class::Call | Class::Jump => (Some(low(frame.pc() as u64)), None),
            Class::Exchange | Class::ExchangeAdd | Class::CompareExchange => self.exchanged(thread, frame),
            Class::Strings => self.moved(thread, frame),
            _ => (None, None),
        };
        self.places.map(|place| {
            let (kind, address) = place?;
            let value = if kind == READ { read } else { written };
            Some(Seen { kind, address, value: value.map(|value| cut(value, site.width)) })
        })
    }

    /// What a load has left in its register.
    fn loaded(&self, frame: &Frame) -> Option<Value> {
        use Mnemonic::*;
        let instruction = &self.site.instruction;
        if instruction.op_kind(0) != OpKind::Register {
            return None;
        }
        let register = instruction.op_register(0);
        let mnemonic = instruction.mnemonic();
        if register.is_gpr() {
            let now = part(register, frame.general(register.full_register().number()));
            let before = part(register, self.general[register.full_register().number()]);
            return match mnemonic {
                Mov | Movzx | Movsx | Movsxd => Some(low(now)),
                Add => Some(low(now.wrapping_sub(before))),
                Sub => Some(low(before.wrapping_sub(now))),
                Xor => Some(low(before ^ now)),
                _ => None,
            };
        }
        let whole = register.is_xmm() || register.is_ymm() || register.is_zmm();
        let plain = matches!(
            mnemonic,
            Movd | Movq
                | Movss
                | Movsd
                | Movups
                | Movupd
                | Movaps
                | Movapd
                | Movdqu
                | Movdqa
                | Movntdqa
                | Lddqu
                | Vmovd
                | Vmovq
                | Vmovss
                | Vmovsd
                | Vmovups
                | Vmovupd
                | Vmovaps
                | Vmovapd
                | Vmovdqu
                | Vmovdqa
                | Vmovntdqa
                | Vlddqu
                | Vmovdqu8
                | Vmovdqu16
                | Vmovdqu32
                | Vmovdqu64
                | Vmovdqa32
                | Vmovdqa64
        );
        if !whole || !plain {
            return None;
        }
        let mut registers = Registers::of(frame);
        registers.vector_state = frame.vector_state();
        registers.components = components(registers.vector_state);
        let mut value = [0; WIDEST];
        vector::store_vector(&registers, register.number(), value.as_mut_ptr() as usize, self.site.width);
        Some(value)
    }

    /// xchg, xadd, cmpxchg: the old value is in registers, and so is what makes the new one.
    fn exchanged(&self, thread: &mut Thread, frame: &mut Frame) -> (Option<Value>, Option<Value>) {
        const ZERO_FLAG: u64 = 1 << 6;
        let mut after = Registers::of(frame);
        if let Some(substitute) = self.site.stack_substitute {
            after.general[substitute] = frame.general(RSP);
        }
        let access = Access::new(thread, frame, self.site, false);
        let old = access.old_value(&self.general, &after);
        let new = match self.site.class {
            Class::ExchangeAdd => self.value.map(|added| low(word(&old).wrapping_add(word(&added)))),
            Class::CompareExchange if after.flags & ZERO_FLAG == 0 => Some(old),
            _ => self.value,
        };
        (Some(old), new)
    }

    /// One element of a string instruction.
    fn moved(&self, thread: &mut Thread, frame: &Frame) -> (Option<Value>, Option<Value>) {
        match self.places {
            [Some((READ, _)), Some((WRITE, destination))] => {
                let value = self.value.or_else(|| ordinary(thread, destination, self.site.width));
                (value, value)
            }
            [Some((WRITE, _)), _] => (None, self.value),
            _ if string::loads(self.site) => (Some(low(frame.general(RAX))), None),
            _ => (None, None),
        }
    }
}

/// None: they are not known, or many.
fn places(site: &Site, frame: &Frame) -> Option<[Option<(u8, usize)>; 2]> {
    if site.class == Class::Strings {
        return string::places(site, frame);
    }
    let address = site.operand_address(frame)?;
    Some(match site.class {
        Class::NoData => [None, None],
        Class::Load | Class::LoadDirect | Class::Push | Class::Call | Class::Jump => [Some((READ, address)), None],
        Class::Store | Class::Pop => [Some((WRITE, address)), None],
        _ => [Some((READ, address)), Some((WRITE, address))],
    })
}

/// What the instruction stores, from a run on a copy. The copy holds zeros, so xadd leaves what it adds; or what cmpxchg
/// compares with, so it leaves what it would store.
fn trial(access: &mut Access, address: usize) -> Option<Value> {
    let at = access.copy_address(address);
    let mut held = [0; WIDEST];
    if access.site.class == Class::CompareExchange {
        let paired = matches!(access.site.instruction.mnemonic(), Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b);
        let each = if paired { access.site.width / 2 } else { access.site.width };
        held[..each].copy_from_slice(&access.frame.general(RAX).to_le_bytes()[..each]);
        held[each..2 * each].copy_from_slice(&access.frame.general(RDX).to_le_bytes()[..each]);
    }
    // SAFETY: copy_address() leaves room for the widest operand.
    unsafe { core::ptr::copy_nonoverlapping(held.as_ptr(), at as *mut u8, WIDEST) };
    let mut registers = Registers::of(access.frame);
    if access.site.vector {
        let state = access.frame.vector_state();
        registers.components = components(state);
        registers.vector_state = access.thread.vector_copy(state, registers.components);
    }
    access.moved(&mut registers, at).then(|| access.copied(at))
}

/// A value in ordinary memory, or None if it is a device's.
fn ordinary(thread: &mut Thread, address: usize, width: usize) -> Option<Value> {
    if region::any_in(address, address.saturating_add(width)) {
        return None;
    }
    let at = thread.buffer.as_mut_ptr();
    // SAFETY: the program accesses the same in this very instruction; a fault is recovered from. The buffer holds the widest.
    unsafe { copy(address, at as usize, width).then(|| at.cast::<Value>().read()) }
}

/// The part of a general register that this name stands for.
fn part(register: Register, value: u64) -> u64 {
    if is_high_byte(register) { value >> 8 } else { value }
}

fn low(word: u64) -> Value {
    let mut value = [0; WIDEST];
    value[..8].copy_from_slice(&word.to_le_bytes());
    value
}

fn word(value: &Value) -> u64 {
    u64::from_le_bytes(core::array::from_fn(|index| value[index]))
}

/// Its low bytes, and zeros.
fn cut(mut value: Value, width: usize) -> Value {
    value[width..].fill(0);
    value
}
