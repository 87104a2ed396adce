//! `GET /metrics`: what this node counts, in the text format of Prometheus (version 0.0.4).
//!
//! ```text
//!  invariants · ledger · copies and their phases · plan · lease · consensus · names ─▶ Page ─▶ text
//! ```
//!
//! Everything is read from where it is counted anyway, when somebody asks; nothing is counted for this page alone.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use tumen_actors::partitions::meter::{PLACES, Took};
use tumen_actors::partitions::promotions;
use tumen_actors::partitions::replication::phases::{self, Figures, MODES};
use tumen_core::GroupId;
use tumen_core::cluster::health::Status;
use tumen_core::cluster::member;
use tumen_core::partitions::ledger::Reason;

use super::routes::App;
use crate::node::{Node, PartitionStats};

/// What the text is.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) async fn metrics(State(app): State<App>) -> Response {
    ([(CONTENT_TYPE, TEXT), (CACHE_CONTROL, "no-store")], page(&app.node)).into_response()
}

fn page(node: &Node) -> String {
    let mut page = Page::default();
    put_node(&mut page, node);
    put_cluster(&mut page, node);
    put_health(&mut page, node);
    put_invariants(&mut page, node);
    put_ledger(&mut page, node);
    put_promotions(&mut page, node);
    put_merged(&mut page, node);
    put_copies(&mut page, node);
    put_names(&mut page, node);
    put_exchange(&mut page, node);
    page.text
}

fn put_node(page: &mut Page, node: &Node) {
    let (runtime, id) = (node.runtime(), node.id());
    page.family("tumen_info", Kind::Gauge, "1, with who this node is.");
    let (cluster, boot) = (node.config().cluster.to_string(), format!("{:x}", id.boot.0));
    let labels = [
        ("cluster", &*cluster),
        ("node", id.node.as_str()),
        ("boot", &*boot),
        ("version", env!("CARGO_PKG_VERSION")),
    ];
    page.sample(&labels, 1);
    let ready = u64::from(node.not_ready().is_none());
    page.gauge("tumen_ready", "1 if this node serves all that it should.", ready);
    let gate = runtime.gate();
    page.gauge("tumen_lease_held", "1 if this node may answer.", u64::from(gate.is_open()));
    page.family("tumen_lease_remaining_seconds", Kind::Gauge, "How long this node may still answer.");
    let left = gate.until().since(gate.now());
    page.sample(&[], Seconds(u64::try_from(left.as_micros()).unwrap_or(u64::MAX)));
}

fn put_cluster(page: &mut Page, node: &Node) {
    let runtime = node.runtime();
    let (plan, consensus) = (node.snapshot(), runtime.consensus());
    let consensus = consensus.borrow().clone();
    page.gauge("tumen_plan_version", "The number of the newest plan known.", node.current_epoch().0);
    page.gauge("tumen_term", "The newest term of a leader known.", runtime.term().0);
    let leads = runtime.leader().as_ref() == Some(node.name());
    page.gauge("tumen_leader", "1 if this node leads.", u64::from(leads));
    page.counter("tumen_elections_total", "Leaders that this node saw come.", consensus.elections);
    page.counter("tumen_candidacies_total", "How often it stood for election.", consensus.candidacies);
    page.gauge("tumen_nodes_alive", "Nodes held for alive, this one included.", len(node.live_nodes().len()));
    page.family("tumen_members", Kind::Gauge, "Members of the newest plan.");
    for (state, status) in [
        ("up", member::Status::Up),
        ("leaving", member::Status::Leaving),
        ("away", member::Status::Away),
        ("lost", member::Status::Lost),
    ] {
        let members = plan.iter().flat_map(|plan| &plan.members);
        page.sample(&[("state", state)], len(members.filter(|member| member.status == status).count()));
    }
    let stats = node.partition_stats();
    page.gauge("tumen_partitions", "How many partitions there are.", stats.total_partitions.into());
    let served: u32 = stats.partitions_per_node.values().sum();
    let unserved = stats.total_partitions.saturating_sub(served);
    page.gauge("tumen_partitions_unserved", "Partitions without a primary.", unserved.into());
    let help =
        "Most primaries of a node that takes its share, less the fewest. Weights make it large by necessity.";
    let takes_part = |name: &&str| {
        let member = plan.as_ref().and_then(|plan| plan.member(name));
        member.is_some_and(|member| member.status == member::Status::Up && member.info.weight > 0)
    };
    page.gauge("tumen_partition_imbalance", help, imbalance(&stats, takes_part));
}

