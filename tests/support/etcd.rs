//! Real etcd servers on loopback, started and ended by a test.
//!
//! ```ignore
//! let etcd = Etcd::start().await;                       // one member, in memory, no auth, no TLS
//! let etcd = Etcd::options().members(3).start().await;  // three
//! let store = EtcdStore::connect(EtcdConfig::new(etcd.endpoints())).await?;
//! etcd.kill(0); etcd.freeze(1); etcd.thaw(1); etcd.restart(0).await; etcd.wipe(0);
//! ```
//!
//! Every server ends with its [`Etcd`], and with the test process, even if that is killed.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use bellwether::testing::{
    ReservedPort,
    janitor::{Janitor, tail},
};
use etcd_client::{
    Certificate, Client, ConnectOptions, Identity, Permission, PermissionType, TlsOptions,
};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    eventually,
    pki::{Pki, Validity},
    tools,
};

/// Name and password of the administrator when auth is on.
pub const ROOT: (&str, &str) = ("root", "root-password");

/// Time within which a server must be ready. Generous, since the machine may be busy.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Where a server keeps its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// In memory, if the machine has a `/dev/shm`.
    Memory,
    /// On disk: every commit costs an fsync.
    Disk,
}

/// A user and the prefix that the user may read and write.
#[derive(Clone, Debug)]
pub struct UserOf {
    pub name: String,
    pub password: String,
    pub prefix: String,
}

/// Options of the etcd to start.
#[derive(Clone, Debug)]
pub struct Options {
    members: usize,
    medium: Medium,
    timers: Option<(Duration, Duration)>,
    user: Option<UserOf>,
    token_ttl: Option<Duration>,
    tls: bool,
    auto_tls: Option<SocketAddr>,
    flags: Vec<String>,
}

impl Options {
    /// Sets the number of members.
    pub fn members(mut self, members: usize) -> Self {
        self.members = members;
        self
    }

    /// Sets the medium that the data is kept on.
    pub fn medium(mut self, medium: Medium) -> Self {
        self.medium = medium;
        self
    }

    /// Heartbeat interval and election timeout, instead of 100 ms and 1 s.
    pub fn timers(mut self, heartbeat: Duration, election: Duration) -> Self {
        self.timers = Some((heartbeat, election));
        self
    }

    /// Turns auth on, with [`ROOT`] and this user, who may read and write only keys of `prefix`.
    pub fn user(mut self, name: &str, password: &str, prefix: &str) -> Self {
        self.user = Some(UserOf {
            name: name.to_owned(),
            password: password.to_owned(),
            prefix: prefix.to_owned(),
        });
        self
    }

    /// How long an unused token is valid; whole seconds.
    pub fn token_ttl(mut self, ttl: Duration) -> Self {
        self.token_ttl = Some(ttl);
        self
    }

    /// Makes the client port speak TLS and request client certificates, see [`Etcd::pki`].
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Makes the first member also speak TLS at this address, with a certificate that the member makes itself,
    /// see [`Etcd::own_certificate`].
    pub fn auto_tls(mut self, at: SocketAddr) -> Self {
        self.auto_tls = Some(at);
        self
    }

    /// Adds a flag to the server's command line.
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// Starts etcd and waits until every member answers linearizable reads.
    pub async fn start(self) -> Etcd {
        let etcd = Etcd::spawn(self);
        etcd.wait_until_ready().await;
        if let Some(user) = etcd.options.user.clone() {
            etcd.enable_auth(&user).await;
        }
        etcd
    }
}

#[derive(Debug)]
struct Member {
    name: String,
    client: ReservedPort,
    peer: ReservedPort,
    folder: PathBuf,
    process: Mutex<Option<Child>>,
}

/// A running etcd of one or more members.
#[derive(Debug)]
pub struct Etcd {
    options: Options,
    members: Vec<Member>,
    pki: Option<Pki>,
    // Ends the servers and removes the folder when this process is gone; dropped after the members.
    janitor: Janitor,
}

impl Etcd {
    /// Starts a single member, in memory, without auth and TLS.
    pub async fn start() -> Self {
        Self::options().start().await
    }

    /// Options for another etcd than [`Etcd::start`] starts.
    pub fn options() -> Options {
        Options {
            members: 1,
            medium: Medium::Memory,
            timers: None,
            user: None,
            token_ttl: None,
            tls: false,
            auto_tls: None,
            flags: Vec::new(),
        }
    }

