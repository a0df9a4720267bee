//! The vector state of a signal frame: 512 bytes of FXSAVE, then, where the processor has XSAVE, a header and the components
//! in the standard format (SDM volume 1, chapter 13).

use core::arch::asm;
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
