//! Connection settings of an etcd, as the user writes them; checked before anything is connected.

use std::{
    collections::HashSet,
    fmt::{self, Debug},
    path::PathBuf,
    time::Duration,
};

use super::metrics::EtcdMetrics;

/// A field of [`EtcdConfig`] that is not usable. Names the field, its value, the problem and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?} {problem}: {remedy}")]
pub struct ConfigError {
    /// Name of the field.
    pub field: &'static str,
    /// Value of the field, without secrets.
    pub value: String,
    /// Problem with the value.
    pub problem: String,
    /// Remedy for the problem.
    pub remedy: String,
}

impl ConfigError {
    pub(super) fn new(
        field: &'static str,
        value: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { field, value: value.into(), problem: problem.into(), remedy: remedy.into() }
    }
}

/// Source of the etcd user's password.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// The password itself, in memory.
    Plain(String),
    /// The content of a file, read again at every login, without the line end.
    File(PathBuf),
}

impl Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(_) => f.write_str("Plain(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// Files for TLS, as PEM. The store reads them again when they change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of the authorities that may have signed the server's; `None` = the public authorities.
    pub ca_file: Option<PathBuf>,
    /// Certificate of this client, for etcd's `--client-cert-auth`. Needs [`key_file`](Self::key_file).
    pub cert_file: Option<PathBuf>,
    /// Private key of [`cert_file`](Self::cert_file).
    pub key_file: Option<PathBuf>,
    /// Name that the server's certificate must carry; `None` = the host of the endpoint.
    pub server_name: Option<String>,
}

impl Tls {
    /// Trusts the authorities in this file.
    pub fn ca(file: impl Into<PathBuf>) -> Self {
        Self { ca_file: Some(file.into()), ..Self::default() }
    }

    /// Presents this client certificate.
    #[must_use]
    pub fn client(mut self, cert_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> Self {
        self.cert_file = Some(cert_file.into());
        self.key_file = Some(key_file.into());
        self
    }

    /// Expects this name in the server's certificate.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }
}

/// Connection settings of an etcd.
#[derive(Clone)]
pub struct EtcdConfig {
    pub(super) endpoints: Vec<String>,
    pub(super) tls: Option<Tls>,
    pub(super) user: Option<(String, Password)>,
    pub(super) connect_within: Duration,
    pub(super) suspect_after: Duration,
    pub(super) survey_every: Duration,
    pub(super) reload_every: Duration,
    pub(super) probe_key: Option<Vec<u8>>,
    pub(super) metrics: Option<EtcdMetrics>,
}

impl Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not derived: an endpoint may contain a password until it is validated.
        let endpoints: Vec<_> = self.endpoints.iter().map(|e| without_userinfo(e)).collect();
        f.debug_struct("EtcdConfig")
            .field("endpoints", &endpoints)
            .field("tls", &self.tls)
            .field("user", &self.user)
            .field("connect_within", &self.connect_within)
            .field("suspect_after", &self.suspect_after)
            .finish_non_exhaustive()
    }
}

