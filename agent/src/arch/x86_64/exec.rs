//! Running an access out of line, against the alias, and writing what it was.
//!
//! The device sees one access of exactly the width that the program's instruction makes. Nothing is read to find a value:
//! a load goes to a copy of the operand first, and the instruction then runs on the copy.

use super::frame::{Frame, RAX, RDX, RSP};
use super::run::{Registers, components, copy, exchange_add, run};
use super::site::{Class, Site};
use super::{gather, parts, stack, string, vector};
use crate::capture::{self, Row};
use crate::hook::{Hit, Verdict};
use crate::layout::*;
use crate::region::Region;
use crate::thread::Thread;
use crate::{arena, clock};

/// How an access ended.
#[derive(PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Run and logged; the frame stands behind the instruction.
    Done,
    /// It cannot be run out of line. Nothing has happened yet.
    Step,
    /// It faulted, as it would have untraced: `thread.fault` says how. The frame is as it was.
    Fault,
}

/// The widest operand.
pub const WIDEST: usize = 64;

/// One access on its way.
pub(super) struct Access<'a, 'b> {
    pub thread: &'a mut Thread,
    pub frame: &'a mut Frame<'b>,
    pub site: &'static Site,
    pub logging: bool,
    /// Bytes of the access that is being made: the operand's, or those of a part of it.
    pub width: usize,
    /// Set while an access is made whose place is hooked.
    pub hit: Option<Hit>,
}

/// Runs the instruction that the frame stands at, which touched `region` at `touched`.
pub fn execute(
    thread: &mut Thread,
    frame: &mut Frame,
    site: &'static Site,
    region: &Region,
    touched: usize,
    logging: bool,
) -> Outcome {
    let mut access = Access::new(thread, frame, site, logging);
    match site.class {
        Class::Plain | Class::Branch | Class::Step => Outcome::Step,
        Class::Strings => string::execute(&mut access),
        Class::Parts(how) => parts::execute(&mut access, how),
        Class::Gather => gather::execute(&mut access),
        Class::Push | Class::Pop | Class::Call | Class::Jump | Class::Stack => stack::execute(&mut access),
        _ => access.single(region, touched),
    }
}

impl<'a, 'b> Access<'a, 'b> {
    pub fn new(thread: &'a mut Thread, frame: &'a mut Frame<'b>, site: &'static Site, logging: bool) -> Access<'a, 'b> {
        Access { thread, frame, site, logging, width: site.width, hit: None }
    }
}

impl Access<'_, '_> {
    fn single(&mut self, region: &Region, touched: usize) -> Outcome {
        let Some(address) = self.site.operand_address(self.frame) else { return Outcome::Step };
        let width = self.site.width.max(1);
        let touches = touched.wrapping_sub(address) < width || self.site.class == Class::NoData;
        if !touches {
            return Outcome::Step;
        }
        if !region.holds(address, width) {
            return parts::across(self, address);
        }
        let alias = address.wrapping_add(region.delta);
        let mut registers = self.registers();
        // Room first: the time stamp comes after any waiting. If there is none, write() counts the events as lost.
        if self.logging && self.site.class != Class::NoData {
            let each = 1 + if width > 8 { width.div_ceil(ROW_SIZE) } else { 0 };
            capture::reserve(self.thread, 2 * each);
        }
        let mut row = Row {
            time_ns: self.thread.log.clock.now(),
            pc: self.site.pc as u64,
            map_id: region.map_id,
            offset: region.offset_of(address),
            width: width as u16,
            flags: self.site.flags,
            ..Row::new(READ)
        };
        if self.site.class != Class::NoData {
            self.look_for_hook(region, address);
        }
        let class = self.site.class;
        let done = match class {
            Class::Load => self.load(alias, address, &mut registers, &mut row),
            Class::LoadDirect => self.load_direct(alias, address, &mut registers, &mut row),
            Class::Store => self.store(alias, address, &mut registers, &mut row),
            Class::Modify => self.modify(alias, address, &mut registers, &mut row),
            Class::NoData => self.moved(&mut registers, alias),
            Class::Push | Class::Pop | Class::Call | Class::Jump | Class::Stack | Class::Parts(_) | Class::Gather => false,
            Class::Strings | Class::Plain | Class::Branch | Class::Step => false,
            _ if self.is_answered(address, &mut row) => self.on_copy(alias, address, &mut registers, &mut row),
            Class::Exchange | Class::ExchangeAdd | Class::CompareExchange => {
                self.exchange(alias, address, &mut registers, &mut row)
            }
            Class::LockedAdd => self.locked_add(alias, address, &mut registers, &mut row),
            Class::LockedOpaque => self.locked_opaque(alias, &mut registers, &mut row),
        };
        if !done {
            // An element that is masked off does not fault in the program.
            return if self.site.instruction.has_op_mask() { Outcome::Step } else { Outcome::Fault };
        }
        self.finish(&registers);
        Outcome::Done
    }

