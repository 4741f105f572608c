//! What follows the head of a record that is not finished: sections, each with a checksum of its own,
//! the first 8 hexadecimal digits of the SHA-1 of the rest of the section.
//!
//! | section | |
//! |---|---|
//! | the operation's name, first, and only where it is known | `n`, its length in 3 digits, the name |
//! | finished steps, as often as a checkpoint was taken | `s`, their length in 10 digits, their bytes, and the length of all steps so far in 10 digits |
//!
//! The scripts beside this file read and write the same. Whatever else a section is, a later version has
//! written it.

use bytes::{Bytes, BytesMut};
use idem_core::OperationName;

use super::digits::{SEAL_LEN, digits, number, seal};

const NAME_HEAD: usize = 4;
const STEPS_HEAD: usize = 11;
const TOTAL_LEN: usize = 10;

/// The end of a section of steps: the length of all steps so far, and the checksum.
pub(super) const STEPS_TAIL: usize = TOTAL_LEN + SEAL_LEN;

/// The longest section of a name.
pub(super) const MAX_NAME_SECTION: usize = NAME_HEAD + OperationName::MAX_BYTES + SEAL_LEN;

/// Writes the section of a name. Returns its length; 0 for a name that is not known.
pub(super) fn write_name(operation: &OperationName, into: &mut [u8]) -> usize {
    let name = operation.as_str().as_bytes();
    if name.is_empty() {
        return 0;
    }
    let end = NAME_HEAD + name.len();
    into[0] = b'n';
    digits(name.len() as u64, &mut into[1..NAME_HEAD]);
    into[NAME_HEAD..end].copy_from_slice(name);
    let seal = seal(&into[..end]);
    into[end..end + SEAL_LEN].copy_from_slice(&seal);
    end + SEAL_LEN
}

/// What the sections say.
#[derive(Debug)]
pub(super) struct Appendix {
    pub(super) operation: OperationName,
    pub(super) steps: Bytes,
}

impl Appendix {
    /// `None` where they are damaged, or a later version has written something else.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (operation, steps) = name(bytes)?;
        Some(Self {
            operation,
            steps: steps_of(steps)?,
        })
    }

    /// The name, of a beginning of the sections that has the whole name in it.
    pub(super) fn operation(bytes: &[u8]) -> OperationName {
        name(bytes).map_or(OperationName::UNKNOWN, |(operation, _)| operation)
    }
}

/// The name, and what follows its section.
fn name(bytes: &[u8]) -> Option<(OperationName, &[u8])> {
    let Some((b'n', rest)) = bytes.split_first() else {
        return Some((OperationName::UNKNOWN, bytes));
    };
    let length = number(rest.get(..NAME_HEAD - 1)?)?;
    let end = NAME_HEAD + usize::try_from(length).ok()?;
    let rest = sealed(bytes, end)?;
    let name = std::str::from_utf8(&bytes[NAME_HEAD..end]).ok()?;
    Some((OperationName::new(name), rest))
}

/// The steps of all sections, joined.
pub(super) fn steps_of(mut sections: &[u8]) -> Option<Bytes> {
    let mut steps = BytesMut::new();
    while let Some((tag, rest)) = sections.split_first() {
        if *tag != b's' {
            return None;
        }
        let length = usize::try_from(number(rest.get(..STEPS_HEAD - 1)?)?).ok()?;
        let end = STEPS_HEAD.checked_add(length)?;
        let rest = sealed(sections, end.checked_add(TOTAL_LEN)?)?;
        steps.extend_from_slice(&sections[STEPS_HEAD..end]);
        if number(&sections[end..end + TOTAL_LEN])? != steps.len() as u64 {
            return None;
        }
        sections = rest;
    }
    Some(steps.freeze())
}

/// What follows a section whose checksum begins at `end`, if that is right.
fn sealed(section: &[u8], end: usize) -> Option<&[u8]> {
    let (covered, rest) = section.split_at_checked(end)?;
    let (found, rest) = rest.split_first_chunk::<SEAL_LEN>()?;
    (*found == seal(covered)).then_some(rest)
}

/// How many bytes of steps there are, by the end of a record that has some.
pub(super) fn length_of_steps(tail: &[u8]) -> Option<usize> {
    let start = tail.len().checked_sub(STEPS_TAIL)?;
    usize::try_from(number(&tail[start..start + TOTAL_LEN])?).ok()
}

/// The length of the name's section.
pub(super) fn length_of_name(sections: &[u8]) -> usize {
    match name(sections) {
        Some((_, rest)) => sections.len() - rest.len(),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps_section(steps: &[u8], before: usize) -> Vec<u8> {
        let mut section = format!("s{:010}", steps.len()).into_bytes();
        section.extend_from_slice(steps);
        section.extend_from_slice(format!("{:010}", before + steps.len()).as_bytes());
        let seal = seal(&section);
        section.extend_from_slice(&seal);
        section
    }

    fn sections() -> Vec<u8> {
        let mut name = [0; MAX_NAME_SECTION];
        let length = write_name(&OperationName::new("charges.créate"), &mut name);
        [
            &name[..length],
            &steps_section(b"first;", 0),
            &steps_section(b"\0second\xff", 6),
        ]
        .concat()
    }

    #[test]
    fn sections_are_read_as_they_are_written() {
        let sections = sections();
        let appendix = Appendix::decode(&sections).unwrap();
        assert_eq!(appendix.operation.as_str(), "charges.créate");
        assert_eq!(appendix.steps, &b"first;\0second\xff"[..]);
        assert_eq!(length_of_steps(&sections), Some(14));
        let steps = &sections[length_of_name(&sections)..];
        assert_eq!(Appendix::decode(steps).unwrap().steps, appendix.steps);

        let nothing = Appendix::decode(b"").unwrap();
        assert_eq!(nothing.operation, OperationName::UNKNOWN);
        assert!(nothing.steps.is_empty());
        let longest = OperationName::new(&"x".repeat(500));
        let mut name = [0; MAX_NAME_SECTION];
        assert_eq!(write_name(&longest, &mut name), MAX_NAME_SECTION);
        assert_eq!(Appendix::decode(&name).unwrap().operation, longest);
    }

    #[test]
    fn damaged_sections_and_those_of_a_later_version_are_not_read() {
        let sections = sections();
        for at in 0..sections.len() {
            for bit in 0..8 {
                let mut damaged = sections.clone();
                damaged[at] ^= 1 << bit;
                assert!(Appendix::decode(&damaged).is_none(), "{at} {bit}");
            }
            // Cut between sections, it is one that has fewer.
            let cut = Appendix::decode(&sections[..at]);
            assert!(cut.is_none_or(|cut| cut.steps.len() < 14), "{at}");
        }
        for more in [&b"x"[..], b"x0000000000", b"n003abc12345678"] {
            assert!(Appendix::decode(&[&sections, more].concat()).is_none());
        }
        // A section that was lost, and one that is there twice.
        let (one, other) = (steps_section(b"one", 0), steps_section(b"other", 3));
        assert!(steps_of(&other).is_none());
        assert!(steps_of(&[&one[..], &one].concat()).is_none());
        assert!(steps_of(&[&one[..], &other].concat()).is_some());
    }
}
