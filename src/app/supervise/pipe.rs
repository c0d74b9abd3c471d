//! Announcements of the child, line by line, as `node::supervision` writes them.

use std::{collections::BTreeSet, io};

use rustix::io::Errno;
use tokio::net::unix::pipe;

use crate::{engine::LeaseId, node::supervision::Line};

/// Maximum capacity of a pipe in the kernel, by default.
const LARGEST_PIPE: usize = 1 << 20;
/// Maximum number of leases, more than any program has at once. Further announcements are not trusted.
const MOST_LEASES: usize = 4096;

/// Maximum length of a line, more than any line has. Longer lines are malformed and skipped.
const MOST_BYTES: usize = 256;

/// Reading end of the pipe, and the leases that are not known to be gone.
#[derive(Debug)]
pub(crate) struct Announcements {
    /// Reading end; `None` once no process can write any more.
    reader: Option<pipe::Receiver>,
    leases: Leases,
}

impl Announcements {
    pub(crate) fn new(reader: pipe::Receiver) -> Self {
        Self { reader: Some(reader), leases: Leases::default() }
    }

    /// Waits until there is something to [`take`](Self::take); forever if no process can write any more.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: takes nothing.
    pub(crate) async fn readable(&self) {
        let ready = match &self.reader {
            Some(reader) => reader.readable().await,
            None => std::future::pending().await,
        };
        if let Err(error) = ready {
            tracing::warn!(%error, "waiting for the program's announcements failed");
        }
    }

    /// Reads everything that was written by now.
    pub(crate) fn take(&mut self) {
        let mut bytes = [0; 4096];
        while let Some(reader) = &self.reader {
            match reader.try_read(&mut bytes) {
                Ok(0) => self.reader = None,
                Ok(read) => self.leases.take_in(&bytes[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(%error, "reading the program's announcements failed");
                    self.reader = None;
                }
            }
        }
    }

    /// Reads the rest once all writers are dead. Reads the pipe directly, because the runtime may not have
    /// noticed the last write yet.
    pub(crate) fn take_rest(&mut self) {
        let mut bytes = [0; 4096];
        // A pipe holds at most this much, unless a process continues to write.
        for _ in 0..LARGEST_PIPE / bytes.len() {
            let Some(reader) = &self.reader else { return };
            match rustix::io::read(reader, &mut bytes) {
                Ok(0) => self.reader = None,
                Ok(read) => self.leases.take_in(&bytes[..read]),
                // A process that is no descendant has the writing end.
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::warn!(%error, "reading the program's last announcements failed");
                    self.reader = None;
                }
            }
        }
    }

    /// Whether the program was asked to leave, and is leaving.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leases.leaving
    }

    /// Leases whose incarnations may be alive.
    pub(crate) fn leases(&self) -> &BTreeSet<LeaseId> {
        &self.leases.announced
    }
}

/// Parser of the lines, with the leases they announce.
#[derive(Debug, Default)]
struct Leases {
    announced: BTreeSet<LeaseId>,
    /// Whether the program was asked to leave.
    leaving: bool,
    /// Beginning of a line whose end was not read yet.
    rest: Vec<u8>,
}

impl Leases {
    fn take_in(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                // A length above the maximum marks the line as too long.
                _ if self.rest.len() <= MOST_BYTES => self.rest.push(*byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.rest);
        let line = std::str::from_utf8(&line).ok().filter(|it| it.len() <= MOST_BYTES);
        match line.and_then(Line::parse) {
            Some(Line::Lease(lease)) if self.announced.len() < MOST_LEASES => {
                tracing::debug!(%lease, "announced");
                self.announced.insert(lease);
            }
            Some(Line::Lease(lease)) => {
                tracing::warn!(%lease, "too many leases announced, ignoring this one");
            }
            Some(Line::Leaving) => {
                tracing::debug!("leaving");
                self.leaving = true;
            }
            Some(Line::Gone(lease)) => {
                tracing::debug!(%lease, "gone");
                self.announced.remove(&lease);
            }
            None => {
                tracing::warn!("ignored a malformed line from the program");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_remembered_until_they_are_gone_however_the_bytes_arrive() {
        let mut leases = Leases::default();
        for part in ["lease a\nlea", "se 1", "f\ngone a\n", "lease b"] {
            leases.take_in(part.as_bytes());
        }
        assert_eq!(leases.announced, [LeaseId(0x1f)].into());
        leases.take_in(b"\n");
        assert_eq!(leases.announced, [LeaseId(0xb), LeaseId(0x1f)].into());
    }

    /// The situation after the last process below the program was killed: it is reaped, and the runtime has
    /// not read the pipe since.
    #[tokio::test]
    async fn what_is_written_after_the_last_look_is_taken_once_everybody_is_dead() {
        let (writer, reader) = pipe::pipe().unwrap();
        let mut announcements = Announcements::new(reader);
        let write = |line: &str| rustix::io::write(&writer, line.as_bytes()).unwrap();
        write("lease a\nlease b\n");
        announcements.readable().await;
        announcements.take();
        assert_eq!(*announcements.leases(), [LeaseId(0xa), LeaseId(0xb)].into());
        write("gone b\nlease c\n");
        announcements.take_rest();
        assert_eq!(*announcements.leases(), [LeaseId(0xa), LeaseId(0xc)].into());
        write("lease d\n");
        drop(writer);
        announcements.take_rest();
        assert_eq!(*announcements.leases(), [LeaseId(0xa), LeaseId(0xc), LeaseId(0xd)].into());
        assert!(announcements.reader.is_none(), "nobody can write any more");
    }

    #[test]
    fn junk_is_skipped_and_does_not_grow() {
        let mut leases = Leases::default();
        leases.take_in(&vec![b'x'; 100_000]);
        assert!(leases.rest.len() <= MOST_BYTES + 1);
        leases.take_in(b"\nlease -1\nlease zz\n\xff\xfe\nleaving now\nlease c\n");
        assert_eq!(leases.announced, [LeaseId(0xc)].into());
        assert!(!leases.leaving);
        leases.take_in(b"leaving\n");
        assert!(leases.leaving);
    }
}
