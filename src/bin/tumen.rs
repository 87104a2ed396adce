//! The command `tumen`: see `tumen --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tumen::cli::main()
}
