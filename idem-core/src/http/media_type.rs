//! Media types, as far as two spellings of one are to be told from two types (RFC 9110 §8.3.1).

use std::borrow::Cow;

/// The longest boundary (RFC 2046 §5.1.1).
const LONGEST_BOUNDARY: usize = 70;

/// A media type with its parameters, each name once.
struct MediaType {
    /// Type and subtype, in lower case.
    essence: String,
    parameters: Vec<(String, Vec<u8>)>,
}

/// The one spelling of a `Content-Type`: type and parameter names in lower case, parameters in order,
/// and none that says `charset=utf-8`. What is no media type stays as it is.
pub(super) fn normal(line: &[u8]) -> Cow<'_, [u8]> {
    let is_normal =
        |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'+' | b'.');
    if line.iter().all(is_normal) {
        return Cow::Borrowed(line);
    }
    match MediaType::parse(line) {
        Some(parsed) => Cow::Owned(parsed.written()),
        None => Cow::Borrowed(line),
    }
}

/// The spelling of a multipart type without its boundary, and the boundary.
pub(super) fn multipart(line: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let prefix = line.trim_ascii_start().get(..b"multipart/".len())?;
    if !prefix.eq_ignore_ascii_case(b"multipart/") {
        return None;
    }
    let mut parsed = MediaType::parse(line)?;
    let names = &mut parsed.parameters;
    let at = names.iter().position(|(name, _)| name == "boundary")?;
    let (_, boundary) = names.remove(at);
    (1..=LONGEST_BOUNDARY)
        .contains(&boundary.len())
        .then(|| (parsed.written(), boundary))
}

impl MediaType {
    fn parse(line: &[u8]) -> Option<Self> {
        let line = line.trim_ascii();
        let end = line.iter().position(|byte| *byte == b';');
        let (essence, mut rest) = line.split_at(end.unwrap_or(line.len()));
        let essence = essence.trim_ascii_end();
        let slash = essence.iter().position(|byte| *byte == b'/')?;
        token(&essence[..slash])?;
        token(&essence[slash + 1..])?;
        let mut parameters: Vec<(String, Vec<u8>)> = Vec::new();
        while let [b';', after @ ..] = rest {
            rest = after.trim_ascii_start();
            if matches!(rest, [] | [b';', ..]) {
                continue;
            }
            let equals = rest.iter().position(|byte| *byte == b'=')?;
            let name = token(&rest[..equals])?;
            let (value, after) = value(&rest[equals + 1..])?;
            rest = after.trim_ascii_start();
            if parameters.iter().any(|(known, _)| *known == name) {
                // Which one counts depends on who reads it.
                return None;
            }
            parameters.push((name, value));
        }
        if !rest.is_empty() {
            return None;
        }
        parameters
            .retain(|(name, value)| !(name == "charset" && value.eq_ignore_ascii_case(b"utf-8")));
        parameters.sort_unstable();
        let essence = token(&essence[..slash])? + "/" + &token(&essence[slash + 1..])?;
        Some(Self {
            essence,
            parameters,
        })
    }

    fn written(&self) -> Vec<u8> {
        let mut written = self.essence.clone().into_bytes();
        for (name, value) in &self.parameters {
            written.extend_from_slice(b"; ");
            written.extend_from_slice(name.as_bytes());
            written.push(b'=');
            if !value.is_empty() && value.iter().all(is_token) {
                match name.as_str() {
                    "charset" => written.extend(value.to_ascii_lowercase()),
                    _ => written.extend_from_slice(value),
                }
                continue;
            }
            written.push(b'"');
            for byte in value {
                if matches!(byte, b'"' | b'\\') {
                    written.push(b'\\');
                }
                written.push(*byte);
            }
            written.push(b'"');
        }
        written
    }
}

