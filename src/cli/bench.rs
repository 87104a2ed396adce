//! `tumen bench`: the figures that the documentation promises, measured on this machine.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use comfy_table::{Table, presets};
use serde::Serialize;

use tumen_core::cluster::snapshot::Mode;

use crate::bench::{assign, calls, children, config, failover, handover, names, pubsub, route, write};
use crate::config::Value;

/// What `tumen bench` is told.
#[derive(Clone, Debug, Args)]
pub(super) struct BenchArgs {
    /// What to measure.
    pub(super) name: Bench,
    /// Print the figures as JSON.
    #[arg(long)]
    pub(super) json: bool,
    /// For `failover`: how long to watch, under load, for elections that nobody gave cause for.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = <Duration as Value>::parse)]
    pub(super) load: Duration,
    /// For `calls`, `pubsub` and `write`: how often each contestant is measured; the middle one counts. Default: 9, for the other
    /// two 5.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(super) rounds: Option<u32>,
    /// For `failover` and `write`: what a write's acknowledgement promises. Default: `async`, for `write` each in turn.
    #[arg(long, value_parser = <Mode as Value>::parse)]
    pub(super) mode: Option<Mode>,
    /// For `write`: write so many times instead, such as 10000000, and see whether memory and files grow.
    #[arg(long, value_name = "WRITES", value_parser = clap::value_parser!(u64).range(1_000..=1_000_000_000_000))]
    pub(super) steady: Option<u64>,
    /// For `names`: how many names there are in the end.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(200_000..=20_000_000))]
    pub(super) names: u64,
    /// For `calls`: worker threads of each process. Default: half of the cores, for two processes are at work.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub(super) threads: Option<u32>,
    /// For `handover`: how many partitions there are.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(3..=4_096))]
    pub(super) partitions: u32,
    /// For `handover`: how many MB each of them holds. Three times the product is in memory.
    #[arg(long, value_name = "MB", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(super) partition_mb: u32,
}

/// What a child process of a benchmark is told.
#[derive(Clone, Debug, Args)]
pub(super) struct ChildArgs {
    /// Which way calls go.
    contestant: calls::Contestant,
    /// Which end of it this is.
    part: calls::Part,
    /// Worker threads.
    #[arg(long)]
    threads: u32,
    /// Where the other process is.
    #[arg(long)]
    to: Option<String>,
}

fn named(figures: &names::Figures) -> String {
    format!(
        "lookup {:.0} ns with 10,000 names (a plain map: {:.0}), {:.0} ns with {} (a plain map: {:.0})\nregistrations: {:.1} k/s of 10,000, {:.1} k/s of 100,000, {:.1} k/s with {} there (1,024 at once)\nvisible on both others {:.1} ms after the last reply for 10,000, {:.1} ms for 100,000\na name costs {:.0} bytes of memory on each of {} nodes",
        figures.lookup_ns,
        figures.map_ns,
        figures.lookup_ns_many,
        figures.names,
        figures.map_ns_many,
        figures.registrations_per_s / 1e3,
        figures.registrations_per_s_100k / 1e3,
        figures.registrations_per_s_many / 1e3,
        figures.names,
        figures.visible_ms_10k,
        figures.visible_ms_100k,
        figures.bytes_per_name,
        figures.nodes
    )
}

fn configured(figures: &config::Figures) -> String {
    format!(
        "set on the leader: {:.0} µs (median; p99 {:.0}), {:.1} of the disk's fsyncs ({:.0} µs; p99 {:.0})\nset on another node: {:.0} µs (median; p99 {:.0})\n{:.0} sets a second, 32 at once\nread: {:.0} ns of 100 keys, {:.0} ns of 1,000; {:.0} ns as it is kept\n{} nodes with disks",
        figures.set_p50_us,
        figures.set_p99_us,
        figures.set_in_fsyncs,
        figures.fsync_p50_us,
        figures.fsync_p99_us,
        figures.set_elsewhere_p50_us,
        figures.set_elsewhere_p99_us,
        figures.sets_per_s_32,
        figures.read_ns,
        figures.read_ns_1000,
        figures.value_ns,
        figures.nodes
    )
}

