//! The `bellwether` binary: parses, composes, prints. What it composes is the library.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
