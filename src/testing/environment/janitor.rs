//! Servers end with the test process, even if it is killed.

use std::{
    fs,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

/// A shell that outlives the test process. As soon as its standard input closes, which happens when this value
/// or the whole process is gone, the shell ends the servers of a folder (their process ids are in
/// `<folder>/<server>/pid`) and removes the folder.
#[derive(Debug)]
pub struct Janitor {
    /// Folder of the servers.
    pub folder: PathBuf,
    input: Option<ChildStdin>,
    shell: Child,
}

impl Janitor {
    /// Starts the shell for this folder.
    ///
    /// # Errors
    ///
    /// If `sh` cannot be started.
    pub fn start(folder: PathBuf) -> io::Result<Self> {
        const SCRIPT: &str = r#"trap '' INT TERM HUP
            cat >/dev/null
            for pid in "$1"/*/pid; do [ -e "$pid" ] && kill -9 "$(cat "$pid")"; done
            rm -rf "$1""#;
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT, "janitor"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let input = shell.stdin.take();
        Ok(Self { folder, input, shell })
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.shell.wait();
    }
}

/// The end of a server's log.
pub fn tail(log: &Path) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = fs::File::open(log) {
        let length = file.metadata().map_or(0, |meta| meta.len());
        let _ = file.seek(SeekFrom::Start(length.saturating_sub(4096)));
        let _ = file.read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}
