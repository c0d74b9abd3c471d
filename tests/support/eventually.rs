//! Waiting without sleeping, as in the library's test kit.

pub(crate) use bellwether::testing::eventually;
