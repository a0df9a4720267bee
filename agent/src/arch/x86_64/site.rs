//! Sites: instructions that were seen touching a region, each decoded once.
//!
//! A table from address to site, read without a lock. A site also keeps the instruction's bytes: code that has changed since
//! (a JIT, dlclose and dlopen) is decoded anew. Replaced sites are not freed, since another thread may be running one; their
//! number is bounded.

use alloc::boxed::Box;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use iced_x86::{Code, ConditionCode, Decoder, DecoderOptions, Instruction, Mnemonic, Register};

use super::{Frame, code, cpu, decode};
use crate::modules;
use crate::patch::Patch;

/// What running an instruction's access takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Load the operand, run the instruction on a copy.
    Load,
    /// As Load, but the instruction itself must make the access (a streaming load).
    LoadDirect,
    /// Run it on a copy to learn the value, then against the device.
    Store,
    /// Load, run on the copy, store: what the processor does without a lock.
    Modify,
    /// Run against the device; the old value comes back in registers.
    Exchange,
    ExchangeAdd,
    CompareExchange,
    /// A locked addition or subtraction of some kind: the same as exchange-and-add, which tells the old value.
    LockedAdd,
    /// Locked, and the old value does not come back.
    LockedOpaque,
    /// In parts, on a copy (see parts.rs).
    Parts(Parts),
    /// Gathers and scatters.
    Gather,
    /// Moves no data (clflush, clwb): run against the device, nothing to log.
    NoData,
    Push,
    Pop,
    Call,
    Jump,
    /// What has no operand in memory but the stack: push, pop, call, ret, enter, leave.
    Stack,
    /// movs, stos, lods, scas, cmps.
    Strings,
    /// Touches registers only: run as it is (see ahead.rs).
    Plain,
    /// A jump to a fixed place, on a condition or always.
    Branch,
    /// Not taken apart: run in place, with the page open.
    Step,
}

/// How an instruction's access falls into parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parts {
    /// Loads all of its operand.
    Whole,
    /// Loads the elements that a mask chooses.
    Elements,
    /// Loads as many elements as a mask chooses, from the first on.
    Packed,
    /// Stores some of its operand, or all.
    Written,
    /// xsave.
    Saved,
    /// xrstor.
    Restored,
    /// movdir64b, enqcmd.
    Direct,
    /// xlat.
    Translated,
}

pub struct Site {
    pub pc: usize,
    pub bytes: [u8; 15],
    pub length: usize,
    pub class: Class,
    /// Bytes of the memory operand (of one element for string instructions).
    pub width: usize,
    pub instruction: Instruction,
    /// The instruction with its memory operand at the scratch register, and a return; 0: none needed.
    pub code: usize,
    /// The register that holds the moved operand's address while `code` runs.
    pub scratch: usize,
    /// rsp, where it is an operand, is replaced by this register.
    pub stack_substitute: Option<usize>,
    /// Needs the program's vector and x87 registers.
    pub vector: bool,
    /// The register whose bits beyond the operand move the address (bt and its kin).
    pub bit_offset: Option<Register>,
    /// Of a branch: where it leads, and when.
    pub target: usize,
    pub condition: ConditionCode,
    /// Flags for the event's row.
    pub flags: u32,
    /// Accesses that the agent has run here.
    pub hits: AtomicU32,
    /// Its thunk, when it has one; never freed.
    patch: AtomicPtr<Patch>,
}

impl Site {
    /// A site that has not been seen at work.
    pub fn new(instruction: &Instruction, class: Class) -> Site {
        Site {
            pc: 0,
            bytes: [0; 15],
            length: instruction.len(),
            class,
            width: 0,
            instruction: *instruction,
            code: 0,
            scratch: 0,
            stack_substitute: None,
            vector: false,
            bit_offset: None,
            target: instruction.near_branch_target() as usize,
            condition: instruction.condition_code(),
            flags: 0,
            hits: AtomicU32::new(0),
            patch: AtomicPtr::new(null_mut()),
        }
    }

    pub fn patch(&self) -> Option<&'static Patch> {
        // SAFETY: patches are never freed.
        unsafe { self.patch.load(Ordering::Acquire).as_ref() }
    }

    pub fn set_patch(&self, patch: &'static Patch) {
        self.patch.store((&raw const *patch).cast_mut(), Ordering::Release);
    }

    /// The address of the memory operand, as the processor computes it. None: there is none that is written out, or it is
    /// many (gathers).
    pub fn operand_address(&self, frame: &Frame) -> Option<usize> {
        let instruction = &self.instruction;
        if instruction.mnemonic() == Mnemonic::Clzero {
            const LINE: u64 = 64;
            let short = instruction.code() == Code::Clzerod;
            let register = if short { Register::EAX } else { Register::RAX };
            return Some((frame.register(register)? & !(LINE - 1)) as usize);
        }
        let operand = (0..instruction.op_count()).find(|&op| decode::is_memory(instruction.op_kind(op)))?;
        let mut address = instruction.virtual_address(operand, 0, |register, _, _| frame.register(register))?;
        // `pop` computes an address that is based on rsp after it has moved rsp (SDM, POP).
        if self.class == Class::Pop && instruction.memory_base() == Register::RSP {
            address = address.wrapping_add(self.width as u64);
        }
        Some(address.wrapping_add_signed(self.bytes_of_bit_offset(frame)?) as usize)
    }

    /// How far a bit offset in a register moves the operand; 0 for instructions without one.
    pub fn bytes_of_bit_offset(&self, frame: &Frame) -> Option<i64> {
        let Some(register) = self.bit_offset else { return Some(0) };
        let bits = 8 * self.width as u32;
        let signed = (frame.register(register)? << (64 - bits)) as i64 >> (64 - bits);
        Some(signed.div_euclid(i64::from(bits)) * self.width as i64)
    }
}

