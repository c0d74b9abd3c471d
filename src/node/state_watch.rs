//! Changes of the nodes' state, for users.
