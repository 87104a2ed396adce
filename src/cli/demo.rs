//! `tumen demo`: a cluster of child processes that loses a node and heals.

use std::process::ExitCode;

use clap::Args;

use crate::demo::{self, Options};

/// What `tumen demo` is told.
#[derive(Clone, Debug, Args)]
pub(super) struct DemoArgs {
    /// How many nodes to start.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(super) nodes: u32,
    /// How many partitions the cluster has.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(super) partitions: u32,
    /// End by itself, with exit code 0 if all went well, instead of leaving the cluster running until Ctrl-C.
    #[arg(long)]
    pub(super) once: bool,
    /// Print the summary as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// Runs the demonstration.
pub(super) async fn run_demo(args: DemoArgs) -> ExitCode {
    let DemoArgs { nodes, partitions, once, json } = args;
    demo::run(Options { nodes, partitions, once, json }).await
}
