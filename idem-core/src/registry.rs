//! Every annotated function of the program, known before `main` begins, so that no two of them
//! share an operation name.
//!
//! Each function adds its [`DeclaredOperation`] with a function that the linker puts among those
//! that run when the program is loaded. Where a platform has no such place (those that
//! [`__register_operation`](crate::__register_operation) does not list), a function is added by its first call, and the second
//! function of a name is the one that is refused.
//!
//! What runs before `main` takes an uncontended lock and sets two pointers: it allocates nothing,
//! and cannot panic.

use std::fmt;
use std::iter::successors;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The declaration that was added last; each knows the one before it.
static LAST: Mutex<Option<&'static DeclaredOperation>> = Mutex::new(None);

/// An annotated function, as its attribute declares it.
pub struct DeclaredOperation {
    name: &'static str,
    location: Location,
    /// The path of a type within the function's body. It tells functions of one place apart, which
    /// one `macro_rules!` call declares; its form is the compiler's, so it is never stored.
    path: fn() -> &'static str,
    is_called: AtomicBool,
    is_checked: AtomicBool,
    before: OnceLock<Option<&'static Self>>,
}

/// Where an annotated function stands in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The path of its module, which begins with the crate.
    pub module: &'static str,
    /// Its own name.
    pub function: &'static str,
    /// The file.
    pub file: &'static str,
    /// The line of its attribute, from 1.
    pub line: u32,
    /// The column of its attribute, from 1.
    pub column: u32,
}

impl Location {
    /// A library and a program may be compiled from one file.
    fn without_crate(self) -> Self {
        let module = self.module.split_once("::").map_or("", |(_, inner)| inner);
        Self { module, ..self }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { function, file, .. } = self;
        write!(f, "`{function}` at {file}:{}:{}", self.line, self.column)
    }
}

/// One operation name of two functions: their calls would share records, and get each other's
/// outcomes.
#[derive(Clone, Copy, Debug)]
pub struct NameTaken {
    functions: [&'static DeclaredOperation; 2],
}

impl NameTaken {
    /// The name.
    pub const fn name(&self) -> &'static str {
        self.functions[0].name
    }

    /// Where the two functions are.
    pub const fn locations(&self) -> [Location; 2] {
        let [first, second] = self.functions;
        [first.location, second.location]
    }
}

impl fmt::Display for NameTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, [first, second]) = (self.name(), self.locations());
        write!(
            f,
            "the operation name {name} belongs to {first} and to {second}; give each a name = \"…\" of its own"
        )
    }
}

impl std::error::Error for NameTaken {}

/// Every name that two functions of this program have: once for each function beside the first.
pub(crate) fn names_taken() -> Vec<NameTaken> {
    let mut declared: Vec<_> = declared().collect();
    declared.sort_unstable_by_key(|it| {
        (
            it.name,
            it.location.file,
            it.location.line,
            it.location.column,
        )
    });
    let of_one_name = declared.chunk_by(|one, other| one.name == other.name);
    let of_one_name = of_one_name.filter_map(<[_]>::split_first);
    let taken = of_one_name.flat_map(|(first, others)| {
        let others = others.iter().filter(|other| !first.may_be_copy_of(other));
        others.map(|other| NameTaken {
            functions: [first, other],
        })
    });
    taken.collect()
}

/// All that were added, the last one first.
fn declared() -> impl Iterator<Item = &'static DeclaredOperation> {
    let last = *LAST.lock().unwrap_or_else(PoisonError::into_inner);
    successors(last, |declared| declared.before.get().copied().flatten())
}

impl DeclaredOperation {
    /// What the attribute says of a function, and the path of a type within it.
    pub const fn new(name: &'static str, location: Location, path: fn() -> &'static str) -> Self {
        Self {
            name,
            location,
            path,
            is_called: AtomicBool::new(false),
            is_checked: AtomicBool::new(false),
            before: OnceLock::new(),
        }
    }

