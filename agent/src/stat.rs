//! What the kernel says of a process or a thread in /proc/…/stat (proc(5)), read without libc.

use crate::sys;

/// The file's text; it fits with all numbers at their longest.
pub struct Stat {
    text: [u8; 1024],
    /// Where the third field begins: behind the command, which is in parentheses and may hold anything.
    from: usize,
    end: usize,
}

impl Stat {
    /// None: there is no such process.
    pub fn of_process(pid: u32) -> Option<Stat> {
        Stat::read(b"/proc/", pid)
    }

    /// Of a thread of our own process.
    pub fn of_thread(tid: u32) -> Option<Stat> {
        Stat::read(b"/proc/self/task/", tid)
    }

    fn read(folder: &[u8], id: u32) -> Option<Stat> {
        const ENDING: &[u8] = b"/stat\0";
        let mut digits = [0; 10];
        let mut first = digits.len();
        let mut rest = id;
        while rest > 0 {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let mut path = [0; 48];
        let mut end = 0;
        for part in [folder, &digits[first..], ENDING] {
            path[end..end + part.len()].copy_from_slice(part);
            end += part.len();
        }
        let file = sys::open(&path[..end], libc::O_RDONLY | libc::O_CLOEXEC);
        if sys::is_error(file) {
            return None;
        }
        let mut text = [0; 1024];
        let length = sys::read(file, &mut text);
        sys::close(file);
        let end = usize::try_from(length).ok()?;
        let from = text[..end].iter().rposition(|&byte| byte == b')')? + 2;
        (from <= end).then_some(Stat { text, from, end })
    }

    /// A field by its number in proc(5), from the third on.
    pub fn field(&self, number: usize) -> Option<&[u8]> {
        self.text[self.from..self.end].split(|&byte| byte == b' ').nth(number.checked_sub(3)?)
    }

    pub fn number(&self, field: usize) -> Option<u64> {
        number(self.field(field)?)
    }
}

/// A decimal number; None for anything else.
pub fn number(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|&digit| digit < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_of_itself_what_the_system_says() {
        let (process, thread) =
            (Stat::of_process(std::process::id()).unwrap(), Stat::of_thread(sys::gettid() as u32).unwrap());
        assert_eq!(process.number(4), Some(u64::from(std::os::unix::process::parent_id())));
        assert_eq!(thread.field(3), Some(&b"R"[..]));
        assert_eq!((process.number(3), process.field(2), process.field(99)), (None, None, None));
        assert!(Stat::of_process(0).is_none());
    }
}
