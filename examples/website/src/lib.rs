//! The operator: its resources, and the controllers that bring them to the state in their specs.

use bellwether::k8s::{crd::CustomResourceDefinition, prelude::*};

pub mod website;
// --add-kind: modules

/// Definitions of the custom resources, for `print crds` and for tests.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![
        website::Website::crd(),
        // --add-kind: definitions
    ]
}

/// Adds all controllers to an operator.
pub fn operator(operator: Operator) -> Operator {
    operator
        // --add-kind: controllers
        .with(website::controllers)
}
