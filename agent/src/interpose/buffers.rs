//! Calls with buffers. One that lies in a region only in part is handed on in pieces, by the call of the same meaning that takes a list
//! of them: it stays one system call. Nothing has to be undone when it is cancelled.

use core::ffi::{c_int, c_long};
use core::mem::MaybeUninit;

use libc::iovec;

use super::calls::{self, Name};
use super::given::{self, Answer, Pointer};
use super::kinds::{Arguments, Kind, Sent};
use super::{masks, raw, timers};
use crate::kernel::{self, Call, Parts, Way};
use crate::sys;

/// The most buffers in a list (linux/uio.h: UIO_MAXIOV).
pub const LONGEST: usize = 1024;
pub const SHORT: usize = 32;

fn with_list([a, _, _, d, e, f]: Arguments, parts: &[iovec]) -> Arguments {
    [a, parts.as_ptr() as usize, parts.len(), d, e, f]
}

/// What the program has called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Callee {
    Function(Name),
    /// The system call with this number, by syscall(2).
    Number(c_long),
}

/// A call that may concern a region, and where the program goes on.
#[derive(Clone, Copy)]
pub struct Diverted {
    pub callee: Callee,
    pub arguments: Arguments,
    pub caller: usize,
}

impl Diverted {
    pub unsafe fn make(&self, kind: Kind) -> isize {
        let [_, b, c, ..] = self.arguments;
        let given = |pointers, answer| {
            // SAFETY: the caller's promise; the kernel sees the same bytes.
            given::handed_on(pointers, answer, self.arguments, self.caller, |ours| unsafe { self.with(ours) })
        };
        // SAFETY: the caller's promise.
        unsafe {
            match kind {
                Kind::Buffer(way, list) => {
                    self.buffer(way, b, c, |parts| self.instead(list, with_list(self.arguments, parts)))
                }
                Kind::Socket(way, peer) => self.socket(way, peer),
                Kind::List(way) => self.list(way),
                Kind::Pipe => self.list(if is_read_end(self.arguments[0]) { Way::Write } else { Way::Read }),
                Kind::Process(way) => self.process(way),
                Kind::Message(way) => self.message(way),
                Kind::Messages(way) => self.messages(way),
                Kind::Random => self.random(),
                Kind::Control => self.control(),
                Kind::Stream(way) => self.stream(way),
                Kind::Given(pointers, answer) => given(pointers, answer),
                Kind::Chosen(choose, answer) => given(choose(&self.arguments), answer),
                Kind::Waiting(pointers, mask) => self.waiting(pointers, mask),
                Kind::Signals(pointers, answer, sent) => self.signals(pointers, answer, sent),
                Kind::Timer(pointers) => self.timer(pointers),
                Kind::Program(pointers, lists, answer) => self.program(pointers, lists, answer),
                Kind::Locks => self.locks(),
            }
        }
    }

    pub unsafe fn plainly(&self) -> isize {
        // SAFETY: the caller's promise.
        unsafe { self.with(self.arguments) }
    }

    /// The same call with other arguments.
    pub unsafe fn with(&self, arguments: Arguments) -> isize {
        // SAFETY: the caller's promise.
        unsafe {
            match self.callee {
                Callee::Function(name) => calls::call(name, arguments),
                Callee::Number(number) => raw::call(number, arguments),
            }
        }
    }

    /// Another function in its place, or its system call, if that is what the program has asked for.
    pub unsafe fn instead(&self, name: Name, arguments: Arguments) -> isize {
        // SAFETY: the caller's promise.
        unsafe {
            match (self.callee, name) {
                (Callee::Function(_), _) => calls::call(name, arguments),
                (_, Name::readv) => raw::call(libc::SYS_readv, arguments),
                (_, Name::writev) => raw::call(libc::SYS_writev, arguments),
                (_, Name::preadv) => raw::call(libc::SYS_preadv, arguments),
                (_, Name::pwritev) => raw::call(libc::SYS_pwritev, arguments),
                (_, Name::recvmsg) => raw::call(libc::SYS_recvmsg, arguments),
                (_, Name::sendmsg) => raw::call(libc::SYS_sendmsg, arguments),
                _ => self.plainly(),
            }
        }
    }

