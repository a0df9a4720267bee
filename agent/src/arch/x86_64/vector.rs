//! The vector state of a signal frame: 512 bytes of FXSAVE, then, where the processor has XSAVE, a header and the components
//! in the standard format (SDM volume 1, chapter 13).

use core::arch::asm;
use core::ops::Range;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::cpu::{self, cpuid};
use super::run::Registers;
use crate::thread::Thread;

/// Bytes of FXSAVE, and of XSAVE's header behind it.
const LEGACY: usize = 512;
const HEADER: usize = 64;
/// In the header, XSTATE_BV: the components that are not in their initial state, which is all zeros for these.
pub(super) const PRESENT: usize = LEGACY;

/// Where in FXSAVE xmm0 is; each has 16 bytes.
const XMM: usize = 160;
const SSE: u32 = 1;
/// The upper halves of ymm0 to ymm15.
const AVX: u32 = 2;
/// The upper halves of zmm0 to zmm15.
const ZMM_UPPER: u32 = 6;
/// zmm16 to zmm31, whole.
const ZMM_HIGH: u32 = 7;

/// The leaf of CPUID that tells of XSAVE.
const XSAVE_LEAF: u32 = 0xd;

/// k0 to k7, 8 bytes each.
const MASKS: u32 = 5;

/// What CPUID said, which is slow to ask in a virtual machine; 0: not asked yet. A component's is offset << 32 | size.
static STATE_SIZE: AtomicUsize = AtomicUsize::new(0);
static EXTENTS: [AtomicU64; 10] = [const { AtomicU64::new(0) }; 10];

/// Bytes of the state with all components that the agent ever loads (see run::components).
pub fn vector_state_size() -> usize {
    let known = STATE_SIZE.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    let mut size = LEGACY;
    if cpu::has(&cpu::XSAVE) {
        // The opmask registers (component 5) lie in front of ZMM_UPPER.
        let ends = [AVX, ZMM_UPPER, ZMM_HIGH].map(|component| {
            let (offset, size) = extent(component);
            offset + size
        });
        size = ends.into_iter().fold(LEGACY + HEADER, usize::max);
    }
    STATE_SIZE.store(size, Ordering::Relaxed);
    size
}

/// Where a component begins and its size; 0 and 0 if the processor does not have it.
pub(super) fn extent(component: u32) -> (usize, usize) {
    let known = &EXTENTS[component as usize];
    if known.load(Ordering::Relaxed) == 0 {
        let told = cpuid(XSAVE_LEAF, component);
        known.store(u64::from(told.ebx) << 32 | u64::from(told.eax), Ordering::Relaxed);
    }
    let extent = known.load(Ordering::Relaxed);
    ((extent >> 32) as usize, extent as u32 as usize)
}

/// The floating-point control words that the kernel gives a signal handler to start with (they may be the program's own, for
/// run() loads those).
pub fn reset_control_words() {
    const MXCSR: u32 = 0x1f80;
    // SAFETY: all exceptions masked, rounding to nearest: what the ABI expects of any code.
    unsafe { asm!("fninit", "ldmxcsr [{}]", in(reg) &MXCSR, options(nostack)) };
}

impl Thread {
    /// A copy of a frame's state, to run an instruction with that must leave the frame's as it is. One a thread: it holds
    /// until the next call. Null for null.
    pub(super) fn vector_copy(&mut self, state: *const u8, components: u64) -> *mut u8 {
        if state.is_null() {
            return null_mut();
        }
        let size = if components == 0 { LEGACY } else { frame_size(state).min(vector_state_size()) };
        // SAFETY: the kernel's frame has `size` bytes, and this thread's copy has room for vector_state_size().
        unsafe { self.vector_copy.copy_from_nonoverlapping(state, size) };
        self.vector_copy
    }
}

/// Linux, asm/sigcontext.h: xstate_size of struct _fpx_sw_bytes at byte 464 is the size of all that the frame holds.
fn frame_size(state: *const u8) -> usize {
    const SIZE_OFFSET: usize = 464 + 16;
    // SAFETY: the kernel's frame always holds the 512 bytes, aligned.
    unsafe { state.add(SIZE_OFFSET).cast::<u32>().read() as usize }
}

