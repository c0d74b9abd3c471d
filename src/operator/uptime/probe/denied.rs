//! Networks that no check may connect to.
//!
//! A user who may create a check can make the nodes connect to any address, from the nodes' place in the
//! network. Networks that must not be reached that way are denied here, by the address that a connection is
//! really made to: after the name is resolved, and again for each redirect.

use std::{net::IpAddr, str::FromStr, sync::Arc};

use ipnet::IpNet;

use super::Failure;

/// Network in CIDR notation, as `10.0.0.0/8` or `fd00::/8`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let alone = |_| text.parse::<IpAddr>().map(IpNet::from);
        text.parse().or_else(alone).map(Self).map_err(|_| NotANetwork)
    }
}

/// Error for text that is not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no network: write it like 10.0.0.0/8, fd00::/8 or 192.0.2.1")]
pub struct NotANetwork;

/// Set of networks that are denied. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Denied(Arc<[Network]>);

impl Denied {
    pub(super) fn new(networks: impl IntoIterator<Item = Network>) -> Self {
        Self(networks.into_iter().collect())
    }

    fn holds(&self, address: IpAddr) -> bool {
        // ::ffff:10.0.0.1 reaches the same host as 10.0.0.1.
        let address = address.to_canonical();
        self.0.iter().any(|Network(network)| network.contains(&address))
    }

    /// Returns those of these addresses that are not denied.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of this node if there are addresses and all of them are denied.
    pub(super) fn leave<T>(
        &self,
        addresses: Vec<T>,
        ip: impl Fn(&T) -> IpAddr,
    ) -> Result<Vec<T>, Failure> {
        let (denied, left): (Vec<T>, Vec<T>) =
            addresses.into_iter().partition(|address| self.holds(ip(address)));
        match denied.first() {
            Some(first) if left.is_empty() => Err(Failure::own(format_args!(
                "checks may not ask {}: its network is denied on this node (--deny-network)",
                ip(first)
            ))),
            _ => Ok(left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(denied: &[&str], addresses: &[&str]) -> Result<Vec<IpAddr>, Failure> {
        let denied = Denied::new(denied.iter().map(|it| it.parse().unwrap()));
        denied.leave(addresses.iter().map(|it| it.parse().unwrap()).collect(), |it| *it)
    }

    #[test]
    fn an_address_is_denied_however_it_is_written() {
        let networks = ["10.0.0.0/8", "fd00::/8", "169.254.169.254"];
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "fd12::1", "169.254.169.254"] {
            let failure = left(&networks, &[address]).unwrap_err();
            assert!(failure.is_own, "{address}");
            assert!(failure.text.contains("--deny-network"), "{}", failure.text);
        }
        for address in ["11.0.0.1", "::ffff:11.0.0.1", "fe00::1", "169.254.169.253"] {
            assert_eq!(left(&networks, &[address]).unwrap().len(), 1, "{address}");
        }
    }

    #[test]
    fn of_several_addresses_those_that_are_not_denied_are_left() {
        let addresses = ["10.0.0.1", "192.0.2.1"];
        assert_eq!(left(&["10.0.0.0/8"], &addresses).unwrap().len(), 1);
        assert_eq!(left(&[], &addresses).unwrap().len(), 2);
        assert!(left(&["10.0.0.0/8"], &[]).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_network_is_said_with_the_remedy() {
        for text in ["", "10.0.0.0/33", "host", "10.0.0"] {
            let error = text.parse::<Network>().unwrap_err();
            assert!(error.to_string().contains("10.0.0.0/8"), "{text}");
        }
    }
}
