//! The operator's questions and orders, each one request to any node and one table for people.

use std::io;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::client::{Answer, Ask, Client, Failure, encoded};
use super::complain;
use super::{configuration, doctor, exchange, handovers, health, names, partition, say, state, watch};
use crate::http::shapes::{
    Cluster, Drain, Draining, Invariants, Node, Partition, PartitionStats, Partitions, Plan, Ready,
    Rebalanced,
};

/// What an operator may ask or order.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the cluster in a few lines, and whether the asked node is ready.
    Status(AskOnly),
    /// Tell how healthy the cluster is, as the asked node sees it, and why.
    ///
    /// Exit status 0 if it is healthy, 1 if it is degraded (all is served, and something is missing), 2 if it is critical
    /// (something is not served), and 3 if that could not be asked.
    Health(health::HealthArgs),
    /// List the nodes with what they hold.
    Nodes(AskOnly),
    /// List the partitions with their copies.
    Partitions {
        /// Only those of which this node holds a copy.
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
        /// Instead: the whole copies that are being made, and those that wait for their turn.
        #[arg(long, conflicts_with = "node")]
        moves: bool,
        /// Instead: bring every copy up to date and compare them all. Exit code 1 if one was not found equal. It may take
        /// longer than --timeout: give it more where there is much to copy.
        #[arg(long, conflicts_with_all = ["node", "moves"])]
        verify: bool,
        /// Only those that are lost: too few of their copies are left to tell what was written.
        #[arg(long, conflicts_with_all = ["node", "moves", "verify"])]
        lost: bool,
        /// Instead: the partitions that names belong to.
        #[arg(long, conflicts_with_all = ["node", "moves", "verify", "lost"])]
        names: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Show one partition, or give up what is lost of it.
    Partition {
        #[command(subcommand)]
        about: partition::About,
    },
    /// Count primaries and replicas by node.
    Stats(AskOnly),
    /// Tell which partition a key belongs to, and who holds it.
    Route {
        /// The key.
        key: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Give every node its share again, with the fewest moves.
    Rebalance(AskOnly),
    /// Show what would move if nodes were added or removed. Nothing is changed.
    Plan {
        /// Imagine so many nodes more.
        #[arg(long, value_name = "N")]
        add: Option<u32>,
        /// Imagine this node gone.
        #[arg(long, value_name = "NODE")]
        remove: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Move a node's copies away.
    Drain {
        /// The node's name.
        node: String,
        /// Have it leave the cluster afterwards: it is no member then and answers nothing; end its process.
        #[arg(long)]
        leave: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Follow the cluster's events until Ctrl-C.
    Watch {
        /// End after so many events.
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        /// Tell of names and children too: who registers, starts, moves and ends.
        #[arg(long)]
        names: bool,
        /// Of names and children only those that begin so.
        #[arg(long, value_name = "TEXT", default_value = "", requires = "names")]
        prefix: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// List who answers under which name; or say and read what the whole cluster is told (meta).
    Names(names::NamesArgs),
    /// List what the cluster keeps running under names, or start, end, move or ask one of these.
    Children(names::ChildrenArgs),
    /// The same of those that are always started again.
    Singletons(names::ChildrenArgs),
    /// Read, change or follow the cluster's own configuration: values under keys, the same on every node.
    Config {
        #[command(subcommand)]
        order: configuration::Order,
    },
    /// List topics, and where they are listened to.
    Topics(AskOnly),
    /// Say something on a topic.
    Publish(exchange::PublishArgs),
    /// List groups of actors, or the members of one.
    Groups(exchange::GroupsArgs),
    /// Carry the cluster's state away as a file, or put one into it.
    #[command(subcommand)]
    State(state::Command),
    /// Look for what is wrong, and say what to do. Exit code 1 if anything was found.
    Doctor(AskOnly),
}

/// A command that is told nothing but whom to ask.
#[derive(Debug, Args)]
pub(super) struct AskOnly {
    #[command(flatten)]
    ask: Ask,
}

impl Command {
    /// Asks, and shows the answer.
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        match self.carry_out() {
            // The usual code for a failure would say that the cluster is degraded.
            Err(why) if matches!(self, Self::Health(_)) => {
                complain(&why);
                Ok(health::UNKNOWN.into())
            }
            done => done,
        }
    }

    fn carry_out(&self) -> Result<ExitCode, Failure> {
        let ask = self.ask();
        let client = Client::new(ask)?;
        let done = match self {
            Self::Status(_) => status(&client, ask.json),
            Self::Nodes(_) => nodes(&client, ask.json),
            Self::Partitions { moves: true, .. } => show(&client.get("/moves")?, ask.json, handovers::moves),
            Self::Partitions { verify: true, .. } => {
                return quiet_at_the_end(handovers::verify(&client, ask.json));
            }
            Self::Partitions { names: true, .. } => {
                show(&client.get::<Partitions>("/partitions?group=names")?, ask.json, |all| {
                    partition_table(&all.partitions)
                })
            }
            Self::Partitions { node, lost, .. } => partitions(&client, ask.json, node.as_deref(), *lost),
            Self::Partition { about } => partition::run(&client, ask.json, about),
            Self::Stats(_) => show(&client.get("/partitions/stats")?, ask.json, stats_table),
            Self::Route { key, .. } => {
                show(&client.get(&format!("/partitions/key?key={}", encoded(key)))?, ask.json, one_partition)
            }
            Self::Rebalance(_) => {
                show(&client.post("/partitions/rebalance", &serde_json::json!({}))?, ask.json, rebalanced)
            }
            Self::Plan { add, remove, .. } => {
                show(&client.get(&plan_path(*add, remove.as_deref()))?, ask.json, plan)
            }
            Self::Drain { node, leave, .. } => {
                let path = format!("/nodes/{}/drain", encoded(node));
                let answer = client.post(&path, &Drain { leave: *leave })?;
                show(&answer, ask.json, |draining| drained(draining, node, *leave))
            }
            Self::Names(args) => names::registry(&client, ask.json, args),
            Self::Children(args) => names::run(&client, ask.json, "/children", args),
            Self::Singletons(args) => names::run(&client, ask.json, "/singletons", args),
            Self::Config { order } => return quiet_at_the_end(configuration::run(&client, ask.json, order)),
            Self::Topics(_) => exchange::topics(&client, ask.json),
            Self::Publish(args) => exchange::publish(&client, args),
            Self::Groups(args) => exchange::groups(&client, args),
            Self::State(command) => command.run(&client),
            Self::Watch { count, names, prefix, .. } => {
                let names = names.then_some(&**prefix);
                return quiet_at_the_end(watch::run(&client, ask.json, *count, names));
            }
            Self::Health(args) => return quiet_at_the_end(health::run(&client, args)),
            Self::Doctor(_) => return quiet_at_the_end(doctor::run(&client, ask.json)),
        };
        quiet_at_the_end(done.map(|()| ExitCode::SUCCESS))
    }

    const fn ask(&self) -> &Ask {
        match self {
            Self::Status(AskOnly { ask })
            | Self::Nodes(AskOnly { ask })
            | Self::Stats(AskOnly { ask })
            | Self::Rebalance(AskOnly { ask })
            | Self::Doctor(AskOnly { ask })
            | Self::Topics(AskOnly { ask })
            | Self::Partitions { ask, .. }
            | Self::Partition { about: partition::About::Show { ask, .. } }
            | Self::Partition { about: partition::About::AcceptLoss { ask, .. } }
            | Self::Route { ask, .. }
            | Self::Plan { ask, .. }
            | Self::Drain { ask, .. }
            | Self::Watch { ask, .. } => ask,
            Self::Health(args) => args.ask(),
            Self::Names(args) => args.ask(),
            Self::Children(args) | Self::Singletons(args) => args.ask(),
            Self::Config { order } => order.ask(),
            Self::Publish(args) => &args.ask,
            Self::Groups(args) => &args.ask,
            Self::State(command) => command.ask(),
        }
    }
}

/// A reader that has seen enough (`tumen partitions | head`) is no error.
fn quiet_at_the_end(done: Result<ExitCode, Failure>) -> Result<ExitCode, Failure> {
    match done {
        Err(Failure::Output(why)) if why.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        done => done,
    }
}

/// Shows an answer: for programs as the node wrote it.
pub(super) fn show<T>(
    answer: &Answer<T>,
    json: bool,
    for_people: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    let shown = if json { answer.raw.trim_end().to_owned() } else { for_people(&answer.value) };
    Ok(say(shown)?)
}

/// Columns under headings, without lines, so that `grep` and `awk` can read them too.
pub(super) fn table<const N: usize>(
    headings: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(headings);
    table.add_rows(rows);
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    table.trim_fmt()
}

/// The asked node's answer to `GET /ready`: nothing, or why not.
pub(super) fn unready(client: &Client) -> Result<Option<String>, Failure> {
    match client.get::<Ready>("/ready") {
        Ok(_) => Ok(None),
        Err(Failure::Refused(why)) if why.code == "not_ready" => Ok(Some(why.message)),
        Err(why) => Err(why),
    }
}

/// What the asked node saw of what must hold at every moment. A node of an older version does not say.
pub(super) fn violations(client: &Client) -> Result<Invariants, Failure> {
    match client.get::<Invariants>("/invariants") {
        Ok(seen) => Ok(seen.value),
        Err(Failure::Refused(why)) if why.code == "not_found" => Ok(Invariants::default()),
        Err(Failure::Strange { .. }) => Ok(Invariants::default()),
        Err(why) => Err(why),
    }
}

/// The partitions that are lost, as the asked node was told. A node of an older version does not say.
pub(super) fn lost_partitions(client: &Client) -> Result<Vec<Partition>, Failure> {
    match client.get::<Partitions>("/partitions?lost=true") {
        // One that does not know the question lists all.
        Ok(listed) => Ok(listed.value.partitions.into_iter().filter(|partition| partition.lost).collect()),
        Err(Failure::Refused(why)) if why.code == "not_found" => Ok(Vec::new()),
        Err(Failure::Strange { .. }) => Ok(Vec::new()),
        Err(why) => Err(why),
    }
}

/// The first few by name, and how many more there are.
pub(super) fn named(partitions: &[Partition]) -> String {
    const NAMED_MAX: usize = 8;
    let names: Vec<&str> = partitions.iter().take(NAMED_MAX).map(|partition| &*partition.id).collect();
    let more = partitions.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", names.join(", "))
}

fn status(client: &Client, json: bool) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Status<'a> {
        #[serde(flatten)]
        cluster: &'a Cluster,
        violations: u64,
        lost: Vec<&'a str>,
        ready: bool,
        not_ready_because: Option<&'a str>,
    }
    let cluster = client.get::<Cluster>("/cluster")?.value;
    let unready = unready(client)?;
    let violations = violations(client)?.violations;
    let lost = lost_partitions(client)?;
    if json {
        let because = unready.as_deref();
        let lost = lost.iter().map(|partition| &*partition.id).collect();
        let (cluster, ready) = (&cluster, because.is_none());
        let status = Status { cluster, violations, ready, not_ready_because: because, lost };
        return Ok(say(serde_json::to_string(&status).map_err(io::Error::from)?)?);
    }
    let stats = client.get::<PartitionStats>("/partitions/stats")?.value;
    let Cluster { name, id, version, term, leader, mode, nodes } = &cluster;
    let served: u32 = stats.partitions_per_node.values().sum();
    let lines = [
        // Before the first plan it has no id to show.
        ["cluster", &id.as_ref().map_or_else(|| name.clone(), |id| format!("{name} ({id}), mode {mode}"))],
        ["plan", &format!("version {version}, term {term}")],
        ["leader", leader.as_deref().unwrap_or("none")],
        ["nodes", &states(nodes)],
        ["voters", &voters(nodes)],
        ["partitions", &served_of(served.saturating_sub(count(&lost)), stats.total_partitions, &lost)],
        ["this node", &unready.map_or_else(|| "ready".to_owned(), |why| format!("not ready: {why}"))],
    ];
    for [what, is] in lines {
        say(format_args!("{what:<12}{is}"))?;
    }
    if violations > 0 {
        say(format_args!("{:<12}{violations} seen by this node, see `tumen doctor`", "violations"))?;
    }
    Ok(())
}

fn served_of(served: u32, all: u32, lost: &[Partition]) -> String {
    match lost.len() {
        0 => format!("{served} of {all} served"),
        count => format!("{served} of {all} served, {count} LOST: {}", named(lost)),
    }
}

fn count(partitions: &[Partition]) -> u32 {
    u32::try_from(partitions.len()).unwrap_or(u32::MAX)
}

/// How many nodes are in which state: `3 up, 1 away`.
fn states(nodes: &[Node]) -> String {
    let mut states: Vec<(&str, u32)> = Vec::new();
    for node in nodes {
        match states.iter_mut().find(|(state, _)| *state == node.state) {
            Some((_, count)) => *count += 1,
            None => states.push((&node.state, 1)),
        }
    }
    if states.is_empty() {
        return "none".into();
    }
    states.iter().map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
}

/// Which nodes vote: `3 (node-1, node-2, node-3)`.
fn voters(nodes: &[Node]) -> String {
    let names: Vec<&str> = nodes.iter().filter(|node| node.votes).map(|node| node.name.as_str()).collect();
    if names.is_empty() { "unknown".into() } else { format!("{} ({})", names.len(), names.join(", ")) }
}

fn nodes(client: &Client, json: bool) -> Result<(), Failure> {
    let cluster = client.get::<Cluster>("/cluster")?.value;
    if json {
        let all = serde_json::json!({ "nodes": cluster.nodes, "count": cluster.nodes.len() });
        return Ok(say(all)?);
    }
    let stats = client.get::<PartitionStats>("/partitions/stats")?.value;
    let of = |counts: &std::collections::BTreeMap<String, u32>, node: &Node| {
        counts.get(&node.name).map_or_else(String::new, u32::to_string)
    };
    let rows = cluster.nodes.iter().map(|node| {
        let leads = cluster.leader.as_ref() == Some(&node.name);
        [
            node.name.clone(),
            if leads { format!("{}, leader", node.state) } else { node.state.clone() },
            if node.votes { "yes".into() } else { "no".into() },
            of(&stats.partitions_per_node, node),
            of(&stats.replicas_per_node, node),
            node.address.clone(),
            node.http.clone().unwrap_or_else(|| "-".into()),
            node.zone.clone().unwrap_or_else(|| "-".into()),
            node.weight.to_string(),
            node.services.join(","),
            node.boot.clone(),
        ]
    });
    let headings = [
        "NODE",
        "STATE",
        "VOTES",
        "PRIMARIES",
        "REPLICAS",
        "ADDRESS",
        "HTTP",
        "ZONE",
        "WEIGHT",
        "SERVICES",
        "BOOT",
    ];
    Ok(say(table(headings, rows))?)
}

fn partitions(client: &Client, json: bool, node: Option<&str>, lost: bool) -> Result<(), Failure> {
    let path = match node {
        Some(node) => format!("/nodes/{}/partitions", encoded(node)),
        None if lost => "/partitions?lost=true".into(),
        None => "/partitions".into(),
    };
    show(&client.get::<Partitions>(&path)?, json, |all| partition_table(&all.partitions))
}

fn partition_table(partitions: &[Partition]) -> String {
    if partitions.iter().any(|partition| partition.lost) {
        let rows = partitions.iter().map(|partition| {
            [
                partition.id.clone(),
                partition.primary_node.clone().unwrap_or_else(|| "-".into()),
                partition.replica_nodes.join(", "),
                partition.epoch.to_string(),
                if partition.lost { "LOST".into() } else { "-".into() },
            ]
        });
        return table(["PARTITION", "PRIMARY", "REPLICAS", "EPOCH", "STATE"], rows);
    }
    let rows = partitions.iter().map(|partition| {
        [
            partition.id.clone(),
            partition.primary_node.clone().unwrap_or_else(|| "-".into()),
            partition.replica_nodes.join(", "),
            partition.epoch.to_string(),
        ]
    });
    table(["PARTITION", "PRIMARY", "REPLICAS", "EPOCH"], rows)
}

fn one_partition(partition: &Partition) -> String {
    partition_table(std::slice::from_ref(partition))
}

fn stats_table(stats: &PartitionStats) -> String {
    let PartitionStats { total_partitions, partitions_per_node: primaries, replicas_per_node: replicas } =
        stats;
    let mut names: Vec<&String> = primaries.keys().chain(replicas.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let count = |counts: &std::collections::BTreeMap<_, u32>, name| counts.get(name).copied().unwrap_or(0);
    let rows = names.into_iter().map(|name| {
        let (primary, replica) = (count(primaries, name), count(replicas, name));
        [name.clone(), primary.to_string(), replica.to_string(), (primary + replica).to_string()]
    });
    format!("{}\n{total_partitions} partitions", table(["NODE", "PRIMARIES", "REPLICAS", "COPIES"], rows))
}

fn rebalanced(done: &Rebalanced) -> String {
    let Rebalanced { version, moved, lower_bound, changed } = done;
    if *changed {
        format!("version {version}: {moved} copies move; no plan as balanced moves fewer than {lower_bound}")
    } else {
        format!("nothing to do: version {version} is balanced")
    }
}

fn plan_path(add: Option<u32>, remove: Option<&str>) -> String {
    let add = add.map(|add| format!("add={add}"));
    let remove = remove.map(|node| format!("remove={}", encoded(node)));
    let query: Vec<_> = add.into_iter().chain(remove).collect();
    if query.is_empty() { "/plan".into() } else { format!("/plan?{}", query.join("&")) }
}

fn plan(plan: &Plan) -> String {
    let Plan { moves, moved, lower_bound } = plan;
    if moves.is_empty() {
        return "nothing would move".into();
    }
    let rows = moves.iter().map(|one| [one.partition.clone(), one.from.join(", "), one.to.join(", ")]);
    let table = table(["PARTITION", "FROM", "TO"], rows);
    format!("{table}\n{moved} copies would move; no plan as balanced moves fewer than {lower_bound}")
}

fn drained(draining: &Draining, node: &str, leave: bool) -> String {
    let then = if leave { ", and leaves then" } else { "" };
    format!("version {}: {node} gives its copies away{then}", draining.version)
}
