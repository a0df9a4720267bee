//! Accesses in parts: what is not one access of a plain width to one region.
//!
//! That is an operand across an edge of a region, one of an odd width (x87's 10 bytes, the 512 of fxsave), and one of which a mask
//! or a header chooses what is touched. The parts that the processor reads are loaded into a copy, on which the instruction runs;
//! of a store, two runs on copies with different contents tell which bytes it writes: those that are equal afterwards.
//! Each part in a region is an event; ordinary memory beside it is accessed as it is.

use iced_x86::{EncodingKind, Mnemonic};

use super::exec::{Access, Outcome, WIDEST};
use super::frame::{RAX, RDX};
use super::run::{COMPONENTS, copy, exchange_add};
use super::site::{Class, Parts};
use super::vector;
use crate::capture::{self, Row};
use crate::fault::allows;
use crate::layout::*;
use crate::region::{self, Region};
use crate::sys::PAGE;
use crate::{clock, hook};

/// Why a part could not be done.
pub(super) enum Stop {
    /// The agent cannot do it, and leaves it to the processor.
    Step,
    /// It faulted; `thread.fault` says how.
    Fault,
}

impl Stop {
    pub fn outcome(self) -> Outcome {
        match self {
            Stop::Step => Outcome::Step,
            Stop::Fault => Outcome::Fault,
        }
    }
}

pub(super) type Done = Result<(), Stop>;

/// Where XSAVE's header and its words are (SDM volume 1, 13.4.2).
const XSTATE_BV: usize = 512;
const XCOMP_BV: usize = XSTATE_BV + 8;
const HEADER: usize = 64;
const COMPACTED: u64 = 1 << 63;
const MXCSR: (usize, usize) = (24, 8);

pub(super) fn execute(access: &mut Access, how: Parts) -> Outcome {
    let Some(address) = access.site.operand_address(access.frame) else { return Outcome::Step };
    // What is wider than a hook's value is observed only.
    if access.logging && access.site.width > WIDEST && hook::covers(address, access.site.width) {
        return Outcome::Step;
    }
    let done = match how {
        Parts::Whole | Parts::Elements | Parts::Packed | Parts::Restored => load(access, address, how),
        Parts::Written => store(access, address, None),
        Parts::Saved => save(access, address),
        Parts::Direct => direct(access, address),
        Parts::Translated => translate(access, address),
    };
    done.map_or_else(Stop::outcome, |()| Outcome::Done)
}

/// A plain operand that does not lie in one region.
pub(super) fn across(access: &mut Access, address: usize) -> Outcome {
    let done = match access.site.class {
        Class::Load | Class::LoadDirect => load(access, address, Parts::Whole),
        Class::Store => store(access, address, Some(access.site.width)),
        Class::Modify => modify(access, address),
        // Locked: two places cannot be changed at once.
        _ => Err(Stop::Step),
    };
    done.map_or_else(Stop::outcome, |()| Outcome::Done)
}

/// Bytes that the program sees side by side, and that are side by side where they are accessed.
struct Piece {
    /// As the program names it.
    address: usize,
    /// In the alias, or where the program says if it is ordinary memory.
    at: usize,
    width: usize,
    region: Option<Region>,
}

/// The piece that begins here, of no more than `most` bytes.
fn piece(address: usize, most: usize, is_write: bool) -> Result<Piece, Stop> {
    let first = region::find(address);
    let goes_on = |next: Option<Region>| match (first, next) {
        (None, None) => true,
        (Some(here), Some(next)) => {
            let distance = next.start.wrapping_sub(here.start) as u64;
            here.map_id == next.map_id
                && here.delta == next.delta
                && next.map_offset.wrapping_sub(here.map_offset) == distance
                && allows(&next, is_write)
        }
        _ => false,
    };
    // The program's own fault: the processor finds it out.
    if first.is_some_and(|region| !allows(&region, is_write)) {
        return Err(Stop::Step);
    }
    let mut width = most.min(PAGE - address % PAGE);
    while width < most && goes_on(region::find(address.wrapping_add(width))) {
        width = most.min(width + PAGE);
    }
    let at = address.wrapping_add(first.map_or(0, |region| region.delta));
    Ok(Piece { address, at, width, region: first })
}

/// Calls for each piece of these bytes.
fn each_piece(address: usize, width: usize, is_write: bool, mut visit: impl FnMut(Piece) -> Done) -> Done {
    let mut done = 0;
    while done < width {
        let piece = piece(address.wrapping_add(done), width - done, is_write)?;
        done += piece.width;
        visit(piece)?;
    }
    Ok(())
}