/// Writes the low `width` bytes (16, 32 or 64) of vector register `number` to `at`, out of the registers' vector state.
pub(super) fn store_vector(registers: &Registers, number: usize, at: usize, width: usize) {
    let state = registers.vector_state.cast_const();
    let present = match registers.components {
        0 => 1 << SSE,
        // SAFETY: with components, the state holds XSAVE's header.
        _ => unsafe { state.add(PRESENT).cast::<u64>().read() },
    };
    let put = |into: usize, component: u32, from: usize, bytes: usize| {
        let to = (at + into) as *mut u8;
        // SAFETY: the caller has room for the register; a component that is present lies in the state.
        unsafe {
            match present & (1 << component) {
                0 => to.write_bytes(0, bytes),
                _ => to.copy_from_nonoverlapping(state.add(from), bytes),
            }
        }
    };
    if number >= 16 {
        return put(0, ZMM_HIGH, extent(ZMM_HIGH).0 + 64 * (number - 16), width);
    }
    put(0, SSE, XMM + 16 * number, 16);
    if width > 16 {
        put(16, AVX, extent(AVX).0 + 16 * number, 16);
    }
    if width > 32 {
        put(32, ZMM_UPPER, extent(ZMM_UPPER).0 + 32 * number, 32);
    }
}

/// Where a part is in the state. If its component was in its initial state, which is all zeros, it is written out.
fn with_component(registers: &Registers, part: &Part) -> *mut u8 {
    let (state, (offset, size)) = (registers.vector_state, part.extent);
    // SAFETY: the state holds XSAVE's header and the component.
    unsafe {
        let present = state.add(PRESENT).cast::<u64>();
        if present.read() & (1 << part.component) == 0 {
            state.add(offset).write_bytes(0, size);
            present.write(present.read() | 1 << part.component);
        }
        state.add(offset + part.at)
    }
}

/// Some bytes of a vector register, and where they are: `at` in a component of this offset and size.
struct Part {
    bytes: Range<usize>,
    component: u32,
    extent: (usize, usize),
    at: usize,
}

fn parts_of(number: usize) -> impl Iterator<Item = Part> {
    let part = |bytes: Range<usize>, component, extent, first: usize| {
        let at = bytes.len() * (number - first);
        Part { bytes, component, extent, at }
    };
    let high = (number >= 16).then(|| part(0..64, ZMM_HIGH, extent(ZMM_HIGH), 16));
    let low = (number < 16).then(|| {
        [part(0..16, SSE, (XMM, 256), 0), part(16..32, AVX, extent(AVX), 0), part(32..64, ZMM_UPPER, extent(ZMM_UPPER), 0)]
    });
    high.into_iter().chain(low.into_iter().flatten())
}

/// Sets the low bytes of a vector register in the state, which has components.
pub(super) fn put_vector(registers: &Registers, number: usize, value: &[u8]) {
    for part in parts_of(number).filter(|part| part.bytes.start < value.len()) {
        let new = &value[part.bytes.start..part.bytes.end.min(value.len())];
        let base = with_component(registers, &part);
        // SAFETY: inside the component.
        unsafe { base.copy_from_nonoverlapping(new.as_ptr(), new.len()) };
    }
}

/// Sets all that the processor has of a vector register to zero.
pub(super) fn clear_vector(registers: &Registers, number: usize) {
    for part in parts_of(number).filter(|part| registers.components & (1 << part.component) != 0) {
        let base = with_component(registers, &part);
        // SAFETY: inside the component.
        unsafe { base.write_bytes(0, part.bytes.len()) };
    }
}

/// A mask register of the state; k0 is no mask, which means every element.
pub(super) fn mask_register(registers: &Registers, number: usize) -> u64 {
    let state = registers.vector_state;
    // SAFETY: the state holds XSAVE's header, and the component if it is present.
    unsafe {
        match state.add(PRESENT).cast::<u64>().read() & (1 << MASKS) {
            _ if number == 0 => u64::MAX,
            0 => 0,
            _ => state.add(extent(MASKS).0 + 8 * number).cast::<u64>().read(),
        }
    }
}

