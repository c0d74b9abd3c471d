//! Digest that shows whether a folder still holds what was read from it.

use sha2::{Digest as _, Sha256};

use super::Problem;

/// Digest of the content of a folder.
pub(super) struct Digest(Sha256);

impl Digest {
    /// Starts a digest without files, from the problems that were found before reading them.
    pub(super) fn of(problems: &[Problem]) -> Self {
        let mut digest = Self(Sha256::new());
        for problem in problems {
            digest.part(&problem.to_string());
        }
        digest
    }

    pub(super) fn add(&mut self, name: &str, text: &Result<String, String>) {
        let (kind, text) = match text {
            Ok(text) => ("text", text),
            Err(message) => ("problem", message),
        };
        for part in [name, kind, text] {
            self.part(part);
        }
    }

    fn part(&mut self, part: &str) {
        self.0.update(part.len().to_le_bytes());
        self.0.update(part);
    }

    pub(super) fn ends(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}
