//! The sample manifests of `examples/checks`, for a binary that stands alone.

use std::{fs, io, path::Path};

#[cfg(test)]
mod tests;

/// The samples: file name and text. They need no network but loopback: all but one look at a status page
/// on 127.0.0.1:8080 or at nothing outside, and one is down on purpose.
pub const SAMPLES: [(&str, &str); 4] = [
    ("down.yaml", include_str!("../../../examples/checks/down.yaml")),
    ("name.yaml", include_str!("../../../examples/checks/name.yaml")),
    ("port.yaml", include_str!("../../../examples/checks/port.yaml")),
    ("status-page.yaml", include_str!("../../../examples/checks/status-page.yaml")),
];

/// Where the samples expect the status page.
pub const SAMPLE_ADDRESS: &str = "127.0.0.1:8080";

/// Writes the samples into an existing folder, with the status page at `address` (`host:port`). Blocks.
///
/// # Errors
///
/// The first file that cannot be written.
pub fn write_samples(folder: &Path, address: &str) -> io::Result<()> {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "80"));
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    for (name, text) in SAMPLES {
        let text = text
            .replace(&format!("http://{SAMPLE_ADDRESS}/"), &format!("http://{address}/"))
            .replace(
                "host: 127.0.0.1\n      port: 8080\n",
                &format!("host: '{bare}'\n      port: {port}\n"),
            );
        fs::write(folder.join(name), text)?;
    }
    Ok(())
}
