//! The program: `run`, `print crds|rbac|dashboards|alerts`, `status`, `check` and the other commands.

use std::process::ExitCode;

use bellwether::app::App;

fn main() -> ExitCode {
    App::new("website-operator", env!("CARGO_PKG_VERSION"))
        .crds(website_operator::definitions())
        .operator(|operator, _| website_operator::operator(operator))
        .main()
}
