//! The parts of a multipart body (RFC 2046 §5.1), as strictly as clients write them.

/// One that any reader might read otherwise: it counts byte by byte.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Calls `part` with the header lines and the content of each part.
///
/// What stands before the first part or after the last is malformed here, and so is a line that
/// begins as a delimiter and is none: readers disagree about both.
pub(super) fn each_part<'a>(
    body: &'a [u8],
    boundary: &[u8],
    mut part: impl FnMut(&'a [u8], &'a [u8]),
) -> Result<(), Malformed> {
    let delimiter = [b"\r\n--", boundary].concat();
    let mut rest = body.strip_prefix(&delimiter[2..]).ok_or(Malformed)?;
    loop {
        match rest.strip_prefix(b"--") {
            Some(b"" | b"\r\n") => return Ok(()),
            Some(_) => return Err(Malformed),
            None => {}
        }
        let padding = rest
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t'))
            .count();
        let whole = rest[padding..].strip_prefix(b"\r\n").ok_or(Malformed)?;
        let end = find(whole, &delimiter).ok_or(Malformed)?;
        let (lines, content) = split(&whole[..end]).ok_or(Malformed)?;
        part(lines, content);
        rest = &whole[end + delimiter.len()..];
    }
}

/// Header lines, and what follows the empty line.
fn split(part: &[u8]) -> Option<(&[u8], &[u8])> {
    if let Some(content) = part.strip_prefix(b"\r\n") {
        return Some((b"", content));
    }
    let end = find(part, b"\r\n\r\n")?;
    Some((&part[..end], &part[end + 4..]))
}

/// Where a needle that begins with CR begins.
fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        from += bytes[from..].iter().position(|byte| *byte == b'\r')?;
        if bytes[from..].starts_with(needle) {
            return Some(from);
        }
        from += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(body: &str, boundary: &str) -> Result<Vec<(String, String)>, Malformed> {
        let mut parts = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        each_part(body.as_bytes(), boundary.as_bytes(), |lines, content| {
            parts.push((text(lines), text(content)));
        })?;
        Ok(parts)
    }

    #[test]
    fn parts_are_what_stands_between_delimiters() {
        let part = |lines: &str, content: &str| (lines.to_owned(), content.to_owned());
        for (body, expected) in [
            ("--b--", vec![]),
            ("--b--\r\n", vec![]),
            ("--b\r\nA: 1\r\n\r\nx\r\n--b--\r\n", vec![part("A: 1", "x")]),
            ("--b \t\r\n\r\n\r\n--b--", vec![part("", "")]),
            (
                "--b\r\nA: 1\r\nB: 2\r\n\r\n\r\n--x\r\n-b\r\n\r\n--b\r\n\r\ny\r\n--b--\r\n",
                vec![part("A: 1\r\nB: 2", "\r\n--x\r\n-b\r\n"), part("", "y")],
            ),
        ] {
            assert_eq!(parts(body, "b"), Ok(expected), "{body:?}");
        }
    }

    #[test]
    fn what_readers_disagree_about_is_malformed() {
        for body in [
            "",
            "{}",
            "--b",
            "--b-",
            "--c\r\n\r\nx\r\n--c--",
            "preamble\r\n--b\r\n\r\nx\r\n--b--",
            "\r\n--b\r\n\r\nx\r\n--b--",
            "--b\r\n\r\nx\r\n--b--\r\nepilogue",
            "--b\r\n\r\nx\r\n--b--x",
            "--b\r\n\r\nx\r\n--bc\r\n--b--",
            "--b\r\n\r\nx",
            "--b\r\n\r\nx\r\n--b",
            "--b\r\nA: 1\r\n--b--",
            "--b\n\nx\n--b--\n",
        ] {
            assert_eq!(parts(body, "b"), Err(Malformed), "{body:?}");
        }
    }
}
