//! The agent's own memory: size classes over anonymous mappings.
//!
//! A trap may interrupt the program inside malloc, so nothing on a trap path may use the program's allocator. The lock here
//! is only ever taken with asynchronous signals blocked (trap handlers, mapping calls, start-up), so its holder cannot be
//! interrupted by code that wants it, and it is held for a few instructions. Steady traffic allocates nothing: memory is
//! taken when a site is first seen and when a thread makes its first access.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::sys;

const CHUNK: usize = 256 * 1024;
const SMALLEST: usize = 16;
/// 16 bytes to 64 KiB; anything larger gets a mapping of its own.
const CLASSES: usize = 13;
const LARGEST: usize = SMALLEST << (CLASSES - 1);

struct Pool {
    free: [*mut u8; CLASSES],
    next: *mut u8,
    left: usize,
}

pub struct Allocator {
    locked: AtomicBool,
    pool: UnsafeCell<Pool>,
}

// SAFETY: the pool is only touched under the lock.
unsafe impl Sync for Allocator {}

#[cfg_attr(not(test), global_allocator)]
pub static ALLOCATOR: Allocator = Allocator {
    locked: AtomicBool::new(false),
    pool: UnsafeCell::new(Pool { free: [null_mut(); CLASSES], next: null_mut(), left: 0 }),
};

impl Allocator {
    fn with_pool<T>(&self, work: impl FnOnce(&mut Pool) -> T) -> T {
        while self.locked.swap(true, Ordering::Acquire) {
            sys::sched_yield();
        }
        // SAFETY: we hold the lock.
        let result = work(unsafe { &mut *self.pool.get() });
        self.locked.store(false, Ordering::Release);
        result
    }

    pub fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Acquire)
    }

    /// In a forked child: whoever held the lock in the parent does not exist here.
    pub fn after_fork(&self) {
        self.locked.store(false, Ordering::Release);
    }
}

fn class_of(layout: Layout) -> Option<usize> {
    let size = layout.size().max(layout.align()).max(SMALLEST).next_power_of_two();
    (size <= LARGEST).then(|| (size / SMALLEST).trailing_zeros() as usize)
}

// SAFETY: blocks of a class are aligned to their size and handed out once.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class_of(layout) else {
            return sys::anonymous(layout.size()).unwrap_or(null_mut());
        };
        let size = SMALLEST << class;
        self.with_pool(|pool| {
            let block = pool.free[class];
            if !block.is_null() {
                // SAFETY: a free block's first word links to the next free one.
                pool.free[class] = unsafe { *block.cast::<*mut u8>() };
                return block;
            }
            let padding = pool.next.align_offset(size);
            if pool.next.is_null() || pool.left < padding + size {
                let Some(chunk) = sys::anonymous(CHUNK) else { return null_mut() };
                (pool.next, pool.left) = (chunk, CHUNK);
            }
            let padding = pool.next.align_offset(size);
            if pool.left < padding + size {
                return null_mut();
            }
            // SAFETY: inside the chunk.
            let block = unsafe { pool.next.add(padding) };
            // SAFETY: at most its end.
            pool.next = unsafe { block.add(size) };
            pool.left -= padding + size;
            block
        })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match class_of(layout) {
            Some(class) => self.with_pool(|pool| {
                // SAFETY: the caller gives the block back; its first word is ours now.
                unsafe { *block.cast::<*mut u8>() = pool.free[class] };
                pool.free[class] = block;
            }),
            // SAFETY: larger blocks are mappings of their own.
            None => unsafe {
                sys::munmap(block as usize, layout.size());
            },
        }
    }
}
