//! Headless Chromium: one run, one page.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::Command;

/// Options of a browser without a screen and without network services of its own.
pub(crate) const OPTIONS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--lang=en-GB",
];

/// Window size and colour scheme of the browser.
pub(crate) struct Look {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) dark: bool,
}

pub(crate) const DESKTOP: Look = Look { width: 1280, height: 1900, dark: false };

/// Text of the document once the browser has loaded it.
pub(crate) async fn dom(url: &str) -> String {
    let out = run(&["--dump-dom"], &DESKTOP, url).await;
    String::from_utf8(out).unwrap()
}

/// Writes a screenshot of the page to `file`.
pub(crate) async fn screenshot(url: &str, look: &Look, file: &Path) {
    run(&["--hide-scrollbars", &format!("--screenshot={}", file.display())], look, url).await;
}

async fn run(options: &[&str], look: &Look, url: &str) -> Vec<u8> {
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new(program());
    command
        .args(OPTIONS)
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--window-size={},{}", look.width, look.height))
        .args(options);
    if look.dark {
        command.arg("--blink-settings=preferredColorScheme=0");
    } else {
        command.arg("--blink-settings=preferredColorScheme=1");
    }
    let child = command
        .arg(url)
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("chromium runs");
    let out = tokio::time::timeout(Duration::from_secs(90), child.wait_with_output())
        .await
        .expect("chromium ends within 90 s")
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// Path of the browser, which is installed under one of several names.
pub(crate) fn program() -> PathBuf {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name)));
    all.find(|file| file.is_file())
        .expect("no chromium on the PATH: run `tests/tools/need.sh chromium`")
}
