//! Reads a folder.

use serde::{Deserialize, Serialize};

/// What could not be read, and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// Line.
    pub line: Option<u64>,
    /// Field.
    pub field: Option<String>,
    /// Message.
    pub message: String,
}
