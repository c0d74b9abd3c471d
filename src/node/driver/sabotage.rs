//! Lets a test of the built binary make a driver panic. Does nothing without the feature `mutants`, which
//! no released build has.

use std::path::PathBuf;

/// Environment variable that names a file: once the file exists, the driver of this process panics.
const PANIC_FILE_ENV: &str = "BELLWETHER_MUTANT_PANIC_FILE";

/// Panic that a test requests from a driver.
#[derive(Debug)]
pub(super) struct Sabotage {
    panic_file: Option<PathBuf>,
}

impl Sabotage {
    pub(super) fn from_env() -> Self {
        let wanted =
            if cfg!(feature = "mutants") { std::env::var_os(PANIC_FILE_ENV) } else { None };
        Self { panic_file: wanted.map(PathBuf::from) }
    }

    /// # Panics
    ///
    /// If a test requested the panic.
    pub(super) fn panic_if_asked(&self) {
        if let Some(file) = &self.panic_file {
            assert!(!file.exists(), "sabotaged by a test");
        }
    }
}