impl EtcdConfig {
    /// Creates a configuration with these members: `https://host:port`, `http://host:port`, or `host` and
    /// `host:port`, which mean https if TLS files are given and http if not; the port is 2379 unless given.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            tls: None,
            user: None,
            connect_within: Duration::from_secs(5),
            suspect_after: Duration::from_millis(150),
            survey_every: Duration::from_secs(10),
            reload_every: Duration::from_secs(5),
            probe_key: None,
            metrics: None,
        }
    }

    /// Uses TLS with these files.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Logs in as this etcd user.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), Password::Plain(password.into())));
        self
    }

    /// Logs in as this etcd user, with the password in this file.
    #[must_use]
    pub fn user_with_password_file(
        mut self,
        name: impl Into<String>,
        file: impl Into<PathBuf>,
    ) -> Self {
        self.user = Some((name.into(), Password::File(file.into())));
        self
    }

    /// Sets how long [`connect`](super::EtcdStore::connect) waits for the first answer of any member.
    /// Default 5 s; 100 ms to 10 min.
    #[must_use]
    pub fn connect_within(mut self, within: Duration) -> Self {
        self.connect_within = within;
        self
    }

    /// Sets how long a call may stay without an answer until its member is suspected: calls switch to
    /// another member if that one answers first. Default 150 ms; 20 ms to 5 s. Choose a value above the
    /// usual fsync time of etcd's disk.
    #[must_use]
    pub fn suspect_after(mut self, after: Duration) -> Self {
        self.suspect_after = after;
        self
    }

    /// Sets the interval between measurements of the members' latency. Default 10 s; at least 100 ms.
    #[must_use]
    pub fn survey_every(mut self, every: Duration) -> Self {
        self.survey_every = every;
        self
    }

    /// Sets the interval between checks of the TLS files. Default 5 s; at least 50 ms.
    #[must_use]
    pub fn reload_every(mut self, every: Duration) -> Self {
        self.reload_every = every;
        self
    }

    /// Sets the key that is read to check whether a member answers. The key need not exist, but the user
    /// should be allowed to read it: a refusal proves as much, but fills etcd's log. Default: a key of the
    /// node's cluster, else `bellwether`.
    #[must_use]
    pub fn probe_key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.probe_key = Some(key.into());
        self
    }

    /// Sets the metrics of the store. Default: those of the node that uses the store.
    #[doc(hidden)]
    #[must_use]
    pub fn metrics(mut self, metrics: EtcdMetrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Sets the defaults of the node that uses the store, for fields that the user did not set: a role that
    /// is limited to the cluster's prefix may read `probe_key`.
    pub(crate) fn of_node(mut self, probe_key: Vec<u8>, metrics: EtcdMetrics) -> Self {
        self.probe_key.get_or_insert(probe_key);
        self.metrics.get_or_insert(metrics);
        self
    }

    pub(super) fn key_to_probe(&self) -> Vec<u8> {
        self.probe_key.clone().unwrap_or_else(|| b"bellwether".to_vec())
    }

    /// Returns the endpoints as URLs, if all fields are usable. Reads no file.
    ///
    /// # Errors
    ///
    /// The first field that is not usable.
    pub fn validate(&self) -> Result<Vec<String>, ConfigError> {
        let endpoints = self.normalized_endpoints()?;
        self.validate_tls(&endpoints)?;
        if let Some((name, password)) = &self.user {
            validate_user(name, password)?;
        }
        let bounds = [
            ("connect_within", self.connect_within, 100, 600_000),
            ("suspect_after", self.suspect_after, 20, 5_000),
            ("survey_every", self.survey_every, 100, 3_600_000),
            ("reload_every", self.reload_every, 50, 3_600_000),
        ];
        for (field, value, least, most) in bounds {
            let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
            if value < least || most < value {
                return Err(ConfigError::new(
                    field,
                    format!("{value:?}"),
                    "is out of bounds",
                    format!("choose {least:?} to {most:?}"),
                ));
            }
        }
        if self.probe_key.as_ref().is_some_and(Vec::is_empty) {
            return Err(ConfigError::new(
                "probe_key",
                "",
                "is empty, which etcd refuses",
                "name a key that the user may read",
            ));
        }
        Ok(endpoints)
    }

    fn normalized_endpoints(&self) -> Result<Vec<String>, ConfigError> {
        if self.endpoints.is_empty() {
            return Err(ConfigError::new(
                "endpoints",
                "",
                "names no member",
                "give at least one, such as https://etcd:2379",
            ));
        }
        let default = if self.tls.is_some() { "https" } else { "http" };
        let mut normalized = Vec::with_capacity(self.endpoints.len());
        let mut seen = HashSet::new();
        for endpoint in &self.endpoints {
            let url = normalize(endpoint, default)?;
            if !seen.insert(url.clone()) {
                return Err(ConfigError::new(
                    "endpoints",
                    url,
                    "is there twice",
                    "name every member once",
                ));
            }
            normalized.push(url);
        }
        let secure = normalized.iter().filter(|url| url.starts_with("https:")).count();
        if secure != 0 && secure != normalized.len() {
            return Err(ConfigError::new(
                "endpoints",
                normalized.join(", "),
                "mixes https and http, so that secrets would cross the network in clear",
                "use https for all of them, or http for all",
            ));
        }
        Ok(normalized)
    }

    fn validate_tls(&self, endpoints: &[String]) -> Result<(), ConfigError> {
        let Some(tls) = &self.tls else { return Ok(()) };
        if let Some(plain) = endpoints.iter().find(|url| url.starts_with("http:")) {
            return Err(ConfigError::new(
                "endpoints",
                plain,
                "is http, and TLS files are given",
                "write https, or leave the TLS files out",
            ));
        }
        let alone = match (&tls.cert_file, &tls.key_file) {
            (Some(cert), None) => Some(("tls.cert_file", cert, "key_file")),
            (None, Some(key)) => Some(("tls.key_file", key, "cert_file")),
            (None, None) | (Some(_), Some(_)) => None,
        };
        if let Some((field, file, missing)) = alone {
            return Err(ConfigError::new(
                field,
                file.display().to_string(),
                format!("is given without tls.{missing}"),
                "give both, or neither",
            ));
        }
        if tls.server_name.as_deref() == Some("") {
            return Err(ConfigError::new(
                "tls.server_name",
                "",
                "is empty",
                "give the name in the server's certificate, or leave it out",
            ));
        }
        Ok(())
    }
}

