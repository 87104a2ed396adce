//! The command `tumen`: a node, a demonstration, benchmarks, and the operator's questions and orders.
//!
//! ```text
//! tumen node | demo | bench           run here
//! tumen status | nodes | ...  ──HTTP──▶ any node of a running cluster
//! ```
//!
//! Answers go to stdout and everything else to stderr. The exit code is 0, or 1 if it could not be done, or 2 if it was
//! asked for wrongly; `health` and `doctor` say with it what they found.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod client;
mod configuration;
mod demo;
mod doctor;
mod exchange;
mod handovers;
mod health;
mod names;
mod node;
mod operator;
mod partition;
mod state;
mod watch;

/// Horde/OTP for Rust: an actor-cluster runtime that keeps a cluster's partitions, singletons and names alive.
#[derive(Debug, Parser)]
#[command(name = "tumen", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node, which hosts the built-in key-value worker, and children of the kind echo.
    Node(node::NodeArgs),
    /// Start a cluster of child processes on this machine, kill one, and watch it heal.
    Demo(demo::DemoArgs),
    /// Measure something, beside what it is compared with.
    Bench(bench::BenchArgs),
    /// One of the processes that `bench calls` and `bench write` start.
    #[command(hide = true)]
    BenchChild(bench::ChildArgs),
    #[command(flatten)]
    Operator(operator::Command),
}

/// Reads the command line and does what it says. `allocations` tells how often the present thread has allocated.
pub fn main(allocations: fn() -> u64) -> ExitCode {
    match Cli::parse().command {
        Command::Node(args) => match args.begin().config(std::env::vars_os()) {
            Ok(config) => in_runtime(node::run_node(config)),
            Err(why) => {
                complain(&why);
                ExitCode::from(2)
            }
        },
        Command::Demo(args) => in_runtime(demo::run_demo(args)),
        Command::Bench(args) => bench::run_bench(&args, allocations),
        Command::BenchChild(args) => bench::run_child(args),
        Command::Operator(command) => match command.run() {
            Ok(code) => code,
            Err(why) => {
                complain(&why);
                ExitCode::FAILURE
            }
        },
    }
}

fn in_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(why) => {
            complain(&format!("no threads can be started: {why}"));
            ExitCode::FAILURE
        }
    }
}

/// One line, or a few, on stderr.
fn complain(what: &impl Display) {
    // Where stderr is closed there is nobody left to tell.
    let _ = writeln!(io::stderr(), "tumen: {what}");
}

/// Writes a line to stdout at once.
fn say(what: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{what}")?;
    out.flush()
}
