//! Sample manifests of `examples/checks`, embedded for a binary without those files.

use std::{fs, io, path::Path};

#[cfg(test)]
mod tests;

/// File names and texts of the samples. The samples need only the loopback network: they check the status
/// page at 127.0.0.1:8080 and the name `localhost`, and one is down on purpose.
pub const SAMPLES: [(&str, &str); 4] = [
    ("down.yaml", include_str!("../../../examples/checks/down.yaml")),
    ("name.yaml", include_str!("../../../examples/checks/name.yaml")),
    ("port.yaml", include_str!("../../../examples/checks/port.yaml")),
    ("status-page.yaml", include_str!("../../../examples/checks/status-page.yaml")),
];

/// Address at which the samples expect the status page.
pub const SAMPLE_ADDRESS: &str = "127.0.0.1:8080";

/// Writes the samples into an existing folder, with the status page at `address` (`host:port`). Blocks.
///
/// # Errors
///
/// Error of the first file that cannot be written.
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