    fn spawn(options: Options) -> Self {
        let janitor = Janitor::start(folder_on(options.medium)).expect("a shell can be started");
        let folder = &janitor.folder;
        let pki = options.tls.then(|| {
            let pki = Pki::new(&folder.join("pki"), "bellwether tests");
            pki.server(Validity::Now);
            pki.client("client", Validity::Now);
            pki
        });
        let members = (0..options.members)
            .map(|i| {
                let member = Member {
                    name: format!("m{i}"),
                    client: reserved_port(),
                    peer: reserved_port(),
                    folder: folder.join(format!("m{i}")),
                    process: Mutex::default(),
                };
                fs::create_dir_all(&member.folder).expect("the member's folder can be made");
                member
            })
            .collect();
        let etcd = Self { options, members, pki, janitor };
        for i in 0..etcd.members.len() {
            etcd.launch(i);
        }
        etcd
    }

    fn scheme(&self) -> &'static str {
        if self.pki.is_some() { "https" } else { "http" }
    }

    /// The URLs of all members.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|i| self.endpoint(i)).collect()
    }

    /// The URL of one member.
    pub fn endpoint(&self, member: usize) -> String {
        format!("{}://{}", self.scheme(), self.address(member))
    }

    /// Address at which a member listens for clients.
    pub fn address(&self, member: usize) -> SocketAddr {
        self.members[member].client.address()
    }

    /// Address at which a member listens for its peers.
    pub fn peer_address(&self, member: usize) -> SocketAddr {
        self.members[member].peer.address()
    }

    /// The certificate authority, if TLS is on: the certificate of `client` is issued already.
    pub fn pki(&self) -> &Pki {
        self.pki.as_ref().expect("started with tls()")
    }

    /// The certificate that the first member made for `--auto-tls`.
    pub fn own_certificate(&self) -> PathBuf {
        self.members[0].folder.join("data/fixtures/client/cert.pem")
    }

    /// A folder of this etcd for a test's own files, removed at the end.
    pub fn folder(&self) -> &Path {
        &self.janitor.folder
    }

    /// A plain client of one member, as root if auth is on.
    pub async fn client_of(&self, member: usize) -> Client {
        self.try_client(&[self.endpoint(member)], self.options.user.is_some())
            .await
            .expect("etcd can be connected to")
    }

    /// A plain client of the first member, as root if auth is on.
    pub async fn client(&self) -> Client {
        self.client_of(0).await
    }

    async fn try_client(
        &self,
        endpoints: &[String],
        as_root: bool,
    ) -> Result<Client, etcd_client::Error> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(Duration::from_secs(1))
            .with_timeout(Duration::from_secs(10));
        if as_root {
            options = options.with_user(ROOT.0, ROOT.1);
        }
        if let Some(pki) = &self.pki {
            let read = |path: &Path| fs::read(path).expect("a file of the test's PKI");
            let folder = pki.ca.parent().expect("a folder");
            options = options.with_tls(
                TlsOptions::new().ca_certificate(Certificate::from_pem(read(&pki.ca))).identity(
                    Identity::from_pem(
                        read(&folder.join("client.pem")),
                        read(&folder.join("client.key")),
                    ),
                ),
            );
        }
        Client::connect(endpoints, Some(options)).await
    }

    /// Runs `etcdctl` against all members and returns what it printed.
    pub fn etcdctl(&self, args: &[&str]) -> String {
        let mut command = Command::new(tools::program("etcd", "etcdctl"));
        command.arg(format!("--endpoints={}", self.endpoints().join(",")));
        if let Some(pki) = &self.pki {
            let folder = pki.ca.parent().expect("a folder");
            command
                .arg(format!("--cacert={}", pki.ca.display()))
                .arg(format!("--cert={}", folder.join("client.pem").display()))
                .arg(format!("--key={}", folder.join("client.key").display()));
        }
        if self.options.user.is_some() {
            command.arg(format!("--user={}:{}", ROOT.0, ROOT.1));
        }
        let output = command.args(args).output().expect("etcdctl runs");
        assert!(
            output.status.success(),
            "etcdctl {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// The index of the member that is raft leader now.
    pub async fn leader(&self) -> usize {
        eventually("a raft leader", READY_WITHIN, async || {
            for (i, member) in self.members.iter().enumerate() {
                if lock(&member.process).is_none() {
                    continue;
                }
                let asking = async {
                    let mut client = self.try_client(&[self.endpoint(i)], false).await.ok()?;
                    let status = client.status().await.ok()?;
                    (status.leader() != 0 && status.leader() == status.header()?.member_id())
                        .then_some(i)
                };
                let asked = tokio::time::timeout(Duration::from_secs(1), asking).await;
                if let Ok(Some(leader)) = asked {
                    return Some(leader);
                }
            }
            None
        })
        .await
    }

    /// Ends a member without warning (SIGKILL) and waits until it is gone.
    pub fn kill(&self, member: usize) {
        let member = &self.members[member];
        if let Some(mut process) = lock(&member.process).take() {
            let _ = process.kill();
            let _ = process.wait();
            let _ = fs::remove_file(member.folder.join("pid"));
        }
    }

    /// Ends a member in good order (SIGTERM) and waits until it is gone.
    pub fn terminate(&self, member: usize) {
        self.signal(member, Signal::TERM);
        let member = &self.members[member];
        if let Some(mut process) = lock(&member.process).take() {
            let _ = process.wait();
            let _ = fs::remove_file(member.folder.join("pid"));
        }
    }

    /// Freezes a member (SIGSTOP): its connections stay open and silent. Returns when all threads of the member
    /// have stopped, since a busy thread runs for a moment after the signal.
    pub fn freeze(&self, member: usize) {
        self.signal(member, Signal::STOP);
        until_stopped(self.pid(member));
    }

    /// Continues a frozen member (SIGCONT).
    pub fn thaw(&self, member: usize) {
        self.signal(member, Signal::CONT);
    }

    /// The process id of a running member.
    pub fn pid(&self, member: usize) -> u32 {
        lock(&self.members[member].process).as_ref().expect("the member runs").id()
    }

    fn signal(&self, member: usize, signal: Signal) {
        let pid = i32::try_from(self.pid(member)).expect("a pid");
        kill_process(Pid::from_raw(pid).expect("not zero"), signal).expect("the member runs");
    }

    /// Ends a member and starts it again with its data; waits until it is ready.
    pub async fn restart(&self, member: usize) {
        self.kill(member);
        self.launch(member);
        self.wait_until_member_is_ready(member).await;
    }

    /// Ends a member and deletes its data. [`start_again`](Self::start_again) starts it empty.
    pub fn wipe(&self, member: usize) {
        self.kill(member);
        fs::remove_dir_all(self.members[member].folder.join("data")).expect("the data is removed");
    }

    /// Ends a member and copies its data, for [`put_back`](Self::put_back).
    pub fn back_up(&self, member: usize) -> PathBuf {
        self.kill(member);
        let folder = &self.members[member].folder;
        let backup = folder.join("backup");
        copy_folder(&folder.join("data"), &backup);
        backup
    }

    /// Ends a member and replaces its data by a backup.
    pub fn put_back(&self, member: usize, backup: &Path) {
        self.wipe(member);
        copy_folder(backup, &self.members[member].folder.join("data"));
    }

    /// Starts a member that was ended; waits until it is ready.
    pub async fn start_again(&self, member: usize) {
        self.launch(member);
        self.wait_until_member_is_ready(member).await;
    }

    /// Starts a member that was ended, without waiting.
    pub fn launch(&self, member: usize) {
        let member = &self.members[member];
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(member.folder.join("log"))
            .expect("the log can be opened");
        let mut command = Command::new(tools::program("etcd", "etcd"));
        let child = command
            .args(self.flags_of(member))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("etcd can be started");
        fs::write(member.folder.join("pid"), child.id().to_string()).expect("the pid is written");
        *lock(&member.process) = Some(child);
    }

    fn flags_of(&self, member: &Member) -> Vec<String> {
        let scheme = self.scheme();
        let cluster: Vec<_> = self
            .members
            .iter()
            .map(|m| format!("{}=http://{}", m.name, m.peer.address()))
            .collect();
        let mut flags = vec![
            format!("--name={}", member.name),
            format!("--data-dir={}", member.folder.join("data").display()),
            format!("--listen-client-urls={scheme}://{}", member.client.address()),
            format!("--advertise-client-urls={scheme}://{}", member.client.address()),
            format!("--listen-peer-urls=http://{}", member.peer.address()),
            format!("--initial-advertise-peer-urls=http://{}", member.peer.address()),
            format!("--initial-cluster={}", cluster.join(",")),
            format!("--initial-cluster-token={}", self.members[0].peer.address()),
            "--log-level=warn".to_owned(),
            // The lowest cost of the password hash that bcrypt allows, since tests log in often.
            "--bcrypt-cost=4".to_owned(),
        ];
        if let Some((heartbeat, election)) = self.options.timers {
            flags.push(format!("--heartbeat-interval={}", heartbeat.as_millis()));
            flags.push(format!("--election-timeout={}", election.as_millis()));
        }
        if let Some(ttl) = self.options.token_ttl {
            flags.push(format!("--auth-token-ttl={}", ttl.as_secs()));
        }
        if let Some(pki) = &self.pki {
            let folder = pki.ca.parent().expect("a folder");
            flags.push("--client-cert-auth".to_owned());
            flags.push(format!("--trusted-ca-file={}", pki.ca.display()));
            flags.push(format!("--cert-file={}", folder.join("server.pem").display()));
            flags.push(format!("--key-file={}", folder.join("server.key").display()));
        }
        if let Some(address) = self.options.auto_tls {
            flags.push("--auto-tls".to_owned());
            flags.push(format!(
                "--listen-client-urls=http://{},https://{address}",
                member.client.address()
            ));
        }
        flags.extend(self.options.flags.iter().cloned());
        flags
    }

    async fn wait_until_ready(&self) {
        for member in 0..self.members.len() {
            self.wait_until_member_is_ready(member).await;
        }
    }

    /// A member is ready if it answers a linearizable read, so it has joined a quorum.
    async fn wait_until_member_is_ready(&self, member: usize) {
        eventually(&format!("etcd member {member} is ready"), READY_WITHIN, async || {
            self.assert_runs(member);
            let asking = async {
                let mut client = self.try_client(&[self.endpoint(member)], false).await.ok()?;
                match client.get("ready", None).await {
                    Ok(_) => Some(()),
                    // With auth on, a rejection is an answer as well, and comes after the quorum.
                    Err(etcd_client::Error::GRpcStatus(status))
                        if status.message().contains("user name is empty") =>
                    {
                        Some(())
                    }
                    Err(_) => None,
                }
            };
            tokio::time::timeout(Duration::from_secs(2), asking).await.ok().flatten()
        })
        .await;
    }

    fn assert_runs(&self, member: usize) {
        let member = &self.members[member];
        let mut process = lock(&member.process);
        let ended = process.as_mut().and_then(|process| process.try_wait().expect("our child"));
        assert!(
            ended.is_none(),
            "etcd {} ended ({ended:?}); the end of its log:\n{}",
            member.name,
            tail(&member.folder.join("log"))
        );
    }

    async fn enable_auth(&self, user: &UserOf) {
        let mut client = self.try_client(&[self.endpoint(0)], false).await.expect("reachable");
        client.user_add(ROOT.0, ROOT.1, None).await.expect("root is added");
        client.user_grant_role(ROOT.0, "root").await.expect("root gets its role");
        client.role_add(&user.name).await.expect("the role is added");
        let permission =
            Permission::new(PermissionType::Readwrite, user.prefix.as_str()).with_prefix();
        client.role_grant_permission(&user.name, permission).await.expect("it may use the prefix");
        client.user_add(&user.name, &user.password, None).await.expect("the user is added");
        client.user_grant_role(&user.name, &user.name).await.expect("the user gets its role");
        client.auth_enable().await.expect("auth is on");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in 0..self.members.len() {
            self.kill(member);
        }
    }
}

fn folder_on(medium: Medium) -> PathBuf {
    let mut builder = tempfile::Builder::new();
    builder.prefix("bellwether-etcd-");
    let shm = Path::new("/dev/shm");
    let folder = if medium == Medium::Memory && shm.is_dir() {
        builder.tempdir_in(shm)
    } else {
        builder.tempdir()
    };
    folder.expect("a temporary folder").keep()
}

/// A port of loopback that no other process gets while the value lives.
pub fn reserved_port() -> ReservedPort {
    ReservedPort::new().expect("a free port")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits until every thread of a process has stopped after SIGSTOP.
pub fn until_stopped(pid: u32) {
    let is_stopped = || {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return true };
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The state follows the name, which may contain any character.
            let state = stat.rsplit_once(')').map_or("T", |(_, rest)| rest.trim_start());
            state.starts_with('T')
        })
    };
    while !is_stopped() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("a file can be copied");
        }
    }
}
