//! `tumen bench`: the figures that the documentation promises, measured on this machine.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::bench::{assign, route};

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
    /// From a key to its partition, primary and epoch: time and allocations.
    Route,
    /// The strategies: time, movement, balance.
    Assign,
}

/// Runs one benchmark. `allocations` tells how often the present thread has allocated.
pub(super) fn run_bench(args: &BenchArgs, allocations: fn() -> u64) -> ExitCode {
    match args.name {
        Bench::Route => {
            let figures = route::measure(allocations);
            tell(args.json, &figures, || {
                format!(
                    "{:.1} ns a lookup ({:.1} to {:.1}), {} allocations, {} partitions; a plan of 1,024 is published in {:.3} ms",
                    figures.ns_per_lookup,
                    figures.ns_best,
                    figures.ns_worst,
                    figures.allocations,
                    figures.partitions,
                    figures.publish_ms_1024
                )
            })
        }
        Bench::Assign => match assign::measure() {
            Ok(rows) => tell(args.json, &rows, || table(&rows)),
            Err(error) => {
                super::complain(&error.to_string());
                ExitCode::FAILURE
            }
        },
    }
}

fn table(rows: &[assign::Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "strategy",
        "nodes",
        "event",
        "ms",
        "moved",
        "bound",
        "must",
        "primaries",
        "cold",
        "uneven",
    ]);
    for row in rows {
        let c = &row.certificate;
        table.add_row([
            row.strategy.to_owned(),
            row.size.nodes.to_string(),
            row.event.to_owned(),
            format!("{:.3}", row.ms),
            c.moved.to_string(),
            c.lower_bound.to_string(),
            row.must.map_or_else(|| "-".to_owned(), |must| must.to_string()),
            c.primary_changes.to_string(),
            c.cold_primaries.to_string(),
            format!("{} / {}", c.imbalance_primaries, c.imbalance_copies),
        ]);
    }
    table.to_string()
}

#[expect(clippy::print_stdout, reason = "what stdout is for")]
fn tell<T: Serialize>(json: bool, figures: &T, for_people: impl FnOnce() -> String) -> ExitCode {
    if !json {
        println!("{}", for_people());
        return ExitCode::SUCCESS;
    }
    match serde_json::to_string_pretty(figures) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            super::complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}
