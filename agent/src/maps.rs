//! What lies where in this process: /proc/self/maps. And a line of /proc/self/status.

use alloc::vec::Vec;

use crate::sys;

/// A line of /proc/self/maps.
pub struct Mapping {
    pub start: usize,
    pub end: usize,
    pub readable: bool,
    pub writable: bool,
    pub executable: bool,
    pub shared: bool,
    pub file_offset: usize,
    /// As a link in /proc/self/fd shows it: the one character that is escaped here, the newline, is itself again.
    pub path: Vec<u8>,
}

/// Every mapping, in order of address.
pub fn all() -> Vec<Mapping> {
    let mut all = Vec::new();
    each(|mapping| {
        all.push(mapping);
        true
    });
    all
}

/// Calls `visit` with each mapping, in order of address, until it returns false.
pub fn each(mut visit: impl FnMut(Mapping) -> bool) {
    each_line(b"/proc/self/maps\0", |line| mapping_of(line).is_none_or(&mut visit));
}

/// A field of /proc/self/status that is a signal set.
pub fn status_mask(field: &[u8]) -> Option<u64> {
    let mut found = None;
    each_line(b"/proc/self/status\0", |line| {
        found = line.strip_prefix(field).and_then(|value| hexadecimal(value.trim_ascii()));
        found.is_none()
    });
    found.map(|mask| mask as u64)
}

/// Calls `visit` with each line, without its newline, until it returns false.
fn each_line(path: &[u8], mut visit: impl FnMut(&[u8]) -> bool) {
    // A line is at most a path and a few numbers.
    const SIZE: usize = 2 * 4096;
    let file = sys::open(path, libc::O_RDONLY | libc::O_CLOEXEC);
    if sys::is_error(file) {
        return;
    }
    let mut buffer = alloc::vec![0; SIZE];
    let mut kept = 0;
    'file: loop {
        let count = sys::read(file, &mut buffer[kept..]);
        if count <= 0 {
            break;
        }
        let filled = kept + count as usize;
        let mut start = 0;
        while let Some(length) = buffer[start..filled].iter().position(|&byte| byte == b'\n') {
            if !visit(&buffer[start..start + length]) {
                break 'file;
            }
            start += length + 1;
        }
        buffer.copy_within(start..filled, 0);
        kept = filled - start;
    }
    sys::close(file);
}

/// `start-end rights offset device inode   path`, the numbers hexadecimal (proc(5)).
fn mapping_of(line: &[u8]) -> Option<Mapping> {
    let mut fields = line.splitn(6, |&byte| byte == b' ');
    let mut bounds = fields.next()?.split(|&byte| byte == b'-');
    let (start, end) = (hexadecimal(bounds.next()?)?, hexadecimal(bounds.next()?)?);
    let &[read, write, execute, share] = fields.next()?.first_chunk::<4>()?;
    let file_offset = hexadecimal(fields.next()?)?;
    let path = unescaped(fields.nth(2).unwrap_or_default().trim_ascii_start());
    Some(Mapping {
        start,
        end,
        readable: read == b'r',
        writable: write == b'w',
        executable: execute == b'x',
        shared: share == b's',
        file_offset,
        path,
    })
}

fn unescaped(path: &[u8]) -> Vec<u8> {
    const NEWLINE: &[u8] = b"\\012";
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        let escaped = rest.strip_prefix(NEWLINE);
        plain.push(if escaped.is_some() { b'\n' } else { *first });
        rest = escaped.unwrap_or(tail);
    }
    plain
}

fn hexadecimal(digits: &[u8]) -> Option<usize> {
    usize::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()
}
