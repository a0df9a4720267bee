//! x86-64: decode, run out of line.

mod code;
mod decode;
pub mod exec;
pub mod frame;
mod run;
pub mod site;
mod string;

pub use frame::Frame;
pub use run::recover;
pub use code::prepare;