/// Loads what the program reads at `address` into `to`, and logs what of it is in a region.
pub(super) fn read(access: &mut Access, address: usize, width: usize, to: usize) -> Done {
    let first = piece(address, width, false)?;
    if first.width == width {
        return read_piece(access, &first, to);
    }
    // Ordinary memory first: if that faults, no device has been touched.
    for in_region in [false, true] {
        each_piece(address, width, false, |piece| match piece.region.is_some() == in_region {
            true => read_piece(access, &piece, to + (piece.address - address)),
            false => Ok(()),
        })?;
    }
    Ok(())
}

/// Stores `from` where the program writes, and logs what of it is in a region.
pub(super) fn write(access: &mut Access, address: usize, width: usize, from: usize) -> Done {
    let first = piece(address, width, true)?;
    if first.width == width {
        return write_piece(access, &first, from);
    }
    // Here, too, no device is touched if ordinary memory faults: adding nothing to it, locked, finds that out.
    each_piece(address, width, true, |piece| match piece.region {
        Some(_) => Ok(()),
        None => can_write(&piece),
    })?;
    each_piece(address, width, true, |piece| write_piece(access, &piece, from + (piece.address - address)))
}

fn can_write(piece: &Piece) -> Done {
    let mut at = piece.at;
    while at < piece.at + piece.width {
        let mut nothing = 0u8;
        // SAFETY: the program is about to write here; a fault is recovered from.
        if !unsafe { exchange_add(at, &raw mut nothing as usize, 1) } {
            return Err(Stop::Fault);
        }
        at = (at / PAGE + 1) * PAGE;
    }
    Ok(())
}

fn read_piece(access: &mut Access, piece: &Piece, to: usize) -> Done {
    let Some(region) = piece.region.filter(|_| access.logging) else { return plain(piece.at, to, piece.width) };
    let mut row = begin(access, &region, piece, READ);
    let done = access.read(piece.at, to, &mut row);
    end(access, row, done, to)
}

fn write_piece(access: &mut Access, piece: &Piece, from: usize) -> Done {
    let Some(region) = piece.region.filter(|_| access.logging) else { return plain(from, piece.at, piece.width) };
    let mut row = begin(access, &region, piece, WRITE);
    let done = access.write(from, piece.at, &mut row);
    end(access, row, done, from)
}

fn plain(from: usize, to: usize, width: usize) -> Done {
    // SAFETY: one side is our buffer, the other what the program was about to access, or its alias.
    if unsafe { copy(from, to, width) } { Ok(()) } else { Err(Stop::Fault) }
}

/// The row of a piece that is about to be accessed.
fn begin(access: &mut Access, region: &Region, piece: &Piece, kind: u8) -> Row {
    // Room first: the time stamp comes after any waiting. Without room, write() counts the event as lost.
    capture::reserve(access.thread, rows_of(piece.width));
    access.width = piece.width;
    access.look_for_hook(region, piece.address);
    Row {
        time_ns: access.thread.log.clock.now(),
        pc: access.site.pc as u64,
        map_id: region.map_id,
        offset: region.offset_of(piece.address),
        width: piece.width as u16,
        flags: access.site.flags,
        ..Row::new(kind)
    }
}

/// Logs it, with the value that is at `at`.
fn end(access: &mut Access, row: Row, done: bool, at: usize) -> Done {
    access.hit = None;
    if !done {
        return Err(Stop::Fault);
    }
    log(access, row, at);
    Ok(())
}

fn log(access: &mut Access, mut row: Row, at: usize) {
    let width = usize::from(row.width);
    // SAFETY: our copy of the operand, which is at least as wide.
    let value = unsafe { core::slice::from_raw_parts(at as *const u8, width) };
    let mut low = [0; 8];
    low[..width.min(8)].copy_from_slice(&value[..width.min(8)]);
    row.value = u64::from_le_bytes(low);
    capture::write(access.thread, &row, if width > 8 { value } else { &[] });
}

fn rows_of(width: usize) -> usize {
    1 + if width > 8 { width.div_ceil(ROW_SIZE) } else { 0 }
}

/// Loads what the instruction reads into a copy, and runs it on that.
fn load(access: &mut Access, address: usize, how: Parts) -> Done {
    let [at, _] = access.thread.copies(address);
    let width = access.site.width;
    match how {
        Parts::Elements | Parts::Packed => {
            let size = access.site.instruction.memory_size().element_size();
            let mask = mask(access, size).ok_or(Stop::Step)?;
            // A load that expands takes as many elements as the mask has bits, one behind the other.
            let chosen = if how == Parts::Packed { low_bits(mask.count_ones()) } else { mask };
            for index in (0..width / size).filter(|index| chosen & (1 << index) != 0) {
                read(access, address.wrapping_add(index * size), size, at + index * size)?;
            }
        }
        Parts::Restored => restored(access, address, at)?,
        _ => read(access, address, width, at)?,
    }
    let mut registers = access.registers();
    if !access.moved(&mut registers, at) {
        return Err(Stop::Fault);
    }
    access.finish(&registers);
    Ok(())
}

