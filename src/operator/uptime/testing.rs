//! Helpers that the tests of this module share.

use super::{
    check::Check,
    resource::{
        API_VERSION, Expect, KIND, Metadata, Target, TcpTarget, UptimeCheck, UptimeCheckSpec,
    },
    value::Span,
};

/// Returns a check of that name with an interval of so many seconds.
pub(super) fn check(name: &str, interval_secs: u64) -> Check {
    let target = Target::Tcp(TcpTarget { host: "localhost".into(), port: 1 });
    let interval = Span::secs(interval_secs);
    Check::new(UptimeCheck {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        metadata: Metadata { name: name.into(), ..Metadata::default() },
        spec: UptimeCheckSpec {
            target,
            interval,
            timeout: None,
            failure_threshold: 1,
            expect: Expect::default(),
        },
        status: None,
    })
    .unwrap()
}
