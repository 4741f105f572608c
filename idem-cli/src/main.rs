//! The tool `idem`; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    idem_cli::main()
}
