//! The functions that hand the program's buffers to the kernel: those that lie in a region are handed on as the alias.
//!
//! All others go straight on, by a jump, so that libc's own function is what returns to the program, is cancelled, and is seen by
//! unwinders. A buffer that lies in a region only in part is handed on in pieces, by the function of the same meaning that takes a
//! list of them: it stays one system call. Nothing here unwinds, and nothing has to be undone when a call is cancelled.

use core::arch::global_asm;
use core::ffi::{CStr, c_int, c_void};
use core::mem::{MaybeUninit, offset_of, transmute, zeroed};
use core::sync::atomic::{AtomicPtr, Ordering};

use libc::{iovec, msghdr};

use super::Real;
use super::given::{self, Arguments, Pointer};
use crate::kernel::{self, Call, Parts, Way};
use crate::region;

type Function = unsafe extern "C" fn(usize, usize, usize, usize, usize, usize) -> isize;

/// What a function takes, and how it is called with a list instead.
#[derive(Clone, Copy)]
enum Kind {
    /// A descriptor, a buffer and its length; with a list the one with this name.
    Buffer(Way, Name),
    /// A socket, a buffer, its length, flags, and maybe an address.
    Socket(Way, Peer),
    /// A descriptor, and a list of buffers.
    List(Way),
    /// A socket, and a message.
    Message(Way),
    /// A buffer and its length, for random bytes.
    Random,
    /// A descriptor, what to do, and maybe an address.
    Control,
    /// A buffer, two factors of its length, and a stream.
    Stream(Way),
    /// Addresses of structures and names.
    Given(&'static [Pointer]),
}

/// Of a socket's function, whose address it has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    None,
    To,
    From,
}

/// May this call concern a region?
#[inline(always)]
fn is_near(kind: Kind, arguments: Arguments) -> bool {
    let [a, b, c, ..] = arguments;
    match kind {
        Kind::Given(pointers) => given::is_near(pointers, &arguments),
        Kind::Buffer(..) | Kind::Socket(..) => region::is_near(b, c),
        Kind::List(_) | Kind::Message(_) => region::is_near(0, usize::MAX),
        Kind::Random => region::is_near(a, b),
        Kind::Control => region::is_near(c, 1),
        Kind::Stream(_) => region::is_near(a, b.saturating_mul(c)),
    }
}

macro_rules! calls {
    ($($($name:ident)+: $kind:expr;)*) => {
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        #[expect(non_camel_case_types, reason = "they are C's")]
        enum Name { $($($name),+),* }

        impl Name {
            const fn kind(self) -> Kind {
                match self { $($(Name::$name)|+ => $kind),* }
            }
        }

        /// All of them, with their names.
        pub const FUNCTIONS: &[(&CStr, Function)] = &[$($((name(concat!(stringify!($name), "\0")), $name)),+),*];

        /// libc's functions. In place of one that was not looked up yet, what does that.
        static REALS: [AtomicPtr<()>; FUNCTIONS.len()] = [$($({
            unsafe extern "C" {
                #[link_name = concat!("mmiotap_first_", stringify!($name))]
                fn first();
            }
            AtomicPtr::new(first as *mut ())
        }),+),*];

        $($(
            /// # Safety
            /// As the function of this name in the C library.
            #[cfg_attr(not(test), unsafe(no_mangle))]
            pub unsafe extern "C" fn $name(a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
                unsafe extern "C" {
                    #[link_name = concat!("mmiotap_diverted_", stringify!($name))]
                    fn diverted(a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize;
                }
                // SAFETY: the caller's promise. Both are jumps: the stack is as if the program had called them.
                unsafe {
                    if is_near(const { Name::$name.kind() }, [a, b, c, d, e, f]) {
                        diverted(a, b, c, d, e, f)
                    } else {
                        real(Name::$name)(a, b, c, d, e, f)
                    }
                }
            }

            // divert() with two arguments more, which come by the stack: the function's number, and where the program goes on.
            global_asm!(
                ".pushsection .text",
                concat!("mmiotap_first_", stringify!($name), ":"),
                "mov eax, {name}",
                "jmp mmiotap_look_up",
                concat!("mmiotap_diverted_", stringify!($name), ":"),
                ".cfi_startproc",
                "sub rsp, 8",
                ".cfi_adjust_cfa_offset 8",
                "push qword ptr [rsp + 8]",
                ".cfi_adjust_cfa_offset 8",
                "push {name}",
                ".cfi_adjust_cfa_offset 8",
                "call {divert}",
                "add rsp, 24",
                ".cfi_adjust_cfa_offset -24",
                "ret",
                ".cfi_endproc",
                ".popsection",
                name = const Name::$name as usize,
                divert = sym divert,
            );
        )+)*
    };
}

const fn name(text: &str) -> &CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(name) => name,
        Err(_) => unreachable!(),
    }
}

