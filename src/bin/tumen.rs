//! The command `tumen`.

fn main() {}
