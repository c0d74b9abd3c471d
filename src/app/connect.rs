//! Connections of the commands: to the store, or to the status server of one node.

use std::{ffi::OsString, sync::Arc, time::Duration};

use reqwest::{Response, StatusCode, Url};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    args::{ClusterArgs, StoreKind},
    exit::{Exit, Failure},
};
use crate::{
    k8s::{
        client::ClientMetrics,
        store::{KubernetesConfig, KubernetesStore},
    },
    node::status::Status,
    store::{
        Store,
        etcd::{ConfigError, EtcdConfig, EtcdStore, Tls},
    },
};

/// Environment variable of the only secret without a flag: any user of the machine can read a command line.
const PASSWORD_ENV: &str = "BELLWETHER_ETCD_PASSWORD";

/// etcd that is used if no flag names one.
const LOCAL_ETCD: &str = "http://127.0.0.1:2379";

/// Builds the configuration of etcd from the flags.
///
/// # Errors
///
/// A [`Failure`] that names the flag.
pub(crate) fn etcd_config(args: &ClusterArgs) -> Result<EtcdConfig, Failure> {
    let endpoints =
        if args.endpoints.is_empty() { &[LOCAL_ETCD.to_owned()] } else { &*args.endpoints };
    let mut config = EtcdConfig::new(endpoints.iter().map(|it| it.trim()))
        .probe_key(args.cluster.record())
        .connect_within(args.timeout.max(Duration::from_millis(100)));
    let tls = Tls {
        ca_file: args.etcd_ca_file.clone(),
        cert_file: args.etcd_cert_file.clone(),
        key_file: args.etcd_key_file.clone(),
        server_name: args.etcd_server_name.clone(),
    };
    if tls != Tls::default() || args.endpoints.iter().any(|it| it.trim().starts_with("https://")) {
        config = config.tls(tls);
    }
    if let Some(user) = &args.etcd_user {
        config = match &args.etcd_password_file {
            Some(file) => config.user_with_password_file(user, file),
            None => config.user(user, password(user, std::env::var_os(PASSWORD_ENV))?),
        };
    }
    config.validate().map_err(|error| wrong_flag(&error))?;
    Ok(config)
}

/// Returns the password from the environment, without the final line break that `echo` adds to a Secret.
fn password(user: &str, value: Option<OsString>) -> Result<String, Failure> {
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        let what =
            format!("--etcd-user (BELLWETHER_ETCD_USER) is {user:?}, but there is no password");
        return Err(Failure::new(Exit::Usage, what)
            .try_this(format!("give --etcd-password-file, or set {PASSWORD_ENV}")));
    };
    match value.into_string() {
        Ok(text) => Ok(text.trim_end_matches(['\n', '\r']).to_owned()),
        Err(_) => Err(Failure::new(Exit::Usage, format!("{PASSWORD_ENV} is not UTF-8")).try_this(
            "set the password as UTF-8 text: is it still encoded, or of another charset?",
        )),
    }
}

/// Names the flag that an error of the configuration is about.
pub(crate) fn wrong_flag(error: &ConfigError) -> Failure {
    let flag = match error.field {
        "endpoints" => "--etcd (BELLWETHER_ETCD)",
        "tls.ca_file" => "--etcd-ca-file (BELLWETHER_ETCD_CA_FILE)",
        "tls.cert_file" => "--etcd-cert-file (BELLWETHER_ETCD_CERT_FILE)",
        "tls.key_file" => "--etcd-key-file (BELLWETHER_ETCD_KEY_FILE)",
        "tls.server_name" => "--etcd-server-name (BELLWETHER_ETCD_SERVER_NAME)",
        "user" => "--etcd-user (BELLWETHER_ETCD_USER)",
        "password" => PASSWORD_ENV,
        "password_file" => "--etcd-password-file (BELLWETHER_ETCD_PASSWORD_FILE)",
        other => other,
    };
    Failure::new(Exit::Usage, format!("{flag} {:?} {}", error.value, error.problem))
        .try_this(error.remedy.clone())
}

/// Client of a node's status server.
#[derive(Debug)]
pub(crate) struct NodeClient {
    base: Url,
    http: reqwest::Client,
}

/// Parses the URL of a node's status server.
pub(crate) fn node_url(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error| format!("{error}: write http://host:8080"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("is no address of a server: write http://host:8080".into());
    }
    Ok(url)
}

fn no_authorities() -> Failure {
    let what = "--url: https:// needs the certificates of authorities, and this machine has none that can be read";
    Failure::new(Exit::Local, what).try_this(
        "install them (the package ca-certificates), mount a bundle and name it in SSL_CERT_FILE, or use the \
         http:// address of the node",
    )
}

/// Answer of the server to an action.
#[derive(Deserialize)]
struct Acted {
    done: Option<String>,
    error: Option<String>,
}

impl NodeClient {
    /// Creates the client; sends nothing yet.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if this machine's TLS cannot be set up.
    pub(crate) fn new(base: &Url, timeout: Duration) -> Result<Self, Failure> {
        let mut http =
            reqwest::Client::builder().timeout(timeout.max(Duration::from_secs(1))).no_proxy();
        if base.scheme() == "http" {
            // An image may contain no certificates, and http needs none.
            http = http.tls_certs_only([]);
        }
        let http = http.build().map_err(|_| no_authorities())?;
        Ok(Self { base: base.clone(), http })
    }

    /// Requests `/status` of the node.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if the answer is not a node's.
    pub(crate) async fn status(&self) -> Result<Status, Failure> {
        let response = self.get("/status").await?;
        if !response.status().is_success() {
            return Err(self.strange(response.status()));
        }
        self.read(response).await
    }

