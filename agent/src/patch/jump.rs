//! The jump that a site becomes.
//!
//! `e9` and 32 bits of displacement are 5 bytes. A shorter site gives only its own bytes: the bytes behind it, which stay as
//! they are, serve as the rest of the displacement (instruction punning: Chamith and others, PLDI 2017). What is free of the
//! displacement is its low bytes, so the jump leads somewhere into a window of 256 bytes, 64 KiB or 16 MiB, and there a page
//! is mapped that holds a jump on to the thunk. A REX prefix, which a jump ignores, shifts the window: a second try.

use alloc::vec::Vec;

use super::room::Room;
use super::space;
use super::text;
use crate::layout::{SITE_JUMP, SITE_PUNNED};
use crate::region::Guard;
use crate::sys::PAGE;

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

/// Code that is about to be written: where, and what.
pub struct Planned {
    pub at: usize,
    pub bytes: [u8; LONGEST],
    pub length: usize,
}

/// The way from a site of this length to its thunk.
pub struct Way<'a> {
    pub site: usize,
    pub length: usize,
    pub thunk: usize,
    /// What the code behind the site will be.
    pub planned: &'a [Planned],
}

impl Way<'_> {
    /// A jump, with what must be mapped for it: the first that there is after so many others. None: nothing more that it can
    /// reach can be mapped.
    pub fn jump(&self, lock: &Guard, room: &Room, mut others: usize) -> Option<Jump> {
        if self.length >= 5 {
            return self.plain().filter(|_| others == 0);
        }
        (0..=1).find_map(|prefixes| self.punned(lock, room, prefixes, &mut others))
    }

    fn plain(&self) -> Option<Jump> {
        let distance = i32::try_from(self.thunk.wrapping_sub(self.site + 5) as isize).ok()?;
        let mut bytes = [0; LONGEST];
        bytes[0] = JUMP;
        bytes[1..5].copy_from_slice(&distance.to_le_bytes());
        Some(Jump { bytes, length: 5 })
    }

    fn punned(&self, lock: &Guard, room: &Room, prefixes: usize, others: &mut usize) -> Option<Jump> {
        let mut jump = Jump { bytes: [0; LONGEST], length: prefixes + 5 };
        let free = self.length.checked_sub(prefixes + 1)?;
        if !self.read_behind(&mut jump.bytes[self.length..jump.length]) {
            return None;
        }
        jump.bytes[..prefixes].fill(REX_W);
        jump.bytes[prefixes] = JUMP;
        let mut displacement = [0; 4];
        displacement.copy_from_slice(&jump.bytes[prefixes + 1..jump.length]);
        let window = (self.site + jump.length).wrapping_add_signed(i32::from_le_bytes(displacement) as isize);
        let target = self.landing(lock, room, window, 1 << (8 * free), others)?;
        let distance = target.wrapping_sub(window).to_le_bytes();
        jump.bytes[prefixes + 1..self.length].copy_from_slice(&distance[..free]);
        Some(jump)
    }

    /// The bytes behind the site as they will be.
    fn read_behind(&self, bytes: &mut [u8]) -> bool {
        let behind = self.site + self.length;
        let knows = |planned: &Planned| planned.at <= behind && behind + bytes.len() <= planned.at + planned.length;
        if !self.planned.iter().any(knows) && !text::read(behind, bytes) {
            return false;
        }
        for planned in self.planned {
            for (index, &byte) in planned.bytes[..planned.length].iter().enumerate() {
                if let Some(place) = bytes.get_mut((planned.at + index).wrapping_sub(behind)) {
                    *place = byte;
                }
            }
        }
        true
    }

    /// A place in this window that leads to the thunk: in a page that holds such places already, or in a new one.
    ///
    /// The bytes that this chooses are the top ones of a punned jump right before this site. From 0x40 on they lead that jump a
    /// gigabyte away, where there is room; with others it often finds none. So such places come first.
    fn landing(&self, lock: &Guard, room: &Room, window: usize, size: usize, others: &mut usize) -> Option<usize> {
        let end = window.checked_add(size)?;
        let overlaps = |page: &usize| *page < end && window < *page + PAGE;
        let known = space::landings(lock).into_iter().filter(overlaps);
        let pages: Vec<usize> = known.chain((window / PAGE * PAGE..end).step_by(PAGE).take(PAGES)).collect();
        for leads_far in [true, false] {
            for &page in &pages {
                for at in (page.max(window)..end.min(page + PAGE)).step_by(STEP) {
                    if leads_neighbour_far(at - window, size) != leads_far || !space::land(lock, room, at, self.thunk) {
                        continue;
                    }
                    if *others == 0 {
                        return Some(at);
                    }
                    *others -= 1;
                }
            }
        }
        None
    }
}

/// Of the two low bytes of a displacement, those that are chosen freely.
fn leads_neighbour_far(displacement: usize, size: usize) -> bool {
    let far = |byte: usize| (0x40..0xc0).contains(&(byte & 0xff));
    (size < 1 << 8 || far(displacement)) && (size < 1 << 16 || far(displacement >> 8))
}