fn modify(access: &mut Access, address: usize) -> Done {
    let [at, _] = access.thread.copies(address);
    read(access, address, access.site.width, at)?;
    let mut registers = access.registers();
    if !access.moved(&mut registers, at) {
        return Err(Stop::Fault);
    }
    write(access, address, access.site.width, at)?;
    access.finish(&registers);
    Ok(())
}

/// Which of the operand's elements a mask chooses: the sign bits of a vector register's, or the bits of a mask register.
fn mask(access: &Access, size: usize) -> Option<u64> {
    let instruction = &access.site.instruction;
    let registers = access.registers();
    if registers.components == 0 {
        return None;
    }
    let elements = access.site.width / size;
    if instruction.encoding() == EncodingKind::EVEX {
        let bits = vector::mask_register(&registers, instruction.op_mask().number());
        return Some(bits & low_bits(elements as u32));
    }
    let mut value = [0u8; WIDEST];
    vector::store_vector(&registers, instruction.op_register(1).number(), value.as_mut_ptr() as usize, access.site.width);
    Some((0..elements).filter(|index| value[(index + 1) * size - 1] & 0x80 != 0).fold(0, |mask, index| mask | 1 << index))
}

fn low_bits(count: u32) -> u64 {
    if count == 64 { u64::MAX } else { (1 << count) - 1 }
}

/// A store. `written`: how much of the operand it writes, if that is known; else two runs tell.
fn store(access: &mut Access, address: usize, written: Option<usize>) -> Done {
    let copies = access.thread.copies(address);
    let room = access.site.width;
    // SAFETY: the copies have room for the operand.
    unsafe {
        core::ptr::write_bytes(copies[0] as *mut u8, 0, room);
        core::ptr::write_bytes(copies[1] as *mut u8, 0xff, room);
    }
    store_through(access, address, copies, written)
}

fn store_through(access: &mut Access, address: usize, copies: [usize; 2], written: Option<usize>) -> Done {
    let room = access.site.width;
    for at in &copies[..if written.is_some() { 1 } else { 2 }] {
        let mut registers = access.registers_for_trial();
        if !access.moved(&mut registers, *at) {
            return Err(Stop::Fault);
        }
    }
    let is_written = |index: usize| match written {
        Some(width) => index < width,
        // SAFETY: the copies have room for the operand.
        None => unsafe { *((copies[0] + index) as *const u8) == *((copies[1] + index) as *const u8) },
    };
    // Each element of a vector by itself, all else as far as it goes.
    let instruction = &access.site.instruction;
    let most = match instruction.mnemonic() {
        Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu => 1,
        mnemonic if instruction.has_op_mask() || is_masked_store(mnemonic) => instruction.memory_size().element_size(),
        _ => room,
    };
    let next = |from: usize| -> Option<(usize, usize)> {
        let start = (from..room).find(|&index| is_written(index))?;
        let end = (start..room.min(start + most)).find(|&index| !is_written(index)).unwrap_or(room.min(start + most));
        Some((start, end))
    };
    let mut registers = access.registers();
    // The processor itself, where it can: the device sees what it would have seen.
    let alone = region::find(address).filter(|region| region.holds(address, room) && allows(region, true));
    if let Some(region) = alone.filter(|_| !(access.logging && hook::covers(address, room))) {
        if access.logging {
            capture::reserve(access.thread, rows_of(most));
        }
        let mut row = Row {
            time_ns: access.thread.log.clock.now(),
            pc: access.site.pc as u64,
            map_id: region.map_id,
            flags: access.site.flags,
            ..Row::new(WRITE)
        };
        if !access.on_device(&mut registers, address.wrapping_add(region.delta), &mut row) {
            return Err(Stop::Fault);
        }
        let mut from = 0;
        while let Some((start, end)) = next(from).filter(|_| access.logging) {
            (row.offset, row.width) = (region.offset_of(address + start), (end - start) as u16);
            log(access, row, copies[0] + start);
            from = end;
        }
    } else {
        let mut from = 0;
        while let Some((start, end)) = next(from) {
            write(access, address.wrapping_add(start), end - start, copies[0] + start)?;
            from = end;
        }
        // For what it does to registers.
        if !access.moved(&mut registers, copies[1]) {
            return Err(Stop::Fault);
        }
    }
    access.finish(&registers);
    Ok(())
}

/// Stores of elements that another vector register's signs choose.
fn is_masked_store(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(mnemonic, Vmaskmovps | Vmaskmovpd | Vpmaskmovd | Vpmaskmovq)
}