calls! {
    read __read: Kind::Buffer(Way::Write, Name::readv);
    write __write: Kind::Buffer(Way::Read, Name::writev);
    pread pread64 __pread64: Kind::Buffer(Way::Write, Name::preadv);
    pwrite pwrite64 __pwrite64: Kind::Buffer(Way::Read, Name::pwritev);
    readv preadv preadv64 preadv2 preadv64v2: Kind::List(Way::Write);
    writev pwritev pwritev64 pwritev2 pwritev64v2: Kind::List(Way::Read);
    recv: Kind::Socket(Way::Write, Peer::None);
    recvfrom: Kind::Socket(Way::Write, Peer::From);
    send __send: Kind::Socket(Way::Read, Peer::None);
    sendto: Kind::Socket(Way::Read, Peer::To);
    recvmsg: Kind::Message(Way::Write);
    sendmsg: Kind::Message(Way::Read);
    getrandom getentropy: Kind::Random;
    ioctl: Kind::Control;
    fread fread_unlocked: Kind::Stream(Way::Write);
    fwrite fwrite_unlocked: Kind::Stream(Way::Read);
    stat stat64 lstat lstat64: Kind::Given(given::STATED);
    fstat fstat64: Kind::Given(given::STATED_FILE);
    fstatat fstatat64: Kind::Given(given::STATED_AT);
    statx: Kind::Given(given::STATXED);
    statfs statfs64: Kind::Given(given::FILE_SYSTEM);
    fstatfs fstatfs64: Kind::Given(given::FILE_SYSTEM_OF);
    readlink: Kind::Given(given::LINK);
    readlinkat: Kind::Given(given::LINK_AT);
    getdents64: Kind::Given(given::DIRECTORY);
    open open64 __open_2 __open64_2 creat creat64 access unlink mkdir rmdir chdir: Kind::Given(given::NAMED);
    openat openat64 __openat_2 __openat64_2 faccessat unlinkat mkdirat: Kind::Given(given::NAMED_AT);
    rename: Kind::Given(given::RENAMED);
    poll: Kind::Given(given::POLLED);
    select: Kind::Given(given::SELECTED);
    epoll_wait: Kind::Given(given::AWAITED);
    epoll_ctl: Kind::Given(given::WATCHED);
    pipe pipe2: Kind::Given(given::TWO_ENDS);
    socketpair: Kind::Given(given::TWO_SOCKETS);
    bind connect: Kind::Given(given::ADDRESSED);
    accept accept4 getsockname getpeername: Kind::Given(given::PEER);
    getsockopt: Kind::Given(given::OPTION);
    setsockopt: Kind::Given(given::OPTION_SET);
    sendfile sendfile64: Kind::Given(given::SENT);
    copy_file_range splice: Kind::Given(given::COPIED);
    getrusage: Kind::Given(given::USAGE);
    sysinfo: Kind::Given(given::SYSTEM);
    uname: Kind::Given(given::SYSTEM_NAMES);
    timerfd_settime: Kind::Given(given::TIMER_SET);
    timerfd_gettime: Kind::Given(given::TIMER);
    eventfd_read: Kind::Given(given::COUNTER);
}

// What the compiler calls in place of some where it knows how long the buffer is (_FORTIFY_SOURCE): the same, if that is enough.
macro_rules! checked {
    ($($name:ident($($argument:ident),*) if $fits:expr => $plain:ident($($plain_argument:ident),*);)*) => { $(
        /// # Safety
        /// As the function of this name in the C library.
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C" fn $name($($argument: usize),*) -> isize {
            #[cold]
            #[inline(never)]
            unsafe extern "C" fn fail($($argument: usize),*) -> isize {
                static REAL: Real = Real::new(name(concat!(stringify!($name), "\0")));
                // SAFETY: the function of this name in libc, which ends the program.
                unsafe {
                    let real: unsafe extern "C" fn($($argument: usize),*) -> isize = transmute(REAL.address());
                    real($($argument),*)
                }
            }
            // SAFETY: the caller's promise.
            unsafe { if $fits { $plain($($plain_argument),*) } else { fail($($argument),*) } }
        }
    )*

        pub const CHECKED: &[(&CStr, *const ())] = &[$((name(concat!(stringify!($name), "\0")), $name as *const ())),*];
    };
}

