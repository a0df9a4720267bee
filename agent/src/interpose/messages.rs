//! Messages of sockets: their buffers, addresses and control data.

use core::mem::{MaybeUninit, offset_of, zeroed};

use libc::{iovec, mmsghdr, msghdr};

use super::buffers::{Diverted, LONGEST, SHORT, add_list};
use super::calls::Name;
use super::kinds::Peer;
use crate::kernel::{self, Call, Parts, Way};

/// As many messages of an array are handed on when there are regions. The others are left for the next call.
const MOST: usize = 16;
/// And so many buffers of theirs.
const BUFFERS: usize = 128;

/// Makes this message lead to where its parts really are. None: its buffers are not there. Else: is anything different now?
fn readdressed<const N: usize>(parts: &mut Parts<N>, message: &mut msghdr) -> Option<bool> {
    let (first, before) = (parts.count(), *message);
    if message.msg_iovlen > LONGEST || !add_list(parts, message.msg_iov as usize, message.msg_iovlen) {
        return None;
    }
    let list = &parts.as_slice()[first..];
    (message.msg_iov, message.msg_iovlen) = (list.as_ptr().cast_mut(), list.len());
    message.msg_name = kernel::reach(before.msg_name as usize, before.msg_namelen as usize) as *mut _;
    message.msg_control = kernel::reach(before.msg_control as usize, before.msg_controllen) as *mut _;
    let is_list_here = kernel::touches(before.msg_iov as usize, before.msg_iovlen * size_of::<iovec>());
    Some(is_list_here || message.msg_name != before.msg_name || message.msg_control != before.msg_control)
}

/// Writes down what the kernel did with a message that the program has at `theirs`, as it `was` then and is `now`, and `moved` bytes
/// of whose `parts` were moved. Gives the program the rest of what the kernel has said.
fn end(under_way: &Call, way: Way, theirs: usize, was: &msghdr, now: &msghdr, parts: &[iovec], moved: usize) {
    under_way.end_all(Way::Read, theirs, size_of::<msghdr>());
    under_way.end_all(Way::Read, was.msg_iov as usize, was.msg_iovlen * size_of::<iovec>());
    if way == Way::Write {
        let (name, control, flags) =
            (offset_of!(msghdr, msg_namelen), offset_of!(msghdr, msg_controllen), offset_of!(msghdr, msg_flags));
        kernel::store(&now.msg_namelen, theirs + name);
        kernel::store(&now.msg_controllen, theirs + control);
        kernel::store(&now.msg_flags, theirs + flags);
        for (field, length) in [(name, 4), (control, 8), (flags, 4)] {
            under_way.end_all(Way::Write, theirs + field, length);
        }
    }
    if !was.msg_name.is_null() {
        under_way.end_all(way, was.msg_name as usize, was.msg_namelen.min(now.msg_namelen) as usize);
    }
    under_way.end_all(way, was.msg_control as usize, was.msg_controllen.min(now.msg_controllen));
    under_way.end(way, parts, moved);
}

