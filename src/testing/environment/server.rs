//! A server process, with its folder and its log.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{EnvironmentError, janitor::tail, unwritten};

/// A running server, killed when it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    name: &'static str,
    folder: PathBuf,
    child: Child,
}

impl Server {
    /// Starts a server with its log and its process id in a folder.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written or the program cannot be started.
    pub(super) fn start(
        name: &'static str,
        program: &Path,
        folder: &Path,
        flags: Vec<String>,
    ) -> Result<Self, EnvironmentError> {
        fs::create_dir_all(folder).map_err(|source| unwritten(folder, source))?;
        let path = folder.join("log");
        let log = fs::File::options().create(true).append(true).open(&path);
        let logs = log.and_then(|log| Ok((log.try_clone()?, log)));
        let (out, err) = logs.map_err(|source| unwritten(&path, source))?;
        let started =
            Command::new(program).args(flags).stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = started
            .map_err(|source| EnvironmentError::Start { program: program.to_owned(), source })?;
        // From here on the drop ends the process.
        let server = Self { name, folder: folder.to_owned(), child };
        let path = folder.join("pid");
        fs::write(&path, server.pid().to_string()).map_err(|source| unwritten(&path, source))?;
        Ok(server)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The error of a server that has ended by itself; `None` while it runs.
    pub(super) fn ended(&mut self) -> Option<EnvironmentError> {
        let status = match self.child.try_wait() {
            Ok(None) => return None,
            Ok(Some(status)) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let log = tail(&self.folder.join("log"));
        Some(EnvironmentError::Ended { program: self.name, status, log })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(self.folder.join("pid"));
    }
}
