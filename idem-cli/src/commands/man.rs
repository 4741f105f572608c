//! `idem man`: the manual pages.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Command};

use crate::failure::Failure;
use crate::output::Output;

#[derive(Args, Debug)]
pub(crate) struct Man {
    /// Where the pages of all subcommands are written: idem.1, idem-get.1, … Without it, idem.1 is
    /// written to standard output.
    directory: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(&self, tool: Command, output: &mut Output) -> Result<(), Failure> {
        let Some(directory) = &self.directory else {
            let mut page = Vec::new();
            clap_mangen::Man::new(tool).render(&mut page)?;
            return output.bytes(&page);
        };
        let written =
            fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(tool, directory));
        written.map_err(|error| {
            Failure::usage(format!(
                "{} cannot be written: {error}",
                directory.display()
            ))
        })
    }
}
