//! Byte layout of the arena: the Rust half of docs/trace-format.md. The Python half is src/mmiotap/trace/layout.py;
//! a test compares the two, constant by constant.
#![allow(dead_code)] // the table is whole, whether the agent needs each row or not

pub const MAGIC: [u8; 8] = *b"MMIOTAP1";
pub const VERSION: u32 = 1;

pub const HEADER_SIZE: usize = 1024;
pub const RULES_OFFSET: usize = 1024;
pub const RULES_SIZE: usize = 3072;
pub const STATES_OFFSET: usize = 4096;
pub const MAX_SEGMENTS: usize = 65536;
pub const SEGMENTS_OFFSET: usize = STATES_OFFSET + 4 * MAX_SEGMENTS;
pub const SEGMENT_SIZE: usize = 65536;
pub const SEGMENTS_AT_HAND: usize = 256;
pub const ROW_SIZE: usize = 64;
pub const ROWS_PER_SEGMENT: usize = SEGMENT_SIZE / ROW_SIZE - 1;

// Header fields
pub const H_VERSION: usize = 8;
pub const H_SEGMENT_COUNT: usize = 12;
pub const H_ENABLED: usize = 16;
pub const H_ON_FULL: usize = 20;
pub const H_LATENCY: usize = 24;
pub const H_CLOSED: usize = 28;
pub const H_RECORDER_PID: usize = 32;
pub const H_HEARTBEAT: usize = 36;
pub const H_RECORDER_START: usize = 40;
pub const H_NEXT_MAP_ID: usize = 48;
pub const H_NEXT_STREAM_ID: usize = 52;
pub const H_LOST_UNPLACED: usize = 56;
pub const H_PATCH: usize = 64;
pub const H_PROTOCOL: usize = 68;
pub const H_SMP: usize = 72;
pub const H_RECURSIVE: usize = 80;

// How a region is opened for its access (docs/smp.md)
pub const SMP_EMULATE: u32 = 0;
pub const SMP_STEP: u32 = 1;
pub const SMP_LOCK: u32 = 2;
pub const SMP_PRIVATE: u32 = 3;

// Segment states: the low byte of a word. Above it stands whose process has taken the segment.
pub const FREE: u32 = 0;
pub const OWNED: u32 = 1;
pub const FULL: u32 = 2;
pub const STATE_BITS: u32 = 8;

// Segment header fields
pub const S_STREAM_ID: usize = 0;
pub const S_PID: usize = 4;
pub const S_TID: usize = 8;
pub const S_PUBLISHED: usize = 12;
pub const S_BASE_SEQ: usize = 16;
pub const S_LOST_AFTER: usize = 24;

// Row fields
pub const R_TIME_NS: usize = 0;
pub const R_VALUE: usize = 8;
pub const R_OFFSET: usize = 16;
pub const R_PC: usize = 24;
pub const R_FLAGS: usize = 32;
pub const R_MAP_ID: usize = 36;
pub const R_DURATION_NS: usize = 40;
pub const R_WIDTH: usize = 44;
pub const R_CPU: usize = 46;
pub const R_KIND: usize = 48;
pub const R_EXTRA_ROWS: usize = 49;
pub const R_EXTRA_LEN: usize = 50;

pub const NO_DURATION: u32 = 0xFFFF_FFFF;

// Kinds
pub const READ: u8 = 1;
pub const WRITE: u8 = 2;
pub const MAP: u8 = 3;
pub const UNMAP: u8 = 4;
pub const MARK: u8 = 5;
pub const LOST: u8 = 6;
pub const UNKNOWN: u8 = 7;
pub const MODULE: u8 = 32;
pub const OTHER: u8 = 33;
pub const PROCESS: u8 = 34;
pub const SITE: u8 = 35;

// Flags
pub const RMW: u32 = 0x1;
pub const LOCKED: u32 = 0x2;
pub const VALUE_UNKNOWN: u32 = 0x4;
pub const PATCHED: u32 = 0x8;
pub const STRING: u32 = 0x10;
pub const NONTEMPORAL: u32 = 0x20;
pub const STEPPED: u32 = 0x40;
pub const HOOKED: u32 = 0x80;
pub const SYSCALL: u32 = 0x1000;
pub const REASON_SHIFT: u32 = 8;
pub const REASON_LOCKED: u32 = 1;
pub const REASON_NOT_DECODED: u32 = 2;
pub const REASON_NOT_IN_SOURCE: u32 = 3;
pub const REASON_STEPPED: u32 = 4;
pub const REASON_SYSCALL: u32 = 5;

// Site states, the low byte of a site row's flags
pub const SITE_SEEN: u32 = 0;
pub const SITE_JUMP: u32 = 1;
pub const SITE_PUNNED: u32 = 2;
pub const SITE_TRAPPED: u32 = 3;
pub const SITE_BACK: u32 = 4;

// Why a site is not patched, the byte above
pub const WHY_SHIFT: u32 = 8;
pub const WHY_NONE: u32 = 0;
pub const WHY_INSTRUCTION: u32 = 1;
pub const WHY_NO_TARGET: u32 = 2;
pub const WHY_NOT_WRITABLE: u32 = 3;
pub const WHY_LIBC: u32 = 4;
pub const WHY_ORDINARY: u32 = 5;
pub const WHY_CHANGED: u32 = 6;
pub const WHY_DISABLED: u32 = 7;
pub const WHY_NO_CLOCK: u32 = 8;