    unsafe fn waiting(&self, pointers: &'static [Pointer], mask: usize) -> isize {
        given::handed_on(pointers, Answer::Number, self.arguments, self.caller, |mut ours| {
            // SAFETY: the caller's promise.
            let Some(wanted) = masks::at(ours[mask]) else { return unsafe { self.with(ours) } };
            masks::wait(wanted, |stripped| {
                ours[mask] = &raw const *stripped as usize;
                // SAFETY: the caller's promise.
                unsafe { self.with(ours) }
            })
        })
    }

    unsafe fn signals(&self, pointers: &'static [Pointer], answer: Answer, sent: Sent) -> isize {
        given::handed_on(pointers, answer, self.arguments, self.caller, |ours| {
            // SAFETY: the caller's promise.
            masks::with_pending(sent, ours, || unsafe { self.with(ours) })
        })
    }

    unsafe fn timer(&self, pointers: &'static [Pointer]) -> isize {
        given::handed_on(pointers, Answer::Number, self.arguments, self.caller, |ours| {
            // SAFETY: the caller's promise.
            timers::create(ours, |ours| unsafe { self.with(ours) })
        })
    }

    /// One buffer, the second argument; `with_parts` makes the call for several.
    unsafe fn buffer(&self, way: Way, start: usize, length: usize, with_parts: impl FnOnce(&[iovec]) -> isize) -> isize {
        let mut parts = Parts::<SHORT>::new();
        parts.add(start, length);
        if !parts.touches_region {
            // SAFETY: the caller's promise.
            return unsafe { self.plainly() };
        }
        let under_way = Call::begin(self.caller);
        let done = match parts.as_slice() {
            [all] => {
                let [a, _, _, d, e, f] = self.arguments;
                // SAFETY: the caller's promise; the kernel sees the same bytes.
                unsafe { self.with([a, all.iov_base as usize, all.iov_len, d, e, f]) }
            }
            several => with_parts(several),
        };
        under_way.end(way, parts.as_slice(), usize::try_from(done).unwrap_or(0));
        done
    }

    unsafe fn list(&self, way: Way) -> isize {
        // SAFETY: the caller's promise.
        unsafe {
            match self.arguments[2] as c_int {
                1..=8 => self.list_of::<SHORT>(way),
                9..=1024 => self.list_of::<LONGEST>(way),
                _ => self.plainly(),
            }
        }
    }

    // Apart, for its frame: the stack may be a small one of a handler's.
    #[inline(never)]
    unsafe fn list_of<const N: usize>(&self, way: Way) -> isize {
        let mut parts = Parts::<N>::new();
        // SAFETY: the caller's promise.
        unsafe {
            let (list, count) = (self.arguments[1], self.arguments[2] as c_int as usize);
            if !(add_list(&mut parts, list, count)
                && (parts.touches_region || kernel::touches(list, count * size_of::<iovec>())))
            {
                return self.plainly();
            }
            let under_way = Call::begin(self.caller);
            let done = self.with(with_list(self.arguments, parts.as_slice()));
            if done >= 0 {
                under_way.end_all(Way::Read, list, count * size_of::<iovec>());
            }
            under_way.end(way, parts.as_slice(), usize::try_from(done).unwrap_or(0));
            done
        }
    }

    /// The other side's list is of addresses there: it is handed on, and they are what they are.
    unsafe fn process(&self, way: Way) -> isize {
        let [.., list, count, _] = self.arguments;
        let mut reached = *self;
        reached.arguments[3] = kernel::reach(list, count.saturating_mul(size_of::<iovec>()));
        let under_way = Call::begin(self.caller);
        // SAFETY: the caller's promise.
        let done = unsafe { reached.list(way) };
        if done >= 0 {
            under_way.end_all(Way::Read, list, count * size_of::<iovec>());
        }
        done
    }