fn broadcasts(figures: &pubsub::Figures) -> String {
    format!(
        "{:.1} k broadcasts/s of {} bytes to {} subscribers in other processes (slowest round {:.1}), {} lost\nractor_cluster's groups: {:.1} k/s; {:.1} times as many\nall {} members answered: {:.0} µs (median; p99 {:.0}); ractor_cluster's: {:.0} µs (p99 {:.0})\nall nodes confirmed: {:.0} µs\n{} rounds, {} thread a process",
        figures.broadcasts_per_s / 1e3,
        figures.message_len,
        figures.subscribers,
        figures.broadcasts_per_s_worst / 1e3,
        figures.lost,
        figures.pg_broadcasts_per_s / 1e3,
        figures.ratio_to_pg,
        figures.subscribers,
        figures.all_acked_p50_us,
        figures.all_acked_p99_us,
        figures.pg_all_acked_p50_us,
        figures.pg_all_acked_p99_us,
        figures.confirmed_p50_us,
        figures.rounds,
        figures.threads
    )
}

fn supervised(figures: &children::Figures) -> String {
    format!(
        "starts: {:.1} k/s (1,024 at once)\nkill -9: a singleton answers again after {:.1} ms (median; slowest {:.1}); with its directory {:.1} ms (slowest {:.1}); all of {} children after {:.1} ms (slowest {:.1})\nmoved in good order: {:.1} ms without an answer (median; longest {:.1})",
        figures.starts_per_s / 1e3,
        figures.singleton_ms,
        figures.singleton_worst_ms,
        figures.with_directory_ms,
        figures.with_directory_worst_ms,
        figures.children,
        figures.children_ms,
        figures.children_worst_ms,
        figures.move_ms,
        figures.move_worst_ms
    )
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Bench {
    /// From a key to its partition, primary and epoch: time and allocations.
    Route,
    /// The strategies: time, movement, balance.
    Assign,
    /// A call between two processes and back, beside a bare RPC and plain ractor_cluster; control lane, memory.
    Calls,
    /// From a node's death to the first answer for each of its keys; boot, memory, elections.
    Failover,
    /// Write pauses while primaries move, how fast whole copies are made beside a bare socket, and the topic `control` meanwhile.
    Handover,
    /// Registrations and lookups of names on three nodes, how soon the others see them, and what a name weighs.
    Names,
    /// Setting a value for the whole cluster, beside the disk's fsync in the same run; reading one.
    Config,
    /// Messages to eight subscribers in two other processes, and all of them asked, beside the groups of ractor_cluster.
    Pubsub,
    /// Children: starts, and from a node's death, or a move, to their next answer.
    Children,
    /// Writes of 64 bytes to three nodes, by mode and copies, beside a bare RPC over as many hops and the disk's fsyncs.
    Write,
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
        Bench::Calls => {
            let threads = args.threads.map_or_else(calls::threads_usual, |threads| threads as usize);
            match calls::measure(args.rounds.unwrap_or(9) as usize, threads) {
                Ok(figures) => tell(args.json, &figures, || rates(&figures)),
                Err(error) => {
                    super::complain(&error.to_string());
                    ExitCode::FAILURE
                }
            }
        }
        Bench::Write => match write::measure(args.rounds.unwrap_or(5) as usize, args.mode, args.steady) {
            Ok(figures) => tell(args.json, &figures, || writes(&figures)),
            Err(error) => {
                super::complain(&error.to_string());
                ExitCode::FAILURE
            }
        },
        Bench::Names => match names::measure(args.names) {
            Ok(figures) => tell(args.json, &figures, || named(&figures)),
            Err(error) => {
                super::complain(&error.to_string());
                ExitCode::FAILURE
            }
        },
        Bench::Config => match config::measure() {
            Ok(figures) => tell(args.json, &figures, || configured(&figures)),
            Err(error) => {
                super::complain(&error.to_string());
                ExitCode::FAILURE
            }
        },
        Bench::Pubsub => match pubsub::measure(args.rounds.unwrap_or(5) as usize) {
            Ok(figures) => tell(args.json, &figures, || broadcasts(&figures)),
            Err(error) => {
                super::complain(&error.to_string());
                ExitCode::FAILURE
            }
        },
        Bench::Children => match children::measure() {
            Ok(figures) => tell(args.json, &figures, || supervised(&figures)),
            Err(error) => {
                super::complain(&error.to_string());
                ExitCode::FAILURE
            }
        },
        Bench::Failover => match failover::measure(args.load, args.mode.unwrap_or_default()) {
            Ok(figures) => tell(args.json, &figures, || outages(&figures)),
            Err(error) => {
                super::complain(&error.to_string());
                ExitCode::FAILURE
            }
        },
        Bench::Handover => {
            let partition_bytes = u64::from(args.partition_mb) << 20;
            match handover::measure(handover::Size { partitions: args.partitions, partition_bytes }) {
                Ok(figures) => tell(args.json, &figures, || moves(&figures)),
                Err(error) => {
                    super::complain(&error.to_string());
                    ExitCode::FAILURE
                }
            }
        }
    }
}

