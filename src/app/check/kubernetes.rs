//! Findings of `check` about Kubernetes: the API server must answer and have our kinds, and the `Election`
//! must agree with the store.

use std::time::Duration;

use crate::{
    clock,
    engine::Leader,
    k8s::{
        crd::{CustomResourceDefinition, ElectionStatus},
        fence::ElectionRef,
    },
};

use super::{Finding, Verdict};
use crate::app::{
    apiserver::{self, When},
    exit::{Exit, Failure},
    inspect::ReadArgs,
    report,
};

/// File in which kubelet puts a pod's credentials.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

pub(super) fn is_wanted(when: When) -> bool {
    match when {
        When::On => true,
        When::Off => false,
        When::Auto => std::path::Path::new(SERVICE_ACCOUNT).exists(),
    }
}

/// Checks that the API server answers and has our kinds.
pub(super) async fn of_kubernetes(
    read: &ReadArgs,
    definitions: &[CustomResourceDefinition],
) -> Result<Vec<Finding>, Failure> {
    let (endpoint, client) = read.cluster.api.connect(None).await?;
    let missing = apiserver::missing_kinds(&client, definitions).await?;
    let says = format!("{endpoint} answers");
    let mut findings = vec![Finding::new("apiserver", Verdict::Ok, says)];
    if !missing.is_empty() {
        let says = format!("the server does not know {}", missing.join(", "));
        findings.push(
            Finding::new("crds", Verdict::Failed, says)
                .try_this("`bellwether print crds | kubectl apply --server-side -f -`"),
        );
        return Ok(findings);
    }
    let served: Vec<_> = definitions.iter().map(|it| it.spec.names.plural.as_str()).collect();
    let says = format!("{} are served", served.join(" and "));
    findings.push(Finding::new("crds", Verdict::Ok, says));
    Ok(findings)
}

/// Time within which the leader writes changes into the `Election`, even if the API server is slow.
const REPORTED_WITHIN: Duration = Duration::from_secs(5);
/// Time between two reads of an `Election` that does not agree with the store.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Checks that the `Election` agrees with the store, which has named the `leader`. The `Election` is read
/// repeatedly until it agrees, because hand-overs reach it a moment later.
pub(super) async fn of_election(
    read: &ReadArgs,
    leader: Option<Leader>,
) -> Result<Finding, Failure> {
    let until = clock::boot_now() + REPORTED_WITHIN;
    loop {
        let finding = match read.cluster.api.election(read.cluster.cluster.cluster()).await {
            Ok((election, place)) => {
                let status = election.status.unwrap_or_default();
                compared(&place, &status, leader, clock::unix_ms())
            }
            Err(failure) if failure.exit == Exit::NotThere => {
                Finding::new(ELECTION, Verdict::Failed, failure.what)
                    .try_this("a leader makes it; see what the log of the leader's pod says of it")
            }
            Err(failure) => return Err(failure),
        };
        // Without a leader no node writes the `Election`.
        if finding.verdict == Verdict::Ok || leader.is_none() || until <= clock::boot_now() {
            return Ok(finding);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

const ELECTION: &str = "election";

/// Compares the status of an `Election` with the leader in the store.
pub(super) fn compared(
    place: &ElectionRef,
    status: &ElectionStatus,
    leader: Option<Leader>,
    now_unix_ms: u64,
) -> Finding {
    let why = report::not_known(status, now_unix_ms);
    let says = match (&status.leader, why) {
        (_, Some(why)) => format!("{place} does not know who leads: {why}"),
        (Some(it), None) => format!("{place} says that {} leads", it.name),
        (None, None) => format!("{place} says that no node leads"),
    };
    let named = status.leader.as_ref().map(|it| (it.node, status.term.unwrap_or_default()));
    let wanted = leader.map(|it| (it.id.get(), it.term.0));
    match (wanted, named) {
        _ if named == wanted && report::not_known(status, now_unix_ms).is_none() => {
            let verdict = if named.is_some() { Verdict::Ok } else { Verdict::Warning };
            Finding::new(ELECTION, verdict, says)
        }
        (Some((node, term)), _) => {
            let says = format!("{says}, but the store says that node {node} leads in term {term}");
            Finding::new(ELECTION, Verdict::Failed, says).try_this(
                "what kubectl shows is not current: see what the log of the leader's pod says of the Election",
            )
        }
        // The finding about the leader fails already.
        (None, _) => Finding::new(ELECTION, Verdict::Warning, says).try_this(
            "no leader keeps the Election up to date: do not rely on what kubectl shows of it",
        ),
    }
}