impl Diverted {
    pub unsafe fn message(&self, way: Way) -> isize {
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

    // Apart, for its frame: the stack may be a small one of a handler's.
    #[inline(never)]
    unsafe fn message_of<const N: usize>(&self, way: Way, was: msghdr) -> isize {
        let [socket, theirs, flags, d, e, f] = self.arguments;
        let (mut parts, mut now) = (Parts::<N>::new(), was);
        let is_elsewhere = readdressed(&mut parts, &mut now);
        let is_here = kernel::touches(theirs, size_of::<msghdr>());
        // SAFETY: the caller's promise.
        unsafe {
            if is_elsewhere.is_none() || !(is_elsewhere == Some(true) || parts.touches_region || is_here) {
                return self.plainly();
            }
            let under_way = Call::begin(self.caller);
            let done = self.with([socket, &raw mut now as usize, flags, d, e, f]);
            if done >= 0 {
                end(&under_way, way, theirs, &was, &now, parts.as_slice(), done as usize);
            }
            done
        }
    }

    /// sendmmsg and recvmmsg: an array of messages.
    #[inline(never)]
    pub unsafe fn messages(&self, way: Way) -> isize {
        let [socket, theirs, count, flags, limit, f] = self.arguments;
        let mut parts = Parts::<BUFFERS>::new();
        let mut was = [const { MaybeUninit::<mmsghdr>::uninit() }; MOST];
        let mut now = [const { MaybeUninit::<mmsghdr>::uninit() }; MOST];
        // Where each one's parts begin.
        let mut begins = [0; MOST + 1];
        let at = |index: usize| theirs.wrapping_add(index * size_of::<mmsghdr>());
        let mut made = 0;
        let mut is_elsewhere = kernel::touches(theirs, count.min(MOST).saturating_mul(size_of::<mmsghdr>()));
        while made < (count as u32 as usize).min(MOST) {
            // SAFETY: messages are looked at when they have been fetched.
            unsafe {
                if !kernel::fetch(at(made), was[made].as_mut_ptr()) {
                    break;
                }
                let mut message = was[made].assume_init();
                let Some(is_changed) = readdressed(&mut parts, &mut message.msg_hdr) else { break };
                if parts.count() == BUFFERS && made > 0 {
                    parts.truncate(begins[made]);
                    break;
                }
                is_elsewhere |= is_changed;
                now[made].write(message);
            }
            made += 1;
            begins[made] = parts.count();
        }
        let has_limit = way == Way::Write && limit != 0;
        let ours = if has_limit { kernel::reach(limit, size_of::<libc::timespec>()) } else { limit };
        // SAFETY: the caller's promise; those that were made are looked at.
        unsafe {
            if made == 0 || !(is_elsewhere || parts.touches_region || ours != limit) {
                return self.plainly();
            }
            let under_way = Call::begin(self.caller);
            let done = self.with([socket, now.as_mut_ptr() as usize, made, flags, ours, f]);
            for index in 0..usize::try_from(done as i32).unwrap_or(0).min(made) {
                let (was, now) = (was[index].assume_init_ref(), now[index].assume_init_ref());
                let length = offset_of!(mmsghdr, msg_len);
                kernel::store(&now.msg_len, at(index) + length);
                under_way.end_all(Way::Write, at(index) + length, size_of_val(&now.msg_len));
                let parts = &parts.as_slice()[begins[index]..begins[index + 1]];
                end(&under_way, way, at(index), &was.msg_hdr, &now.msg_hdr, parts, now.msg_len as usize);
            }
            if has_limit && done as i32 >= 0 {
                under_way.end_all(Way::Read, limit, size_of::<libc::timespec>());
                under_way.end_all(Way::Write, limit, size_of::<libc::timespec>());
            }
            done
        }
    }

    /// send, recv and their like.
    pub unsafe fn socket(&self, way: Way, peer: Peer) -> isize {
        let [socket, start, length, flags, address, room_or_word] = self.arguments;
        let mut parts = Parts::<SHORT>::new();
        parts.add(start, length);
        let (has_address, has_word) = (peer != Peer::None && address != 0, peer == Peer::From && address != 0);
        let room = if has_word { kernel::word(room_or_word) as usize } else { room_or_word };
        let to = if has_address { kernel::reach(address, room) } else { address };
        let word = if has_word { kernel::reach(room_or_word, size_of::<u32>()) } else { room_or_word };
        if !(parts.touches_region || to != address || word != room_or_word) {
            // SAFETY: the caller's promise.
            return unsafe { self.plainly() };
        }
        let under_way = Call::begin(self.caller);
        let done = match parts.as_slice() {
            // SAFETY: the caller's promise; the kernel sees the same bytes.
            [all] => unsafe { self.with([socket, all.iov_base as usize, all.iov_len, flags, to, word]) },
            several => {
                // SAFETY: all-zero is a valid message.
                let mut message: msghdr = unsafe { zeroed() };
                (message.msg_iov, message.msg_iovlen) = (several.as_ptr().cast_mut(), several.len());
                if has_address {
                    (message.msg_name, message.msg_namelen) = (to as *mut _, room as u32);
                }
                let name = if way == Way::Read { Name::sendmsg } else { Name::recvmsg };
                // SAFETY: what the program has asked for.
                let done = unsafe { self.instead(name, [socket, &raw mut message as usize, flags, 0, 0, 0]) };
                if done >= 0 && has_word {
                    kernel::store(&message.msg_namelen, room_or_word);
                }
                done
            }
        };
        if done >= 0 && has_word {
            under_way.end_all(Way::Read, room_or_word, size_of::<u32>());
            under_way.end_all(Way::Write, room_or_word, size_of::<u32>());
            under_way.end_all(way, address, room.min(kernel::word(room_or_word) as usize));
        } else if done >= 0 && has_address {
            under_way.end_all(way, address, room);
        }
        under_way.end(way, parts.as_slice(), usize::try_from(done).unwrap_or(0));
        done
    }
}