checked! {
    __read_chk(fd, buffer, length, room, x, y) if length <= room => read(fd, buffer, length, room, x, y);
    __pread_chk(fd, buffer, length, offset, room, x) if length <= room => pread(fd, buffer, length, offset, room, x);
    __pread64_chk(fd, buffer, length, offset, room, x) if length <= room => pread64(fd, buffer, length, offset, room, x);
    __recv_chk(fd, buffer, length, room, flags, x) if length <= room => recv(fd, buffer, length, flags, room, x);
    __recvfrom_chk(fd, buffer, length, room, flags, peer, peer_length) if length <= room
        => recvfrom(fd, buffer, length, flags, peer, peer_length);
    __readlink_chk(path, buffer, length, room, x, y) if length <= room => readlink(path, buffer, length, room, x, y);
    __readlinkat_chk(fd, path, buffer, length, room, x) if length <= room
        => readlinkat(fd, path, buffer, length, room, x);
    __poll_chk(files, count, timeout, room, x, y) if fits(count, size_of::<libc::pollfd>(), room)
        => poll(files, count, timeout, room, x, y);
    __fread_chk(buffer, room, size, count, stream, x) if fits(size, count, room)
        => fread(buffer, size, count, stream, room, x);
    __fread_unlocked_chk(buffer, room, size, count, stream, x) if fits(size, count, room)
        => fread_unlocked(buffer, size, count, stream, room, x);
}

fn fits(size: usize, count: usize, room: usize) -> bool {
    size.checked_mul(count).is_some_and(|length| length <= room)
}

#[inline(always)]
fn real(name: Name) -> Function {
    // SAFETY: the function of this name in libc. It takes fewer arguments, and does not look at the others.
    unsafe { transmute(REALS[name as usize].load(Ordering::Relaxed)) }
}

/// Looks all of them up, where the dynamic linker may be asked: a program may call one first where it may not.
pub fn prepare() {
    (0..REALS.len()).for_each(|index| _ = look_up(index));
}

/// # Panics
/// Aborts if the C library lacks a function that it had when the program was linked.
extern "C" fn look_up(index: usize) -> *mut c_void {
    // SAFETY: the name is NUL-terminated.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, FUNCTIONS[index].0.as_ptr()) };
    assert!(!found.is_null());
    REALS[index].store(found.cast(), Ordering::Relaxed);
    found
}

// With the arguments of a call, and the function's number in eax: the call goes to libc's own.
global_asm!(
    ".pushsection .text",
    "mmiotap_look_up:",
    ".cfi_startproc",
    "push rdi",
    "push rsi",
    "push rdx",
    "push rcx",
    "push r8",
    "push r9",
    "sub rsp, 8",
    ".cfi_adjust_cfa_offset 56",
    "mov edi, eax",
    "call {look_up}",
    "add rsp, 8",
    "pop r9",
    "pop r8",
    "pop rcx",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    ".cfi_adjust_cfa_offset -56",
    "jmp rax",
    ".cfi_endproc",
    ".popsection",
    look_up = sym look_up,
);

/// A call that may concern a region.
unsafe extern "C" fn divert(a: usize, b: usize, c: usize, d: usize, e: usize, f: usize, name: Name, caller: usize) -> isize {
    let arguments = [a, b, c, d, e, f];
    let this = Diverted { name, arguments, caller };
    // SAFETY: the caller's promise.
    unsafe {
        match name.kind() {
            Kind::Buffer(way, list) => this.buffer(way, b, c, |parts| call(list, with_list(arguments, parts))),
            Kind::Socket(way, peer) => this.buffer(way, b, c, |parts| by_message(way, peer, arguments, parts)),
            Kind::List(way) => this.list(way),
            Kind::Message(way) => this.message(way),
            Kind::Random => this.random(),
            Kind::Control => this.control(),
            Kind::Stream(way) => this.stream(way),
            Kind::Given(pointers) => given::handed_on(pointers, arguments, caller, |reached| call(name, reached)),
        }
    }
}

unsafe fn call(name: Name, [a, b, c, d, e, f]: Arguments) -> isize {
    // SAFETY: the caller's promise.
    unsafe { real(name)(a, b, c, d, e, f) }
}

/// The most buffers in a list (linux/uio.h: UIO_MAXIOV).
const LONGEST: usize = 1024;
const SHORT: usize = 32;

fn with_list([a, _, _, d, e, f]: Arguments, parts: &[iovec]) -> Arguments {
    [a, parts.as_ptr() as usize, parts.len(), d, e, f]
}

struct Diverted {
    name: Name,
    arguments: Arguments,
    caller: usize,
}

