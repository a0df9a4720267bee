//! Byte layout of the hooks' channel: the Rust half of docs/hook-format.md. The Python half is src/mmiotap/sources/hook_layout.py;
//! a test compares the two, constant by constant.
#![allow(dead_code)] // the table is whole, whether the agent needs each row or not

pub const HOOK_MAGIC: [u8; 8] = *b"MMIOHOOK";
pub const HOOK_VERSION: u32 = 1;

pub const HEADER_SIZE: usize = 4096;
pub const ASKED_OFFSET: usize = 256;
pub const PROCESSES_OFFSET: usize = 512;
pub const MAX_PROCESSES: usize = 64;
pub const PROCESS_SIZE: usize = 8;
pub const PROBES_OFFSET: usize = HEADER_SIZE;
pub const MAX_PROBES: usize = 1024;
pub const PROBE_SIZE: usize = 512;
pub const SLOTS_OFFSET: usize = PROBES_OFFSET + MAX_PROBES * PROBE_SIZE;
pub const MAX_SLOTS: usize = 64;
pub const SLOT_SIZE: usize = 8192;
pub const HOOKS_SIZE: usize = SLOTS_OFFSET + MAX_SLOTS * SLOT_SIZE;

// Header fields
pub const H_VERSION: usize = 8;
pub const H_GENERATION: usize = 12;
pub const H_SERVER: usize = 16;
pub const H_ON_FAILURE: usize = 20;
pub const H_LIMIT_NS: usize = 24;
pub const H_SERVER_PID: usize = 32;
pub const H_SERVER_START: usize = 40;
pub const H_BELL: usize = 64;
pub const H_SERVER_ASLEEP: usize = 68;
pub const H_WAITING: usize = 72;
pub const H_FREED: usize = 76;
pub const H_HITS: usize = 128;
pub const H_TOO_SLOW: usize = 136;
pub const H_NO_SLOT: usize = 144;
pub const H_UNSERVED: usize = 152;
pub const H_NO_ROOM: usize = 160;

// States of the server
pub const NOT_YET: u32 = 0;
pub const SERVING: u32 = 1;
pub const OVER: u32 = 2;

// What becomes of a program whose access cannot be answered
pub const DEVICE: u32 = 0;
pub const STOP: u32 = 1;

// Process fields
pub const P_PID: usize = 0;
pub const P_SEEN: usize = 4;

// Probe fields
pub const B_STATE: usize = 0;
pub const B_INCARNATION: usize = 4;
pub const B_BY: usize = 8;
pub const B_WANTS: usize = 12;
pub const B_START: usize = 16;
pub const B_LENGTH: usize = 24;
pub const B_MAP_ID: usize = 32;
pub const B_RULE: usize = 40;
pub const RULE_SIZE: usize = PROBE_SIZE - B_RULE;

// States of a probe
pub const UNUSED: u32 = 0;
pub const ACTIVE: u32 = 1;

// What a probe goes by
pub const BY_RULE: u32 = 1;
pub const BY_MAP_ID: u32 = 2;
pub const BY_ADDRESS: u32 = 3;

// Which handlers a probe has
pub const PRE: u32 = 1;
pub const POST: u32 = 2;

// Slot fields
pub const S_STATE: usize = 0;
pub const S_TENANCY: usize = 4;
pub const S_REQUEST: usize = 8;
pub const S_ANSWERED: usize = 12;
pub const S_ASLEEP: usize = 16;
pub const S_PHASE: usize = 20;
pub const S_VERDICT: usize = 24;
pub const S_KIND: usize = 28;
pub const S_WIDTH: usize = 32;
pub const S_FLAGS: usize = 36;
pub const S_MAP_ID: usize = 40;
pub const S_PID: usize = 44;
pub const S_TID: usize = 48;
pub const S_COUNT: usize = 52;
pub const S_ADDRESS: usize = 56;
pub const S_OFFSET: usize = 64;
pub const S_PC: usize = 72;
pub const S_TIME_NS: usize = 80;
pub const S_VALUE: usize = 88;
pub const S_REGISTERS: usize = 152;
pub const S_PROBES: usize = 296;
pub const S_PATH_MAP_ID: usize = 4088;
pub const S_PATH_LENGTH: usize = 4092;
pub const S_PATH: usize = 4096;
pub const MAX_HIT: usize = 64;

// States of a slot
pub const FREE: u32 = 0;
pub const CLAIMED: u32 = 1;
pub const GIVEN_UP: u32 = 2;

// Verdicts
pub const AS_IT_IS: u32 = 0;
pub const ANSWERED: u32 = 1;
pub const SWALLOWED: u32 = 2;
pub const CHANGED: u32 = 3;
