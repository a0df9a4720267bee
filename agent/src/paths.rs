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

/// The descriptors of the file with this path. None of them, if it is not known which of several files is meant.
pub fn descriptors_of(path: &[u8]) -> Vec<i32> {
    let mut found = Vec::new();
    sys::each_number(b"/proc/self/fd\0", &mut vec![0; 1024], |fd| {
        if of_descriptor(fd).is_some_and(|other| other == path) {
            found.push(fd);
        }
    });
    // Files without a name (anon_inode:[vfio-device]) all look the same.
    if found.len() > 1 && path.first() != Some(&b'/') {
        found.clear();
    }
    found
}

/// A recording begins: it is to be told of all of them again. Under the region lock.
pub fn forget_unselected() {
    // SAFETY: under the region lock.
    unsafe { (*UNSELECTED.0.get()).clear() };
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
    noted.push(keep(path));
    if let Some(thread) = thread::current() {
        capture::write(thread, &Row::new(OTHER), path);
    }
}
