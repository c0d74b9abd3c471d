//! The engine's words in JSON, such as that of a status: as strings, since numbers above 2^53 would not survive a
//! browser.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::engine::{Holder, LeaseId, NodeId, Revision, Role, ShardEpoch, Term};

macro_rules! as_text {
    ($($type:ident: $parse:expr;)*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let parse: fn(&str) -> Option<Self> = $parse;
                let what = concat!(stringify!($type), " expected");
                parse(&text).ok_or_else(|| D::Error::custom(format!("{what}: {text:?}")))
            }
        }
    )*};
}

as_text! {
    NodeId: |text| NodeId::new(text.parse().ok()?).ok();
    Term: |text| text.parse().ok().map(Term);
    Revision: |text| text.parse().ok().map(Revision);
    ShardEpoch: |text| text.parse().ok().map(ShardEpoch);
    LeaseId: |text| u64::from_str_radix(text, 16).ok().map(|lease| LeaseId(lease.cast_signed()));
    // Earlier versions write nothing for a node whose metadata is malformed.
    Role: |text| {
        let mut known = [Role::Leader, Role::Follower].into_iter();
        Some(known.find(|role| role.to_string() == text).unwrap_or_default())
    };
    Holder: |text| match text {
        "?" => Some(Holder::Unknown),
        id => NodeId::new(id.parse().ok()?).ok().map(Holder::Node),
    };
}