pub(super) fn set_mask_register(registers: &Registers, number: usize, value: u64) {
    let part = Part { bytes: 0..8, component: MASKS, extent: extent(MASKS), at: 8 * number };
    // SAFETY: inside the component.
    unsafe { with_component(registers, &part).cast::<u64>().write(value) };
}

/// The components that the system has enabled (XCR0).
pub(super) fn enabled_components() -> u64 {
    if !cpu::has(&cpu::XSAVE) {
        return 0;
    }
    let (low, high): (u32, u32);
    // SAFETY: XSAVE in use means that the instruction is there.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(low) | u64::from(high) << 32
}

/// Components of a state with their offset and size, in the standard format, or in the compacted one that XCOMP_BV describes
/// (SDM volume 1, 13.4.3).
pub(super) fn components_of(compaction: Option<u64>) -> impl Iterator<Item = (u32, (usize, usize))> {
    const ALIGNED: u32 = 1 << 1;
    let mut end = LEGACY + HEADER;
    (0..EXTENTS.len() as u32).filter_map(move |component| match (component, compaction) {
        (0, _) => Some((0, (0, XMM))),
        (SSE, _) => Some((SSE, (XMM, 256))),
        (_, None) => Some((component, extent(component))),
        (_, Some(bits)) if bits & (1 << component) != 0 => {
            if cpuid(XSAVE_LEAF, component).ecx & ALIGNED != 0 {
                end = end.next_multiple_of(64);
            }
            let offset = end;
            end += extent(component).1;
            Some((component, (offset, extent(component).1)))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::arch::asm;

    #[repr(align(64))]
    struct Area([u8; 16384]);

    /// The state of a thread whose xmm5 or ymm5 holds this value, as the processor itself saves it.
    fn saved(value: &[u8; 32], wide: bool) -> std::boxed::Box<Area> {
        let mut area = std::boxed::Box::new(Area([0; 16384]));
        assert!(vector_state_size() <= area.0.len());
        let (area_pointer, value) = (area.0.as_mut_ptr(), value.as_ptr());
        // SAFETY: the area is aligned and large enough for all components.
        unsafe {
            if wide {
                asm!("vmovdqu ymm5, [{1}]", "xsave64 [{0}]", in(reg) area_pointer, in(reg) value, in("eax") 0xe7,
                     in("edx") 0, out("ymm5") _);
            } else {
                asm!("movdqu xmm5, [{1}]", "xsave64 [{0}]", in(reg) area_pointer, in(reg) value, in("eax") 0xe7,
                     in("edx") 0, out("xmm5") _);
            }
        }
        area
    }

    fn stored(area: &mut Area, components: u64, width: usize) -> [u8; 64] {
        // SAFETY: all-zero is a valid context.
        let mut context: libc::ucontext_t = unsafe { core::mem::zeroed() };
        let mut registers = Registers::of(&super::super::Frame::new(&mut context));
        (registers.vector_state, registers.components) = (area.0.as_mut_ptr(), components);
        let mut value = [0xee; 64];
        store_vector(&registers, 5, value.as_mut_ptr() as usize, width);
        value
    }

    #[test]
    fn stores_what_the_processor_saved() {
        let value: [u8; 32] = core::array::from_fn(|index| index as u8 + 1);
        let mut area = saved(&value, false);
        assert_eq!(stored(&mut area, 0, 16)[..16], value[..16]);
        assert_eq!(stored(&mut area, 0xe7, 16)[16..], [0xee; 48], "no more than it is asked for");
        if !std::is_x86_feature_detected!("avx") {
            return;
        }
        let mut area = saved(&value, true);
        assert_eq!(stored(&mut area, 0xe7, 32)[..32], value);
        // A component in its initial state is zero, whatever the memory holds.
        area.0[PRESENT] &= !(1 << AVX);
        assert_eq!(stored(&mut area, 0xe7, 32)[..16], value[..16]);
        assert_eq!(stored(&mut area, 0xe7, 32)[16..32], [0; 16]);
    }
}
