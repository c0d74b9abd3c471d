//! Resolves names to addresses, for connections.
//!
//! Uses `/etc/hosts` and `/etc/resolv.conf`, as the system's own resolver does. The system's resolver blocks
//! a thread until its last attempt has failed, even if the caller gave up: look-ups at a silent name server
//! would use up all threads for blocking work. Here a dropped look-up ends, and its sockets are closed.
//!
//! Answers of name servers are not cached. Other sources of the system (mDNS, LDAP) are not used.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use hickory_resolver::{
    Hosts, Resolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
    system_conf::parse_resolv_conf,
};

use super::denied::Denied;
use crate::{clock, engine::BootTime};

#[cfg(test)]
mod tests;

/// How often the files are checked for changes.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(1);
/// Maximum number of concurrent requests on one connection to a name server; further ones fail at once.
const MOST_REQUESTS: usize = 1024;

/// Reason why a name has no address.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    /// The text cannot be a name.
    #[error("`{name}` is no name that can be looked up")]
    NotAName {
        /// Text as written in the manifest.
        name: String,
    },
    /// The name servers know no address of the name.
    #[error("there is no address of {name}: {why}")]
    NoAddress {
        /// Name that was looked up.
        name: String,
        /// Answer of the name server, in words.
        why: String,
    },
    /// No name server gave a usable answer.
    #[error("cannot look up {name}")]
    Failed {
        /// Name that was looked up.
        name: String,
        /// Error of the resolver.
        source: NetError,
    },
    /// A configuration file of the resolver cannot be read.
    #[error("cannot read {}", .file.display())]
    Unreadable {
        /// Path of the file.
        file: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
}

/// Resolver of names. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Names {
    files: Arc<Files>,
    read: Arc<Mutex<Option<Read>>>,
    /// Networks that checks must not connect to.
    pub(super) denied: Denied,
}

#[derive(Debug)]
struct Files {
    hosts: PathBuf,
    resolv_conf: PathBuf,
}

impl Default for Names {
    fn default() -> Self {
        Self::of("/etc/hosts".into(), "/etc/resolv.conf".into())
    }
}

/// Content of the files when they were last read.
#[derive(Clone, Debug)]
struct Read {
    stamps: [Stamp; 2],
    looked_at: BootTime,
    system: Arc<System>,
}

/// Length and modification time of a file, to detect changes.
type Stamp = Option<(u64, Option<SystemTime>)>;

/// Parsed configuration of the system's resolver.
#[derive(Debug)]
struct System {
    hosts: Hosts,
    config: ResolverConfig,
    options: ResolverOpts,
}

impl Names {
    fn of(hosts: PathBuf, resolv_conf: PathBuf) -> Self {
        let files = Arc::new(Files { hosts, resolv_conf });
        Self { files, read: Arc::default(), denied: Denied::default() }
    }

    /// Returns the addresses of a host, which may be an address itself. At least one.
    ///
    /// # Errors
    ///
    /// [`LookupError`] with the reason if there is no address.
    ///
    /// # Cancel safety
    ///
    /// If dropped, the look-up ends.
    pub(super) async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![address]);
        }
        let not_a_name = |_| LookupError::NotAName { name: host.to_owned() };
        let name = Name::from_str_relaxed(host).map_err(not_a_name)?;
        let system = self.system()?;
        let noted = system.noted(&name);
        if !noted.is_empty() {
            return Ok(noted);
        }
        let failed = |source| LookupError::Failed { name: host.to_owned(), source };
        let (config, provider) = (system.config.clone(), TokioRuntimeProvider::default());
        // Each look-up has a resolver of its own, whose connections are closed with it.
        let resolver = Resolver::builder_with_config(config, provider)
            .with_options(system.options.clone())
            .build()
            .map_err(failed)?;
        let no_address =
            |why: &str| LookupError::NoAddress { name: host.to_owned(), why: why.into() };
        match resolver.lookup_ip(name).await {
            Ok(found) => {
                let found: Vec<IpAddr> = found.iter().collect();
                if found.is_empty() { Err(no_address("no records")) } else { Ok(found) }
            }
            Err(error) if error.is_nx_domain() => Err(no_address("there is no such name")),
            Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => {
                Err(no_address(&nothing.response_code.to_string()))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Returns the resolver configuration, read again if a file was changed.
    fn system(&self) -> Result<Arc<System>, LookupError> {
        let now = clock::boot_now();
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = read.as_ref().filter(|read| now.since(read.looked_at) < LOOKED_AT_EVERY);
        if let Some(recent) = recent {
            return Ok(Arc::clone(&recent.system));
        }
        let Files { hosts, resolv_conf } = &*self.files;
        let stamps = [hosts, resolv_conf].map(|file| {
            let metadata = fs::metadata(file).ok()?;
            Some((metadata.len(), metadata.modified().ok()))
        });
        let unchanged = read.as_ref().filter(|read| read.stamps == stamps);
        let system = match unchanged {
            Some(read) => Arc::clone(&read.system),
            None => Arc::new(System::read(&self.files)?),
        };
        *read = Some(Read { stamps, looked_at: now, system: Arc::clone(&system) });
        Ok(system)
    }
}

/// Returns the content of a file; empty if the file does not exist.
fn content(file: &PathBuf) -> Result<Vec<u8>, LookupError> {
    match fs::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|source| LookupError::Unreadable { file: file.clone(), source }),
    }
}

impl System {
    fn read(files: &Files) -> Result<Self, LookupError> {
        let mut hosts = Hosts::default();
        // Malformed lines are skipped one by one.
        let _ = hosts.read_hosts_conf(content(&files.hosts)?.as_slice());
        let (config, mut options) =
            parse_resolv_conf(content(&files.resolv_conf)?).unwrap_or_else(|_| {
                // As in the C library when no name server is configured.
                let local = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![local]);
                (config, ResolverOpts::default())
            });
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.max_active_requests = MOST_REQUESTS;
        Ok(Self { hosts, config, options })
    }

    /// Returns the addresses of this name in the hosts file.
    fn noted(&self, name: &Name) -> Vec<IpAddr> {
        let of =
            |record_type| self.hosts.lookup_static_host(&Query::query(name.clone(), record_type));
        let found = [RecordType::AAAA, RecordType::A].into_iter().filter_map(of);
        found
            .flat_map(|found| {
                found
                    .answers()
                    .iter()
                    .filter_map(|record| record.data.ip_addr())
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}
