use std::net::Ipv6Addr;

use hickory_resolver::config::ConnectionConfig;
use tokio::{net::UdpSocket, runtime, time::timeout};

use super::*;

fn names_of(hosts: &str, resolv_conf: &str) -> (tempfile::TempDir, Names) {
    let dir = tempfile::tempdir().unwrap();
    let [at, conf] = ["hosts", "resolv.conf"].map(|name| dir.path().join(name));
    fs::write(&at, hosts).unwrap();
    fs::write(&conf, resolv_conf).unwrap();
    let names = Names::of(at, conf);
    (dir, names)
}

#[tokio::test]
async fn an_address_and_a_name_of_the_hosts_file_need_no_name_server() {
    let hosts = "127.0.0.9 here.example here # us\n::1 here.example\n";
    // No server answers at this address.
    let (dir, names) = names_of(hosts, "nameserver 192.0.2.1\nsearch lan.example\n");
    let here = [IpAddr::from(Ipv6Addr::LOCALHOST), IpAddr::from([127, 0, 0, 9])];
    assert_eq!(names.addresses("here.example").await.unwrap(), here);
    assert_eq!(names.addresses("HERE").await.unwrap(), here[1..]);
    assert_eq!(names.addresses("::1").await.unwrap(), here[..1]);
    assert_eq!(names.addresses("192.0.2.7").await.unwrap(), [IpAddr::from([192, 0, 2, 7])]);
    assert!(names.addresses("localhost").await.unwrap()[0].is_loopback());
    // The file is read again after a change.
    fs::write(dir.path().join("hosts"), "127.0.0.10 here\n").unwrap();
    names.read.lock().unwrap().as_mut().unwrap().looked_at = BootTime::default();
    assert_eq!(names.addresses("here").await.unwrap(), [IpAddr::from([127, 0, 0, 10])]);
}

#[test]
fn without_files_the_name_server_of_this_machine_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let names = Names::of(dir.path().join("none"), dir.path().join("none"));
    let servers: Vec<IpAddr> =
        names.system().unwrap().config.name_servers().iter().map(|server| server.ip).collect();
    assert_eq!(servers, [IpAddr::from(Ipv4Addr::LOCALHOST)]);
}

#[test]
fn look_ups_that_nobody_waits_for_any_more_hold_no_thread() {
    // Only one thread for blocking work: a single blocking look-up would hold it for ten seconds.
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut server = NameServerConfig::udp(Ipv4Addr::LOCALHOST.into());
        let port = silent.local_addr().unwrap().port();
        server.connections.iter_mut().for_each(|connection: &mut ConnectionConfig| {
            connection.port = port;
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let system = System { hosts: Hosts::default(), config, options: ResolverOpts::default() };
        let (_dir, names) = names_of("127.0.0.9 here\n", "");
        let silent_names = Names::default();
        *silent_names.read.lock().unwrap() = Some(Read {
            stamps: [None, None],
            looked_at: clock::boot_now() + Duration::from_secs(3600),
            system: Arc::new(system),
        });
        let asked = (0..50).map(async |n| {
            let host = format!("h{n}.svc.example");
            timeout(Duration::from_millis(50), silent_names.addresses(&host)).await
        });
        let given_up = futures::future::join_all(asked).await;
        assert!(given_up.iter().all(Result::is_err), "{given_up:?}");
        let asked = timeout(Duration::from_secs(30), silent.recv(&mut [0; 512])).await;
        asked.expect("the server was asked").unwrap();
        assert!(names.addresses("here").await.is_ok());
        // Blocking look-ups would take minutes to finish these.
        let free = timeout(Duration::from_secs(30), tokio::task::spawn_blocking(|| ())).await;
        free.expect("the thread is free").unwrap();
        assert_eq!(
            runtime::Handle::current().metrics().num_alive_tasks(),
            0,
            "what was open ended"
        );
    });
}
