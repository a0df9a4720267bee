//! Paths of mapped files, as /proc/PID/maps shows them.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::UnsafeCell;

use crate::capture::{self, Row};
use crate::layout::OTHER;
use crate::{sys, thread};

const MAX_PATH: usize = 4096;
/// Paths of unselected mappings that the recorder is told of.
const MAX_UNSELECTED: usize = 64;

/// The path behind a descriptor, or what stands for one: `anon_inode:[io_uring]`.
pub fn of_descriptor(fd: i32) -> Option<Vec<u8>> {
    let mut link = Vec::with_capacity(32);
    link.extend_from_slice(b"/proc/self/fd/");
    let mut digits = [0u8; 10];
    let mut start = digits.len();
    let mut rest = fd;
    while start == digits.len() || rest != 0 {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    link.extend_from_slice(&digits[start..]);
    link.push(0);
    let mut path = vec![0u8; MAX_PATH];
    let length = usize::try_from(sys::readlink(&link, &mut path)).ok()?;
    path.truncate(length);
    Some(path)
}

struct Kept(UnsafeCell<Vec<&'static [u8]>>);

// SAFETY: touched under the region lock only.
unsafe impl Sync for Kept {}

static KEPT: Kept = Kept(UnsafeCell::new(Vec::new()));
static UNSELECTED: Kept = Kept(UnsafeCell::new(Vec::new()));

/// The path for ever, one copy each. Under the region lock.
pub fn keep(path: &[u8]) -> &'static [u8] {
    // SAFETY: under the region lock.
    let kept = unsafe { &mut *KEPT.0.get() };
    if let Some(known) = kept.iter().find(|known| **known == path) {
        return known;
    }
    let new: &'static [u8] = Box::leak(Box::from(path));
    kept.push(new);
    new
}

/// Tells the recorder of a file mapping that no rule selects, once each, so that it can say what there was. Under the region
/// lock.
pub fn note_unselected(path: &[u8]) {
    // SAFETY: under the region lock.
    let noted = unsafe { &mut *UNSELECTED.0.get() };
    if noted.len() == MAX_UNSELECTED || noted.contains(&path) {
        return;
    }
    noted.push(Box::leak(Box::from(path)));
    if let Some(thread) = thread::current() {
        capture::write(thread, &Row::new(OTHER), path);
    }
}