impl Diverted {
    unsafe fn plainly(&self) -> isize {
        // SAFETY: the caller's promise.
        unsafe { call(self.name, self.arguments) }
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
                unsafe { call(self.name, [a, all.iov_base as usize, all.iov_len, d, e, f]) }
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

    unsafe fn list_of<const N: usize>(&self, way: Way) -> isize {
        let mut parts = Parts::<N>::new();
        // SAFETY: the caller's promise.
        unsafe {
            if !add_list(&mut parts, self.arguments[1], self.arguments[2] as c_int as usize) {
                return self.plainly();
            }
            let under_way = Call::begin(self.caller);
            let done = call(self.name, with_list(self.arguments, parts.as_slice()));
            under_way.end(way, parts.as_slice(), usize::try_from(done).unwrap_or(0));
            done
        }
    }

    unsafe fn message(&self, way: Way) -> isize {
        let mut message = MaybeUninit::<msghdr>::uninit();
        // SAFETY: the caller's promise; the message has been fetched before it is looked at.
        unsafe {
            if !kernel::fetch(self.arguments[1], message.as_mut_ptr()) {
                return self.plainly();
            }
            let message = message.assume_init();
            match message.msg_iovlen {
                0..=8 => self.message_of::<SHORT>(way, message),
                9..=LONGEST => self.message_of::<LONGEST>(way, message),
                _ => self.plainly(),
            }
        }
    }

    unsafe fn message_of<const N: usize>(&self, way: Way, mut message: msghdr) -> isize {
        let [socket, theirs, flags, d, e, f] = self.arguments;
        let mut parts = Parts::<N>::new();
        // SAFETY: the caller's promise.
        unsafe {
            let moves = add_list(&mut parts, message.msg_iov as usize, message.msg_iovlen);
            if !moves && kernel::reach(theirs, size_of::<msghdr>()) == theirs {
                return self.plainly();
            }
            if moves {
                (message.msg_iov, message.msg_iovlen) = (parts.as_slice().as_ptr().cast_mut(), parts.as_slice().len());
            }
            let under_way = Call::begin(self.caller);
            let done = call(self.name, [socket, &raw mut message as usize, flags, d, e, f]);
            if done >= 0 && way == Way::Write {
                kernel::store(&message.msg_namelen, theirs + offset_of!(msghdr, msg_namelen));
                kernel::store(&message.msg_controllen, theirs + offset_of!(msghdr, msg_controllen));
                kernel::store(&message.msg_flags, theirs + offset_of!(msghdr, msg_flags));
            }
            under_way.end(way, parts.as_slice(), usize::try_from(done).unwrap_or(0));
            done
        }
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
        let mut done = 0;
        for part in parts.as_slice() {
            // SAFETY: as above.
            let one = unsafe { call(self.name, [part.iov_base as usize, part.iov_len, flags, d, e, f]) };
            let (failed, filled) = match self.name {
                Name::getentropy => (one as c_int != 0, part.iov_len),
                _ => (one < 0, one.max(0) as usize),
            };
            if failed && (done == 0 || self.name == Name::getentropy) {
                return -1;
            }
            done += filled;
            if failed || filled < part.iov_len {
                break;
            }
        }
        under_way.end(Way::Write, parts.as_slice(), done);
        if self.name == Name::getentropy { 0 } else { done as isize }
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
        let result = unsafe { call(self.name, [fd, request, alias, d, e, f]) };
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
        let done = unsafe { call(self.name, [alias, size, count, stream, e, f]) };
        let part = iovec { iov_base: alias as *mut _, iov_len: length };
        under_way.end(way, &[part], size * done as usize);
        done
    }
}

/// Adds a list of the program's. False: it is not there, or no buffer of it is in a region.
unsafe fn add_list<const N: usize>(parts: &mut Parts<N>, list: usize, count: usize) -> bool {
    for index in 0..count {
        let mut one = MaybeUninit::<iovec>::uninit();
        // SAFETY: the structure is ours, and has been fetched before it is looked at.
        unsafe {
            if !kernel::fetch(list + index * size_of::<iovec>(), one.as_mut_ptr()) {
                return false;
            }
            let one = one.assume_init();
            if !parts.add(one.iov_base as usize, one.iov_len) {
                break;
            }
        }
    }
    parts.touches_region || kernel::reach(list, 1) != list
}

/// send, recv and their like with a list.
fn by_message(way: Way, peer: Peer, [socket, _, _, flags, address, length]: Arguments, parts: &[iovec]) -> isize {
    // SAFETY: all-zero is a valid message.
    let mut message: msghdr = unsafe { zeroed() };
    (message.msg_iov, message.msg_iovlen) = (parts.as_ptr().cast_mut(), parts.len());
    if peer != Peer::None && address != 0 {
        message.msg_name = address as *mut _;
        message.msg_namelen = length as u32;
    }
    let has_length = peer == Peer::From && address != 0;
    if has_length {
        message.msg_namelen = kernel::word(length);
    }
    let name = if way == Way::Read { Name::sendmsg } else { Name::recvmsg };
    // SAFETY: what the program has asked for.
    let done = unsafe { call(name, [socket, &raw mut message as usize, flags, 0, 0, 0]) };
    if done >= 0 && has_length {
        kernel::store(&message.msg_namelen, length);
    }
    done
}
