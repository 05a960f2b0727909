//! The sango command.
fn main() {}
