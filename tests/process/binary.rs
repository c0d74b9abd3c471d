//! Runs the built binary and other commands.

use std::{
    ffi::OsStr,
    fs,
    io::{Read as _, Write as _},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::support::eventually;

/// Timeout against a hanging test, far above the duration of any step here.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// The binary with these arguments, and without the environment variables that it would read.
pub(crate) fn bellwether<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bellwether"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BELLWETHER_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// Result of a command that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs the binary with these arguments to its end.
pub(crate) fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    ended(bellwether(args))
}

/// Runs a command to its end.
pub(crate) fn ended(mut command: Command) -> Ran {
    let Output { status, stdout, stderr } = command.output().expect("the binary starts");
    Ran {
        code: status.code().expect("it ends by itself"),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

/// Sends a minimal request to a server over plain HTTP; returns the answer with its head.
pub(crate) async fn http(url: &str, what: &str, headers: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let host = url.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
    let request = format!("{what} HTTP/1.0\r\nhost: {host}\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Body of the answer at a path.
pub(crate) async fn http_get(url: &str, path: &str) -> String {
    let answer = http(url, &format!("GET {path}"), "").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{head}");
    body.to_owned()
}

/// Process that runs in the background; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    folder: TempDir,
}

impl Process {
    /// Starts the binary with these arguments.
    pub(crate) fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        Self::of(bellwether(args))
    }

    /// Starts a command; its output goes to files.
    pub(crate) fn of(command: Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let outputs = ["out", "err"].map(|it| fs::File::create(folder.path().join(it)).unwrap());
        Self::within(folder, command, outputs)
    }

    /// Starts a command that writes both outputs to this pipe; the output is not stored.
    pub(crate) fn saying_all_to(command: Command, pipe: &fs::File) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["out", "err"] {
            fs::File::create(folder.path().join(name)).unwrap();
        }
        Self::within(folder, command, [pipe.try_clone().unwrap(), pipe.try_clone().unwrap()])
    }

    fn within(folder: TempDir, mut command: Command, [out, err]: [fs::File; 2]) -> Self {
        let child = command.stdout(out).stderr(err).spawn();
        Self { child: child.expect("the binary starts"), folder }
    }

    /// Text that the process has printed to standard output.
    pub(crate) fn out(&self) -> String {
        self.printed("out")
    }

    /// Text that the process has logged to standard error.
    pub(crate) fn err(&self) -> String {
        self.printed("err")
    }

    fn printed(&self, name: &str) -> String {
        let mut bytes = Vec::new();
        let path: PathBuf = self.folder.path().join(name);
        fs::File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Writes a line to the process's standard input, which must be piped.
    pub(crate) fn tell(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("its input is piped");
        writeln!(input, "{line}").expect("it reads its input");
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    /// Processor time that the process has used, in user and kernel mode.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // Fields 14 and 15, in ticks; counted from the end of the name, which may contain any character.
        let after_name = stat.rsplit_once(')').unwrap().1;
        let ticks = after_name.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("it runs");
    }

    /// Exit status, once the process has ended.
    pub(crate) async fn status(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let ended = async || child.try_wait().unwrap();
        let ended = tokio::time::timeout(LONG, poll_until(ended)).await;
        ended.unwrap_or_else(|_| panic!("it did not end; it said:\n{}", self.err()))
    }

    /// Waits until the log contains these words; returns the line.
    pub(crate) async fn says(&self, words: &str) -> String {
        eventually(&format!("{words:?} in the log"), LONG, || async {
            let said = self.err();
            said.lines().find(|line| line.contains(words)).map(str::to_owned)
        })
        .await
    }
}

async fn poll_until<T>(mut poll: impl AsyncFnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = poll().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {} ---\n{}", self.child.id(), self.err());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
