//! The child process and its descendants, and the proof that all of them are dead.
//!
//! The one rule to keep: only the kernel's statement that this process has no child (`ECHILD`) is proof. As
//! PID 1 or as a subreaper this process inherits every orphan among its descendants, so a living descendant
//! always becomes a child of this process, at the latest when its parent is dead.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    process::Command,
    time::Duration,
};

use tokio::{net::unix::pipe, signal::unix::Signal as Signals};

use crate::{clock, engine::BootTime, node::supervision};
use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, WaitStatus},
};

use crate::app::exit::{Exit, Failure};

/// Time between two rounds of killing the child's descendants.
const KILL_EVERY: Duration = Duration::from_millis(5);

/// Makes this process inherit the orphans among its descendants. PID 1 does so anyway.
///
/// # Errors
///
/// An error if the kernel refuses.
pub(crate) fn become_subreaper() -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

/// Starts the program in a process group of its own, with the writing end of a pipe, and returns its process
/// id and the reading end.
///
/// # Errors
///
/// A [`Failure`] with the exit code that shells use for it.
pub(crate) fn spawn(command: &[String]) -> Result<(Pid, pipe::Receiver), Failure> {
    let (program, args) = command.split_first().expect("the command line asks for a program");
    let local = |error: &io::Error| Failure::caused(Exit::Local, "making the child's pipe", error);
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| local(&error.into()))?;
    // Only the child inherits the writing end: no other process is started before it is closed here.
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty())
        .map_err(|error| local(&error.into()))?;
    let receiver = receiver(reader).map_err(|error| local(&error))?;
    let child = start(program, args, &writer).map_err(|error| cannot_start(program, &error))?;
    drop(writer);
    let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = id.expect("a process that was started has an id");
    give_terminal(pid);
    // The handle is not needed, because `Reaper` reaps all children.
    drop(child);
    Ok((pid, receiver))
}

fn receiver(reader: OwnedFd) -> io::Result<pipe::Receiver> {
    rustix::io::ioctl_fionbio(&reader, true)?;
    pipe::Receiver::from_owned_fd(reader)
}

fn start(program: &str, args: &[String], writer: &OwnedFd) -> io::Result<std::process::Child> {
    use std::os::unix::process::CommandExt as _;
    Command::new(program)
        .args(args)
        .env(supervision::FD_ENV, writer.as_raw_fd().to_string())
        // The own group makes a terminal's Ctrl-C reach the child once: from the terminal or from us.
        .process_group(0)
        .spawn()
}

fn cannot_start(program: &str, error: &io::Error) -> Failure {
    let doing = format!("starting {program:?}");
    match error.kind() {
        io::ErrorKind::NotFound => Failure::caused(Exit::NoSuchProgram, &doing, error)
            .try_this("give a path, or the name of a program on PATH, after --"),
        io::ErrorKind::PermissionDenied => Failure::caused(Exit::NotExecutable, &doing, error)
            .try_this("make it executable (chmod +x)"),
        _ => Failure::caused(Exit::NotExecutable, &doing, error),
    }
}

/// Gives the terminal to the child, if this process has it: the child would have it without us.
fn give_terminal(child: Pid) {
    let terminal = io::stdin();
    let ours = rustix::termios::tcgetpgrp(&terminal).ok();
    if ours == Some(rustix::process::getpgrp())
        && rustix::termios::tcsetpgrp(&terminal, child).is_ok()
    {
        // The child may have been stopped for reading from the terminal before it had it.
        let _ = rustix::process::kill_process_group(child, Signal::CONT);
    }
}

/// Forwards a signal to the child, if the child still exists.
pub(crate) fn forward(child: Pid, signal: Signal) {
    if let Err(error) = rustix::process::kill_process(child, signal)
        && error != Errno::SRCH
    {
        tracing::warn!(signal = signal.as_raw(), %error, "the signal was not passed on");
    }
}

/// Result of a round of reaping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaped {
    /// Some children still live.
    SomeLive,
    /// This process has no child: all descendants are dead.
    None,
}

/// Reaps all children that ended, and keeps the exit status of the program.
#[derive(Debug)]
pub(crate) struct Reaper {
    child: Pid,
    /// Exit status of the program, once it has ended.
    pub(crate) status: Option<WaitStatus>,
}

impl Reaper {
    pub(crate) const fn new(child: Pid) -> Self {
        Self { child, status: None }
    }

    /// Reaps all children that have ended by now.
    pub(crate) fn reap(&mut self) -> Reaped {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.child => self.status = Some(status),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return Reaped::SomeLive,
                Err(Errno::CHILD) => return Reaped::None,
                Err(error) => {
                    tracing::error!(%error, "waiting for children failed");
                    return Reaped::SomeLive;
                }
            }
        }
    }

    /// Kills and reaps all descendants of the child until none remains, which is the proof of death. Returns
    /// `false` if a descendant still lived at `until`.
    pub(crate) async fn bury(&mut self, ended: &mut Signals, until: BootTime) -> bool {
        // Most of the other processes are in the child's group, so one call kills them.
        let _ = rustix::process::kill_process_group(self.child, Signal::KILL);
        loop {
            if self.reap() == Reaped::None {
                return true;
            }
            kill_descendants();
            if self.reap() == Reaped::None {
                return true;
            }
            let left = until.since(clock::boot_now());
            if left.is_zero() {
                return false;
            }
            // SIGCHLD ends the wait. The timeout is for processes that were started after the list was read.
            let _ = tokio::time::timeout(KILL_EVERY.min(left), ended.recv()).await;
        }
    }
}

/// Kills every descendant of this process that `/proc` shows now.
fn kill_descendants() {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    for pid in descendants(own, &parents()) {
        if let Some(pid) = Pid::from_raw(pid)
            && let Err(error) = rustix::process::kill_process(pid, Signal::KILL)
            && error != Errno::SRCH
        {
            tracing::warn!(pid = pid.as_raw_nonzero().get(), %error, "a descendant cannot be killed");
        }
    }
}

/// Parents of all visible processes, by process id.
fn parents() -> BTreeMap<i32, i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, parent_in(&stat)?))
        })
        .collect()
}

/// Parses the fourth field, the parent. The second field is the program's name in parentheses, and may
/// contain any characters.
fn parent_in(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn descendants(of: i32, parents: &BTreeMap<i32, i32>) -> Vec<i32> {
    let mut found = vec![of];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, it)| **it == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// Exit code for a status: the program's own code, or 128 + n if signal n ended it.
pub(crate) fn exit_code(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    u8::try_from(code & 0xff).expect("masked to a byte")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_read_behind_whatever_the_program_is_called() {
        assert_eq!(parent_in("12 (a) b) 9 (x) S 7 12 12 0 -1"), Some(7));
        assert_eq!(parent_in("12 (sh) Z 1 12"), Some(1));
        assert_eq!(parent_in("junk"), None);
    }

    #[test]
    fn descendants_are_found_at_any_depth_and_nobody_else() {
        let parents = BTreeMap::from([(2, 1), (3, 2), (4, 3), (5, 1), (6, 5), (9, 9)]);
        assert_eq!(descendants(2, &parents), [3, 4]);
        assert_eq!(descendants(1, &parents), [2, 5, 3, 6, 4]);
    }
}
