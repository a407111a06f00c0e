//! The `pangea` command.
fn main() {}
