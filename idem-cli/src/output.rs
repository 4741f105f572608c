//! Standard output: tables for people, JSON for scripts.

use std::io::{self, BufWriter, Write};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::failure::Failure;

pub(crate) struct Output {
    json: bool,
    out: BufWriter<Box<dyn Write>>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            out: BufWriter::new(Box::new(io::stdout().lock())),
        }
    }

    /// For what is said beside the output, to people.
    pub(crate) fn to_stderr() -> Self {
        Self {
            json: false,
            out: BufWriter::new(Box::new(io::stderr())),
        }
    }

    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    /// One object, on one line.
    pub(crate) fn object(&mut self, object: &impl Serialize) -> Result<(), Failure> {
        let written = serde_json::to_writer(&mut self.out, object);
        written.map_err(io::Error::from)?;
        Ok(self.out.write_all(b"\n")?)
    }

    /// A line for people.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.out.write_all(printable(line).as_bytes())?;
        Ok(self.out.write_all(b"\n")?)
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.out.write_all(bytes)?)
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }
}

/// A line in which nothing controls the terminal: names and headers are an application's, and an
/// application's are its clients'.
pub(crate) fn printable(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    for c in line.chars() {
        match c.is_control() {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// The two largest units that are not zero: `3d 4h`, `12m 5s`, `80ms`.
pub(crate) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 0 {
        return match duration.subsec_millis() {
            0 => "0s".to_owned(),
            millis => format!("{millis}ms"),
        };
    }
    let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let first = units.iter().position(|(_, unit)| seconds >= *unit);
    let mut left = seconds;
    let mut parts = Vec::new();
    for (name, unit) in units.iter().skip(first.unwrap_or(units.len() - 1)).take(2) {
        if left / unit > 0 {
            parts.push(format!("{}{name}", left / unit));
        }
        left %= unit;
    }
    parts.join(" ")
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A time as RFC 3339 writes it. `None` for one past the year 9999.
pub(crate) fn timestamp(time: SystemTime) -> Option<String> {
    const END: u64 = 253_402_300_800;
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    (since.as_secs() < END).then(|| humantime::format_rfc3339_millis(time).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (millis, text) in [
            (0, "0s"),
            (80, "80ms"),
            (1999, "1s"),
            (60_000, "1m"),
            (725_000, "12m 5s"),
            (3_605_000, "1h"),
            (273_600_000, "3d 4h"),
        ] {
            assert_eq!(short(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn nothing_controls_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(printable("größe"), "größe");
    }

    #[test]
    fn a_time_that_has_no_form_is_none() {
        let year_9999 = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800);
        assert_eq!(timestamp(year_9999), None);
        let begin = SystemTime::UNIX_EPOCH;
        assert_eq!(
            timestamp(begin).as_deref(),
            Some("1970-01-01T00:00:00.000Z")
        );
    }
}