/// A token, in lower case.
fn token(bytes: &[u8]) -> Option<String> {
    let is_one = !bytes.is_empty() && bytes.iter().all(is_token);
    let text = is_one.then(|| std::str::from_utf8(bytes).ok()).flatten()?;
    Some(text.to_ascii_lowercase())
}

const fn is_token(byte: &u8) -> bool {
    matches!(
        byte,
        b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`'
            | b'|' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z'
    )
}

/// A parameter's value, without the quotes that it may have, and what follows it.
fn value(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let [b'"', quoted @ ..] = bytes else {
        let end = bytes.iter().position(|byte| !is_token(byte));
        let (value, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        return (!value.is_empty()).then(|| (value.to_vec(), rest));
    };
    let mut value = Vec::new();
    let mut rest = quoted;
    loop {
        match rest {
            [b'"', after @ ..] => return Some((value, after)),
            [b'\\', byte, after @ ..] | [byte, after @ ..] if *byte != b'\\' || rest.len() > 1 => {
                value.push(*byte);
                rest = after;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_spellings_of_a_type_are_one() {
        for (line, expected) in [
            ("application/json", "application/json"),
            ("application/json; charset=utf-8", "application/json"),
            ("application/json;charset=UTF-8", "application/json"),
            ("Application/JSON ; Charset=\"utf-8\"", "application/json"),
            ("application/json;", "application/json"),
            (
                "text/plain; charset=ISO-8859-1",
                "text/plain; charset=iso-8859-1",
            ),
            ("a/b;y=2;x=1", "a/b; x=1; y=2"),
            ("a/b; x=1; y=2", "a/b; x=1; y=2"),
            ("a/b; x=\"1\"", "a/b; x=1"),
            ("a/b; x=\"a b\"", "a/b; x=\"a b\""),
            ("a/b; x=\"a\\\"b\\\\\"", "a/b; x=\"a\\\"b\\\\\""),
            ("a/b; x=\"\"", "a/b; x=\"\""),
            ("a/b; x=A", "a/b; x=A"),
            // No media types: as they are.
            ("", ""),
            ("json; charset=utf-8", "json; charset=utf-8"),
            (
                "a/b; charset=utf-8; charset=x",
                "a/b; charset=utf-8; charset=x",
            ),
            ("a/b; x", "a/b; x"),
            ("a/b; x=", "a/b; x="),
            ("a/b; x=\"open", "a/b; x=\"open"),
            ("a/b; x=\"open\\", "a/b; x=\"open\\"),
            ("a/b; x=1 y=2", "a/b; x=1 y=2"),
            ("a/b, c/d", "a/b, c/d"),
        ] {
            let normal = normal(line.as_bytes());
            assert_eq!(std::str::from_utf8(&normal).unwrap(), expected, "{line}");
            let again = super::normal(&normal).into_owned();
            assert_eq!(again, &*normal, "{line}");
        }
    }

    #[test]
    fn a_boundary_is_known_by_its_name() {
        let parsed = |line: &str| {
            let (rest, boundary) = multipart(line.as_bytes())?;
            let text = |bytes| String::from_utf8(bytes).unwrap();
            Some((text(rest), text(boundary)))
        };
        let of = |rest: &str, boundary: &str| Some((rest.to_owned(), boundary.to_owned()));
        let form = "multipart/form-data";
        assert_eq!(parsed("multipart/form-data; boundary=aB"), of(form, "aB"));
        assert_eq!(
            parsed("Multipart/Form-Data;Boundary=\"a b\""),
            of(form, "a b")
        );
        assert_eq!(
            parsed("multipart/related; boundary=x; type=\"text/xml\""),
            of("multipart/related; type=\"text/xml\"", "x")
        );
        for line in [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"\"",
            "multipart/form-data; boundary=a; boundary=b",
            "application/json; boundary=a",
        ] {
            assert_eq!(parsed(line), None, "{line}");
        }
        let long = format!("multipart/form-data; boundary={}", "b".repeat(71));
        assert_eq!(parsed(&long), None);
    }
}