    /// What the instruction runs with.
    pub fn registers(&self) -> Registers {
        let mut registers = Registers::of(self.frame);
        if self.site.vector {
            registers.vector_state = self.frame.vector_state();
            registers.components = components(registers.vector_state);
        }
        registers
    }

    /// The same for a run that is to leave the program's vector state as it is. Only until the next call.
    pub fn registers_for_trial(&mut self) -> Registers {
        let mut registers = self.registers();
        registers.vector_state = self.thread.vector_copy(registers.vector_state, registers.components);
        registers
    }

    /// A place for a copy of the operand, at the same distance from a cache line as the operand itself, so that what must be
    /// aligned faults or not as it would have.
    pub fn copy_address(&mut self, address: usize) -> usize {
        self.thread.buffer.as_mut_ptr() as usize + address % WIDEST
    }

    pub fn copied(&self, at: usize) -> [u8; WIDEST] {
        let mut value = [0; WIDEST];
        // SAFETY: copy_address() leaves room for the widest operand.
        unsafe { core::ptr::copy_nonoverlapping(at as *const u8, value.as_mut_ptr(), self.width.min(WIDEST)) };
        value
    }

    /// Runs the instruction with its operand at `operand`. False: it faulted.
    pub fn moved(&mut self, registers: &mut Registers, operand: usize) -> bool {
        let mut base = operand as u64;
        // The instruction will add its bit offset's bytes again.
        base = base.wrapping_add_signed(-self.site.bytes_of_bit_offset(self.frame).unwrap_or(0));
        registers.general[self.site.scratch] = base;
        if let Some(substitute) = self.site.stack_substitute {
            registers.general[substitute] = self.frame.general(RSP);
        }
        self.run(registers)
    }

    /// The same against the device, timed.
    pub fn on_device(&mut self, registers: &mut Registers, alias: usize, row: &mut Row) -> bool {
        registers.timed = arena::wants_latency().into();
        let done = self.moved(registers, alias);
        row.duration_ns = clock::duration_ns(registers.before, registers.after);
        done
    }

    /// Runs the site's code. False: it faulted.
    pub fn run(&mut self, registers: &mut Registers) -> bool {
        self.thread.registers = registers;
        // SAFETY: the site's own instruction, its operand at an address the program may use or in our copy.
        let done = unsafe { run(registers, self.site.code) };
        self.thread.registers = core::ptr::null();
        done
    }

    /// One plain access between the device and a copy, timed.
    fn plain(&mut self, from: usize, to: usize, row: &mut Row) -> bool {
        let before = clock::ticks();
        // SAFETY: one side is our copy, the other the alias of what the program touched.
        let done = unsafe { copy(from, to, self.width) };
        row.duration_ns = clock::duration_ns(before, clock::ticks());
        done
    }

    /// One access is on its way: is its place hooked?
    pub fn look_for_hook(&mut self, region: &Region, address: usize) {
        self.hit = if self.logging { Hit::begin(self.thread, self.frame, region, address, self.width) } else { None };
    }