    /// Requests one of the node's probes: returns whether it passes, and the reason it gives.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if the answer is not a node's.
    pub(crate) async fn probe(&self, path: &str) -> Result<(bool, String), Failure> {
        let response = self.get(path).await?;
        let passes = match response.status() {
            StatusCode::OK => true,
            StatusCode::SERVICE_UNAVAILABLE => false,
            other => return Err(self.strange(other)),
        };
        let said = response.text().await;
        let said = said.map_err(|error| self.failed("reading the answer", &error))?;
        Ok((passes, said.trim().to_owned()))
    }

    /// Requests the same action as a button on the node's page.
    ///
    /// # Errors
    ///
    /// A [`Failure`] with the text of the node.
    pub(crate) async fn act(&self, action: &str) -> Result<String, Failure> {
        let url = self.at(&format!("/actions/{action}"));
        // Web pages of other origins cannot send this header in an operator's name.
        let request = self.http.post(url).header("x-bellwether-action", "cli");
        let response =
            request.send().await.map_err(|error| self.failed("asking for an action", &error))?;
        let status = response.status();
        let said: Acted = self.read(response).await?;
        let words = said.done.or(said.error).unwrap_or_default();
        match status {
            StatusCode::OK => Ok(words),
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => {
                Err(Failure::new(Exit::Denied, format!("{} refuses: {words}", self.shown()))
                    .try_this("leave --url out, to ask through the store"))
            }
            StatusCode::CONFLICT => Err(Failure::new(Exit::NotThere, words)),
            _ => Err(Failure::new(Exit::Failed, words)),
        }
    }

    async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, Failure> {
        let bytes = response.bytes().await;
        let bytes = bytes.map_err(|error| self.failed("reading the answer", &error))?;
        serde_json::from_slice(&bytes).map_err(|error| {
            let doing = format!("{}: the answer is not a node's", self.shown());
            Failure::caused(Exit::Unreachable, &doing, &error)
                .try_this("see that --url names the status server of a node of this version")
        })
    }

    async fn get(&self, path: &str) -> Result<Response, Failure> {
        let sent = self.http.get(self.at(path)).send().await;
        sent.map_err(|error| self.failed("asking the node", &error))
    }

    /// URL for messages: without user, password and query.
    fn shown(&self) -> Url {
        let mut url = self.base.clone();
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_query(None);
        url
    }

    fn at(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        url
    }

    fn failed(&self, doing: &str, error: &reqwest::Error) -> Failure {
        Failure::caused(Exit::Unreachable, &format!("{}: {doing}", self.shown()), error)
            .try_this("see that a node runs there and that --url names its status server")
    }

    fn strange(&self, status: StatusCode) -> Failure {
        Failure::new(Exit::Unreachable, format!("{} answers {status}", self.shown()))
            .try_this("see that --url names the status server of a node")
    }
}

/// Builds the configuration of the store in Kubernetes from the flags.
pub(crate) fn kubernetes_config(
    args: &ClusterArgs,
    requests: Option<ClientMetrics>,
) -> KubernetesConfig {
    let options = match requests {
        Some(requests) => args.api.options().metrics(requests),
        None => args.api.options(),
    };
    let config = KubernetesConfig::new().client(options);
    match args.api.given_namespace() {
        Some(namespace) => config.namespace(namespace),
        None => config,
    }
}

/// Creates a store for these flags. Does not wait for the server: the first call shows whether it answers.
///
/// # Errors
///
/// A [`Failure`] that names the flag.
pub(crate) fn store(args: &ClusterArgs) -> Result<Arc<dyn Store>, Failure> {
    match args.chosen() {
        (StoreKind::Etcd, _) => Ok(etcd(args)?),
        (StoreKind::Kubernetes, _) => {
            let config = kubernetes_config(args, None);
            let store = KubernetesStore::observer(args.cluster.clone(), config)
                .map_err(|error| Failure::caused(Exit::Usage, "--cluster (BELLWETHER_CLUSTER)", &error))?;
            Ok(Arc::new(store))
        }
        (StoreKind::Memory, _) => Err(Failure::new(
            Exit::Usage,
            "--store memory (BELLWETHER_STORE): a store in memory belongs to one `bellwether run` alone",
        )
        .try_this("ask that node with --url, or name another store")),
    }
}

/// Same as [`store`], with the concrete type of the store.
///
/// # Errors
///
/// The same as for [`store`].
pub(crate) fn etcd(args: &ClusterArgs) -> Result<Arc<EtcdStore>, Failure> {
    let store = EtcdStore::new(&etcd_config(args)?).map_err(|error| wrong_flag(&error))?;
    Ok(Arc::new(store))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn the_password_of_the_environment_is_what_its_file_would_hold() {
        for value in ["s3cret", "s3cret\n", "s3cret\r\n"] {
            assert_eq!(password("app", Some(value.into())).unwrap(), "s3cret");
        }
        // Only line breaks at the end are removed: a password may contain blanks.
        assert_eq!(password("app", Some(" s3\ncret \n".into())).unwrap(), " s3\ncret ");
    }

    #[test]
    fn a_password_that_is_missing_or_no_text_is_an_error_that_names_the_variable() {
        let none = password("app", None).unwrap_err().to_string();
        assert!(
            none.contains("--etcd-user (BELLWETHER_ETCD_USER) is \"app\"")
                && none.contains(PASSWORD_ENV),
            "{none}"
        );
        let bytes = password("app", Some(OsString::from_vec(vec![b's', 0xe9]))).unwrap_err();
        assert_eq!(bytes.exit, Exit::Usage);
        assert!(bytes.what.contains(PASSWORD_ENV) && bytes.what.contains("UTF-8"), "{bytes}");
    }
}
