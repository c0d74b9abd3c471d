//! Checks from a folder of YAML files, read again when something changes there.
//!
//! Every `*.yaml` and `*.yml` file of the folder itself is read (not of folders below, nor hidden files); a
//! file may hold several documents, and a document a list of them, as `kubectl get -o yaml` prints it.
//! Documents of other kinds are skipped and counted. Malformed documents are reported with file, line and
//! field, and the rest is read.
//!
//! # Guarantees
//!
//! * A check never stops because its file is being edited: while a file holds something malformed or cannot
//!   be read, its checks that are missing from it now are kept as last read. They are removed when the file
//!   is well formed without them, or is deleted.
//! * If two checks have the same name, the first one of the first file, by file name, is used; the other is
//!   reported as a problem.
//! * No content of a folder makes this use unbounded memory or panic.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::digest::Digest;
use super::check::{Check, CheckKey, Checks};

mod digest;
mod document;
mod shape;
mod yaml;

#[cfg(test)]
mod tests;

/// Maximum size of a file; larger files are not read.
const MOST_FILE_BYTES: u64 = 1 << 20;
/// Maximum number of files, by name; further files are not read.
const MOST_FILES: usize = 1000;
/// Maximum number of checks; further checks are left out.
const MOST_CHECKS: usize = 10_000;
/// Maximum number of problems in the list; further problems are only counted.
const MOST_PROBLEMS: usize = 200;
/// Maximum number of skipped documents in the list; further ones are only counted.
const MOST_SKIPPED: usize = 200;

/// How long the folder must be unchanged before it is read: editors write in several steps.
const QUIET_AFTER: Duration = Duration::from_millis(100);
/// After this many changes the folder is read even if it still changes.
const MOST_UNQUIET: usize = 10;
/// How often the folder is read without a change event: not every file system reports changes.
const RESCAN_EVERY: Duration = Duration::from_secs(10);

/// A problem in a manifest, and its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// Name of the file in its folder; the folder itself if that cannot be read.
    pub file: String,
    /// Line in the file, counted from one; `None` if no line can be named.
    pub line: Option<u64>,
    /// Path of the field, like `spec.expect.status[1]`; `None` if no field can be named.
    pub field: Option<String>,
    /// Text that states the problem and its remedy.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file)?;
        self.line.iter().try_for_each(|line| write!(f, ":{line}"))?;
        self.field.iter().try_for_each(|field| write!(f, ": {field}"))?;
        write!(f, ": {}", self.message)
    }
}

/// A document of another kind than a check, which was skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Name of the file in its folder.
    pub file: String,
    /// Line at which the document begins.
    pub line: u64,
    /// Kind of the skipped document.
    pub kind: String,
}

/// Error of a folder that cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder does not exist, or this user may not read it.
    #[error("cannot read the folder of checks `{}`: name one that exists and that this user may read", .folder.display())]
    Unreadable {
        /// Folder that was to be read.
        folder: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
}

/// A folder of manifests that is watched for changes.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    memory: Memory,
    checks: watch::Sender<Arc<Checks>>,
}

impl Folder {
    /// Reads the folder for the first time. [`run`](Self::run) publishes later versions to the receiver.
    ///
    /// # Errors
    ///
    /// [`FolderError`] if the folder cannot be read. Problems inside the folder are listed in
    /// [`Checks::problems`].
    pub async fn open(
        path: impl Into<PathBuf>,
    ) -> Result<(Self, watch::Receiver<Arc<Checks>>), FolderError> {
        let path = path.into();
        let unreadable = |source| FolderError::Unreadable { folder: path.clone(), source };
        let memory = Memory::default();
        let (memory, read) = blocking(&path, memory).await;
        let checks = read.map_err(unreadable)?;
        tell(&checks);
        let (sender, receiver) = watch::channel(Arc::new(checks));
        Ok((Self { path, memory, checks: sender }, receiver))
    }

