//! A debugger that is attached to the program.

use libc::{SIG_DFL, SIGTRAP};

use crate::{signals, sys};

/// Is a SIGTRAP that nobody wants the debugger's own? A debugger that hands on the agent's traps hands on its own breakpoints
/// too, when it lets the program go on. They would kill it.
pub fn owns_trap() -> bool {
    signals::is(SIGTRAP, SIG_DFL) && is_attached()
}

fn is_attached() -> bool {
    const FIELD: &[u8] = b"\nTracerPid:\t";
    let fd = sys::open(b"/proc/self/status\0", libc::O_RDONLY | libc::O_CLOEXEC);
    if sys::is_error(fd) {
        return false;
    }
    // The field is among the first.
    let mut status = [0; 512];
    let length = usize::try_from(sys::read(fd, &mut status)).unwrap_or(0);
    sys::close(fd);
    let at = status[..length].windows(FIELD.len()).position(|window| window == FIELD);
    at.and_then(|at| status.get(at + FIELD.len())).is_some_and(|&digit| digit != b'0')
}
