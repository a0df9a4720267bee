//! The jump that a site becomes.
//!
//! `e9` and 32 bits of displacement are 5 bytes. A shorter site gives only its own bytes: the bytes behind it, which stay as
//! they are, serve as the rest of the displacement (instruction punning: Chamith and others, PLDI 2017). What is free of the
//! displacement is its low bytes, so the jump leads somewhere into a window of 256 bytes, 64 KiB or 16 MiB, and there a page
//! is mapped that holds a jump on to the thunk. A REX prefix, which a jump ignores, shifts the window: a second try.

use super::room::Room;
use super::space::{self, PAGE};
use super::text;
use crate::layout::{SITE_JUMP, SITE_PUNNED};
use crate::region::Guard;

const REX_W: u8 = 0x48;
const JUMP: u8 = 0xe9;
/// Pages of a window that are looked at, and places in each.
const PAGES: usize = 64;
const STEP: usize = 16;

/// The longest jump, with its prefix.
pub const LONGEST: usize = 6;

#[derive(Clone, Copy)]
pub struct Jump {
    /// The jump's bytes; of these the site's own are changed, the others are there already.
    pub bytes: [u8; LONGEST],
    pub length: usize,
}

impl Jump {
    /// How a site row calls it.
    pub fn state(&self, site_length: usize) -> u32 {
        if self.length <= site_length { SITE_JUMP } else { SITE_PUNNED }
    }
}

/// A jump from a site of this length to a thunk, and what must be mapped for it. None: nothing that it can reach can be mapped.
pub fn make(lock: &Guard, room: &Room, site: usize, length: usize, thunk: usize) -> Option<Jump> {
    if length >= 5 {
        return plain(site, thunk);
    }
    (0..=1).find_map(|prefixes| punned(lock, room, site, length, prefixes, thunk))
}

fn plain(site: usize, thunk: usize) -> Option<Jump> {
    let distance = i32::try_from(thunk.wrapping_sub(site + 5) as isize).ok()?;
    let mut bytes = [0; LONGEST];
    bytes[0] = JUMP;
    bytes[1..5].copy_from_slice(&distance.to_le_bytes());
    Some(Jump { bytes, length: 5 })
}

fn punned(lock: &Guard, room: &Room, site: usize, length: usize, prefixes: usize, thunk: usize) -> Option<Jump> {
    let mut jump = Jump { bytes: [0; LONGEST], length: prefixes + 5 };
    let free = length.checked_sub(prefixes + 1)?;
    if !text::read(site + length, &mut jump.bytes[length..jump.length]) {
        return None;
    }
    jump.bytes[..prefixes].fill(REX_W);
    jump.bytes[prefixes] = JUMP;
    let mut displacement = [0; 4];
    displacement.copy_from_slice(&jump.bytes[prefixes + 1..jump.length]);
    let window = (site + jump.length).wrapping_add_signed(i32::from_le_bytes(displacement) as isize);
    let target = landing(lock, room, window, 1 << (8 * free), thunk)?;
    let distance = target.wrapping_sub(window).to_le_bytes();
    jump.bytes[prefixes + 1..length].copy_from_slice(&distance[..free]);
    Some(jump)
}

/// A place in this window that leads to the thunk: in a page that holds such places already, or in a new one.
fn landing(lock: &Guard, room: &Room, window: usize, size: usize, thunk: usize) -> Option<usize> {
    let end = window.checked_add(size)?;
    let overlaps = |page: &usize| *page < end && window < *page + PAGE;
    let known = space::landings(lock).into_iter().filter(overlaps);
    let pages = known.chain((window / PAGE * PAGE..end).step_by(PAGE).take(PAGES));
    for page in pages {
        for at in (page.max(window)..end.min(page + PAGE)).step_by(STEP) {
            if space::land(lock, room, at, thunk) {
                return Some(at);
            }
        }
    }
    None
}
