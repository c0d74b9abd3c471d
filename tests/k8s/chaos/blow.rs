//! What is done to the leader.

use std::{collections::VecDeque, time::Duration};

use rand::{RngExt as _, rngs::StdRng, seq::SliceRandom as _};

use super::TTL;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Blow {
    /// SIGKILL of the node; its parent sees it and ends its lease.
    Kill,
    /// SIGKILL of the parent and the node: nobody ends anything.
    KillBoth,
    /// SIGSTOP of both for so long, then SIGCONT.
    Freeze(Duration),
    /// Nothing reaches etcd or comes from there for so long.
    CutEtcd(Duration),
    /// The same for the API server; it goes on leading.
    CutApi(Duration),
    /// Both; the API server comes back first, with all that was sent to it meanwhile.
    CutBoth(Duration),
    /// What it writes is held on its way; it is frozen, deposed, and only then does the API server get what it
    /// had written: a write that is late for certain, and that nobody calls back.
    Late,
    /// SIGTERM.
    End,
}

/// How often each comes in [`Deck::SIZE`] blows.
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
            // It wakes at about the moment at which it is deposed, or shortly before or after.
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

    /// Whether the office changes hands by it for certain.
    pub(super) fn deposes(self) -> bool {
        !matches!(self, Self::CutApi(_) | Self::Freeze(_) | Self::CutEtcd(_))
    }

    pub(super) fn name(self) -> String {
        let said = format!("{self:?}");
        said.split('(').next().unwrap_or_default().to_owned()
    }
}

/// Blows in an order by chance, each as often as it should come.
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
