//! What the child announces, line by line, as `node::supervision` writes it.

use std::{collections::BTreeSet, io};

use bellwether::{engine::LeaseId, node::supervision::Line};
use tokio::net::unix::pipe;

/// More leases than a process with many nodes has at once. Beyond it the program is not to be believed.
const MOST_LEASES: usize = 4096;

/// More than any line has. A longer one is junk and is skipped.
const MOST_BYTES: usize = 256;

/// The reading end, and the leases that are not known to be gone.
#[derive(Debug)]
pub(crate) struct Announcements {
    /// None once nobody can write any more.
    reader: Option<pipe::Receiver>,
    leases: Leases,
}

impl Announcements {
    pub(crate) fn new(reader: pipe::Receiver) -> Self {
        Self { reader: Some(reader), leases: Leases::default() }
    }

    /// Waits until there is something to [`take`](Self::take); for ever if there never will be.
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

    /// Takes in all that was written by now.
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

    /// Those whose incarnations may live.
    pub(crate) fn leases(&self) -> &BTreeSet<LeaseId> {
        &self.leases.announced
    }
}

/// Lines taken apart.
#[derive(Debug, Default)]
struct Leases {
    announced: BTreeSet<LeaseId>,
    /// The beginning of a line whose end was not read yet.
    rest: Vec<u8>,
}

impl Leases {
    fn take_in(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                // One more than fits marks it as too long.
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
                tracing::warn!(%lease, "more leases than a program has: not remembered");
            }
            Some(Line::Gone(lease)) => {
                tracing::debug!(%lease, "gone");
                self.announced.remove(&lease);
            }
            None => {
                tracing::warn!("the program wrote a line to the supervisor that is none of ours");
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

    #[test]
    fn junk_is_skipped_and_does_not_grow() {
        let mut leases = Leases::default();
        leases.take_in(&vec![b'x'; 100_000]);
        assert!(leases.rest.len() <= MOST_BYTES + 1);
        leases.take_in(b"\nlease -1\nlease zz\n\xff\xfe\nlease c\n");
        assert_eq!(leases.announced, [LeaseId(0xc)].into());
    }
}
