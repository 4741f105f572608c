//! Where an annotated function stands, so that two of them never share a name by accident.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::Error;

type Place = (&'static str, u32, u32);

static NAMES: Mutex<Option<HashMap<&'static str, &'static Site>>> = Mutex::new(None);

/// An annotated function, and the name of its operation.
///
/// Two functions of one name would replay each other's outcomes: two methods of two types in one
/// module derive the same name, and a copied attribute brings its `name` along. The second one to
/// be called is refused instead.
///
/// A site is known by its address: functions that one `macro_rules!` call declares have one
/// place in the source as well.
#[derive(Debug)]
pub struct Site {
    name: &'static str,
    place: Place,
    checked: AtomicBool,
}

impl Site {
    /// A site with its name, at the place of the function.
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
    pub fn name(&'static self) -> Result<&'static str, Error> {
        if self.checked.load(Ordering::Acquire) {
            return Ok(self.name);
        }
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get_or_insert_default().entry(self.name) {
            Entry::Occupied(other) if !std::ptr::eq(*other.get(), self) => {
                let (file, line, column) = other.get().place;
                return Err(Error::NameTaken {
                    name: self.name,
                    other: format!("{file}:{line}:{column}"),
                });
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(entry) => {
                entry.insert(self);
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
    fn a_derived_name_belongs_to_one_function() {
        static FIRST: Site = Site::new("site::tests::create", "a.rs", 1, 1);
        static OTHER: Site = Site::new("site::tests::create", "a.rs", 9, 1);
        static OF_THE_SAME_MACRO: Site = Site::new("site::tests::create", "a.rs", 1, 1);
        assert!(FIRST.name().is_ok());
        assert!(FIRST.name().is_ok());
        for other in [&OTHER, &OF_THE_SAME_MACRO] {
            let error = other.name().unwrap_err().to_string();
            assert!(error.contains("a.rs:1:1") && error.contains("name = "));
        }
    }
}
