//! Training commands.
fn main() {}