/// Runs one child process of `bench calls` or `bench write`.
pub(super) fn run_child(args: ChildArgs) -> ExitCode {
    let ChildArgs { contestant, part, threads, to } = args;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.max(1) as usize)
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(calls::run(contestant, part, to)),
        Err(why) => Err(why.to_string()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            super::complain(&format!("the {part} of {contestant}: {why}"));
            ExitCode::FAILURE
        }
    }
}

fn rates(figures: &calls::Figures) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["64 bytes", "round trip", "64 at once", "1,024 at once"]);
    for (what, rtt, few, many) in [
        ("tumen", figures.rtt_us, figures.per_s_64, figures.per_s_1024),
        ("bare RPC", figures.rtt_raw_us, figures.raw_per_s_64, figures.raw_per_s_1024),
        (
            "ractor_cluster",
            figures.rtt_ractor_cluster_us,
            figures.ractor_cluster_per_s_64,
            figures.ractor_cluster_per_s_1024,
        ),
    ] {
        let rate = |rate: f64| format!("{:.0} k/s", rate / 1e3);
        table.add_row([what.to_owned(), format!("{rtt:.1} µs"), rate(few), rate(many)]);
    }
    let (control, flood) = (&figures.control, &figures.flood);
    format!(
        "{table}\nbeside the bare RPC: {:.2} of its calls at 1,024 at once, {:.2} at 64; round trip {:.2} of its\nbeside ractor_cluster: {:.1} times its calls at 1,024 at once, {:.1} at 64\ncontrol lane: {:.2} ms and at worst {:.2} ms alone; {:.2} ms and at worst {:.2} ms during a copy of 1 GiB ({:.2} s)\nfrozen node: {} calls ended as Overloaded {}, Timeout {}, NotReady {}, otherwise {}; {:.1} MB more memory\n{} rounds, {} threads a process",
        figures.ratio_to_raw_1024,
        figures.ratio_to_raw_64,
        figures.ratio_rtt_to_raw,
        figures.ratio_to_ractor_cluster_1024,
        figures.ratio_to_ractor_cluster_64,
        control.control_ms_alone,
        control.control_worst_ms_alone,
        control.control_ms_during_copy,
        control.control_worst_ms_during_copy,
        control.copy_seconds,
        flood.flood_calls,
        flood.flood_overloaded,
        flood.flood_timeout,
        flood.flood_not_ready,
        flood.flood_ended_otherwise,
        flood.flood_rss_growth_mb,
        figures.rounds,
        figures.threads
    )
}

