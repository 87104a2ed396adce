//! `tumen bench`: the figures that the documentation promises, measured on this machine.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

/// What `tumen bench` is told.
#[derive(Clone, Debug, Args)]
pub(super) struct BenchArgs {
    /// What to measure.
    pub(super) name: Bench,
    /// Print the figures as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Bench {
    /// From a key to its partition, primary and epoch.
    Route,
    /// The strategies: time, movement, balance.
    Assign,
    /// Calls between two processes, beside a bare connection and plain `ractor_cluster`.
    Calls,
    /// From a node's death to the first answer for each of its keys.
    Failover,
}

/// Runs one benchmark.
pub(super) async fn run_bench(args: BenchArgs) -> ExitCode {
    super::complain(&format!("this build has no benchmark {:?}", args.name));
    ExitCode::FAILURE
}
