//! x86-64: decode, run out of line.

pub mod ahead;
pub mod cfi;
mod code;
pub mod context;
pub mod cpu;
mod decode;
pub mod exec;
pub mod frame;
pub mod futex;
mod gather;
pub mod inline;
pub mod log;
mod parts;
mod rights;
mod run;
pub mod site;
mod spawn;
mod stack;
mod string;
pub mod thunk;
pub mod told;
mod vector;

pub use code::call_with;
pub use decode::warm_up;
pub use frame::Frame;
pub use run::{Registers, SA_RESTORER, copy, handler_end, recover, restorer, runs, signal_entry};
pub use spawn::spawn;
pub use vector::{reset_control_words, vector_state_size};

/// Before anything else here is used.
pub fn prepare() {
    cpu::prepare();
    code::prepare();
}