    /// Asks the handlers before an access, if there are any.
    fn before(&mut self, kind: u8, row: &Row, value: &[u8; WIDEST]) -> Verdict {
        self.hit.as_mut().map_or(Verdict::Device, |hit| hit.before(kind, row, value))
    }

    /// The handlers after it. Of a read: what the program gets instead.
    fn after(&mut self, kind: u8, row: &Row, value: &[u8; WIDEST]) -> Option<[u8; WIDEST]> {
        self.hit.as_mut().and_then(|hit| hit.after(kind, row, value))
    }

    /// Puts what a handler has said into a copy of the operand.
    fn put(&mut self, value: &[u8; WIDEST], at: usize, row: &mut Row) {
        // SAFETY: copy_address() leaves room for the widest operand.
        unsafe { core::ptr::copy_nonoverlapping(value.as_ptr(), at as *mut u8, self.width) };
        row.flags |= HOOKED;
    }

    /// Loads the operand into a copy: from the device, or as a hook has it.
    pub fn read(&mut self, alias: usize, at: usize, row: &mut Row) -> bool {
        if let Verdict::Answered(value) = self.before(READ, row, &[0; WIDEST]) {
            self.put(&value, at, row);
            return true;
        }
        if !self.plain(alias, at, row) {
            return false;
        }
        self.may_change(at, row);
        true
    }

    /// What was read from the device is in a copy; a hook may change it.
    fn may_change(&mut self, at: usize, row: &mut Row) {
        if self.hit.is_some() {
            let value = self.copied(at);
            if let Some(changed) = self.after(READ, row, &value) {
                self.put(&changed, at, row);
            }
        }
    }

    /// Stores a copy of the operand, unless a hook swallows it. The copy is then what was stored.
    pub fn write(&mut self, at: usize, alias: usize, row: &mut Row) -> bool {
        let value = self.copied(at);
        match self.before(WRITE, row, &value) {
            Verdict::Swallowed => {
                row.flags |= HOOKED;
                return true;
            }
            Verdict::Changed(value) => self.put(&value, at, row),
            Verdict::Device | Verdict::Answered(_) => {}
        }
        if !self.plain(at, alias, row) {
            return false;
        }
        let value = self.copied(at);
        self.after(WRITE, row, &value);
        true
    }

    fn log(&mut self, row: &mut Row, kind: u8, value: &[u8; WIDEST]) {
        row.kind = kind;
        let width = row.width as usize;
        let mut low = [0; 8];
        low[..width.min(8)].copy_from_slice(&value[..width.min(8)]);
        row.value = u64::from_le_bytes(low);
        if self.logging {
            capture::write(self.thread, row, if width > 8 { &value[..width] } else { &[] });
        }
    }

    fn load(&mut self, alias: usize, address: usize, registers: &mut Registers, row: &mut Row) -> bool {
        let at = self.copy_address(address);
        if !self.read(alias, at, row) {
            return false;
        }
        let value = self.copied(at);
        let done = self.moved(registers, at);
        // A division error comes after the load.
        if done || self.thread.fault.signal == libc::SIGFPE {
            self.log(row, READ, &value);
        }
        done
    }

    fn load_direct(&mut self, alias: usize, address: usize, registers: &mut Registers, row: &mut Row) -> bool {
        let at = self.copy_address(address);
        if let Verdict::Answered(value) = self.before(READ, row, &[0; WIDEST]) {
            self.put(&value, at, row);
        } else {
            if !self.on_device(registers, alias, row) {
                return false;
            }
            // The loaded register, stored to our copy, tells the value.
            let number = self.site.instruction.op_register(0).number();
            vector::store_vector(registers, number, at, self.site.width);
            self.may_change(at, row);
        }
        let value = self.copied(at);
        if row.flags & HOOKED != 0 && !self.moved(registers, at) {
            return false;
        }
        self.log(row, READ, &value);
        true
    }