    /// Reads the folder whenever something changes there, until it is cancelled.
    ///
    /// # Cancel safety
    ///
    /// Published checks stay; a dropped future publishes nothing more.
    pub async fn run(mut self, cancel: CancellationToken) {
        // Capacity 1: one queued note stands for any number of changes.
        let (heard, mut changes) = mpsc::channel(1);
        let mut watcher = None;
        while !cancel.is_cancelled() {
            if watcher.is_none() {
                watcher = listen(&self.path, heard.clone());
                // The watcher does not report changes from before it started, so the folder is read again.
                if watcher.is_some() && !self.read().await {
                    watcher = None;
                }
            }
            tokio::select! {
                biased;
                // Cancel safe: a token keeps no state per waiter.
                () = cancel.cancelled() => return,
                // Cancel safe: a note that was not taken stays in the channel.
                () = quiet_after_a_change(&mut changes) => {}
                // Cancel safe: a timer.
                () = tokio::time::sleep(RESCAN_EVERY) => {}
            }
            if !self.read().await {
                // Another folder of the same name may have replaced the folder that is watched.
                watcher = None;
            }
        }
    }

    /// Reads the folder once and publishes changes. Returns whether the folder could be read.
    async fn read(&mut self) -> bool {
        let memory = std::mem::take(&mut self.memory);
        let (memory, read) = blocking(&self.path, memory).await;
        self.memory = memory;
        let is_readable = read.is_ok();
        let checks = read.unwrap_or_else(|error| self.as_before(&error));
        self.checks.send_if_modified(|published| {
            let is_new = **published != checks;
            if is_new {
                tell(&checks);
                *published = Arc::new(checks);
            }
            is_new
        });
        is_readable
    }

    /// Returns the checks as last read, with the problem that the folder cannot be read.
    fn as_before(&self, error: &io::Error) -> Checks {
        let checks = self.checks.borrow().checks.clone();
        let problem = Problem {
            file: self.path.display().to_string(),
            line: None,
            field: None,
            message: format!(
                "the folder cannot be read ({error}): its checks are still run as they were"
            ),
        };
        Checks { checks, problems: vec![problem], ..Checks::default() }
    }
}

/// Logs the problems and what was skipped.
fn tell(checks: &Checks) {
    for problem in &checks.problems {
        tracing::warn!(%problem, "manifest cannot be used");
    }
    for Skipped { file, line, kind } in &checks.skipped {
        tracing::debug!(file, line, kind, "document is not an uptime check, skipped");
    }
    for file in &checks.without_checks {
        tracing::info!(file, "file holds no uptime check");
    }
    tracing::info!(
        checks = checks.checks.len(),
        problems = checks.problems.len(),
        passed_over = checks.passed_over,
        "checks read"
    );
}

async fn blocking(path: &Path, memory: Memory) -> (Memory, io::Result<Checks>) {
    let path = path.to_owned();
    let read = move || {
        let mut memory = memory;
        let checks = read_folder(&path, &mut memory);
        (memory, checks)
    };
    match tokio::task::spawn_blocking(read).await {
        Ok(read) => read,
        // Happens only if the runtime shuts down, or on a panic, which would be a bug of ours.
        Err(error) => (Memory::default(), Err(io::Error::other(error))),
    }
}

/// Watches the folder for changes, if the operating system can report them.
fn listen(path: &Path, heard: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let note = move |event: notify::Result<notify::Event>| {
        // Our own reads cause access events, so those are ignored. An error event may hide a change, so it
        // counts.
        if event.is_ok_and(|event| event.kind.is_access()) {
            return;
        }
        // A full channel holds a note of a change already.
        let _ = heard.try_send(());
    };
    let listening = notify::recommended_watcher(note)
        .and_then(|mut watcher| watcher.watch(path, RecursiveMode::NonRecursive).map(|()| watcher));
    match listening {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::debug!(%error, rescan_every = ?RESCAN_EVERY, "folder cannot be watched, only read again");
            None
        }
    }
}

/// Returns after a change, once nothing has changed for a while.
async fn quiet_after_a_change(changes: &mut mpsc::Receiver<()>) {
    if changes.recv().await.is_none() {
        // No watcher: the other arm of the select reads the folder periodically.
        std::future::pending::<()>().await;
    }
    for _ in 0..MOST_UNQUIET {
        if tokio::time::timeout(QUIET_AFTER, changes.recv()).await.is_err() {
            return;
        }
    }
}

