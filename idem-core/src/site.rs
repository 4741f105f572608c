//! Where an annotated function stands, so that two of them never share a name by accident.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::Error;

type Place = (&'static str, u32, u32);

static NAMES: Mutex<Option<HashMap<&'static str, Place>>> = Mutex::new(None);

/// An operation whose name was derived from its module and function.
///
/// Two methods of one name on two types of one module would derive the same name, and
/// replay each other's outcomes. The second one to be called is refused instead.
#[derive(Debug)]
pub struct Site {
    name: &'static str,
    place: Place,
    checked: AtomicBool,
}

impl Site {
    /// A site with a derived name, at the place of the function.
    pub const fn new(name: &'static str, file: &'static str, line: u32, column: u32) -> Self {
        Self {
            name,
            place: (file, line, column),
            checked: AtomicBool::new(false),
        }
    }

    /// The operation's name.
    ///
    /// # Errors
    /// [`Error::NameTaken`] when another site uses it.
    pub fn name(&self) -> Result<&'static str, Error> {
        if self.checked.load(Ordering::Acquire) {
            return Ok(self.name);
        }
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get_or_insert_default().entry(self.name) {
            Entry::Occupied(other) if *other.get() != self.place => {
                let (file, line, column) = other.get();
                return Err(Error::NameTaken {
                    name: self.name,
                    other: format!("{file}:{line}:{column}"),
                });
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(entry) => {
                entry.insert(self.place);
            }
        }
        self.checked.store(true, Ordering::Release);
        Ok(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_name_belongs_to_one_place() {
        let first = Site::new("site::tests::create", "a.rs", 1, 1);
        let again = Site::new("site::tests::create", "a.rs", 1, 1);
        let other = Site::new("site::tests::create", "a.rs", 9, 1);
        assert!(first.name().is_ok());
        assert!(first.name().is_ok());
        assert!(again.name().is_ok());
        let error = other.name().unwrap_err().to_string();
        assert!(error.contains("a.rs:1:1") && error.contains("name = "));
    }
}
