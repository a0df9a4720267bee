//! What the compiler calls in place of some functions where it knows how long the buffer is (_FORTIFY_SOURCE): the same, if that is
//! enough.

use core::ffi::CStr;
use core::mem::transmute;

use super::Real;
use super::calls::*;

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
    __ppoll_chk(files, count, limit, mask, room, x) if fits(count, size_of::<libc::pollfd>(), room)
        => ppoll(files, count, limit, mask, room, x);
    __getcwd_chk(buffer, length, room, x, y, z) if length <= room => getcwd(buffer, length, room, x, y, z);
    __getgroups_chk(count, groups, room, x, y, z) if fits(count, size_of::<libc::gid_t>(), room)
        => getgroups(count, groups, room, x, y, z);
    __fread_chk(buffer, room, size, count, stream, x) if fits(size, count, room)
        => fread(buffer, size, count, stream, room, x);
    __fread_unlocked_chk(buffer, room, size, count, stream, x) if fits(size, count, room)
        => fread_unlocked(buffer, size, count, stream, room, x);
}

fn fits(size: usize, count: usize, room: usize) -> bool {
    size.checked_mul(count).is_some_and(|length| length <= room)
}