fn put_health(page: &mut Page, node: &Node) {
    let health = node.health();
    let help = "How the cluster is, as this node sees it: 0 healthy, 1 degraded, 2 critical.";
    page.gauge("tumen_health", help, health.status as u64);
    page.family("tumen_health_reasons", Kind::Gauge, "1 for each reason why it is not healthy.");
    for reason in &health.reasons {
        let (code, node) = (reason.code(), reason.node().map_or("", |node| node.as_str()));
        page.sample(&[("code", code), ("status", reason.status().name()), ("node", node)], 1);
    }
    page.family("tumen_health_nodes", Kind::Gauge, "Members, by how they are.");
    for status in [Status::Healthy, Status::Degraded, Status::Critical] {
        let count = health.nodes.iter().filter(|node| node.status == status).count();
        page.sample(&[("status", status.name())], len(count));
    }
    page.family("tumen_health_partitions", Kind::Gauge, "Partitions, by how they are.");
    let tally = health.tally(GroupId::Users);
    for status in [Status::Healthy, Status::Degraded, Status::Critical] {
        page.sample(&[("status", status.name())], tally[status as usize]);
    }
    let (healthy, wanted) = health.replicas(GroupId::Users);
    page.gauge("tumen_copies_wanted", "Copies of partitions that are wanted.", wanted);
    page.gauge("tumen_copies_healthy", "Those of them that count and are there.", healthy);
}

/// The most primaries of any of these nodes, less the fewest.
fn imbalance(stats: &PartitionStats, is_one: impl Fn(&&str) -> bool) -> u64 {
    let of = stats.partitions_per_node.iter().filter(|(name, _)| is_one(&name.as_str()));
    let counts: Vec<u32> = of.map(|(_, count)| *count).collect();
    let (most, least) = (counts.iter().max().copied(), counts.iter().min().copied());
    u64::from(most.unwrap_or(0) - least.unwrap_or(0))
}

fn put_invariants(page: &mut Page, node: &Node) {
    let report = node.invariants();
    let help = "What must hold at every moment, and was seen not to. It stays 0, or tumen has a fault: see GET /invariants.";
    page.gauge("tumen_invariant_violations", help, report.violations);
    page.family("tumen_invariant_violations_by", Kind::Gauge, "The same by promise.");
    for (invariant, tally) in &report.invariants {
        page.sample(&[("invariant", invariant)], tally.violations);
    }
    page.family("tumen_invariant_observations_total", Kind::Counter, "How often each promise was looked at.");
    for (invariant, tally) in &report.invariants {
        page.sample(&[("invariant", invariant)], tally.observations);
    }
}

fn put_ledger(page: &mut Page, node: &Node) {
    let ledger = node.ledger();
    let total = ledger.total();
    let help = "Requests that came to partitions here, by how they ended.";
    page.family("tumen_requests_total", Kind::Counter, help);
    page.sample(&[("ending", "answered"), ("reason", "")], total.answered());
    page.sample(&[("ending", "expired"), ("reason", "")], total.expired());
    for reason in Reason::all() {
        page.sample(&[("ending", "rejected"), ("reason", reason.code())], total.rejected(reason));
    }
    page.counter("tumen_requests_sent_total", "Requests that came to partitions here.", total.sent());
    let help = "Of those that expired, the ones of which nobody knows whether they were carried out.";
    page.counter("tumen_requests_unknown_total", help, total.unknown());
    page.gauge("tumen_requests_open", "Requests that are being carried out.", total.open());
    let all = ledger.accounts().map(|(_, account)| account.handovers_total()).sum();
    page.counter("tumen_handovers_total", "Partitions that this node gave away, as planned.", all);
}

