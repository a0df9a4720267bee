//! Programs that are to be run, whose arguments and environment are arrays of strings; and locks, of which there are arrays, too.

use libc::iovec;

use super::buffers::Diverted;
use super::given::{Answer, HandedOn, Pointer};
use crate::kernel::{self, Call, Way};

/// So many strings of an array are handed on. A longer array is left to the kernel as it is.
const MOST: usize = 512;

/// An array of strings, each where it really is.
struct Strings {
    addresses: [usize; MOST],
    /// With the zero at its end.
    count: usize,
}

impl Strings {
    const fn new() -> Strings {
        Strings { addresses: [0; MOST], count: 0 }
    }

    /// Looks through the one at this address. False: it is not there, or it is too long.
    fn read(&mut self, list: usize) -> bool {
        for (index, address) in self.addresses.iter_mut().enumerate() {
            let Some(string) = string_of(list, index) else { return false };
            *address = kernel::reach(string, 1);
            self.count = index + 1;
            if string == 0 {
                return true;
            }
        }
        false
    }
}

/// What the array at this address has there. None: it is not there.
fn string_of(list: usize, index: usize) -> Option<usize> {
    let mut string = 0usize;
    // SAFETY: a word of ours.
    unsafe { kernel::fetch(list.wrapping_add(index * size_of::<usize>()), &raw mut string) }.then_some(string)
}

/// Is any of such an array in a region?
fn is_elsewhere(list: usize) -> bool {
    let is_elsewhere = |(index, string)| kernel::touches(list + index * size_of::<usize>(), 8) || kernel::touches(string, 1);
    list != 0
        && (0..MOST)
            .map_while(|index| string_of(list, index))
            .scan(true, |goes_on, string| core::mem::replace(goes_on, string != 0).then_some(string))
            .enumerate()
            .any(is_elsewhere)
}

/// What the kernel has of a lock to wait for (linux/futex.h: struct futex_waitv), and how many there may be.
#[repr(C)]
#[derive(Clone, Copy)]
struct Lock {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

const MOST_LOCKS: usize = 128;
/// A lock's own word, of the one size that there is.
const WORD: usize = 4;

impl Diverted {
    /// What is handed on is written down before: if all goes well, nobody comes back.
    pub unsafe fn program(&self, pointers: &'static [Pointer], lists: &'static [usize], answer: Answer) -> isize {
        let handed_on = HandedOn::new(pointers, self.arguments);
        if !handed_on.is_changed() && !lists.iter().any(|&list| is_elsewhere(self.arguments[list])) {
            // SAFETY: the caller's promise.
            return unsafe { self.plainly() };
        }
        // SAFETY: as above.
        unsafe { self.program_elsewhere(handed_on, lists, answer) }
    }

    #[inline(never)]
    unsafe fn program_elsewhere(&self, mut handed_on: HandedOn, lists: &'static [usize], answer: Answer) -> isize {
        let mut strings = [const { Strings::new() }; 2];
        for (strings, &list) in strings.iter_mut().zip(lists) {
            let there = self.arguments[list];
            if is_elsewhere(there) && strings.read(there) {
                handed_on.ours[list] = strings.addresses.as_ptr() as usize;
            }
        }
        // SAFETY: the caller's promise.
        unsafe {
            let under_way = Call::begin(self.caller);
            handed_on.taken(&under_way);
            for (strings, &list) in strings.iter().zip(lists) {
                if handed_on.ours[list] != self.arguments[list] {
                    under_way.end_all(Way::Read, self.arguments[list], 8 * strings.count);
                    strings.addresses[..strings.count].iter().for_each(|&string| under_way.end_unknown(string));
                }
            }
            let result = self.with(handed_on.ours);
            handed_on.written(&under_way, answer, result);
            result
        }
    }

    /// futex_waitv(2).
    #[inline(never)]
    pub unsafe fn locks(&self) -> isize {
        let [array, count, flags, limit, clock, f] = self.arguments;
        let mut locks = [Lock { value: 0, address: 0, flags: 0, reserved: 0 }; MOST_LOCKS];
        let mut is_elsewhere = kernel::touches(array, count.saturating_mul(size_of::<Lock>()));
        let ours = kernel::reach(limit, size_of::<libc::timespec>());
        let Some(locks) = locks.get_mut(..count as u32 as usize) else {
            // SAFETY: the caller's promise: the kernel refuses so many.
            return unsafe { self.plainly() };
        };
        for (index, lock) in locks.iter_mut().enumerate() {
            // SAFETY: the lock is ours.
            if !unsafe { kernel::fetch(array.wrapping_add(index * size_of::<Lock>()), lock) } {
                // SAFETY: the caller's promise.
                return unsafe { self.plainly() };
            }
            let address = kernel::reach(lock.address as usize, WORD) as u64;
            is_elsewhere |= address != lock.address;
            lock.address = address;
        }
        // SAFETY: the caller's promise; the kernel sees the same locks.
        unsafe {
            if !is_elsewhere && ours == limit {
                return self.plainly();
            }
            let under_way = Call::begin(self.caller);
            let result = self.with([locks.as_ptr() as usize, count, flags, ours, clock, f]);
            if result >= 0 {
                under_way.end_all(Way::Read, array, size_of_val(locks));
                under_way.end_all(Way::Read, limit, size_of::<libc::timespec>());
                for lock in locks {
                    let word = iovec { iov_base: lock.address as *mut _, iov_len: WORD };
                    under_way.end(Way::Read, &[word], WORD);
                }
            }
            result
        }
    }
}