/// Checks as they were last read without an error: by file, by key.
#[derive(Debug, Default)]
struct Memory {
    files: BTreeMap<String, BTreeMap<CheckKey, Arc<Check>>>,
    /// Digest of the whole folder when it was last read, and the checks that were read from it.
    last: Option<([u8; 32], Checks)>,
}

/// Reads the folder. `memory` carries the checks of malformed files from one read to the next.
fn read_folder(path: &Path, memory: &mut Memory) -> io::Result<Checks> {
    let mut reading = Reading::default();
    let names = file_names(path, &mut reading)?;
    memory.files.retain(|name, _| names.contains(name));
    let mut seen = Digest::of(&reading.problems);
    for name in &names {
        seen.add(name, &read_file(&path.join(name)));
    }
    let seen = seen.ends();
    if let Some((last, checks)) = &memory.last
        && *last == seen
    {
        // The content is the same, so parsing it again would give the same checks.
        return Ok(checks.clone());
    }
    // Files may have changed since the first read, so the digest is of the text that is parsed.
    let mut parsed = Digest::of(&reading.problems);
    for name in &names {
        let text = read_file(&path.join(name));
        parsed.add(name, &text);
        match text {
            Ok(text) => reading.file(name, &text),
            Err(message) => reading.unreadable(name, message),
        }
    }
    reading.keep(memory);
    let checks = reading.finish(memory);
    memory.last = Some((parsed.ends(), checks.clone()));
    Ok(checks)
}

fn file_names(path: &Path, reading: &mut Reading) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let Some(text) = name.to_str() else {
            let message = "its name is no UTF-8: rename it".to_owned();
            reading.problem(name.to_string_lossy().into_owned(), None, None, message);
            continue;
        };
        let is_yaml = Path::new(text).extension().is_some_and(|end| end == "yaml" || end == "yml");
        if is_yaml && !text.starts_with('.') {
            names.push(text.to_owned());
        }
    }
    names.sort_unstable();
    if names.len() > MOST_FILES {
        let message =
            format!("{} files: only the first {MOST_FILES} by name are read", names.len());
        reading.problem(path.display().to_string(), None, None, message);
        names.truncate(MOST_FILES);
    }
    Ok(names)
}

