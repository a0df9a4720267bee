//! The protocol that ftrace came to in 2012: the site is an int3 while its tail is changed.
//!
//! The steps have the names of protocols/breakpoint.pml, which proves that no processor ever executes a torn instruction. The
//! other threads run on all the while. One that meets the int3 traps and is sent to the site's thunk, which is right before,
//! during and after; so a patcher that dies half-way leaves a program that still runs.

use super::text;

pub const INT3: u8 = 0xcc;

/// Changes the code at `at` to `new`. False: it cannot be changed, and is as it was; or, if the system has stopped to
/// synchronise, an int3, which is as right.
pub fn write(at: usize, old: &[u8], new: &[u8]) -> bool {
    // The tail first with what it is: if it lies in another page, that may be one that cannot be written.
    if !text::sync() || !text::write(at + 1, &old[1..]) || !text::write(at, &[INT3]) {
        return false; // B1
    }
    if text::sync() && text::write(at + 1, &new[1..]) && text::sync() {
        // B2, B3, B4
        return text::write(at, &new[..1]) && text::sync(); // B5, B6
    }
    if text::write(at + 1, &old[1..]) && text::sync() {
        text::write(at, &old[..1]);
        text::sync();
    }
    false
}