const CAPACITY: usize = 1 << 16;
const PROBES: usize = 32;
/// Sites that were replaced because their code had changed; beyond this many, changed code is stepped.
const MAX_REPLACED: usize = 1 << 16;

static TABLE: [AtomicPtr<Site>; CAPACITY] = [const { AtomicPtr::new(null_mut()) }; CAPACITY];
static REPLACED: AtomicUsize = AtomicUsize::new(0);

/// The site of the instruction at `pc`, which has just been executed there. None: it cannot be kept; step it.
pub fn find(pc: usize) -> Option<&'static Site> {
    for probe in 0..PROBES {
        let slot = &TABLE[place(pc, probe)];
        let old = slot.load(Ordering::Acquire);
        // SAFETY: sites are never freed.
        if let Some(site) = unsafe { old.as_ref() } {
            if site.pc != pc {
                continue;
            }
            if same_bytes(site) {
                return Some(site);
            }
            if REPLACED.fetch_add(1, Ordering::Relaxed) >= MAX_REPLACED {
                return None;
            }
        }
        let site = Box::into_raw(Box::new(make(pc)));
        return match slot.compare_exchange(old, site, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: just made, and never freed.
            Ok(_) => unsafe { site.as_ref() },
            // Another thread was faster. If it was at the same address, its site is as good as ours.
            Err(_) => {
                // SAFETY: just made, and nobody has seen it.
                drop(unsafe { Box::from_raw(site) });
                find(pc)
            }
        };
    }
    None
}

/// A recording begins: no access has been made in it.
pub fn forget_hits() {
    for slot in &TABLE {
        // SAFETY: sites are never freed.
        if let Some(site) = unsafe { slot.load(Ordering::Acquire).as_ref() } {
            site.hits.store(0, Ordering::Relaxed);
        }
    }
}

/// The site that was last seen at `pc`, whatever is there now.
pub fn known(pc: usize) -> Option<&'static Site> {
    (0..PROBES).find_map(|probe| {
        // SAFETY: sites are never freed.
        let site = unsafe { TABLE[place(pc, probe)].load(Ordering::Acquire).as_ref() };
        site.filter(|site| site.pc == pc)
    })
}

fn place(pc: usize, probe: usize) -> usize {
    let hash = (pc as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    (hash as usize + probe) % CAPACITY
}

fn same_bytes(site: &Site) -> bool {
    // SAFETY: the processor has just fetched these bytes.
    let now = unsafe { core::slice::from_raw_parts(site.pc as *const u8, site.length) };
    now == &site.bytes[..site.length] || site.patch().is_some_and(|patch| patch.explains(now))
}

#[cold]
fn make(pc: usize) -> Site {
    modules::note(pc);
    let (bytes, length) = fetch(pc);
    let instruction = decode_at(pc, &bytes[..length]);
    let mut site = decode::site(&instruction);
    site.pc = pc;
    site.bytes = bytes;
    if site.class == Class::Plain {
        const RETURN: u8 = 0xc3;
        let mut alone = [0u8; 16];
        alone[..length].copy_from_slice(&bytes[..length]);
        alone[length] = RETURN;
        match code::place(&alone[..=length]) {
            Some(address) => site.code = address,
            None => site.class = Class::Step,
        }
    }
    site
}

/// The bytes of the instruction at `pc`, and how many there are. Its length is not known before, and the page behind it may
/// not be readable, so they are taken one page at a time.
pub fn fetch(pc: usize) -> ([u8; 15], usize) {
    let mut bytes = [0u8; 15];
    let in_page = 4096 - pc % 4096;
    let mut instruction = Instruction::default();
    for length in [bytes.len().min(in_page), bytes.len()] {
        // SAFETY: the processor has just executed the instruction: its bytes are readable. The second round, which reads on
        // into the next page, happens only when the instruction does not end in the first.
        unsafe { core::ptr::copy_nonoverlapping(pc as *const u8, bytes.as_mut_ptr(), length) };
        instruction = decode_at(pc, &bytes[..length]);
        if !instruction.is_invalid() {
            break;
        }
    }
    (bytes, instruction.len())
}

fn decode_at(pc: usize, bytes: &[u8]) -> Instruction {
    // AMD's reads some prefixes of jumps differently.
    let options = if cpu::has(&cpu::AMD) { DecoderOptions::AMD } else { DecoderOptions::NONE };
    Decoder::with_ip(64, bytes, pc as u64, options).decode()
}
