//! Clients read, write and compare-and-set keys while nodes are killed, frozen, restarted and cut off: what they were told
//! can be explained by one order, and nothing that was acknowledged is lost.
//!
//! `TUMEN_HISTORY_RUNS` and `TUMEN_HISTORY_SECONDS` make it more, `TUMEN_HISTORY_SEED` begins with another seed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;
mod history;

use std::time::{Duration, Instant};

use harness::{Cluster, Options, belief};
use history::{Load, nemesis};

fn knob(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// A few keys in a few partitions: each partition's log has the writes of several keys.
fn keys() -> Vec<String> {
    (0..6).map(|number| format!("k{number}")).collect()
}

fn options(mode: &str) -> Options {
    Options::default().flags(&["--mode", mode, "--partitions", "8"]).proxies()
}

#[test]
fn what_clients_were_told_can_be_explained_by_one_order() {
    run("sync", &options("sync"), knob("TUMEN_HISTORY_RUNS", 2));
}

#[test]
fn with_disks_what_clients_were_told_can_be_explained_by_one_order() {
    run("strong", &options("strong").disks(), knob("TUMEN_HISTORY_RUNS", 2).div_ceil(2));
}

fn run(mode: &str, options: &Options, runs: u64) {
    let (first, seconds) = (knob("TUMEN_HISTORY_SEED", 1), knob("TUMEN_HISTORY_SECONDS", 6));
    let mut checked = 0;
    for seed in first..first + runs {
        let begun = Instant::now();
        eprintln!("{mode}, seed {seed}, {seconds} s");
        let mut cluster = Cluster::start(3, options.clone());
        let load = Load { clients: 10, keys: keys(), think_max_us: 4_000, staying: (0, 0), seed };
        let mut done = Vec::new();
        let (history, told) = history::record(&mut cluster, &load, |cluster| {
            done = nemesis::rage(cluster, seed, Duration::from_secs(seconds));
        });
        eprintln!("  {done:#?}\n  {told}");
        let explained = history::explain(&history, seed);
        belief::check(&cluster);
        eprintln!("  {explained:?}, after {:?}", begun.elapsed());
        checked += explained.operations;
    }
    eprintln!(
        "{mode}: {checked} operations in {runs} runs of {seconds} s were checked, all of them are explained"
    );
}
