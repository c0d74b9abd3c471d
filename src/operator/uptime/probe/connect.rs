//! Connects to a host and a port, trying all addresses of the name in turn.
//!
//! As in RFC 8305 (happy eyeballs), curl and browsers: the address families alternate, and an address that
//! does not answer delays the next one only briefly.

use std::{
    io,
    net::{SocketAddr, SocketAddrV6},
    time::Duration,
};

use tokio::net::TcpStream;

use super::{Failure, race, resolve::Names};
use crate::operator::uptime::crd::forms;

/// Maximum delay before the next address is tried (RFC 8305, 8: connection attempt delay).
const NEXT_AFTER: Duration = Duration::from_millis(250);
/// Maximum number of addresses of a name that are tried.
const MOST_ADDRESSES: usize = 16;

/// Connects to the host: a name, an address, or an IPv6 address with its zone (`fe80::1%eth0`). `within` is
/// how long the caller waits: each address gets a fair share of it.
///
/// # Cancel safety
///
/// If dropped, all opened connections are closed.
pub(super) async fn connect(
    names: &Names,
    host: &str,
    port: u16,
    within: Duration,
) -> Result<TcpStream, Failure> {
    let addresses = addresses(names, host, port).await?;
    connect_any(names.denied.leave(addresses, SocketAddr::ip)?, within).await
}

/// Returns a connection to the first of these addresses that accepts one.
async fn connect_any(addresses: Vec<SocketAddr>, within: Duration) -> Result<TcpStream, Failure> {
    let number = addresses.len();
    let share = within / u32::try_from(number + 1).unwrap_or(u32::MAX);
    let attempts = addresses
        .into_iter()
        .map(async |address| TcpStream::connect(address).await.map_err(|error| (address, error)));
    let connected = race::first(attempts, share.min(NEXT_AFTER)).await;
    connected.map_err(|failures| match failures.first() {
        None => Failure::new("cannot connect: the name has no addresses"),
        Some((address, error)) if number == 1 => {
            Failure::of(format_args!("cannot connect to {address}"), error)
        }
        Some((address, error)) => Failure::of(
            format_args!("cannot connect to any of {number} addresses, first {address}"),
            error,
        ),
    })
}

/// Returns the addresses of a host, in the order in which they are tried.
async fn addresses(names: &Names, host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    if let Some((address, zone)) = forms::with_zone(host) {
        let scope = scope_of(zone).map_err(|error| {
            Failure::of(format_args!("this node has no network interface `{zone}`"), &error)
        })?;
        return Ok(vec![SocketAddrV6::new(address, port, 0, scope).into()]);
    }
    let found = names.addresses(host).await;
    let found = found.map_err(|error| Failure::of("cannot connect", &error))?;
    let found = found.into_iter().map(|address| SocketAddr::new(address, port));
    let mut alternating = alternating(found.collect());
    alternating.truncate(MOST_ADDRESSES);
    Ok(alternating)
}

/// Returns the number of an interface, given by its name or its number.
fn scope_of(zone: &str) -> io::Result<u32> {
    if let Ok(number) = zone.parse() {
        return Ok(number);
    }
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET6,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    Ok(rustix::net::netdevice::name_to_index(socket, zone)?)
}

/// Returns the addresses without duplicates, alternating between the families, starting with the first one.
fn alternating(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().copied() else { return addresses };
    let (same, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|it| it.is_ipv4() == first.is_ipv4());
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut order = Vec::new();
    loop {
        let (one, two) = (same.next(), other.next());
        if one.is_none() && two.is_none() {
            return order;
        }
        for address in one.into_iter().chain(two) {
            if !order.contains(&address) {
                order.push(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_families_take_turns_and_no_address_is_tried_twice() {
        let of = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|it| it.parse().unwrap()).collect()
        };
        let found = of(&["[::1]:1", "[::2]:1", "10.0.0.1:1", "[::1]:1", "[::3]:1"]);
        assert_eq!(alternating(found), of(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "[::3]:1"]));
        assert_eq!(alternating(Vec::new()), Vec::new());
    }

    #[tokio::test]
    async fn an_address_that_refuses_does_not_keep_the_next_one_from_it() {
        let refusing = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let within = Duration::from_secs(30);
        let stream = connect_any(vec![refusing, address], within).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
        let failure = connect_any(vec![refusing, refusing], within).await.unwrap_err();
        assert!(
            failure.text.contains("any of 2 addresses") && failure.text.contains("refused"),
            "{failure:?}"
        );
        assert!(connect_any(Vec::new(), within).await.unwrap_err().text.contains("no addresses"));
    }

    #[test]
    fn a_zone_is_the_name_of_an_interface_or_its_number() {
        assert_eq!(scope_of("7").unwrap(), 7);
        assert_eq!(scope_of("lo").unwrap(), 1);
        assert!(scope_of("no-such-one").is_err());
    }
}
