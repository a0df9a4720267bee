//! What the processor has. Asked once: in a virtual machine CPUID costs a microsecond and more, for the hypervisor answers it.

use core::arch::x86_64::{__cpuid_count, CpuidResult};
use core::sync::atomic::{AtomicBool, Ordering};

/// Instructions that may be missing (SDM volume 2, CPUID).
pub static RDTSCP: AtomicBool = AtomicBool::new(false);
pub static RDPID: AtomicBool = AtomicBool::new(false);
/// Shifts that leave the flags alone.
pub static BMI2: AtomicBool = AtomicBool::new(false);
/// Moves of 32 and of 64 bytes.
pub static AVX: AtomicBool = AtomicBool::new(false);
pub static AVX512: AtomicBool = AtomicBool::new(false);
/// By AMD, or by who builds its processors.
pub static AMD: AtomicBool = AtomicBool::new(false);
/// Does the system use XSAVE?
pub static XSAVE: AtomicBool = AtomicBool::new(false);

const EXTENDED: u32 = 0x8000_0000;

/// Asks. Until then the processor has nothing.
pub fn prepare() {
    let leaf = |number: u32, highest: u32| (cpuid(highest, 0).eax >= number).then(|| cpuid(number, 0));
    let has = |register: Option<u32>, bit: u32| register.is_some_and(|register| register & (1 << bit) != 0);
    let features = leaf(7, 0);
    RDTSCP.store(has(leaf(EXTENDED + 1, EXTENDED).map(|it| it.edx), 27), Ordering::Relaxed);
    RDPID.store(has(features.map(|it| it.ecx), 22), Ordering::Relaxed);
    BMI2.store(has(features.map(|it| it.ebx), 8), Ordering::Relaxed);
    AVX512.store(has(features.map(|it| it.ebx), 16), Ordering::Relaxed);
    AVX.store(has(Some(cpuid(1, 0).ecx), 28), Ordering::Relaxed);
    const VENDORS: [u32; 2] = [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"Hygo")];
    AMD.store(VENDORS.contains(&cpuid(0, 0).ebx), Ordering::Relaxed);
    XSAVE.store(has(Some(cpuid(1, 0).ecx), 27), Ordering::Relaxed);
}

pub fn has(what: &AtomicBool) -> bool {
    what.load(Ordering::Relaxed)
}

/// Does the time-stamp counter run at a constant rate in all states (SDM, 19.17.1)?
pub fn has_invariant_counter() -> bool {
    const POWER: u32 = EXTENDED + 7;
    cpuid(EXTENDED, 0).eax >= POWER && cpuid(POWER, 0).edx & (1 << 8) != 0
}

#[allow(unused_unsafe)] // it was unsafe to call in older Rust
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { __cpuid_count(leaf, subleaf) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_the_standard_library_finds() {
        prepare();
        assert_eq!(has(&BMI2), std::is_x86_feature_detected!("bmi2"));
        assert_eq!(has(&AVX), std::is_x86_feature_detected!("avx"));
        assert_eq!(has(&AVX512), std::is_x86_feature_detected!("avx512f"));
        assert_eq!(has(&XSAVE), std::is_x86_feature_detected!("xsave"));
    }
}