fn put_promotions(page: &mut Page, node: &Node) {
    let help = "From the plan that named this node primary of a partition until it served. Not of a partition's first primary; and one that waits for copies is not over: see tumen_partitions_opening.";
    page.family("tumen_promotion_seconds", Kind::Histogram, help);
    page.took(&[], &node.runtime().promotions(), &promotions::TOOK_US);
}

fn put_merged(page: &mut Page, node: &Node) {
    let merged = node.runtime().merged();
    let help = "States that this node kept in a cluster that it left, and brought to the next one: taken there, or refused for good.";
    page.family("tumen_states_brought_total", Kind::Counter, help);
    page.sample(&[("ending", "taken")], merged.brought);
    page.sample(&[("ending", "refused")], merged.refused);
    let help = "States that were brought to primaries here: merged, or dropped because they cannot be read or the worker panicked at them.";
    page.family("tumen_states_merged_total", Kind::Counter, help);
    page.sample(&[("ending", "merged")], merged.merged);
    page.sample(&[("ending", "dropped")], merged.dropped);
    let help = "Changes that merging them took.";
    page.counter("tumen_merge_changes_total", help, merged.changes);
}

/// One of the figures.
type Of = fn(&Figures) -> u64;

fn put_copies(page: &mut Page, node: &Node) {
    let replication = node.runtime().replication();
    let figures: BTreeMap<String, Figures> =
        MODES.iter().map(ToString::to_string).zip(replication.figures()).collect();
    let status = replication.status();
    let help = "Entries of partitions led here that were logged by W copies (prepared), of which another copy was told (pre_committed), and that were applied here (committed).";
    page.family("tumen_replication_entries_total", Kind::Counter, help);
    for (mode, Figures { phases, .. }) in &figures {
        let each = [
            ("prepared", phases.prepared),
            ("pre_committed", phases.pre_committed),
            ("committed", phases.committed),
        ];
        for (phase, count) in each {
            page.sample(&[("mode", mode), ("phase", phase)], count);
        }
    }
    page.family("tumen_replica_entries_total", Kind::Counter, "Entries that replicas here applied.");
    figures.iter().for_each(|(mode, one)| page.sample(&[("mode", mode)], one.phases.applied));
    let help = "From an entry's append until W copies had logged it: of one entry of a partition at a time.";
    page.family("tumen_replication_prepare_seconds", Kind::Histogram, help);
    figures.iter().for_each(|(mode, one)| page.took(&[("mode", mode)], &one.took, &phases::TOOK_US));
    let gauges: [(_, _, Of); 6] = [
        (
            "tumen_replication_lag_entries",
            "Entries of partitions led here that W copies do not have yet. In async, what would be lost with this node.",
            |one| one.lag,
        ),
        ("tumen_replication_lag_entries_max", "The most of them in one partition.", |one| one.lag_max),
        ("tumen_partitions_led", "Partitions that are led here, and open.", |one| one.primaries),
        ("tumen_partitions_opening", "Partitions that are to be led here, and not open yet.", |one| {
            one.opening
        }),
        ("tumen_replicas", "Other copies here.", |one| one.replicas),
        ("tumen_copies_broken", "Copies here whose state is of no use.", |one| one.broken),
    ];
    for (name, help, value) in gauges {
        page.family(name, Kind::Gauge, help);
        figures.iter().for_each(|(mode, one)| page.sample(&[("mode", mode)], value(one)));
    }
    let help =
        "How many of them there may be in one partition: beyond that writes are refused as overloaded.";
    page.gauge("tumen_replication_lag_entries_limit", help, replication.lag_max());
    let packing = replication.packing();
    page.counter("tumen_states_sent_total", "Whole states that this node sent to copies.", packing.states);
    page.family(
        "tumen_state_bytes_total",
        Kind::Counter,
        "Bytes of these states, and bytes that were sent for them.",
    );
    page.sample(&[("form", "plain")], packing.plain);
    page.sample(&[("form", "sent")], packing.sent);
    page.family(
        "tumen_state_compression_ratio",
        Kind::Gauge,
        "Bytes of states for each byte sent, since the start.",
    );
    page.sample(&[], ratio(packing.plain, packing.sent));
    let help = "Copies that the disk had lost when the node started.";
    page.gauge("tumen_copies_rebuilt", help, status.copies_rebuilt);
    let failed = u64::from(status.disk_failed.is_some());
    page.gauge("tumen_disk_failed", "1 if nothing is written to disk any more.", failed);
}

