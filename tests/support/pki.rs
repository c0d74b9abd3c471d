//! A certificate authority for tests: the one of the library's test kit, whose errors are panics here.

use std::path::{Path, PathBuf};

use bellwether::testing::pki;
pub use bellwether::testing::pki::{Files, Validity};

/// A certificate authority in a folder.
#[derive(Debug)]
pub struct Pki {
    inner: pki::Pki,
    pub ca: PathBuf,
}

impl Pki {
    /// A new authority; its files go to `folder`.
    pub fn new(folder: &Path, name: &str) -> Self {
        let inner = pki::Pki::new(folder, name).expect("an authority");
        Self { ca: inner.ca().to_owned(), inner }
    }

    /// A server certificate for loopback, which etcd also uses as a client to itself.
    pub fn server(&self, validity: Validity) -> Files {
        self.inner.server(validity).expect("a certificate")
    }

    /// A client certificate with `name` as its common name; replaces an earlier one of that name.
    pub fn client(&self, name: &str, validity: Validity) -> Files {
        self.inner.client(name, validity).expect("a certificate")
    }
}

/// Replaces a file at once, as a mounted secret changes: readers see the old content or the new.
pub fn replace(path: &Path, content: &str) {
    pki::replace(path, content).expect("replaced");
}
