//! Disturbances of the leader.

use std::{collections::VecDeque, time::Duration};

use rand::{RngExt as _, rngs::StdRng, seq::SliceRandom as _};

use super::TTL;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Blow {
    /// SIGKILL of the node: its parent notices the death and ends the node's lease.
    Kill,
    /// SIGKILL of the parent and the node: no process is left to end the lease.
    KillBoth,
    /// SIGSTOP of both processes for this long, then SIGCONT.
    Freeze(Duration),
    /// No traffic to etcd or from etcd for this long.
    CutEtcd(Duration),
    /// No traffic to or from the API server for this long; the node continues to lead.
    CutApi(Duration),
    /// No traffic to or from either server; the API server becomes reachable first, and receives all that was
    /// sent meanwhile.
    CutBoth(Duration),
    /// The proxy holds the leader's writes; the node is frozen and deposed, and only then does the API server
    /// receive the writes: they are certainly late, and the node can no longer cancel them.
    Late,
    /// SIGTERM to the supervising process.
    End,
}

/// How often each kind comes in [`Deck::SIZE`] blows.
const DECK: [(Kind, usize); 10] = [
    (Kind::Kill, 8),
    (Kind::KillBoth, 8),
    (Kind::FreezeBrink, 5),
    (Kind::FreezeBeyondD, 5),
    (Kind::FreezeBeyondTtl, 3),
    (Kind::CutEtcd, 7),
    (Kind::CutApi, 3),
    (Kind::CutBoth, 3),
    (Kind::Late, 5),
    (Kind::End, 3),
];

#[derive(Clone, Copy)]
enum Kind {
    Kill,
    KillBoth,
    FreezeBrink,
    FreezeBeyondD,
    FreezeBeyondTtl,
    CutEtcd,
    CutApi,
    CutBoth,
    Late,
    End,
}

impl Blow {
    fn of(kind: Kind, rng: &mut StdRng) -> Self {
        let mut between = |from: u64, to: u64| Duration::from_millis(rng.random_range(from..to));
        match kind {
            Kind::Kill => Self::Kill,
            Kind::KillBoth => Self::KillBoth,
            // The node wakes at about the moment at which it is deposed, or shortly before or after.
            Kind::FreezeBrink => Self::Freeze(between(800, 1_300)),
            Kind::FreezeBeyondD => Self::Freeze(between(1_300, 2_200)),
            Kind::FreezeBeyondTtl => Self::Freeze(TTL + between(500, 1_500)),
            Kind::CutEtcd => Self::CutEtcd(between(1_300, 4_000)),
            Kind::CutApi => Self::CutApi(between(1_300, 2_200)),
            Kind::CutBoth => Self::CutBoth(between(1_300, 2_200)),
            Kind::Late => Self::Late,
            Kind::End => Self::End,
        }
    }

    /// Whether this blow certainly costs the node its office.
    pub(super) fn deposes(self) -> bool {
        !matches!(self, Self::CutApi(_) | Self::Freeze(_) | Self::CutEtcd(_))
    }

    pub(super) fn name(self) -> String {
        let said = format!("{self:?}");
        said.split('(').next().unwrap_or_default().to_owned()
    }
}

/// Blows in random order, each kind as often as [`DECK`] gives.
#[derive(Debug, Default)]
pub(super) struct Deck(VecDeque<Blow>);

impl Deck {
    pub(super) fn draw(&mut self, rng: &mut StdRng) -> Blow {
        if self.0.is_empty() {
            let kinds = DECK.iter().flat_map(|(kind, times)| std::iter::repeat_n(*kind, *times));
            let mut blows: Vec<Blow> = kinds.map(|kind| Blow::of(kind, rng)).collect();
            blows.shuffle(rng);
            self.0.extend(blows);
        }
        self.0.pop_front().expect("filled above")
    }
}