    /// Adds it to all. Once is enough, and more is no harm.
    pub fn register(&'static self) {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if self.before.set(*last).is_ok() {
            *last = Some(self);
        }
    }

    /// The operation's name, for a call of the function.
    ///
    /// # Errors
    /// When another function has it too.
    pub fn name(&'static self) -> Result<&'static str, NameTaken> {
        if self.is_checked.load(Ordering::Acquire) {
            return Ok(self.name);
        }
        self.register();
        self.is_called.store(true, Ordering::SeqCst);
        let other = declared().find(|other| {
            // What an attribute has copied to check it is never called.
            let is_copy = || !other.is_called.load(Ordering::SeqCst) && self.may_be_copy_of(other);
            other.name == self.name && !self.is(other) && !is_copy()
        });
        if let Some(other) = other {
            return Err(NameTaken {
                functions: [self, other],
            });
        }
        self.is_checked.store(true, Ordering::Release);
        Ok(self.name)
    }

    /// The same function, also where it was compiled for two crates.
    fn is(&self, other: &Self) -> bool {
        ptr::eq(self, other) || self.is_at_place_of(other) && self.parent() == other.parent()
    }

    /// Whether an attribute over this one may have written the same function twice, once within
    /// another item, as `#[debug_handler]` does.
    fn may_be_copy_of(&self, other: &Self) -> bool {
        let encloses = |outer: &str, inner: &str| {
            let within = inner.strip_prefix(outer);
            within.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        self.is_at_place_of(other) && {
            let (one, other) = (self.parent(), other.parent());
            encloses(&one, &other) || encloses(&other, &one)
        }
    }

    fn is_at_place_of(&self, other: &Self) -> bool {
        self.location.without_crate() == other.location.without_crate()
    }

    /// The path of the item around the function, without the crate.
    fn parent(&self) -> String {
        let Location {
            module, function, ..
        } = self.location;
        let of_crate = module.split("::").next().unwrap_or(module);
        let path = (self.path)().replace("r#", "");
        let path = path.replace(&format!("{of_crate}::"), "::");
        let end = path.rfind(&format!("::{function}::"));
        end.map_or(&*path, |end| &path[..end]).to_owned()
    }
}

impl fmt::Debug for DeclaredOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeclaredOperation")
            .field("name", &self.name)
            .field("location", &self.location)
            .finish_non_exhaustive()
    }
}

/// Has a static [`DeclaredOperation`] added when the program is loaded.
///
/// The sections are where each platform's loader looks for functions to call before `main`. A
/// platform that is not listed calls none, and the first call of a function adds it.
#[doc(hidden)]
#[macro_export]
macro_rules! __register_operation {
    ($operation:ident) => {
        const _: () = {
            extern "C" fn register() {
                $operation.register();
            }

            #[used]
            #[cfg_attr(
                any(
                    target_family = "wasm",
                    all(
                        target_family = "unix",
                        not(any(target_vendor = "apple", target_os = "aix"))
                    )
                ),
                unsafe(link_section = ".init_array")
            )]
            #[cfg_attr(
                target_vendor = "apple",
                unsafe(link_section = "__DATA,__mod_init_func,mod_init_funcs")
            )]
            #[cfg_attr(target_os = "windows", unsafe(link_section = ".CRT$XCU"))]
            static REGISTER: extern "C" fn() = register;
        };
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(function: &'static str, line: u32) -> Location {
        Location {
            module: "shop::api",
            function,
            file: "src/api.rs",
            line,
            column: 1,
        }
    }

    /// A function of this name, place and path that is added without the linker's help.
    macro_rules! declared {
        ($name:literal, $location:expr, $path:literal) => {{
            static DECLARED: DeclaredOperation =
                DeclaredOperation::new($name, $location, || concat!($path, "::Here"));
            DECLARED.register();
            DECLARED.register();
            &DECLARED
        }};
    }

    #[test]
    fn a_name_belongs_to_one_function_whichever_is_called_first() {
        let charges = declared!("r::two", at("create", 1), "shop::api::Charges::create");
        let refunds = declared!("r::two", at("create", 9), "shop::api::Refunds::create");
        for function in [charges, refunds] {
            let error = function.name().unwrap_err().to_string();
            let says = ["r::two", "api.rs:1:1", "api.rs:9:1", "name = "];
            assert!(says.iter().all(|it| error.contains(it)), "{error}");
        }
    }

    #[test]
    fn functions_that_one_macro_call_declares_are_two() {
        let cards = declared!("r::macro", at("pay", 5), "shop::api::Cards::pay");
        let transfers = declared!("r::macro", at("pay", 5), "<shop::api::Transfers as T>::pay");
        assert!(cards.name().is_err() && transfers.name().is_err());
        let taken = names_taken();
        let of_macro = taken.iter().filter(|it| it.name() == "r::macro");
        assert_eq!(of_macro.count(), 1);
    }

    #[test]
    fn a_function_that_an_attribute_has_copied_is_one() {
        let written = declared!("r::copy", at("type", 3), "shop::api::r#type::{{closure}}");
        let copy = declared!(
            "r::copy",
            at("type", 3),
            "shop::api::check::type::{{closure}}"
        );
        assert!(written.may_be_copy_of(copy) && !written.is(copy));
        assert!(!names_taken().iter().any(|it| it.name() == "r::copy"));
        assert_eq!(written.name().unwrap(), "r::copy");
    }

    #[test]
    fn a_copy_that_is_called_is_another_function() {
        let free = declared!("r::called", at("pay", 7), "shop::api::pay");
        let associated = declared!("r::called", at("pay", 7), "shop::api::Cards::pay");
        assert!(associated.name().is_ok());
        assert!(free.name().is_err());
    }

    #[test]
    fn a_file_that_two_crates_are_made_of_declares_one_function() {
        const IN_PROGRAM: Location = Location {
            module: "server::api",
            ..at("create", 2)
        };
        let library = declared!("r::crates", at("create", 2), "shop::api::create");
        let program = declared!("r::crates", IN_PROGRAM, "server::api::create");
        assert!(library.name().is_ok() && program.name().is_ok());
        assert!(!names_taken().iter().any(|it| it.name() == "r::crates"));
    }
}