fn writes(figures: &write::Figures) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if figures.steady.is_empty() {
        table.set_header([
            "64 bytes",
            "one, p50",
            "64, p50",
            "64, p99",
            "64 at once",
            "1,024 at once",
            "bare RPC",
        ]);
        for row in &figures.modes {
            let (us, rate) = (|us: f64| format!("{us:.0} µs"), |rate: f64| format!("{:.1} k/s", rate / 1e3));
            table.add_row([
                row.setting.to_string(),
                us(row.p50_us_1),
                us(row.p50_us_64),
                us(row.p99_us_64),
                rate(row.per_s_64),
                rate(row.per_s_1024),
                format!(
                    "{:.0} µs, {}, {}",
                    row.bare_p50_us_1,
                    rate(row.bare_per_s_64),
                    rate(row.bare_per_s_1024)
                ),
            ]);
        }
    } else {
        table.set_header(["", "writes", "", "MB at 10 %", "at 50 %", "at 100 %"]);
        for steady in &figures.steady {
            let at = |percent| {
                let seen = steady.seen.iter().find(|seen| seen.percent == percent);
                let shown =
                    |list: &[f64]| list.iter().map(|mb| format!("{mb:.0}")).collect::<Vec<_>>().join(" ");
                seen.map(|seen| format!("{} ({})", shown(&seen.rss_mb), shown(&seen.files_mb)))
                    .unwrap_or_default()
            };
            let rate = format!("{:.1} k/s", steady.per_s / 1e3);
            let (name, count) = (steady.setting.to_string(), steady.writes.to_string());
            table.add_row([name, count, rate, at(10), at(50), at(100)]);
        }
    }
    format!(
        "{table}\nthe disk's own fsyncs: {:.0} a second\n{} rounds, {} thread a process, {} keys, {} partitions",
        figures.fsync_per_s, figures.rounds, figures.threads, figures.keys, figures.partitions
    )
}

fn outages(figures: &failover::Figures) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["ms", "median", "slowest"]);
    for (what, median, worst) in [
        ("boot to ready", figures.boot_ms, figures.boot_worst_ms),
        ("kill -9, not the leader", figures.kill_ms, figures.kill_worst_ms),
        ("kill -9, the leader", figures.leader_ms, figures.leader_worst_ms),
        ("SIGSTOP, not the leader", figures.freeze_ms, figures.freeze_worst_ms),
    ] {
        table.add_row([what.to_owned(), format!("{median:.1}"), format!("{worst:.1}")]);
    }
    let memory = figures.memory_mb.map_or_else(|| "?".to_owned(), |memory| memory.to_string());
    format!(
        "{table}\n{} nodes, {} partitions, fsync {:.2} ms, a lease of {:.0} ms\n{memory} MB in a node with 1,024 idle partitions\n{} elections nobody asked for in {:.0} s of load, {} requests, {} failed",
        figures.nodes,
        figures.partitions,
        figures.fsync_ms,
        figures.lease_ms,
        figures.elections,
        figures.load_seconds,
        figures.load_requests,
        figures.load_failed
    )
}

fn moves(figures: &handover::Figures) -> String {
    let control = &figures.control;
    format!(
        "{} primaries moved; writes paused for {:.1} ms (median), {:.1} ms (p99), {:.1} ms (longest)\nthe longest between two writes meanwhile: {:.1} ms (p99), where nothing moves {:.1} ms\nwhole copies: {:.0} MB/s beside {:.0} MB/s of a bare socket ({:.3} of it), {:.0} ms for {} partitions of {:.1} MB\n{} nodes, {} writes, {} failed\na round trip on the topic `control` while {:.0} MB are handed over in {:.1} s, {} primaries: {:.2} ms (median), {:.2} ms (p99), {:.2} ms (slowest of {}); alone {:.2}, {:.2} and {:.2} ms\nthe machine itself was held up for {:.0} ms meanwhile; where it was not: {:.2} ms (slowest of {})",
        figures.moves,
        figures.pause_p50_ms,
        figures.pause_p99_ms,
        figures.pause_worst_ms,
        figures.gap_p99_ms,
        figures.quiet_p99_ms,
        figures.bytes_per_s / 1e6,
        figures.raw_bytes_per_s / 1e6,
        figures.ratio,
        figures.copies_ms,
        figures.partitions,
        figures.partition_mb,
        figures.nodes,
        figures.writes,
        figures.writes_failed,
        control.control_handover_mb,
        control.control_handover_s,
        control.control_moves,
        control.control_p50_ms,
        control.control_p99_ms,
        control.control_worst_ms,
        control.control_round_trips,
        control.control_alone_p50_ms,
        control.control_alone_p99_ms,
        control.control_alone_worst_ms,
        control.control_stolen_ms,
        control.control_worst_undisturbed_ms,
        control.control_round_trips - control.control_disturbed
    )
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