fn validate_user(name: &str, password: &Password) -> Result<(), ConfigError> {
    if name.is_empty() {
        return Err(ConfigError::new("user", name, "is empty", "give the name of an etcd user"));
    }
    if *password == Password::Plain(String::new()) {
        return Err(ConfigError::new(
            "password",
            "",
            "is empty",
            "give the password of the etcd user, or leave the user out",
        ));
    }
    Ok(())
}

/// Normalizes an endpoint to `scheme://host:port`.
fn normalize(endpoint: &str, default_scheme: &str) -> Result<String, ConfigError> {
    let refuse = |problem: &str, remedy: &str| {
        Err(ConfigError::new("endpoints", without_userinfo(endpoint), problem, remedy))
    };
    let trimmed = endpoint.trim();
    if trimmed.is_empty() {
        return refuse("has an empty entry", "write host:port, or leave it out");
    }
    if trimmed.contains(',') {
        return refuse("holds a comma", "give every member as an entry of its own");
    }
    let (scheme, rest) = trimmed.split_once("://").unwrap_or((default_scheme, trimmed));
    let scheme = scheme.to_ascii_lowercase();
    if scheme != "http" && scheme != "https" {
        return refuse("has a scheme that is not supported", "write https://host:port");
    }
    if rest.contains('@') {
        return refuse(
            "carries a user name or password, which would end up in logs",
            "take it out of the URL and give user and password by themselves",
        );
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return refuse("has a path", "write scheme://host:port, etcd serves at the root");
    }
    let (host, port) = match split_port(authority) {
        Some((host, port)) => match port.parse::<u16>() {
            Ok(port) if port != 0 => (host, port),
            _ => return refuse("has a port that is none", "choose 1 to 65535, etcd's is 2379"),
        },
        None => (authority, 2379),
    };
    if host.is_empty() {
        return refuse("has no host", "write scheme://host:port");
    }
    if host.contains(':') && !host.starts_with('[') {
        return refuse("is an IPv6 address without brackets", "write [address]:port");
    }
    let url = format!("{scheme}://{host}:{port}");
    if url.parse::<http::Uri>().is_err() {
        return refuse("is not a URL", "write scheme://host:port");
    }
    Ok(url)
}

/// Splits host and port; `None` without a port.
fn split_port(authority: &str) -> Option<(&str, &str)> {
    let (host, port) = authority.rsplit_once(':')?;
    if host.starts_with('[') {
        // The last colon of a bare `[::1]` is inside the brackets.
        return host.ends_with(']').then_some((host, port));
    }
    // More than one colon: IPv6 without brackets, refused by the caller.
    (!host.contains(':')).then_some((host, port))
}

fn without_userinfo(endpoint: &str) -> String {
    match endpoint.rsplit_once('@') {
        None => endpoint.to_owned(),
        Some((before, host)) => match before.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://…@{host}"),
            None => format!("…@{host}"),
        },
    }
}

#[cfg(test)]
mod tests;
