//! The program: `run`, `print crds|rbac|dashboards|alerts`, `status`, `check` and the other commands.

use std::process::ExitCode;

use bellwether::{app::App, k8s::prelude::*};
use website_operator::Website;

fn main() -> ExitCode {
    App::new("website-operator", env!("CARGO_PKG_VERSION"))
        .crd(Website::crd())
        .operator(|operator, _| website_operator::operator(operator))
        .main()
}
