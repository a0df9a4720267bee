//! Structures and names that calls are given by their addresses. What lies in a region is handed on as the alias; what lies in one in
//! part, as a copy, if it is small.

use core::mem::MaybeUninit;

use super::kinds::Arguments;
use crate::kernel::{self, Call, Way};
use crate::region;
use crate::sys::PAGE;

/// Addresses that a call takes at most.
const MOST: usize = 5;

/// An argument that is the address of something.
#[derive(Clone, Copy)]
pub struct Pointer {
    pub argument: usize,
    /// The kernel takes what is there; it writes there.
    pub taken: bool,
    pub written: bool,
    /// It does so in calls that a signal interrupts, and in no other.
    pub interrupted: bool,
    pub size: Size,
}

/// How many bytes are there.
#[derive(Clone, Copy)]
pub enum Size {
    Bytes(usize),
    /// So many times this argument.
    Times(usize, usize),
    /// This argument, and so many.
    Plus(usize, usize),
    /// At most Times; as many times what the call returns.
    Returned(usize, usize),
    /// The same of Plus.
    ReturnedPlus(usize, usize),
    /// So many, if the call returns more than 0.
    Positive(usize),
    /// Sets of as many bits as this argument says, in whole words.
    Bits(usize),
    /// A byte for each page of as many bytes as this argument says.
    Pages(usize),
    /// A name that is taken: to the zero behind it.
    Name,
    /// One that is written, of at most as many bytes as this argument says.
    Text(usize),
    /// As many as the word says that this argument leads to, and the kernel changes: a socklen_t.
    Told(usize),
    /// As many as the word says that is so far behind the beginning, and so many.
    Headed(usize, usize),
    /// Only the kernel knows.
    Unknown,
}

/// How a call says that it has failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// −1, and errno.
    Number,
    /// By the number of the error.
    Error,
    /// By no address.
    Address,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    Interrupted,
    Failed,
}

impl Answer {
    fn outcome(self, result: isize) -> Outcome {
        let error = match (self, result as i32) {
            // SAFETY: errno is this thread's own.
            (Answer::Number, -1) => unsafe { *libc::__errno_location() },
            (Answer::Error, error) if error != 0 => error,
            (Answer::Address, _) if result == 0 => return Outcome::Failed,
            _ => return Outcome::Done,
        };
        if error == libc::EINTR { Outcome::Interrupted } else { Outcome::Failed }
    }
}

/// As many bytes of what is in regions in part can be copied.
const COPIED: usize = 1024;

/// May one of them be in a region, if only in part?
#[inline(always)]
pub fn is_near(pointers: &[Pointer], arguments: &Arguments) -> bool {
    pointers.iter().any(|pointer| region::is_near(arguments[pointer.argument], COPIED))
}

impl Pointer {
    /// How many bytes the kernel may look at, as far as it is told now.
    fn room(&self, arguments: &Arguments) -> usize {
        match self.size {
            Size::Bytes(length) | Size::Positive(length) => length,
            Size::Times(argument, unit) | Size::Returned(argument, unit) => arguments[argument].saturating_mul(unit),
            Size::Plus(argument, more) | Size::ReturnedPlus(argument, more) => arguments[argument].saturating_add(more),
            Size::Bits(argument) => (arguments[argument] as i32).max(0).unsigned_abs().div_ceil(64) as usize * 8,
            Size::Pages(argument) => arguments[argument].div_ceil(PAGE),
            Size::Text(argument) => arguments[argument],
            Size::Told(argument) => kernel::word(arguments[argument]) as usize,
            Size::Headed(offset, more) => kernel::word(arguments[self.argument].wrapping_add(offset)) as usize + more,
            Size::Name | Size::Unknown => 1,
        }
    }

    /// How many it has looked at, now that the call has returned this.
    fn moved(&self, arguments: &Arguments, room: usize, result: isize) -> usize {
        let moved = match self.size {
            Size::Returned(_, unit) => (result as usize).wrapping_mul(unit),
            Size::ReturnedPlus(_, more) => (result as usize).wrapping_add(more),
            Size::Positive(_) if result as i32 <= 0 => 0,
            // The kernel has said how much it had.
            Size::Told(_) | Size::Headed(..) => self.room(arguments),
            Size::Text(_) => kernel::text_length(arguments[self.argument], room),
            _ => room,
        };
        moved.min(room)
    }
}

/// Pointers of a call, as the program has given them and as the kernel gets them.
pub struct HandedOn {
    pointers: &'static [Pointer],
    theirs: Arguments,
    pub ours: Arguments,
    rooms: [usize; MOST],
    /// Is something in a region in part?
    is_split: bool,
}

impl HandedOn {
    pub fn new(pointers: &'static [Pointer], theirs: Arguments) -> HandedOn {
        let mut new = HandedOn { pointers, theirs, ours: theirs, rooms: [0; MOST], is_split: false };
        for (pointer, room) in pointers.iter().zip(&mut new.rooms) {
            *room = pointer.room(&theirs);
            let address = theirs[pointer.argument];
            new.ours[pointer.argument] = kernel::reach(address, (*room).max(1));
            new.is_split |= new.ours[pointer.argument] == address && kernel::touches(address, *room);
        }
        new
    }

