//! Times and durations by the time-stamp counter.

use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use crate::arch::cpu;
use crate::layout::NO_DURATION;
use crate::{arena, sys};

/// Both clocks at the start.
static START_TICKS: AtomicU64 = AtomicU64::new(0);
static START_NS: AtomicI64 = AtomicI64::new(0);
/// Nanoseconds a tick, times 2³²; 0: not settled yet.
static RATE: AtomicU64 = AtomicU64::new(0);
static INVARIANT: AtomicBool = AtomicBool::new(false);

/// How far apart the two readings of both clocks are at least that settle the rate. Each is some 50 ns uncertain.
const SETTLED_NS: i64 = 1_000_000;

/// Reads both clocks at the start of the program.
pub fn prepare() {
    let (ticks, ns) = read_both();
    START_TICKS.store(ticks, Ordering::Relaxed);
    START_NS.store(ns, Ordering::Relaxed);
    INVARIANT.store(cpu::has_invariant_counter(), Ordering::Relaxed);
}

/// The time-stamp counter, for [`duration_ns`]; 0 unless the recording wants durations.
pub fn ticks() -> u64 {
    // SAFETY: reading the time-stamp counter has no effect.
    if arena::wants_latency() { unsafe { _rdtsc() } } else { 0 }
}

/// The time between two readings of the time-stamp counter; NO_DURATION unless the recording wants it.
pub fn duration_ns(before: u64, after: u64) -> u32 {
    if !arena::wants_latency() {
        return NO_DURATION;
    }
    // The counters of two processors may differ a little, and the thread may have moved.
    duration(after.saturating_sub(before), rate())
}

/// CLOCK_MONOTONIC as one thread tells it by the time-stamp counter: patched sites have no time to ask the system, and traps
/// of the same thread must be in order with them. It never goes backwards, and is set right again and again.
#[repr(C)]
pub struct Clock {
    /// The counter when it was set right, and the time then.
    pub ticks: u64,
    pub ns: i64,
    /// Nanoseconds a tick, times 2³².
    pub rate: u64,
    /// Ticks for which a patched site may go by it; then it traps. 0: not at all.
    pub good: u64,
}

/// How long a patched site may go by a clock; then it traps. The rate is known the better the longer the program runs, but the
/// system's clock may itself be adjusted at any time.
const SHORTEST_NS: i64 = 10_000_000;
const LONGEST_NS: i64 = 100_000_000;
/// A part of the time since the start, and traps set the clock right after such a part of that.
const PART: u64 = 10;
/// A clock that has run ahead of the system's slows down until it has caught up: by at most one part in so many.
const SLOWEST: u64 = 256;

impl Clock {
    pub fn now(&mut self) -> i64 {
        // SAFETY: reading the time-stamp counter has no effect.
        let since = unsafe { _rdtsc() }.wrapping_sub(self.ticks);
        if since <= self.good / PART && self.good != 0 { self.ns + nanoseconds(since, self.rate) } else { self.set_right() }
    }

    #[cold]
    fn set_right(&mut self) -> i64 {
        let (ticks, ns) = read_both();
        let since = ticks.wrapping_sub(self.ticks);
        let told = if since <= 2 * self.good { self.ns + nanoseconds(since, self.rate) } else { self.ns };
        let rate = mean_rate(ticks, ns);
        let passed = ns - START_NS.load(Ordering::Relaxed);
        let valid = (passed / PART as i64).clamp(SHORTEST_NS, LONGEST_NS).unsigned_abs();
        let ahead = told.saturating_sub(ns).max(0).unsigned_abs().min(valid / SLOWEST);
        self.rate = rate - (u128::from(rate) * u128::from(ahead) / u128::from(valid)) as u64;
        self.good = if passed >= SETTLED_NS { (valid << 32) / rate.max(1) } else { 0 };
        (self.ticks, self.ns) = (ticks, told.max(ns));
        self.ns
    }
}

/// The counter's rate by the system's clock.
///
/// A counter that is not said to be invariant gets the mean rate since the start. The word for it is missing on processors
/// from before 2008, whose counter follows their frequency, and in virtual machines that do not pass it on, where the mean
/// is the rate.
fn rate() -> u64 {
    let settled = RATE.load(Ordering::Relaxed);
    if settled != 0 {
        return settled;
    }
    let (ticks, ns) = read_both();
    let rate = mean_rate(ticks, ns);
    if ns - START_NS.load(Ordering::Relaxed) >= SETTLED_NS && INVARIANT.load(Ordering::Relaxed) {
        RATE.store(rate, Ordering::Relaxed);
    }
    rate
}

/// From the start to this moment.
fn mean_rate(ticks: u64, ns: i64) -> u64 {
    rate_of(ticks.wrapping_sub(START_TICKS.load(Ordering::Relaxed)), ns - START_NS.load(Ordering::Relaxed))
}

fn rate_of(ticks: u64, ns: i64) -> u64 {
    ((u128::from(ns.unsigned_abs()) << 32) / u128::from(ticks.max(1))) as u64
}

fn nanoseconds(ticks: u64, rate: u64) -> i64 {
    ((u128::from(ticks) * u128::from(rate)) >> 32) as i64
}

/// The same as the column has it, which can say some four seconds at most.
fn duration(ticks: u64, rate: u64) -> u32 {
    nanoseconds(ticks, rate).clamp(0, i64::from(NO_DURATION - 1)) as u32
}

/// One moment on both clocks. Of a few readings the one that took the fewest ticks is the one that nothing interrupted.
fn read_both() -> (u64, i64) {
    const READINGS: usize = 4;
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..READINGS {
        // SAFETY: reading the time-stamp counter has no effect.
        let before = unsafe { _rdtsc() };
        let ns = sys::monotonic_ns();
        // SAFETY: as above.
        let took = unsafe { _rdtsc() }.saturating_sub(before);
        if took < best.0 {
            best = (took, before + took / 2, ns);
        }
    }
    (best.1, best.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_and_saturates_below_the_word_for_not_measured() {
        let half_a_nanosecond = 1 << 31;
        assert_eq!(duration(2_001, half_a_nanosecond), 1_000);
        assert_eq!(duration(u64::MAX, half_a_nanosecond), NO_DURATION - 1);
        assert_eq!(duration(0, half_a_nanosecond), 0);
        assert_eq!(rate_of(2_000_000, 1_000_000), half_a_nanosecond);
    }

    #[test]
    fn the_rate_turns_ticks_into_the_time_that_has_passed() {
        let start = read_both();
        sys::sleep_ns(5_000_000);
        let middle = read_both();
        let rate = rate_of(middle.0 - start.0, middle.1 - start.1);
        sys::sleep_ns(5_000_000);
        let end = read_both();
        let (told, passed) = (i64::from(duration(end.0 - middle.0, rate)), end.1 - middle.1);
        assert!((told - passed).abs() <= passed / 100, "{told} ns told, {passed} ns passed");
    }
}
