//! Address space that nobody uses, and nobody will miss.

use alloc::vec::Vec;
use core::cell::OnceCell;

use crate::maps::{self, Mapping};
use crate::sys::PAGE;

/// The heap may want to grow by this much, which is what small programs ever use; a larger one takes mappings instead. Were it much
/// more, jumps that have few places to lead to would often find them taken: a heap is at random in the gigabyte behind the program.
const HEAP_GROWS: usize = 16 << 20;
/// A stack grows down to its limit, 8 MiB unless somebody changed it, and needs a gap below (kernel, stack_guard_gap).
const STACK_GROWS: usize = 72 << 20;
/// The first address of user space that programs use (vm.mmap_min_addr), and the first beyond it.
const LOWEST: usize = 0x10000;
const HIGHEST: usize = 0x7fff_ffff_f000;

/// How it was at one moment: when somebody first asked.
pub struct Room {
    taken: OnceCell<Vec<(usize, usize)>>,
}

impl Room {
    pub fn now() -> Room {
        Room { taken: OnceCell::new() }
    }

    /// Ranges that are in use, or kept free for those who are; in order. Empty: it could not be read.
    fn taken(&self) -> &[(usize, usize)] {
        self.taken.get_or_init(Room::read)
    }

    fn read() -> Vec<(usize, usize)> {
        let mut taken: Vec<(usize, usize)> = Vec::new();
        maps::each(|Mapping { start, end, path, .. }| {
            taken.push(match path.as_slice() {
                b"[heap]" => (start, end + HEAP_GROWS),
                b"[stack]" => (start.saturating_sub(STACK_GROWS), end),
                _ => (start, end),
            });
            true
        });
        taken.sort_unstable();
        taken
    }

    /// The address nearest to this one where so much is free, with a page left free on either side. None: nothing is known.
    pub fn gap_near(&self, near: usize, length: usize) -> Option<usize> {
        let mut free_from = LOWEST;
        let mut best: Option<usize> = None;
        for (start, end) in self.taken().iter().copied().chain([(HIGHEST, HIGHEST)]) {
            let (low, high) = (free_from + PAGE, start.saturating_sub(length + PAGE));
            if low <= high && !self.taken().is_empty() {
                let at = near.clamp(low, high) & !(PAGE - 1);
                if at >= low && best.is_none_or(|best| at.abs_diff(near) < best.abs_diff(near)) {
                    best = Some(at);
                }
            }
            free_from = free_from.max(end);
        }
        best
    }

    /// Is the page at this address free, and not wanted by a heap or a stack?
    pub fn is_free(&self, page: usize) -> bool {
        (LOWEST..HIGHEST).contains(&page)
            && !self.taken().is_empty()
            && !self.taken().iter().any(|&(start, end)| start < page + PAGE && page < end)
    }
}