    fn store(&mut self, alias: usize, address: usize, registers: &mut Registers, row: &mut Row) -> bool {
        // A store changes no registers but x87's stack, so it can be run twice from the same state: on a copy, without
        // keeping what it does to the vector state, and for real.
        let at = self.copy_address(address);
        let mut trial = self.registers_for_trial();
        if !self.moved(&mut trial, at) {
            return false;
        }
        let value = self.copied(at);
        match self.before(WRITE, row, &value) {
            Verdict::Swallowed => {
                row.flags |= HOOKED;
                let done = self.moved(registers, at);
                self.log(row, WRITE, &value);
                return done;
            }
            Verdict::Changed(value) => {
                if !self.moved(registers, at) {
                    return false;
                }
                self.put(&value, at, row);
                if !self.plain(at, alias, row) {
                    return false;
                }
            }
            Verdict::Device | Verdict::Answered(_) => {
                if !self.on_device(registers, alias, row) {
                    return false;
                }
            }
        }
        let value = self.copied(at);
        self.after(WRITE, row, &value);
        self.log(row, WRITE, &value);
        true
    }

    fn modify(&mut self, alias: usize, address: usize, registers: &mut Registers, row: &mut Row) -> bool {
        let at = self.copy_address(address);
        let mut write = *row;
        if !self.read(alias, at, row) {
            return false;
        }
        let old = self.copied(at);
        if !self.moved(registers, at) || !self.write(at, alias, &mut write) {
            return false;
        }
        let new = self.copied(at);
        self.log(row, READ, &old);
        self.log(&mut write, WRITE, &new);
        true
    }

    /// Asks the handlers of an instruction that reads and writes the device at once. Is the read answered, so that it can run
    /// on a copy? If not, nothing can be said of the write before.
    fn is_answered(&mut self, address: usize, row: &mut Row) -> bool {
        let at = self.copy_address(address);
        if let Verdict::Answered(value) = self.before(READ, row, &[0; WIDEST]) {
            self.put(&value, at, row);
            return true;
        }
        self.before(WRITE, &Row { flags: row.flags | VALUE_UNKNOWN, ..*row }, &[0; WIDEST]);
        false
    }

    /// Its read has been answered: the answer is in the copy. What it writes is a store of its own.
    fn on_copy(&mut self, alias: usize, address: usize, registers: &mut Registers, row: &mut Row) -> bool {
        let at = self.copy_address(address);
        let old = self.copied(at);
        let mut write = Row { flags: row.flags & !HOOKED, ..*row };
        if !self.moved(registers, at) || !self.write(at, alias, &mut write) {
            return false;
        }
        let new = self.copied(at);
        self.log(row, READ, &old);
        self.log(&mut write, WRITE, &new);
        true
    }

    /// It has run on the device; a hook may change what the program has read there.
    fn after_both(
        &mut self,
        at: usize,
        registers: &mut Registers,
        row: &mut Row,
        old: &[u8; WIDEST],
        new: &[u8; WIDEST],
    ) -> bool {
        let changed = self.after(READ, row, old);
        self.after(WRITE, row, new);
        let mut write = *row;
        let old = changed.unwrap_or(*old);
        if changed.is_some() {
            self.put(&old, at, row);
            *registers = Registers::of(self.frame);
            if !self.moved(registers, at) {
                return false;
            }
        }
        self.log(row, READ, &old);
        self.log(&mut write, WRITE, new);
        true
    }

    /// xchg, xadd, cmpxchg: run against the device; the old value comes back in registers.
    fn exchange(&mut self, alias: usize, address: usize, registers: &mut Registers, row: &mut Row) -> bool {
        let before = Registers::of(self.frame).general;
        if !self.on_device(registers, alias, row) {
            return false;
        }
        let old = self.old_value(&before, registers);
        // Run once more on a copy that holds the old value: it leaves the new one.
        let at = self.copy_address(address);
        // SAFETY: copy_address() leaves room for the widest operand.
        unsafe { core::ptr::copy_nonoverlapping(old.as_ptr(), at as *mut u8, WIDEST) };
        let mut again = Registers::of(self.frame);
        if !self.moved(&mut again, at) {
            return false;
        }
        let new = self.copied(at);
        self.after_both(at, registers, row, &old, &new)
    }

