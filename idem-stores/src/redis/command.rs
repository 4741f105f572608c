//! What is sent to a server: words, and how they are written. Knows nothing of connections.

use redis::Cmd;

/// A word of a command: its pieces, one after another. Pieces save the copy that would join them.
#[derive(Clone, Copy)]
pub(super) struct Word<'a>([&'a [u8]; 3]);

impl<'a> Word<'a> {
    pub(super) const fn joined(pieces: [&'a [u8]; 3]) -> Self {
        Self(pieces)
    }

    pub(super) const fn pieces(&self) -> [&'a [u8]; 3] {
        self.0
    }

    pub(super) fn to_vec(self) -> Vec<u8> {
        self.0.concat()
    }

    fn len(&self) -> usize {
        self.0.iter().map(|piece| piece.len()).sum()
    }
}

impl<'a> From<&'a [u8]> for Word<'a> {
    fn from(word: &'a [u8]) -> Self {
        Self([word, b"", b""])
    }
}

impl<'a> From<&'a str> for Word<'a> {
    fn from(word: &'a str) -> Self {
        word.as_bytes().into()
    }
}

/// A command that any connection can send.
pub(super) trait Command: Sync {
    /// Appends what the server reads.
    fn encode(&self, into: &mut Vec<u8>);

    /// The same for the driver.
    fn to_cmd(&self) -> Cmd;
}

impl Command for Cmd {
    fn encode(&self, into: &mut Vec<u8>) {
        self.write_packed_command(into);
    }

    fn to_cmd(&self) -> Cmd {
        self.clone()
    }
}

impl Command for [Word<'_>] {
    fn encode(&self, into: &mut Vec<u8>) {
        // A length line has two marks and at most twenty digits.
        let size: usize = self.iter().map(|word| word.len() + 26).sum();
        into.reserve(size + 24);
        line(b'*', self.len(), into);
        for word in self {
            line(b'$', word.len(), into);
            for piece in word.0 {
                into.extend_from_slice(piece);
            }
            into.extend_from_slice(b"\r\n");
        }
    }

    fn to_cmd(&self) -> Cmd {
        let size = self.iter().map(Word::len).sum();
        let mut command = Cmd::with_capacity(self.len(), size);
        let mut joined = Vec::new();
        for word in self {
            match word.0 {
                [only, b"", b""] => command.arg(only),
                pieces => {
                    joined.clear();
                    pieces
                        .iter()
                        .for_each(|piece| joined.extend_from_slice(piece));
                    command.arg(&joined)
                }
            };
        }
        command
    }
}

fn line(mark: u8, number: usize, into: &mut Vec<u8>) {
    into.push(mark);
    Number::new(number as u64)
        .as_bytes()
        .iter()
        .for_each(|digit| into.push(*digit));
    into.extend_from_slice(b"\r\n");
}

/// A number in decimal digits.
pub(super) struct Number {
    digits: [u8; 20],
    first: u8,
}

impl Number {
    pub(super) const fn new(mut number: u64) -> Self {
        let mut digits = [b'0'; 20];
        let mut first = 20;
        loop {
            first -= 1;
            digits[first as usize] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return Self { digits, first };
            }
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.digits[usize::from(self.first)..]
    }
}

#[cfg(test)]
mod tests {
    use redis::cmd;

    use super::*;

    #[test]
    fn words_are_written_as_the_driver_writes_them() {
        let outcome = [0_u8; 300];
        let number = Number::new(u64::MAX);
        let words: [Word<'_>; 5] = [
            "SET".into(),
            Word::joined([b"idem:", b"key", b""]),
            (&outcome[..]).into(),
            "".into(),
            number.as_bytes().into(),
        ];
        let mut expected = cmd("SET");
        expected
            .arg("idem:key")
            .arg(&outcome[..])
            .arg("")
            .arg(u64::MAX);
        let mut written = Vec::new();
        words[..].encode(&mut written);
        assert_eq!(written, expected.get_packed_command());
        assert_eq!(words[..].to_cmd().get_packed_command(), written);
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 9, 10, 1_234_567, u64::MAX] {
            assert_eq!(
                Number::new(number).as_bytes(),
                number.to_string().as_bytes()
            );
        }
    }
}
