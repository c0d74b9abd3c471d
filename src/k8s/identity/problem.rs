//! Problems of a pod's identity, and the manifest lines that fix them.

use std::{error::Error, fmt};

use super::var;

/// A problem with one or two variables.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// The variable is not set, or empty.
    Missing {
        /// Name of the variable.
        variable: &'static str,
    },
    /// The variable has an invalid value.
    Invalid {
        /// Name of the variable.
        variable: &'static str,
        /// Value of the variable.
        value: String,
        /// Description of a valid value.
        wanted: &'static str,
    },
    /// Two variables contradict each other.
    Contradiction {
        /// Name and value of a variable.
        one: (&'static str, String),
        /// Name and value of the other variable.
        other: (&'static str, String),
    },
}

impl Problem {
    /// The variables that the problem concerns.
    pub fn variables(&self) -> Vec<&'static str> {
        match self {
            Self::Missing { variable } | Self::Invalid { variable, .. } => vec![variable],
            Self::Contradiction { one, other } => vec![one.0, other.0],
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { variable } if *variable == var::IP => {
                write!(f, "neither POD_IP nor POD_IPS is set")
            }
            Self::Missing { variable } => write!(f, "{variable} is not set"),
            Self::Invalid { variable, value, wanted } => {
                write!(f, "{variable} is {value:?}, not {wanted}")
            }
            Self::Contradiction { one, other } => {
                write!(f, "{} {:?} contradicts {} {:?}", one.0, one.1, other.0, other.1)
            }
        }
    }
}

/// All problems of a pod's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityError {
    problems: Vec<Problem>,
}

impl IdentityError {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self { problems }
    }

    /// The problems, in the order of the variables; at least one.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Lines for the container's manifest that fix the problems.
    pub fn manifest(&self) -> String {
        let mut lines = String::from("env:\n");
        let mut told = Vec::new();
        for variable in self.problems.iter().flat_map(Problem::variables) {
            if !told.contains(&variable) {
                told.push(variable);
                lines += &entry(variable);
            }
        }
        lines
    }
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot tell which pod this is: ")?;
        for (at, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if at == 0 { "" } else { "; " })?;
        }
        write!(f, ". In the container's manifest:\n{}", self.manifest().trim_end())
    }
}

impl Error for IdentityError {}

/// Entry of a container's `env` that sets the variable.
fn entry(variable: &str) -> String {
    let path = match variable {
        var::NAME => "metadata.name",
        var::NAMESPACE => "metadata.namespace",
        var::UID => "metadata.uid",
        var::IP => "status.podIP",
        var::IPS => "status.podIPs",
        var::NODE => "spec.nodeName",
        var::INDEX => "metadata.labels['apps.kubernetes.io/pod-index']",
        var::ID_FROM => {
            return format!(
                "- name: {variable}\n  value: uid  # or index, or name, in a StatefulSet\n"
            );
        }
        _ => return format!("- name: {variable}\n  value: \"8080\"\n"),
    };
    format!("- name: {variable}\n  valueFrom:\n    fieldRef:\n      fieldPath: {path}\n")
}