    /// What was in memory before xchg, xadd or cmpxchg ran, from the registers around it.
    pub fn old_value(&self, before: &[u64; 16], after: &Registers) -> [u8; WIDEST] {
        let mut value = [0; WIDEST];
        let width = self.site.width;
        if self.site.class == Class::CompareExchange {
            // Equal: it was what rax (and rdx) asked for. Not equal: the instruction has loaded it into them.
            const ZERO_FLAG: u64 = 1 << 6;
            let equal = after.flags & ZERO_FLAG != 0;
            let source = if equal { before } else { &after.general };
            let paired =
                matches!(self.site.instruction.mnemonic(), iced_x86::Mnemonic::Cmpxchg8b | iced_x86::Mnemonic::Cmpxchg16b);
            let each = if paired { width / 2 } else { width };
            value[..each].copy_from_slice(&source[RAX].to_le_bytes()[..each]);
            if paired {
                value[each..width].copy_from_slice(&source[RDX].to_le_bytes()[..each]);
            }
            return value;
        }
        let instruction = &self.site.instruction;
        let operand = if instruction.op_kind(0) == iced_x86::OpKind::Memory { 1 } else { 0 };
        let register = instruction.op_register(operand);
        let number = register.full_register().number();
        let number = match self.site.stack_substitute {
            Some(substitute) if number == RSP => substitute,
            _ => number,
        };
        let mut bytes = after.general[number].to_le_bytes();
        if is_high_byte(register) {
            bytes[0] = bytes[1];
        }
        value[..width].copy_from_slice(&bytes[..width]);
        value
    }

    /// lock add, sub, adc, sbb, inc, dec: one locked exchange-and-add of what the instruction makes of zero.
    fn locked_add(&mut self, alias: usize, address: usize, registers: &mut Registers, row: &mut Row) -> bool {
        let at = self.copy_address(address);
        // SAFETY: copy_address() leaves room for the widest operand.
        unsafe { core::ptr::write_bytes(at as *mut u8, 0, WIDEST) };
        let mut on_zero = Registers::of(self.frame);
        if !self.moved(&mut on_zero, at) {
            return false;
        }
        let before = clock::ticks();
        // SAFETY: the program was about to do the same to the same address.
        if !unsafe { exchange_add(alias, at, self.site.width) } {
            return false;
        }
        row.duration_ns = clock::duration_ns(before, clock::ticks());
        let old = self.copied(at);
        // On the old value: the flags, and the new value.
        if !self.moved(registers, at) {
            return false;
        }
        let new = self.copied(at);
        self.after_both(at, registers, row, &old, &new)
    }

    fn locked_opaque(&mut self, alias: usize, registers: &mut Registers, row: &mut Row) -> bool {
        if !self.on_device(registers, alias, row) {
            return false;
        }
        row.flags |= VALUE_UNKNOWN | REASON_LOCKED << REASON_SHIFT;
        self.after(READ, row, &[0; WIDEST]);
        self.after(WRITE, row, &[0; WIDEST]);
        self.log(row, READ, &[0; WIDEST]);
        self.log(row, WRITE, &[0; WIDEST]);
        true
    }

    /// Gives the program what the instruction left in the registers.
    pub fn finish(&mut self, registers: &Registers) {
        let site = self.site;
        for number in 0..16 {
            let is_borrowed = site.class != Class::Plain && number == site.scratch;
            if number != RSP && !is_borrowed && Some(number) != site.stack_substitute {
                self.frame.set_general(number, registers.general[number]);
            }
        }
        if let Some(substitute) = site.stack_substitute {
            self.frame.set_general(RSP, registers.general[substitute]);
        }
        let status = super::frame::STATUS_FLAGS;
        self.frame.set_flags(self.frame.flags() & !status | registers.flags & status);
        self.frame.set_pc(site.pc + site.length);
    }
}

pub(super) fn is_high_byte(register: iced_x86::Register) -> bool {
    use iced_x86::Register::{AH, BH, CH, DH};
    matches!(register, AH | CH | DH | BH)
}
