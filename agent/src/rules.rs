//! Globs over paths as /proc/PID/maps shows them.
//!
//! `*` is any run without '/', `**` any run, `?` one character that is not '/'. All else is literal, brackets included,
//! because real paths have them: `anon_inode:[io_uring]`.

/// Does the whole path match the glob?
pub fn matches(glob: &[u8], path: &[u8]) -> bool {
    match glob {
        [] => path.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=path.len()).any(|skip| matches(rest, &path[skip..])),
        [b'*', rest @ ..] => {
            let run = path.iter().take_while(|&&byte| byte != b'/').count();
            (0..=run).any(|skip| matches(rest, &path[skip..]))
        }
        [wanted, rest @ ..] => match path {
            [byte, tail @ ..] => (wanted == byte || (*wanted == b'?' && *byte != b'/')) && matches(rest, tail),
            [] => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn one_case_a_line() {
        let cases: &[(&str, &str, bool)] = &[
            ("/dev/mem", "/dev/mem", true),
            ("/dev/uio*", "/dev/uio12", true),
            ("/dev/uio*", "/dev/uio/1", false),
            ("/dev/dri/*", "/dev/dri/card0", true),
            ("/sys/**/resource*", "/sys/devices/pci0000:00/0000:00:04.0/resource0_wc", true),
            ("/sys/**/resource*", "/sys/resource0", false),
            ("**/regs", "/tmp/a/b/regs", true),
            ("anon_inode:[io_uring]", "anon_inode:[io_uring]", true),
            ("anon_inode:[io_uring]", "anon_inode:i", false),
            ("/dev/uio?", "/dev/uio0", true),
            ("/dev/uio?", "/dev/uio", false),
            ("", "", true),
        ];
        for (glob, path, expected) in cases {
            assert_eq!(matches(glob.as_bytes(), path.as_bytes()), *expected, "{glob} on {path}");
        }
    }
}