fn put_names(page: &mut Page, node: &Node) {
    let figures = node.names().figures();
    let help = "Names of the whole cluster that this node knows, children's included.";
    page.gauge("tumen_names", help, len(figures.known));
    page.family("tumen_names_held", Kind::Gauge, "What stands under a name and is on this node.");
    let singletons = figures.singletons.min(figures.children);
    for (what, count) in
        [("actor", figures.held), ("child", figures.children - singletons), ("singleton", singletons)]
    {
        page.sample(&[("what", what)], len(count));
    }
    let help = "Directories of names that are led here.";
    page.gauge("tumen_directories_led", help, len(figures.directories));
    let help = "Claims, starts and the like that directories which were led here refused.";
    page.counter("tumen_names_refused_total", help, figures.refused);
    let help = "Children of directories that were led here that failed, or whose node went, and that go on.";
    page.counter("tumen_child_restarts_total", help, figures.restarts);
}

fn put_exchange(page: &mut Page, node: &Node) {
    let figures = node.runtime().exchange().figures();
    let counts = figures.counts;
    let help = "Topics of the users' own that anybody is known to listen to, or to retain a value on.";
    page.gauge("tumen_topics", help, len(figures.topics));
    page.gauge("tumen_topic_subscribers", "Subscribers of topics on this node.", len(figures.subscribers));
    page.counter("tumen_topic_published_total", "Messages that this node said on topics.", counts.published);
    let help = "Messages on topics that came from other nodes.";
    page.counter("tumen_topic_received_total", help, counts.received);
    let help = "Messages on topics that were handed to subscribers here, counted for each of them.";
    page.counter("tumen_topic_delivered_total", help, counts.delivered);
    let help = "Messages on topics that were not delivered: unsent (too much waits for a node: one for each node), missed (lost on the way here), overflowed (a subscriber here is too slow).";
    page.family("tumen_topic_lost_total", Kind::Counter, help);
    for (why, count) in
        [("unsent", counts.lost), ("missed", counts.missed), ("overflowed", figures.overflowed)]
    {
        page.sample(&[("why", why)], count);
    }
    page.gauge("tumen_groups", "Groups that have members, on any node.", len(figures.groups));
    page.gauge("tumen_group_members", "Members of groups on this node.", len(figures.members));
}

/// One number for each of another, in thousandths.
fn ratio(plain: u64, sent: u64) -> String {
    let thousandths = u128::from(plain) * 1000 / u128::from(sent.max(1));
    let thousandths = if sent == 0 { 1000 } else { thousandths };
    format!("{}.{:03}", thousandths / 1000, thousandths % 1000)
}

fn len(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Microseconds, shown as seconds.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, rest) = (self.0 / 1_000_000, self.0 % 1_000_000);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let rest = format!("{rest:06}");
        write!(f, "{whole}.{}", rest.trim_end_matches('0'))
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The text as it grows: one family after the other, each with its samples.
#[derive(Default)]
struct Page {
    text: String,
    name: &'static str,
}

