//! Where out-of-line instructions live. Forked children share it, and so the count of slots in use, which is its first word.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::twin;

const SIZE: usize = 8 * 1024 * 1024;
const SLOT: usize = 32;

static WRITABLE: AtomicUsize = AtomicUsize::new(0);
static EXECUTABLE: AtomicUsize = AtomicUsize::new(0);

/// Where the system refuses it every access is stepped instead.
pub fn prepare() {
    let Some(twin) = twin::map(None, SIZE) else { return };
    used(twin.writable).store(SLOT, Ordering::Relaxed);
    WRITABLE.store(twin.writable, Ordering::Relaxed);
    EXECUTABLE.store(twin.executable, Ordering::Relaxed);
}

fn used(writable: usize) -> &'static AtomicUsize {
    // SAFETY: the file's first word, mapped for ever.
    unsafe { &*(writable as *const AtomicUsize) }
}

/// Puts code where it can run and returns its address. None: no room, or no such place.
pub fn place(code: &[u8]) -> Option<usize> {
    let writable = WRITABLE.load(Ordering::Relaxed);
    if writable == 0 || code.len() > SLOT {
        return None;
    }
    let offset = used(writable).fetch_add(SLOT, Ordering::Relaxed);
    if offset > SIZE - SLOT {
        used(writable).store(SIZE, Ordering::Relaxed);
        return None;
    }
    // SAFETY: the slot is inside the mapping and ours alone; nobody runs it before its address is published.
    unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), (writable + offset) as *mut u8, code.len()) };
    Some(EXECUTABLE.load(Ordering::Relaxed) + offset)
}

/// Code that goes on at an address with a second argument more. None: no room.
pub fn call_with(to: usize, second: usize) -> Option<usize> {
    let mut code = [0u8; 22];
    // mov rsi, second; mov rax, to; jmp rax.
    code[..2].copy_from_slice(&[0x48, 0xbe]);
    code[2..10].copy_from_slice(&second.to_le_bytes());
    code[10..12].copy_from_slice(&[0x48, 0xb8]);
    code[12..20].copy_from_slice(&to.to_le_bytes());
    code[20..].copy_from_slice(&[0xff, 0xe0]);
    place(&code)
}

/// Is this address in code that was placed here?
pub fn contains(pc: usize) -> bool {
    let base = EXECUTABLE.load(Ordering::Relaxed);
    base != 0 && pc.wrapping_sub(base) < SIZE
}