/// What xsave and its kin are asked for, if the frame holds all of it.
fn requested(access: &Access) -> Result<u64, Stop> {
    let asked = access.frame.general(RAX) & 0xffff_ffff | access.frame.general(RDX) << 32;
    let asked = asked & vector::enabled_components();
    if asked & !COMPONENTS != 0 || access.registers().components == 0 {
        return Err(Stop::Step);
    }
    Ok(asked)
}

/// xsave, xsaveopt, xsavec. All but the last keep the bits of the header that they were not asked for, and so read it.
fn save(access: &mut Access, address: usize) -> Done {
    requested(access)?;
    if access.site.instruction.mnemonic() == Mnemonic::Xsavec || access.site.instruction.mnemonic() == Mnemonic::Xsavec64 {
        return store(access, address, None);
    }
    let copies = access.thread.copies(address);
    // SAFETY: the copies have room for the operand, which holds at least the header.
    unsafe {
        core::ptr::write_bytes(copies[0] as *mut u8, 0, access.site.width);
        core::ptr::write_bytes(copies[1] as *mut u8, 0xff, access.site.width);
    }
    read(access, address.wrapping_add(XSTATE_BV), 8, copies[0] + XSTATE_BV)?;
    plain(copies[0] + XSTATE_BV, copies[1] + XSTATE_BV, 8)?;
    store_through(access, address, copies, None)
}

/// What xrstor reads: the header, and those components that it is asked for and the header has (SDM volume 1, 13.8).
fn restored(access: &mut Access, address: usize, at: usize) -> Done {
    let asked = requested(access)?;
    read(access, address.wrapping_add(XSTATE_BV), HEADER, at + XSTATE_BV)?;
    // SAFETY: the header, in our copy.
    let header = |offset: usize| unsafe { ((at + offset) as *const u64).read_unaligned() };
    let (present, compaction) = (asked & header(XSTATE_BV), header(XCOMP_BV));
    let is_compacted = compaction & COMPACTED != 0;
    for (component, (offset, size)) in vector::components_of(is_compacted.then_some(compaction)) {
        if present & (1 << component) != 0 {
            each_legacy_part(component, offset, size, |offset, size| {
                read(access, address.wrapping_add(offset), size, at + offset)
            })?;
        }
    }
    // In the standard format mxcsr is loaded whenever SSE or AVX is asked for, else with SSE's component.
    let loads_mxcsr = if is_compacted { present & 0b10 != 0 } else { asked & 0b110 != 0 };
    if loads_mxcsr {
        read(access, address.wrapping_add(MXCSR.0), MXCSR.1, at + MXCSR.0)?;
    }
    Ok(())
}

/// x87's component lies on both sides of mxcsr.
fn each_legacy_part(component: u32, offset: usize, size: usize, mut visit: impl FnMut(usize, usize) -> Done) -> Done {
    match component {
        0 => {
            visit(0, MXCSR.0)?;
            visit(MXCSR.0 + MXCSR.1, 160 - (MXCSR.0 + MXCSR.1))
        }
        _ => visit(offset, size),
    }
}

/// movdir64b, enqcmd: 64 bytes from memory, stored at once where a register points to.
fn direct(access: &mut Access, source: usize) -> Done {
    let register = access.site.instruction.op_register(0);
    let number = register.full_register().number();
    let target = access.frame.register(register).ok_or(Stop::Step)? as usize;
    let piece = piece(target, WIDEST, true)?;
    if piece.width != WIDEST || access.site.stack_substitute.is_some() || hook::covers(target, WIDEST) {
        return Err(Stop::Step);
    }
    let [at, _] = access.thread.copies(source);
    read(access, source, WIDEST, at)?;
    let mut registers = access.registers();
    registers.general[number] = piece.at as u64;
    let mut row = piece.region.filter(|_| access.logging).map(|region| begin(access, &region, &piece, WRITE));
    let before = clock::ticks();
    if !access.moved(&mut registers, at) {
        return Err(Stop::Fault);
    }
    if let Some(row) = &mut row {
        row.duration_ns = clock::duration_ns(before, clock::ticks());
        row.flags |= NONTEMPORAL;
        log(access, *row, at);
    }
    registers.general[number] = access.frame.general(number);
    access.finish(&registers);
    Ok(())
}

/// xlat: al becomes the byte that it is the number of.
fn translate(access: &mut Access, address: usize) -> Done {
    let mut byte = 0u8;
    read(access, address, 1, &raw mut byte as usize)?;
    access.frame.set_general(RAX, access.frame.general(RAX) & !0xff | u64::from(byte));
    access.frame.set_pc(access.site.pc + access.site.length);
    Ok(())
}
