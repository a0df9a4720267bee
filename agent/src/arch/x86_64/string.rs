//! String instructions: movs, stos, lods, scas and cmps, once or repeated. Each element is an access of its own, made and
//! logged in the order of the processor.
//!
//! The frame always stands between two elements, as after an interrupt: whatever ends the work early (a fault, the end of
//! a region, the end of a turn), the program, or the next trap, can go on from there.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::exec::{Access, Outcome};
use super::frame::{DIRECTION_FLAG, Frame, RAX, RCX, RDI, RSI};
use super::parts::{Done, Stop, read, write};
use super::site::Site;
use crate::layout::{READ, WRITE};

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
    let Some(string) = StringInstruction::of(access.site, access.frame) else { return Outcome::Step };
    let behind = access.site.pc + access.site.length;
    if string.repeat != Repeat::Once && access.frame.general(RCX) & string.mask == 0 {
        access.frame.set_pc(behind);
        return Outcome::Done;
    }
    let flags = access.frame.flags();
    for done in 0..TURN {
        match string.element(access) {
            Ok(()) => {}
            Err(Stop::Step) if done == 0 => return Outcome::Step,
            Err(Stop::Step) => return Outcome::Done,
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

/// What the next element touches: kind and address, in the order of the processor.
pub(super) fn places(site: &Site, frame: &Frame) -> Option<[Option<(u8, usize)>; 2]> {
    let string = StringInstruction::of(site, frame)?;
    let (source, destination) = (string.address(frame, RSI), string.address(frame, RDI));
    Some(match string.operation {
        Operation::Move => [Some((READ, source)), Some((WRITE, destination))],
        Operation::Store => [Some((WRITE, destination)), None],
        Operation::Load => [Some((READ, source)), None],
        Operation::Scan => [Some((READ, destination)), None],
        Operation::Compare => [Some((READ, source)), Some((READ, destination))],
    })
}

/// Does it leave what it reads in rax?
pub(super) fn loads(site: &Site) -> bool {
    operation(site.instruction.mnemonic()) == Some(Operation::Load)
}

impl StringInstruction {
    fn of(site: &Site, frame: &Frame) -> Option<StringInstruction> {
        let instruction = &site.instruction;
        let width = site.width;
        let operation = operation(instruction.mnemonic())?;
        let downwards = frame.flags() & DIRECTION_FLAG != 0;
        Some(StringInstruction {
            operation,
            repeat: repeat(instruction, operation),
            width,
            step: if downwards { (width as u64).wrapping_neg() } else { width as u64 },
            mask: if has_short_addresses(instruction) { u64::from(u32::MAX) } else { u64::MAX },
            base: frame.register(instruction.memory_segment())?,
        })
    }

    /// Does one element. What it changes in the frame, it changes after its last access.
    fn element(&self, access: &mut Access) -> Done {
        // Of each side; what is loaded may be stored from there.
        let (mut left, mut right) = (0u64, 0u64);
        let (slot, other, width) = (&raw mut left as usize, &raw mut right as usize, self.width);
        let source = self.address(access.frame, RSI);
        let destination = self.address(access.frame, RDI);
        match self.operation {
            Operation::Move => {
                read(access, source, width, slot)?;
                write(access, destination, width, slot)?;
                self.advance(access.frame, &[RSI, RDI]);
            }
            Operation::Store => {
                left = access.frame.general(RAX);
                write(access, destination, width, &raw mut left as usize)?;
                self.advance(access.frame, &[RDI]);
            }
            Operation::Load => {
                read(access, source, width, slot)?;
                let kept = match self.width {
                    // Writing eax clears the upper half of rax; writing al or ax keeps the rest.
                    4 | 8 => 0,
                    width => access.frame.general(RAX) & !low_bits(width),
                };
                access.frame.set_general(RAX, kept | left);
                self.advance(access.frame, &[RSI]);
            }
            Operation::Scan => {
                read(access, destination, width, slot)?;
                self.compare(access.frame, access.frame.general(RAX), left);
                self.advance(access.frame, &[RDI]);
            }
            Operation::Compare => {
                read(access, source, width, slot)?;
                read(access, destination, width, other)?;
                self.compare(access.frame, left, right);
                self.advance(access.frame, &[RSI, RDI]);
            }
        }
        Ok(())
    }

    fn address(&self, frame: &Frame, register: usize) -> usize {
        let base = if register == RSI { self.base } else { 0 };
        base.wrapping_add(frame.general(register) & self.mask) as usize
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

#[cfg(test)]
mod tests {
    use super::super::frame::STATUS_FLAGS;
    use super::super::run::{Registers, recover, run};
    use super::super::site::Site;
    use super::super::{code, decode};
    use super::*;
    use crate::layout::*;
    use crate::region::{self, Region};
    use crate::region::{Front, Guard};
    use crate::thread::{self, Thread};
    use crate::{arena, capture, clock, sys};
    use iced_x86::{Decoder, DecoderOptions};
    use std::sync::Once;
    use std::vec::Vec;

    const SIZE: usize = 0x2000;
    const EVERY: i32 = libc::PROT_READ | libc::PROT_WRITE;

    /// An arena of a few segments, latency on; the other side of a recording is not needed.
    fn attach_arena() {
        let path = std::env::temp_dir().join(std::format!("mmiotap-string-{}", std::process::id()));
        let mut bytes = std::vec![0u8; SEGMENTS_OFFSET + 8 * SEGMENT_SIZE];
        bytes[..8].copy_from_slice(&MAGIC);
        for (offset, value) in [(H_VERSION, VERSION), (H_SEGMENT_COUNT, 8), (H_ENABLED, 1), (H_ON_FULL, 1), (H_LATENCY, 1)] {
            bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        }
        std::fs::write(&path, bytes).unwrap();
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        assert!(arena::attach(name.as_bytes_with_nul()));
        std::fs::remove_file(path).unwrap();
    }

    extern "C" fn on_fault(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the kernel's context of this signal.
        let mut frame = Frame::new(unsafe { &mut *context.cast() });
        if !recover(&mut frame, core::ptr::null()) {
            std::process::abort();
        }
    }

    fn prepare() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            attach_arena();
            code::prepare();
            clock::prepare();
            // SAFETY: all-zero is a valid sigaction.
            let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
            action.sa_sigaction = on_fault as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            // SAFETY: the handler recovers from faults in copy() and aborts at others.
            unsafe { libc::sigaction(libc::SIGSEGV, &action, core::ptr::null_mut()) };
        });
    }

    /// Memory below 4 GiB, so that 32-bit addresses reach it.
    fn memory(prot: i32) -> usize {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        // SAFETY: a new mapping disturbs nothing.
        let address = unsafe { sys::mmap(0, 2 * SIZE, prot, flags, -1, 0) };
        assert!(!sys::is_error(address));
        // Nothing behind it: what runs over its end faults.
        // SAFETY: our own mapping.
        unsafe { sys::munmap(address as usize + SIZE, SIZE) };
        address as usize
    }

    /// A region, its alias, and plain memory, for one test at a time.
    struct Bench {
        guard: Guard,
        front: usize,
        alias: usize,
        plain: usize,
    }

    impl Bench {
        fn new() -> Bench {
            prepare();
            let mut guard = region::lock();
            let (front, alias, plain) = (memory(libc::PROT_NONE), memory(EVERY), memory(EVERY));
            assert!(guard.insert(Region {
                start: front,
                end: front + SIZE,
                delta: alias.wrapping_sub(front),
                map_id: 7,
                map_offset: 0x100,
                prot: EVERY,
                front: Front::Twin,
                path: &[],
                flags: 0,
                file_offset: 0,
            }));
            Bench { guard, front, alias, plain }
        }

        fn contents(address: usize) -> Vec<u8> {
            // SAFETY: a readable mapping of the bench.
            unsafe { core::slice::from_raw_parts(address as *const u8, SIZE) }.to_vec()
        }

        fn fill(address: usize, bytes: &[u8]) {
            // SAFETY: a writable mapping of the bench, which nothing else uses.
            unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            self.guard.remove(self.front, self.front + SIZE);
            for address in [self.front, self.alias, self.plain] {
                // SAFETY: the bench's own, not used any more.
                unsafe { sys::munmap(address, SIZE) };
            }
        }
    }

    /// rax, rcx, rsi, rdi, flags, and the address of the next instruction.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct State {
        rax: u64,
        rcx: u64,
        rsi: u64,
        rdi: u64,
        flags: u64,
        behind: bool,
    }

    fn place(bytes: &[u8]) -> &'static Site {
        let code = code::place(&[bytes, &[0xc3]].concat()).unwrap();
        let instruction = Decoder::with_ip(64, bytes, code as u64, DecoderOptions::NONE).decode();
        let mut site = decode::site(&instruction);
        site.pc = code;
        std::boxed::Box::leak(std::boxed::Box::new(site))
    }

    /// What the processor makes of it.
    fn on_processor(site: &Site, state: State) -> State {
        let (mut context, mut general) = (context(), [0; 16]);
        let mut registers = Registers::of(&Frame::new(&mut context));
        (general[RAX], general[RCX], general[RSI], general[RDI]) = (state.rax, state.rcx, state.rsi, state.rdi);
        (registers.general, registers.flags) = (general, state.flags);
        // SAFETY: a string instruction on the bench's memory.
        assert!(unsafe { run(&mut registers, site.pc) });
        let [general, flags] = [&registers.general[..], &[registers.flags & STATUS_FLAGS]];
        State { rax: general[RAX], rcx: general[RCX], rsi: general[RSI], rdi: general[RDI], flags: flags[0], behind: true }
    }

    fn context() -> libc::ucontext_t {
        // SAFETY: all-zero is a valid context.
        unsafe { core::mem::zeroed() }
    }

    fn by_us(thread: &mut Thread, site: &'static Site, state: State, logging: bool) -> (Outcome, State) {
        let mut context = context();
        let mut frame = Frame::new(&mut context);
        for (number, value) in [(RAX, state.rax), (RCX, state.rcx), (RSI, state.rsi), (RDI, state.rdi)] {
            frame.set_general(number, value);
        }
        frame.set_flags(state.flags);
        frame.set_pc(site.pc);
        let outcome = execute(&mut Access::new(thread, &mut frame, site, logging));
        let behind = frame.pc() == site.pc + site.length;
        assert!(behind || frame.pc() == site.pc);
        let [rax, rcx, rsi, rdi] = [RAX, RCX, RSI, RDI].map(|number| frame.general(number));
        (outcome, State { rax, rcx, rsi, rdi, flags: frame.flags(), behind })
    }

    /// Mostly zeros, so that comparisons go on for a while.
    fn pattern(seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if state % 16 == 0 { (state >> 32) as u8 } else { 0 }
        };
        (0..SIZE).map(|_| next()).collect()
    }

    #[test]
    fn registers_flags_and_memory_end_as_on_the_processor() {
        let bench = Bench::new();
        let thread = thread::current().unwrap();
        let mut seed = 0;
        let prefixes: [&[u8]; 6] = [&[], &[0xf3], &[0xf2], &[0x67], &[0x67, 0xf3], &[0x67, 0xf2]];
        let widths: [(&[u8], u8); 4] = [(&[], 0), (&[0x66], 1), (&[], 1), (&[0x48], 1)];
        for opcode in [0xa4, 0xaa, 0xac, 0xae, 0xa6] {
            for (prefix, (size, wide)) in prefixes.iter().flat_map(|&p| widths.map(|w| (p, w))) {
                // 0x66 may stand anywhere before the opcode, REX only directly before it.
                let site = place(&[prefix, size, &[opcode + wide]].concat());
                let short = prefix.contains(&0x67);
                for flags in [0, DIRECTION_FLAG, STATUS_FLAGS] {
                    for (from, to) in [(bench.front, bench.plain), (bench.plain, bench.front), (bench.front, bench.front)] {
                        seed += 0x9e37_79b9;
                        let high = if short { 0xabcd_0000_0000_0000 } else { 0 };
                        let state = State {
                            rax: if seed % 2 == 0 { 0 } else { 0xfedc_ba98_7654_3210 },
                            rcx: high | (seed % 40),
                            rsi: high | (from as u64 + 0x800 + seed % 64),
                            rdi: high | (to as u64 + 0x810 + seed % 32),
                            flags,
                            behind: false,
                        };
                        let (device, plain) = (pattern(seed), pattern(seed + 1));
                        // SAFETY: the bench's own memory.
                        unsafe { sys::mprotect(bench.front, SIZE, EVERY) };
                        Bench::fill(bench.front, &device);
                        Bench::fill(bench.plain, &plain);
                        let expected =
                            (on_processor(site, state), Bench::contents(bench.front), Bench::contents(bench.plain));
                        // SAFETY: as above.
                        unsafe { sys::mprotect(bench.front, SIZE, libc::PROT_NONE) };
                        Bench::fill(bench.alias, &device);
                        Bench::fill(bench.plain, &plain);
                        let (outcome, end) = by_us(thread, site, state, false);
                        assert_eq!(outcome, Outcome::Done);
                        assert_eq!(end, expected.0, "{:?} from {state:x?}", site.instruction.code());
                        assert!(Bench::contents(bench.alias) == expected.1, "device after {:?}", site.instruction.code());
                        assert!(Bench::contents(bench.plain) == expected.2, "memory after {:?}", site.instruction.code());
                    }
                }
            }
        }
    }

    /// kind, offset, value, width of the rows that `work` writes.
    fn rows(thread: &mut Thread, work: impl FnOnce(&mut Thread)) -> Vec<(u8, u64, u64, u16)> {
        assert!(capture::reserve(thread, 16));
        let first = thread.used();
        work(thread);
        let segment = thread.segment.unwrap().address();
        let read = |row: usize, field: usize| {
            // SAFETY: a published row of this thread's segment; fields may be read as wider than they are.
            unsafe { ((segment + ROW_SIZE * (1 + row) + field) as *const u64).read_unaligned() }
        };
        (first..thread.used())
            .map(|row| {
                assert_eq!(read(row, R_FLAGS) as u32, STRING);
                assert_eq!(read(row, R_MAP_ID) as i32, 7);
                assert_ne!(read(row, R_DURATION_NS) as u32, NO_DURATION);
                (read(row, R_KIND) as u8, read(row, R_OFFSET), read(row, R_VALUE), read(row, R_WIDTH) as u16)
            })
            .collect()
    }

    fn start(rcx: u64, rsi: usize, rdi: usize) -> State {
        State { rax: 0, rcx, rsi: rsi as u64, rdi: rdi as u64, flags: 0, behind: false }
    }

    #[test]
    fn a_move_inside_the_device_is_a_read_and_a_write_an_element() {
        let bench = Bench::new();
        let thread = thread::current().unwrap();
        Bench::fill(bench.alias, &[1, 2, 3, 4]);
        let site = place(&[0xf3, 0x66, 0xa5]);
        let seen = rows(thread, |thread| {
            by_us(thread, site, start(2, bench.front, bench.front + 0x20), true);
        });
        let expected =
            [(READ, 0x100, 0x201, 2), (WRITE, 0x120, 0x201, 2), (READ, 0x102, 0x403, 2), (WRITE, 0x122, 0x403, 2)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn only_the_side_in_the_device_is_logged() {
        let bench = Bench::new();
        let thread = thread::current().unwrap();
        Bench::fill(bench.alias, &[9; 8]);
        Bench::fill(bench.plain, &[9, 9, 8]);
        let site = place(&[0xf3, 0xa6]);
        let seen = rows(thread, |thread| {
            let (_, end) = by_us(thread, site, start(5, bench.plain, bench.front), true);
            assert_eq!((end.rcx, end.behind), (2, true));
        });
        assert_eq!(seen, [(READ, 0x100, 9, 1), (READ, 0x101, 9, 1), (READ, 0x102, 9, 1)]);
    }

    #[test]
    fn a_fault_leaves_the_finished_elements_done_and_the_flags_as_they_were() {
        let bench = Bench::new();
        let thread = thread::current().unwrap();
        let end_of_plain = bench.plain + SIZE;
        let moves = place(&[0xf3, 0xa4]);
        let seen = rows(thread, |thread| {
            let (outcome, end) = by_us(thread, moves, start(9, bench.front, end_of_plain - 2), true);
            assert_eq!(outcome, Outcome::Fault);
            assert_eq!(end, start(7, bench.front + 2, end_of_plain));
        });
        // The device has seen the read of the element whose write faulted.
        assert_eq!(seen.iter().map(|row| row.1).collect::<Vec<_>>(), [0x100, 0x101, 0x102]);
        let compares = place(&[0xf3, 0xa6]);
        let (outcome, end) = by_us(thread, compares, start(9, bench.front, end_of_plain - 2), false);
        assert_eq!((outcome, end), (Outcome::Fault, start(7, bench.front + 2, end_of_plain)));
    }

    #[test]
    fn of_an_element_across_the_start_of_a_region_the_part_inside_is_logged() {
        let bench = Bench::new();
        let thread = thread::current().unwrap();
        // The region again, directly behind ordinary memory.
        let front = bench.plain + SIZE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: nothing is mapped there.
        let placed = unsafe { sys::mmap(front, SIZE, libc::PROT_NONE, flags, -1, 0) };
        assert!(!sys::is_error(placed));
        let mut bench = bench;
        let region = region::find(bench.front).unwrap();
        assert!(bench.guard.remove(bench.front, bench.front + SIZE));
        // SAFETY: the bench's own, not used any more.
        unsafe { sys::munmap(bench.front, SIZE) };
        bench.front = front;
        let delta = bench.alias.wrapping_sub(front);
        assert!(bench.guard.insert(Region { start: front, end: front + SIZE, delta, ..region }));
        let state = State { rax: 0x4433_2211, ..start(2, 0, front - 6) };
        let seen = rows(thread, |thread| {
            let (outcome, end) = by_us(thread, place(&[0xf3, 0xab]), state, true);
            assert_eq!((outcome, end.rcx, end.rdi as usize), (Outcome::Done, 0, front + 2));
        });
        assert_eq!(seen, [(WRITE, 0x100, 0x4433, 2)]);
        assert_eq!(Bench::contents(bench.plain)[SIZE - 6..], [0x11, 0x22, 0x33, 0x44, 0x11, 0x22]);
        assert_eq!(Bench::contents(bench.alias)[..3], [0x33, 0x44, 0]);
    }

    #[test]
    fn a_long_one_takes_turns() {
        let bench = Bench::new();
        let thread = thread::current().unwrap();
        let site = place(&[0xf3, 0xaa]);
        let (outcome, state) = by_us(thread, site, start(TURN as u64 + 5, 0, bench.front), false);
        assert_eq!((outcome, state), (Outcome::Done, start(5, 0, bench.front + TURN)));
        let (outcome, state) = by_us(thread, site, state, false);
        assert_eq!(outcome, Outcome::Done);
        assert_eq!(state, State { behind: true, ..start(0, 0, bench.front + TURN + 5) });
    }

    #[test]
    fn a_segment_override_moves_the_source() {
        let bench = Bench::new();
        let thread = thread::current().unwrap();
        Bench::fill(bench.alias, &[0x5a]);
        let mut context = context();
        let base = Frame::new(&mut context).register(iced_x86::Register::FS).unwrap();
        assert_ne!(base, 0);
        let source = (bench.front as u64).wrapping_sub(base);
        let (outcome, end) = by_us(thread, place(&[0x64, 0xac]), start(0, source as usize, 0), false);
        assert_eq!((outcome, end.rax, end.rsi), (Outcome::Done, 0x5a, source.wrapping_add(1)));
    }
}
