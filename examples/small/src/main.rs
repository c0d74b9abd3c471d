//! Runs one of the examples: `cargo run -p small-examples -- minimal run --store memory`.

use std::{env, process::ExitCode, sync::Arc};

use bellwether::{
    app::App,
    k8s::{k8s_openapi::api::core::v1::ConfigMap, kube::core::ApiResource, prelude::*},
};
use small_examples::{dynamic_kind, minimal, outside, referenced_secret, two_controllers};
use tokio::sync::mpsc;

/// Results that wait to be read.
const WAITING: usize = 64;

fn main() -> ExitCode {
    let mut words: Vec<_> = env::args_os().collect();
    let example = if words.len() > 1 { words.remove(1) } else { String::new().into() };
    let add: fn(Operator) -> Operator = match example.to_str() {
        Some("minimal") => minimal::operator,
        Some("outside") => |operator| outside::operator(operator, Arc::default()),
        Some("referenced-secret") => referenced_secret::operator,
        Some("dynamic-kind") => {
            |operator| dynamic_kind::operator(operator, &ApiResource::erase::<ConfigMap>(&()))
        }
        Some("two-controllers") => |operator| {
            let (results, measured) = mpsc::channel(WAITING);
            let printed = |mut measured: mpsc::Receiver<two_controllers::Measured>| async move {
                while let Some((name, bytes)) = measured.recv().await {
                    println!("{name}: {bytes} bytes");
                }
            };
            let operator = two_controllers::operator(operator, results);
            operator.with_host(|host| host.task("results", move |_| printed(measured)))
        },
        _ => {
            eprintln!(
                "small-examples: name an example: minimal, outside, referenced-secret, dynamic-kind, two-controllers"
            );
            return ExitCode::from(2);
        }
    };
    let operator = move |operator, _: &_| add(operator);
    App::new("small-examples", env!("CARGO_PKG_VERSION")).operator(operator).main_with(words)
}
