//! Time without a leader, and time with two leaders, of our nodes and of candidates of client-go and
//! controller-runtime.

use std::{path::PathBuf, time::Duration};

use bellwether::engine::timing::wait;

use crate::{
    common::{self, Aim, Bench, Samples},
    kube::ApiServer,
    node::{Place, Profile},
    processes::{Candidate, Cluster, Process},
};

/// Kinds of neighbours, as the program calls them.
pub(crate) const NEIGHBOURS: [&str; 2] = ["client-go", "controller-runtime"];

/// How often a neighbour looks at the Lease.
const RETRY: Duration = Duration::from_secs(2);

/// Hand-overs of our nodes for each one of the neighbours, which take much longer.
const OF_OURS: usize = 3;

/// Longer than a Lease of the neighbours lasts, and than the TTL of our nodes.
const FROZEN_FOR: Duration = Duration::from_secs(16);

/// Access to a namespace of its own, without entries in the audit log.
async fn access(what: &str) -> (String, PathBuf) {
    let api = ApiServer::shared().await;
    let space = api.namespace(what).await;
    let kubeconfig = api.bulk_kubeconfig(&space.name);
    (space.name, kubeconfig)
}

async fn ours(kind: impl Fn(Place) -> Candidate, profile: Profile) -> Cluster {
    let (_, kubeconfig) = access("ours").await;
    Cluster::start(kind(Place::Kubernetes { kubeconfig, profile })).await
}

async fn neighbours(kind: &'static str) -> Cluster {
    let (namespace, kubeconfig) = access(kind).await;
    Cluster::start(Candidate::Neighbour { kind, kubeconfig, namespace }).await
}

/// Calls `end` on leaders, one after another, each after a random pause up to `pause`.
async fn ended_by(
    cluster: &mut Cluster,
    end: impl Fn(&Process),
    pause: Duration,
    rounds: usize,
) -> Samples {
    let mut samples = Samples::default();
    for _ in 0..rounds {
        common::pause_up_to(pause).await;
        samples.push(cluster.ended_by(&end).await);
    }
    samples
}

/// Prints a row of ours beside client-go, and the rows of the neighbours.
fn report(bench: &mut Bench, what: &str, ours: Samples, theirs: [Samples; 2], aims: &[Aim]) {
    bench.row(&format!("{what}, ours"), ours, Some(theirs[0].clone()), aims);
    for (kind, samples) in NEIGHBOURS.into_iter().zip(theirs) {
        bench.row(&format!("{what}, {kind}"), samples, None, &[]);
    }
}

pub(crate) async fn hand_overs(bench: &mut Bench) {
    let rounds = bench.rounds(30, 4);
    let mut nodes = ours(Candidate::Supervised, Profile::Default).await;
    let [client_go, runtime] = NEIGHBOURS;
    let (mut client_go, mut runtime) = tokio::join!(neighbours(client_go), neighbours(runtime));
    let (mut own, mut theirs) = (Samples::default(), [Samples::default(), Samples::default()]);
    let pause = Duration::from_millis(200);
    for _ in 0..rounds {
        own.extend(ended_by(&mut nodes, Process::terminate, pause, OF_OURS).await);
        let both = tokio::join!(
            ended_by(&mut client_go, Process::terminate, RETRY, 1),
            ended_by(&mut runtime, Process::terminate, RETRY, 1)
        );
        theirs[0].extend(both.0);
        theirs[1].extend(both.1);
    }
    Bench::times_beside("client-go");
    report(bench, "SIGTERM → leads", own, theirs, &[Aim::P50(15.0)]);
}

pub(crate) async fn crashes(bench: &mut Bench) {
    let (crashes, silences) = (bench.rounds(60, 10), bench.rounds(12, 2));
    let mut supervised = ours(Candidate::Supervised, Profile::Default).await;
    let pause = Duration::from_millis(200);
    let crashed = ended_by(&mut supervised, Process::kill, pause, crashes).await;
    drop(supervised);
    let [client_go, runtime] = NEIGHBOURS;
    let silent = async |profile: Profile| {
        let mut nodes = ours(Candidate::Alone, profile).await;
        ended_by(&mut nodes, Process::kill, profile.h() * 2, silences).await
    };
    let killed = async |kind| {
        let mut cluster = neighbours(kind).await;
        ended_by(&mut cluster, Process::kill, RETRY, silences).await
    };
    // All of these mostly wait, so that they do not disturb each other.
    let (default, fast, calm, client_go, runtime) = tokio::join!(
        silent(Profile::Default),
        silent(Profile::Fast),
        silent(Profile::Calm),
        killed(client_go),
        killed(runtime)
    );
    Bench::times_beside("client-go");
    let beside = Some(client_go.clone());
    let aims = [Aim::P50(50.0)];
    bench.row("kill -9 → leads, ours under `supervise`", crashed, beside.clone(), &aims);
    for (profile, samples) in [(Profile::Fast, fast), (Profile::Calm, calm)] {
        let what = format!("kill -9 → leads, ours with `{}`", profile.name());
        bench.row(&what, samples, beside.clone(), &[deposed_within(profile)]);
    }
    let aims = [deposed_within(Profile::Default)];
    report(bench, "kill -9 → leads", default, [client_go, runtime], &aims);
}

/// Aim for a leader that falls silent: `wait(D)`, and 100 ms for the take-over.
fn deposed_within(profile: Profile) -> Aim {
    Aim::P99((wait(profile.d()) + Duration::from_millis(100)).as_secs_f64() * 1e3)
}

pub(crate) async fn thaws(bench: &mut Bench) {
    let rounds = bench.rounds(6, 1);
    let thawed = async |mut cluster: Cluster| {
        let (mut silent, mut both) = (Samples::default(), Samples::default());
        for _ in 0..rounds {
            common::pause_up_to(RETRY).await;
            let frozen = cluster.freeze(FROZEN_FOR).await;
            silent.push(frozen.silent);
            both.push(frozen.both);
        }
        (silent, both)
    };
    let [client_go, runtime] = NEIGHBOURS;
    let (ours, client_go, runtime) = tokio::join!(
        async { thawed(ours(Candidate::Supervised, Profile::Default).await).await },
        async { thawed(neighbours(client_go).await).await },
        async { thawed(neighbours(runtime).await).await }
    );
    Bench::times_beside("client-go");
    let silent = [client_go.0, runtime.0];
    report(bench, "SIGSTOP → the next leads", ours.0, silent, &[deposed_within(Profile::Default)]);
    let both = [client_go.1, runtime.1];
    report(bench, "SIGCONT → two lead no more", ours.1, both, &[Aim::P99(0.0)]);
}
