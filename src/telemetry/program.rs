//! Name and version of this program, as its metrics, events, field managers and user agent show them.

use std::sync::OnceLock;

/// Name and version of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Name in lower case, like `shop`.
    pub name: &'static str,
    /// Version of the program, like `1.2.0`.
    pub version: &'static str,
}

/// The program of a process that has set none.
const BELLWETHER: Program = Program { name: "bellwether", version: env!("CARGO_PKG_VERSION") };

static PROGRAM: OnceLock<Program> = OnceLock::new();

/// Sets the name and version of this program. The first call counts. The call must come before the first registry
/// and the first operator.
pub fn set(program: Program) {
    let _ = PROGRAM.set(program);
}

/// Name and version of this program: `bellwether` and the version of the library, unless [`set`] was
/// called.
pub fn program() -> Program {
    *PROGRAM.get().unwrap_or(&BELLWETHER)
}
