//! R8 (replaced store): whether the store that answers is still the one that answered before.

use std::{collections::VecDeque, time::Duration};

use crate::engine::types::{BootTime, Revision};

/// Longest time between a request and its answer. A receipt older than this came before any request that is
/// still open was sent.
const LONGEST_CALL: Duration = Duration::from_secs(30);

/// Largest revisions that linearizable answers carried, by the time of their receipt.
#[derive(Debug, Default)]
pub(super) struct Headers {
    cluster: Option<u64>,
    /// Times and revisions, both in rising order.
    seen: VecDeque<(BootTime, Revision)>,
    /// Requests sent before this time were answered by a store that was given up.
    since: BootTime,
}

impl Headers {
    /// Notes the header of a linearizable answer. Returns false if the answer cannot come from the same
    /// history: its cluster id differs, or its revision is below one that was received before the request was
    /// sent. A request that has `written` made a revision of its own, so for it an equal revision is proof
    /// enough.
    pub(super) fn note(
        &mut self,
        sent_at: BootTime,
        received_at: BootTime,
        (revision, cluster): (Revision, u64),
        written: bool,
    ) -> bool {
        if sent_at < self.since || revision == Revision(0) {
            return true;
        }
        let same_cluster = cluster == 0 || self.cluster.is_none_or(|before| before == cluster);
        let floor = self.seen.iter().rev().find(|(at, _)| *at <= sent_at).map(|(_, seen)| *seen);
        let is_below = |floor| revision < floor || (written && revision == floor);
        if !same_cluster || floor.is_some_and(is_below) {
            return false;
        }
        if cluster != 0 {
            self.cluster = Some(cluster);
        }
        self.saw(received_at, revision);
        true
    }

    /// Notes a revision that the store has certainly reached: from a linearizable answer, or from an event.
    /// An event may be old, so its revision is never judged itself; but an answer to a request that is sent
    /// after the event cannot be below it.
    pub(super) fn saw(&mut self, received_at: BootTime, revision: Revision) {
        if self.seen.back().is_none_or(|(_, last)| *last < revision) {
            let at = self.seen.back().map_or(received_at, |(last, _)| received_at.max(*last));
            self.seen.push_back((at, revision));
        }
        while self.seen.get(1).is_some_and(|(at, _)| LONGEST_CALL < received_at.since(*at)) {
            self.seen.pop_front();
        }
        // More entries than this came within the longest call: drop every second one of the older half. The
        // check may then miss a replaced store, but never reports one by mistake.
        if 256 < self.seen.len() {
            let mut index = 0;
            self.seen.retain(|_| {
                index += 1;
                128 < index || index % 2 == 0
            });
        }
    }

    /// Forgets all revisions, and ignores answers to requests sent before `now`.
    pub(super) fn forget(&mut self, now: BootTime) {
        *self = Self { since: now, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> BootTime {
        BootTime(Duration::from_millis(ms))
    }

    #[test]
    fn an_answer_below_one_received_before_it_was_sent_is_of_another_store() {
        let mut headers = Headers::default();
        assert!(headers.note(at(0), at(10), (Revision(7), 1), false));
        // The request was sent before revision 7 was received, so its answer may be older.
        assert!(headers.note(at(5), at(20), (Revision(6), 1), false));
        assert!(!headers.note(at(11), at(30), (Revision(6), 1), false));
    }

    #[test]
    fn a_write_at_a_revision_that_was_there_before_it_was_sent_is_of_another_store() {
        let mut headers = Headers::default();
        headers.saw(at(10), Revision(7));
        assert!(headers.note(at(11), at(20), (Revision(7), 1), false), "a read adds none");
        assert!(headers.note(at(9), at(20), (Revision(7), 1), true), "it may be that very one");
        assert!(!headers.note(at(21), at(30), (Revision(7), 1), true));
        assert!(headers.note(at(21), at(30), (Revision(8), 1), true));
    }

    #[test]
    fn a_list_below_an_event_received_before_it_was_sent_is_of_another_store() {
        let mut headers = Headers::default();
        headers.saw(at(10), Revision(97));
        assert!(headers.note(at(9), at(20), (Revision(96), 1), false));
        assert!(!headers.note(at(11), at(30), (Revision(80), 1), false));
    }

    #[test]
    fn another_cluster_id_is_another_store() {
        let mut headers = Headers::default();
        assert!(headers.note(at(0), at(1), (Revision(7), 1), false));
        assert!(!headers.note(at(2), at(3), (Revision(8), 2), false));
        headers.forget(at(4));
        assert!(
            headers.note(at(3), at(5), (Revision(9), 1), false),
            "of the store that was given up"
        );
        assert!(headers.note(at(6), at(7), (Revision(2), 2), false));
    }
}