    /// There is no list for these: one call a part. Random bytes are the same in several calls.
    unsafe fn random(&self) -> isize {
        let [start, length, flags, d, e, f] = self.arguments;
        let mut parts = Parts::<SHORT>::new();
        parts.add(start, length);
        if !parts.touches_region {
            // SAFETY: the caller's promise.
            return unsafe { self.plainly() };
        }
        let under_way = Call::begin(self.caller);
        let is_entropy = self.callee == Callee::Function(Name::getentropy);
        let mut done = 0;
        for part in parts.as_slice() {
            // SAFETY: as above.
            let one = unsafe { self.with([part.iov_base as usize, part.iov_len, flags, d, e, f]) };
            let (failed, filled) = match is_entropy {
                true => (one as c_int != 0, part.iov_len),
                false => (one < 0, one.max(0) as usize),
            };
            if failed && (done == 0 || is_entropy) {
                return -1;
            }
            done += filled;
            if failed || filled < part.iov_len {
                break;
            }
        }
        under_way.end(Way::Write, parts.as_slice(), done);
        if is_entropy { 0 } else { done as isize }
    }

    /// The request tells what is behind the address, by the usual way of numbering them (asm-generic/ioctl.h).
    unsafe fn control(&self) -> isize {
        let [fd, request, address, d, e, f] = self.arguments;
        let (size, kernel_reads, kernel_writes) = (request >> 16 & 0x3fff, request >> 30 & 1 != 0, request >> 31 & 1 != 0);
        let alias = kernel::reach(address, size.max(1));
        if alias == address {
            // SAFETY: the caller's promise.
            return unsafe { self.plainly() };
        }
        let under_way = Call::begin(self.caller);
        // SAFETY: the caller's promise; the kernel sees the same bytes.
        let result = unsafe { self.with([fd, request, alias, d, e, f]) };
        if result as c_int >= 0 {
            let part = iovec { iov_base: alias as *mut _, iov_len: size };
            for (way, went) in [(Way::Read, kernel_reads), (Way::Write, kernel_writes)] {
                if went && size != 0 {
                    under_way.end(way, &[part], size);
                }
            }
            if size == 0 || !(kernel_reads || kernel_writes) {
                under_way.end_unknown(alias);
            }
        }
        result
    }

    /// libc copies to or from the buffer itself, or has the kernel do so.
    unsafe fn stream(&self, way: Way) -> isize {
        let [start, size, count, stream, e, f] = self.arguments;
        let length = size.saturating_mul(count);
        let alias = kernel::reach(start, length);
        if alias == start {
            // SAFETY: the caller's promise.
            return unsafe { self.plainly() };
        }
        let under_way = Call::begin(self.caller);
        // SAFETY: the caller's promise; it is the same memory.
        let done = unsafe { self.with([alias, size, count, stream, e, f]) };
        let part = iovec { iov_base: alias as *mut _, iov_len: length };
        under_way.end(way, &[part], size * done as usize);
        done
    }
}

/// Adds a list of the program's, as far as there is room. False: it is not there.
pub fn add_list<const N: usize>(parts: &mut Parts<N>, list: usize, count: usize) -> bool {
    for index in 0..count {
        let mut one = MaybeUninit::<iovec>::uninit();
        // SAFETY: the structure is ours, and has been fetched before it is looked at.
        unsafe {
            if !kernel::fetch(list.wrapping_add(index * size_of::<iovec>()), one.as_mut_ptr()) {
                return false;
            }
            let one = one.assume_init();
            if !parts.add(one.iov_base as usize, one.iov_len) {
                break;
            }
        }
    }
    true
}

/// vmsplice(2) takes from the memory what goes into a pipe, and writes to it what comes out.
fn is_read_end(pipe: usize) -> bool {
    // SAFETY: a question.
    let flags = unsafe { sys::syscall3(libc::SYS_fcntl, pipe, libc::F_GETFL as usize, 0) };
    flags & libc::O_ACCMODE as isize == libc::O_RDONLY as isize
}
