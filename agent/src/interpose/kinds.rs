//! What calls take that may lead into a region, functions of libc's and system calls alike.

use super::calls::Name;
use super::given::{self, Answer, Pointer};
use crate::kernel::Way;
use crate::{region, thread};

/// Arguments as they are in registers: what a function has fewer of is handed on as it is, and means nothing.
pub type Arguments = [usize; 6];

/// What a call takes, and how it is made with a list instead.
#[derive(Clone, Copy)]
pub enum Kind {
    /// A descriptor, a buffer and its length; with a list the one with this name.
    Buffer(Way, Name),
    /// A socket, a buffer, its length, flags, and maybe an address.
    Socket(Way, Peer),
    /// A descriptor, and a list of buffers.
    List(Way),
    /// The same of a pipe, whose end says which way the bytes go.
    Pipe,
    /// Another process, a list of buffers of our own, and one of the other's.
    Process(Way),
    /// A socket, and a message.
    Message(Way),
    /// A socket, an array of messages and their number, and, to receive, a limit of time as the last.
    Messages(Way),
    /// A buffer and its length, for random bytes.
    Random,
    /// A descriptor, what to do, and maybe an address.
    Control,
    /// A buffer, two factors of its length, and a stream.
    Stream(Way),
    /// Addresses of structures and names.
    Given(&'static [Pointer], Answer),
    /// The same, where it depends on other arguments what they are.
    Chosen(fn(&Arguments) -> &'static [Pointer], Answer),
    /// The same, and one of them is a mask to wait with.
    Waiting(&'static [Pointer], usize),
    /// The same, where signals of ours that wait are among those that it is about.
    Signals(&'static [Pointer], Answer, Sent),
    /// The same for a timer, which may have a function called.
    Timer(&'static [Pointer]),
    /// The same, and these arguments are arrays of names.
    Program(&'static [Pointer], &'static [usize], Answer),
    /// An array of locks to wait for, their number, flags, and a limit of time.
    Locks,
}

/// What a call does with signals that were sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It says which wait.
    Asked,
    /// It waits for one, and takes its siginfo.
    Taken,
    /// The same by libc, which says of one that was sent to a thread that it was sent to the process.
    TakenByLibc,
    /// It waits for one, and takes its number.
    TakenNumber,
}

/// Of a socket's function, whose address it has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    None,
    To,
    From,
}

impl Kind {
    /// May a call with these arguments concern a region? It is asked before each call, and by a program without regions answered by
    /// the first comparison.
    #[inline(always)]
    pub fn is_near(self, arguments: &Arguments) -> bool {
        let [a, b, c, _, e, f] = *arguments;
        match self {
            Kind::Buffer(..) | Kind::Socket(_, Peer::None) => region::is_near(b, c),
            Kind::Socket(_, Peer::To) => region::is_near(b, c) || region::is_near(e, f),
            Kind::Socket(_, Peer::From) => region::is_near(b, c) || region::is_near(e, 1) || region::is_near(f, 1),
            Kind::List(_)
            | Kind::Pipe
            | Kind::Process(_)
            | Kind::Message(_)
            | Kind::Messages(_)
            | Kind::Program(..)
            | Kind::Chosen(..)
            | Kind::Locks => region::is_near(0, usize::MAX),
            Kind::Random => region::is_near(a, b),
            Kind::Control => region::is_near(c, 1),
            Kind::Stream(_) => region::is_near(a, b.saturating_mul(c)),
            Kind::Given(pointers, _) => given::is_near(pointers, arguments),
            Kind::Signals(pointers, ..) => thread::has_pending() || given::is_near(pointers, arguments),
            Kind::Timer(pointers) => arguments[1] != 0 || given::is_near(pointers, arguments),
            // A mask is handed on without the agent's signals, wherever it is.
            Kind::Waiting(pointers, mask) => arguments[mask] != 0 || given::is_near(pointers, arguments),
        }
    }
}