impl Page {
    /// A family begins. All samples until the next one are its own.
    fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.name = name;
        self.text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.part("", labels, value);
    }

    /// A sample whose name goes on after the family's.
    fn part(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        for (at, (label, is)) in labels.iter().enumerate() {
            self.text.push(if at == 0 { '{' } else { ',' });
            self.text.push_str(label);
            self.text.push_str("=\"");
            for character in is.chars() {
                match character {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        // A string takes everything.
        let _ = writeln!(self.text, "{end} {value}");
    }

    /// A histogram's samples under these labels, in seconds.
    fn took(&mut self, labels: &[(&str, &str)], took: &Took, up_to_us: &[u64; PLACES]) {
        let ends = up_to_us.iter().map(|most| Seconds(*most).to_string()).chain(["+Inf".to_owned()]);
        let mut so_far = 0;
        for (count, le) in took.counts.iter().zip(ends) {
            so_far += count;
            let labels: Vec<_> = labels.iter().copied().chain([("le", &*le)]).collect();
            self.part("_bucket", &labels, so_far);
        }
        self.part("_sum", labels, Seconds(took.sum_us));
        self.part("_count", labels, so_far);
    }

    fn gauge(&mut self, name: &'static str, help: &str, value: u64) {
        self.family(name, Kind::Gauge, help);
        self.sample(&[], value);
    }

    fn counter(&mut self, name: &'static str, help: &str, value: u64) {
        self.family(name, Kind::Counter, help);
        self.sample(&[], value);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tumen_actors::partitions::meter::Meter;

    use super::*;

    #[test]
    fn a_histogram_adds_up_from_place_to_place() {
        let meter = Meter::new(&promotions::TOOK_US);
        for ms in [1, 2, 40_000] {
            meter.note(Duration::from_millis(ms));
        }
        let mut page = Page::default();
        page.family("a", Kind::Histogram, "How long.");
        page.took(&[("mode", "sync")], &meter.read(), &promotions::TOOK_US);
        let lines: Vec<&str> = page.text.lines().skip(2).collect();
        assert_eq!(lines.len(), PLACES + 3);
        assert_eq!(
            lines[..2],
            ["a_bucket{mode=\"sync\",le=\"0.001\"} 1", "a_bucket{mode=\"sync\",le=\"0.0025\"} 2"]
        );
        let end = ["a_bucket{mode=\"sync\",le=\"30\"} 2", "a_bucket{mode=\"sync\",le=\"+Inf\"} 3"];
        assert_eq!(lines[PLACES - 1..=PLACES], end);
        assert_eq!(lines[PLACES + 1..], ["a_sum{mode=\"sync\"} 40.003", "a_count{mode=\"sync\"} 3"]);
    }

    #[test]
    fn a_page_is_as_prometheus_reads_it() {
        let mut page = Page::default();
        page.counter("a_total", "How many.", 3);
        page.family("b", Kind::Histogram, "How long.");
        page.part("_bucket", &[("mode", "sync"), ("le", "+Inf")], 1);
        page.part("_sum", &[("mode", "a\"b\\c\nd")], Seconds(1_050_000));
        let expected = "# HELP a_total How many.\n# TYPE a_total counter\na_total 3\n\
            # HELP b How long.\n# TYPE b histogram\nb_bucket{mode=\"sync\",le=\"+Inf\"} 1\n\
            b_sum{mode=\"a\\\"b\\\\c\\nd\"} 1.05\n";
        assert_eq!(page.text, expected);
        assert_eq!([ratio(0, 0), ratio(7, 2), ratio(1, 3)], ["1.000", "3.500", "0.333"]);
        let shown = [0, 50, 1_000_000, 1_000_001].map(|us| Seconds(us).to_string());
        assert_eq!(shown, ["0", "0.00005", "1", "1.000001"]);
    }

    #[test]
    fn imbalance_looks_only_at_who_takes_part() {
        use tumen_core::NodeName;
        let per = [("a", 3), ("b", 5), ("c", 0)].map(|(name, count)| (NodeName::new(name).unwrap(), count));
        let stats = PartitionStats { partitions_per_node: per.into(), ..PartitionStats::default() };
        assert_eq!(imbalance(&stats, |_| true), 5);
        assert_eq!(imbalance(&stats, |name| *name != "c"), 2);
        assert_eq!(imbalance(&PartitionStats::default(), |_| true), 0);
    }
}
