//! One folder an architecture. Each offers: `Frame` (a thread stopped by a signal), `site` (what an instruction does),
//! `exec` (run it out of line) and `recover` (leave code that the agent ran and that faulted).

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
