//! Queries DNS records of a name.

use std::net::{IpAddr, SocketAddr};

use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::rr::{self, Name},
    system_conf,
};

use super::{Answer, Failure, Prober, since};
use crate::{
    engine::BootTime,
    operator::uptime::{
        check::Check,
        resource::{DnsTarget, RecordType},
    },
};

const DNS_PORT: u16 = 53;
/// Maximum number of records that the answer's text shows.
const MOST_SHOWN: usize = 4;

pub(super) async fn ask(
    prober: &Prober,
    check: &Check,
    target: &DnsTarget,
    began: BootTime,
) -> Result<Answer, Failure> {
    let resolver = resolver(prober, check, target)?;
    let name = fully_qualified(target)?;
    let found = resolver.lookup(name, record_type(target.record_type)).await;
    let latency = since(began);
    let lookup = match found {
        Ok(lookup) => lookup,
        Err(error) if error.is_no_records_found() => {
            return answer_without_records(target, latency, &error);
        }
        Err(error) => return Err(Failure::of("cannot resolve", &error)),
    };
    let wanted = record_type(target.record_type);
    let records: Vec<String> = lookup
        .answers()
        .iter()
        .filter(|record| record.record_type() == wanted)
        .map(|record| record.data.to_string())
        .collect();
    let expected = check.spec().expect.answer_contains.as_deref();
    let wrong = expected
        .filter(|expected| {
            !records.iter().any(|record| holds(target.record_type, record, expected))
        })
        .map(|expected| format!("no record holds `{expected}`: {}", shown(&records)));
    Ok(Answer { text: shown(&records), wrong, ..Answer::after(latency) })
}

/// Whether a record contains the expected text. An address must be equal, in any notation; names are compared
/// without case, as everywhere in the DNS.
pub(super) fn holds(of: RecordType, record: &str, expected: &str) -> bool {
    if let (Ok(record), Ok(expected)) = (record.parse::<IpAddr>(), expected.parse::<IpAddr>()) {
        return record == expected;
    }
    match of {
        RecordType::Txt | RecordType::Caa => record.contains(expected),
        _ => record.to_ascii_lowercase().contains(&expected.to_ascii_lowercase()),
    }
}

/// A name that does not exist, or has no such records, is a valid answer that came in time.
fn answer_without_records(
    target: &DnsTarget,
    latency: std::time::Duration,
    error: &NetError,
) -> Result<Answer, Failure> {
    let NetError::Dns(DnsError::NoRecordsFound(nothing)) = error else {
        return Err(Failure::of("cannot resolve", error));
    };
    let text = if error.is_nx_domain() {
        format!("there is no name {}", target.name)
    } else {
        format!("{} has no {} records ({})", target.name, target.record_type, nothing.response_code)
    };
    Ok(Answer { wrong: Some(text.clone()), text, ..Answer::after(latency) })
}

fn shown(records: &[String]) -> String {
    let mut text = records.iter().take(MOST_SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if let Some(more) = records.len().checked_sub(MOST_SHOWN).filter(|more| *more > 0) {
        text = format!("{text} and {more} more");
    }
    text
}

fn resolver(prober: &Prober, check: &Check, target: &DnsTarget) -> Result<TokioResolver, Failure> {
    let (config, mut options) = match &target.server {
        Some(server) => {
            let mut options = ResolverOpts::default();
            options.use_hosts_file = ResolveHosts::Never;
            (asks_only(prober, server)?, options)
        }
        None => system_conf::read_system_conf().map_err(|error| {
            Failure::of("cannot read the system's resolver configuration", &error)
        })?,
    };
    // All servers are queried at once: a server that does not answer delays no other one.
    options.num_concurrent_reqs = config.name_servers().len().max(1);
    // The check's own timeout decides: an answer within it counts. UDP requests are repeated meanwhile, and
    // an answer to any of them counts.
    options.timeout = check.spec().timeout().0 * 2;
    let builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    let built = builder.with_options(options).build();
    built.map_err(|error| Failure::of("cannot set up a resolver", &error))
}

fn asks_only(prober: &Prober, server: &str) -> Result<ResolverConfig, Failure> {
    let address = match (server.parse::<SocketAddr>(), server.parse::<IpAddr>()) {
        (Ok(address), _) => address,
        (Err(_), Ok(ip)) => SocketAddr::new(ip, DNS_PORT),
        (Err(_), Err(error)) => return Err(Failure::of("the server is no address", &error)),
    };
    prober.names.denied.leave(vec![address], SocketAddr::ip)?;
    let mut config = NameServerConfig::udp_and_tcp(address.ip());
    let at_port = |connection: &mut ConnectionConfig| connection.port = address.port();
    config.connections.iter_mut().for_each(at_port);
    Ok(ResolverConfig::from_parts(None, Vec::new(), vec![config]))
}

fn fully_qualified(target: &DnsTarget) -> Result<Name, Failure> {
    if target.record_type == RecordType::Ptr
        && let Ok(address) = target.name.parse::<IpAddr>()
    {
        return Ok(Name::from(address));
    }
    let mut name =
        Name::from_utf8(&target.name).map_err(|_| Failure::new("the name is no domain name"))?;
    name.set_fqdn(true);
    Ok(name)
}

fn record_type(of: RecordType) -> rr::RecordType {
    match of {
        RecordType::A => rr::RecordType::A,
        RecordType::Aaaa => rr::RecordType::AAAA,
        RecordType::Caa => rr::RecordType::CAA,
        RecordType::Cname => rr::RecordType::CNAME,
        RecordType::Mx => rr::RecordType::MX,
        RecordType::Ns => rr::RecordType::NS,
        RecordType::Ptr => rr::RecordType::PTR,
        RecordType::Soa => rr::RecordType::SOA,
        RecordType::Srv => rr::RecordType::SRV,
        RecordType::Txt => rr::RecordType::TXT,
    }
}
