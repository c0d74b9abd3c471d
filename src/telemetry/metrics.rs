//! The registry of a process and its text form.
//!
//! Every module creates its own metrics struct and registers it; this module has the shared parts.

use prometheus::{Encoder as _, GaugeVec, Opts, Registry, TextEncoder, core::Collector};

use super::{logs::dropped_lines, process::process};
use crate::metrics::Build;

/// Content type of `/metrics`: the text format, which every Prometheus reads.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Creates a registry with the metrics that every process exports: `bellwether_build_info`, dropped log
/// lines, and `process_*`.
///
/// # Errors
///
/// Never with these names; the error type is the registry's.
pub fn registry() -> prometheus::Result<Registry> {
    let registry = Registry::new();
    Build::register(&registry, base)?;
    Ok(registry)
}

/// Collectors that [`registry`] registers.
#[doc(hidden)]
pub fn base_collectors() -> Vec<Box<dyn Collector>> {
    Build::made_by(base).1
}

fn base(b: &Build) {
    let build = Opts::new("bellwether_build_info", "Always 1; the labels say what is running.");
    let build = b.add(GaugeVec::new(build, &["version", "commit"]));
    let commit = option_env!("BELLWETHER_COMMIT").unwrap_or("unknown");
    build.with_label_values(&[env!("CARGO_PKG_VERSION"), commit]).set(1.0);
    dropped_lines(b);
    process(b);
}

/// Encodes all metrics of the registry in the text format.
///
/// # Errors
///
/// If a collector returns a family that cannot be written.
pub fn encode(registry: &Registry) -> prometheus::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(16 * 1024);
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(text)
}