fn read_file(path: &Path) -> Result<String, String> {
    let cannot_be_read = |error: io::Error| format!("cannot be read: {error}");
    // Reading a pipe or a device would block or never end.
    let metadata = fs::metadata(path).map_err(cannot_be_read)?;
    if !metadata.is_file() {
        return Err("is no file: move it elsewhere".to_owned());
    }
    let file = fs::File::open(path).map_err(cannot_be_read)?;
    let mut bytes = Vec::new();
    // The file may grow while it is read.
    io::Read::read_to_end(&mut io::Read::take(file, MOST_FILE_BYTES + 1), &mut bytes)
        .map_err(cannot_be_read)?;
    if bytes.len() as u64 > MOST_FILE_BYTES {
        return Err(format!("is larger than {MOST_FILE_BYTES} bytes: split it"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.split(|byte| *byte == b'\n').count();
        format!("is no UTF-8 in line {line}: save it as UTF-8")
    })
}

/// A check and its place in the folder.
struct Found {
    check: Arc<Check>,
    file: String,
    line: u64,
}

/// Findings of one read of the folder so far.
#[derive(Default)]
struct Reading {
    found: BTreeMap<CheckKey, Found>,
    /// Names of the files that hold something malformed, or cannot be read.
    malformed: Vec<String>,
    problems: Vec<Problem>,
    skipped: Vec<Skipped>,
    passed_over: usize,
    without_checks: Vec<String>,
}

/// Line in the file for a line of a document that begins at line `document`; both counted from one.
fn line_in_file(document: u64, within: u64) -> u64 {
    document + within.saturating_sub(1)
}

impl Reading {
    fn problem(&mut self, file: String, line: Option<u64>, field: Option<String>, message: String) {
        self.problems.push(Problem { file, line, field, message });
    }

    fn unreadable(&mut self, file: &str, message: String) {
        self.malformed.push(file.to_owned());
        self.problem(file.to_owned(), None, None, message);
    }

    fn file(&mut self, file: &str, text: &str) {
        let mut is_good = true;
        let mut holds_checks = false;
        for (line, document) in document::split(text) {
            for document::Item { line: within, found } in document::read(document) {
                match found {
                    Ok(document::Content::OtherKind(kind)) => {
                        self.passed_over += 1;
                        let line = line_in_file(line, within);
                        self.skipped.push(Skipped { file: file.to_owned(), line, kind });
                    }
                    Ok(document::Content::Check(check)) => {
                        holds_checks = true;
                        self.check(file, line_in_file(line, within), *check);
                    }
                    Err(malformed) => {
                        is_good = false;
                        self.note_malformed(file, line, malformed);
                    }
                }
            }
        }
        if !is_good {
            self.malformed.push(file.to_owned());
        } else if !holds_checks {
            self.without_checks.push(file.to_owned());
        }
        self.skipped.truncate(MOST_SKIPPED);
        self.without_checks.truncate(MOST_SKIPPED);
    }

    /// Records the problems of a document that begins at `line`.
    fn note_malformed(&mut self, file: &str, line: u64, malformed: Vec<document::Malformed>) {
        for document::Malformed { line: within, field, message } in malformed {
            let line = within.map_or(line, |within| line_in_file(line, within));
            self.problem(file.to_owned(), Some(line), field, message);
        }
    }

    fn check(&mut self, file: &str, line: u64, check: Check) {
        if let Some(first) = self.found.get(check.key()) {
            let message = format!(
                "`{}` is in {}:{} already, which is used: rename or remove one of them",
                check.key(),
                first.file,
                first.line
            );
            return self.problem(
                file.to_owned(),
                Some(line),
                Some("metadata.name".to_owned()),
                message,
            );
        }
        if self.found.len() == MOST_CHECKS {
            let message =
                format!("`{}` is left out: there are {MOST_CHECKS} checks already", check.key());
            return self.problem(file.to_owned(), Some(line), None, message);
        }
        let key = check.key().clone();
        self.found.insert(key, Found { check: Arc::new(check), file: file.to_owned(), line });
    }

    /// Adds the checks that malformed files held when they were last read without an error.
    fn keep(&mut self, memory: &Memory) {
        for file in &self.malformed {
            let Some(before) = memory.files.get(file) else { continue };
            let mut kept = Vec::new();
            for (key, check) in before {
                if self.found.contains_key(key) || self.found.len() == MOST_CHECKS {
                    continue;
                }
                let found = Found { check: Arc::clone(check), file: file.clone(), line: 0 };
                self.found.insert(key.clone(), found);
                kept.push(key.to_string());
            }
            if !kept.is_empty() {
                let note = format!(" (still run as last read: {})", kept.join(", "));
                let of_file = self.problems.iter_mut().filter(|problem| problem.file == *file);
                of_file.for_each(|problem| problem.message.push_str(&note));
            }
        }
    }

    fn finish(mut self, memory: &mut Memory) -> Checks {
        memory.files.clear();
        let mut checks = BTreeMap::new();
        for (key, Found { check, file, .. }) in std::mem::take(&mut self.found) {
            memory.files.entry(file).or_default().insert(key.clone(), Arc::clone(&check));
            checks.insert(key, check);
        }
        self.problems.sort_unstable();
        if let Some(more) = self.problems.len().checked_sub(MOST_PROBLEMS).filter(|more| *more > 0)
        {
            self.problems.truncate(MOST_PROBLEMS);
            let message = format!("and {more} problems more: mend those above first");
            self.problem("…".to_owned(), None, None, message);
        }
        let Self { problems, skipped, passed_over, without_checks, .. } = self;
        Checks { checks, problems, skipped, passed_over, without_checks }
    }
}