    /// Writes a call down that comes back without us: what it takes; of what it writes it is only known that it may.
    pub fn begun(&self, caller: usize) {
        let under_way = Call::begin(caller);
        for (pointer, &room) in self.pointers.iter().zip(&self.rooms) {
            let (address, alias) = (self.theirs[pointer.argument], self.ours[pointer.argument]);
            if alias != address && pointer.written {
                under_way.end_unknown(alias);
            } else if alias != address && pointer.taken {
                under_way.end_all(Way::Read, address, room);
            }
        }
    }

    pub fn is_changed(&self) -> bool {
        self.ours != self.theirs
    }

    /// Writes down what the kernel took, or what it wrote, in a call with this outcome.
    fn write_down(&self, under_way: &Call, way: Way, is_interrupted: bool, result: isize) {
        for (pointer, &room) in self.pointers.iter().zip(&self.rooms) {
            let (address, alias) = (self.theirs[pointer.argument], self.ours[pointer.argument]);
            let went = if way == Way::Read { pointer.taken } else { pointer.written };
            if alias == address || !went || pointer.interrupted != is_interrupted {
                continue;
            }
            match pointer.size {
                Size::Name | Size::Unknown => under_way.end_unknown(alias),
                _ => under_way.end_all(way, address, pointer.moved(&self.theirs, room, result)),
            }
        }
    }

    /// Before a call that does not return if all goes well.
    pub fn taken(&self, under_way: &Call) {
        self.write_down(under_way, Way::Read, false, 0);
    }

    pub fn written(&self, under_way: &Call, answer: Answer, result: isize) {
        if answer.outcome(result) == Outcome::Done {
            self.write_down(under_way, Way::Write, false, result);
        }
    }

    /// Makes the call, in which the program goes on at `caller`.
    fn make(
        &self,
        answer: Answer,
        caller: usize,
        call: impl FnOnce(Arguments) -> isize,
        after: impl FnOnce(isize, bool),
    ) -> isize {
        let under_way = Call::begin(caller);
        let result = call(self.ours);
        let outcome = answer.outcome(result);
        if outcome == Outcome::Failed {
            return result;
        }
        let is_interrupted = outcome == Outcome::Interrupted;
        after(result, is_interrupted);
        for way in [Way::Read, Way::Write] {
            self.write_down(&under_way, way, is_interrupted, result);
        }
        let same = |pointer: &&Pointer| answer == Answer::Address && self.ours[pointer.argument] == result as usize;
        self.pointers.iter().find(same).map_or(result, |pointer| self.theirs[pointer.argument] as isize)
    }

    /// The same with copies in place of what is in a region in part.
    #[cold]
    #[inline(never)]
    fn make_with_copies(mut self, answer: Answer, caller: usize, call: impl FnOnce(Arguments) -> isize) -> isize {
        let mut copies = Copies { bytes: MaybeUninit::uninit(), used: 0 };
        let mut copied = [0; MOST];
        for ((pointer, &room), copy) in self.pointers.iter().zip(&self.rooms).zip(&mut copied) {
            let address = self.theirs[pointer.argument];
            if self.ours[pointer.argument] != address || !kernel::touches(address, room) {
                continue;
            }
            *copy = copies.room(room);
            if *copy != 0 && kernel::copy_in(address, *copy, room) {
                self.ours[pointer.argument] = *copy;
            } else {
                *copy = 0;
            }
        }
        self.make(answer, caller, call, |result, is_interrupted| {
            // Lengths come behind what they are of, and have to be there first. What the kernel has not written is as it was.
            for ((pointer, &room), &copy) in self.pointers.iter().zip(&self.rooms).zip(&copied).rev() {
                if copy != 0 && pointer.written && pointer.interrupted == is_interrupted {
                    let length =
                        if matches!(pointer.size, Size::Told(_)) { pointer.moved(&self.theirs, room, result) } else { room };
                    kernel::copy_out(copy, self.theirs[pointer.argument], length);
                }
            }
        })
    }
}

/// Memory for them.
struct Copies {
    bytes: MaybeUninit<[u64; COPIED / 8]>,
    used: usize,
}

impl Copies {
    /// Where there is room for so many bytes. 0: nowhere.
    fn room(&mut self, length: usize) -> usize {
        let begin = self.used;
        if length > size_of_val(&self.bytes) - begin {
            return 0;
        }
        self.used += length.next_multiple_of(8);
        self.bytes.as_mut_ptr() as usize + begin
    }
}

/// Makes a call, in which the program goes on at `caller`, with what is in regions handed on.
pub fn handed_on(
    pointers: &'static [Pointer],
    answer: Answer,
    arguments: Arguments,
    caller: usize,
    call: impl FnOnce(Arguments) -> isize,
) -> isize {
    let handed_on = HandedOn::new(pointers, arguments);
    if handed_on.is_split {
        handed_on.make_with_copies(answer, caller, call)
    } else if handed_on.is_changed() {
        handed_on.make(answer, caller, call, |_, _| {})
    } else {
        call(arguments)
    }
}
