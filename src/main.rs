//! The `bellwether` binary: parses the command line, composes parts of the library, prints.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
