//! Everything that can be set about a node: one table of knobs, five sources, checked once.
//!
//! ```text
//!  preset < builder < TOML file < environment < flags      a stronger source overrules a weaker one, knob by knob
//!     └────────┴──────────┴───────────┴─────────┘
//!                     Config::resolve ──▶ Config (with warnings to log)
//!                            └──────────▶ ConfigErrors: every problem at once, each in its source's own words
//! ```
//!
//! The table below is the only list of knobs there is: the flags, the variables, the file's keys, their documentation
//! and `GET /config` are made from it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use tumen_core::cluster::coordinator::{CrashProof, Create, Rebalance};
use tumen_core::cluster::member::Zone;
use tumen_core::cluster::sides::Consistency;
use tumen_core::cluster::snapshot::Mode;
use tumen_core::names::conflict::Rule;
use tumen_core::partitioner::Partitioner;
use tumen_core::{ClusterName, NodeName};

mod address;
mod knob;
mod laws;
mod layer;
mod rules;
mod value;
mod warning;

use knob::knobs;
use layer::{Origin, Origins};

pub use address::{Address, Http, HttpSeed, Listen, Seed};
pub use knob::Knob;
pub use layer::{Layer, Source};
pub use value::{LogFormat, Secret, Value};
pub use warning::Warning;

knobs! {
    "Who this node is" {
        /// The node's name. It survives restarts; no two living nodes of a cluster have the same.
        needed name: NodeName [also "NODE_ID"];
        /// The cluster's name. Nodes of another cluster are refused.
        plain cluster: ClusterName = "tumen";
        /// The failure domain: a rack, a hall, a cloud's zone. Copies of one partition are kept in different zones.
        /// All nodes should be told one, or none.
        maybe zone: Zone;
        /// The node's share of the work beside the others' weights. 0 makes a witness, which votes and holds nothing.
        plain weight: u32 = "100" [in "0" to "1000000"];
        /// The directory for what must survive a restart: the plans, and each copy's log. Without it both survive
        /// while enough nodes live, and not a stop of all. Two nodes never share one.
        maybe data_dir: PathBuf;
    }
    "Where it is reached" {
        /// The cluster port, for other nodes. `:PORT` means every address of this machine, and so do `0.0.0.0` and `[::]`;
        /// without a cookie these are taken as 127.0.0.1, and any other address is refused. Port 0 takes a free one.
        /// If missing: the host of `http` and its port + 10000, so that a restarted node is found again.
        needed listen: Listen;
        /// What other nodes are told to dial. If missing: the address of `listen`; where that stands for every address,
        /// the one from which this machine reaches the first seed.
        maybe advertise: Address;
        /// The HTTP interface, or `off`. Like `listen`, but it is `http_token` that opens it beyond this machine.
        /// The command `tumen node` prefers 127.0.0.1:8080 to nothing.
        plain http: Http = "off" [also "HTTP_ADDR"];
        /// What other nodes and people are told as the address of `http`. If missing: found out as for `advertise`.
        maybe advertise_http: Address;
    }
    "Whom it joins" {
        /// Nodes to join by: cluster ports (`HOST:PORT`) or HTTP interfaces (`http://HOST:PORT`). A node that was told
        /// of any never founds a cluster because they are silent.
        plain join: Vec<Seed> = "";
        /// HTTP interfaces of other nodes, to join by. The node's own may be among them.
        plain known_nodes: Vec<HttpSeed> = "" [also "KNOWN_NODES"];
        /// How many nodes found the cluster together at its first start, each with the others among its seeds.
        /// If missing: a node without seeds founds one alone.
        maybe bootstrap_expect: u32 [in "1" to "1000"];
        /// How many nodes must be there before the first plan is made.
        plain min_nodes: u32 = "1" [in "1" to "1000"];
    }
    "What the cluster agrees on" {
        /// How many partitions there are, fixed when the cluster is founded. Fewer than four for each node share out
        /// unevenly.
        plain partitions: u32 = "64" [in "1" to "65536"];
        /// How many copies of each partition are wanted, the primary included. With fewer nodes there are fewer.
        plain replication: u32 = "3" [in "1" to "16"];
        /// What places the copies: balanced, rotation, consistent-hash, rendezvous, or one that your code brings along.
        plain strategy: String = "balanced";
        /// What a write's acknowledgement promises: `async` that the primary has it, `sync` that a majority of the copies
        /// has it, `strong` that a majority has it in its log, on disk where there is one.
        plain mode: Mode = "async";
        /// What goes first where nodes cannot reach each other: `majority` that there is one of each thing, so that a side
        /// without a majority of the voters pauses; `available` that every side goes on, and what there is twice afterwards is
        /// merged. The latter is for names, children, singletons, and workers without state or whose state can be merged, in
        /// mode `async` and without `data_dir`.
        plain consistency: Consistency = "majority";
        /// Who keeps a name that two sides of a cluster gave to somebody each: whoever held it for longer, or whoever came
        /// to hold it later. Where `consistency` is `available`. Your code can decide each case instead.
        plain conflicts: Rule = "oldest";
        /// How keys map to partitions, fixed when the cluster is founded: `hash`, or `range:LOW..HIGH` for whole numbers,
        /// HIGH included.
        plain partitioner: Partitioner = "hash";
    }
    "When plans are made" {
        /// Whether the partitions are created as soon as `min_nodes` are there, or on `POST /partitions`.
        plain create: Create = "auto";
        /// Whether a node that joins gets its share by itself, or on `tumen rebalance`. Losses are always made good.
        plain rebalance: Rebalance = "auto";
        /// How long a first join waits for others, so that they make one plan. At most `join_window_busy`.
        plain join_window: Duration = "100ms" [in "0s" to "60s"];
        /// The same, where another node joined a short while ago. At most `join_window_max`.
        plain join_window_busy: Duration = "600ms" [in "0s" to "60s"];
        /// How long joins that keep coming can put off the plan.
        plain join_window_max: Duration = "3s" [in "0s" to "600s"];
        /// How long a lost node's copies are waited for before they are made anew elsewhere. Its primaries are promoted
        /// at once.
        plain rebuild_after: Duration = "30s" [in "0s" to "24h"];
        /// How long a node that stopped in good order stays a member that keeps its copies, so that a rolling restart moves
        /// no data. Only with `data_dir`; 0s leaves at once. Twice the half minute in which orchestrators stop a process,
        /// so that stopping and starting both fit; usually longer than `rebuild_after`, for this node said that it returns.
        plain rejoin_grace: Duration = "60s" [in "0s" to "24h"];
    }
    "How much is copied at once" {
        /// How many whole copies leave this node at once, and how many come to it: other nodes that want to send more wait.
        /// Each is in memory while it is under way. Never more than its share of `handover_total` leave.
        plain handover_max: u32 = "2" [in "1" to "64"];
        /// How many whole copies are made at once in the cluster. Nobody counts them for all: every node lets its share of
        /// them leave (divided by the number of members), and at least one. At least `handover_max`.
        plain handover_total: u32 = "16" [in "1" to "4096"];
        /// How many bytes leave this node per second for whole copies, all of them together. If missing: as many as will go.
        /// What a new primary needs before it can serve waits for none of the three.
        maybe handover_bytes_per_second: u64 [in "1024" to "1000000000000"];
    }
    "How long things take" {
        /// How long a node may serve after the leader last heard of a quorum. Must exceed twice `election_timeout_max`,
        /// or a slow election pauses every node. Longer: a frozen node's partitions stay unserved for longer.
        plain lease: Duration = "1.5s" [in "20ms" to "60s"];
        /// How often the leader tells the voters that it lives. At most half of `election_timeout_min`.
        plain heartbeat: Duration = "50ms" [in "1ms" to "10s"];
        /// The shortest silence after which a voter calls an election. At least twice `heartbeat`, or one lost message
        /// calls one.
        plain election_timeout_min: Duration = "150ms" [in "2ms" to "30s"];
        /// The longest such silence. Must exceed `election_timeout_min`: the gap is what keeps two voters from standing
        /// at once. Less than half of `lease`.
        plain election_timeout_max: Duration = "300ms" [in "3ms" to "30s"];
        /// How often a node probes another. At least twice `probe_rtt`, to leave time for the detour.
        plain probe_interval: Duration = "250ms" [in "2ms" to "60s"];
        /// How long a probe waits for its answer before others are asked to probe too.
        plain probe_rtt: Duration = "100ms" [in "1ms" to "30s"];
        /// How long a suspected node has to speak up. At least `probe_interval` and three times `gossip_interval`, or
        /// its word comes too late.
        plain suspicion: Duration = "500ms" [in "3ms" to "600s"];
        /// How often news is passed on while there is any.
        plain gossip_interval: Duration = "100ms" [in "1ms" to "60s"];
        /// Where a refused connection proves at once that a lost node's process is gone: `loopback`, `always` or `never`.
        /// Beyond this machine a firewall may refuse for the living.
        plain crash_proof: CrashProof = "loopback";
        /// How long a call waits for its reply if the caller says nothing, retries included.
        plain call_deadline: Duration = "5s" [in "1ms" to "1h"];
        /// How long the start of a child is waited for, the answer of its name's directory included; that one is waited for
        /// within `call_deadline`. A child has 20 s to start: shorter, and whoever starts a slow one is told that it is still
        /// being tried.
        plain start_deadline: Duration = "25s" [in "1ms" to "1h"];
        /// How long a stop may take to hand everything over. Must exceed `lease`: what is not released in good order
        /// ends with the lease.
        plain stop_deadline: Duration = "10s" [in "21ms" to "1h"];
    }
    "Secrets" {
        /// What all nodes of a cluster know and nobody else. Without it the node talks to its own machine only.
        maybe cookie: Secret;
        /// A file that holds the cookie; line ends after it do not count. Instead of `cookie`.
        maybe cookie_file: PathBuf;
        /// What HTTP requests must show (`Authorization: Bearer …`), all but `GET /health` and `GET /ready`.
        /// Without it HTTP is served to this machine only.
        maybe http_token: Secret;
        /// A file that holds the token; line ends after it do not count. Instead of `http_token`.
        maybe http_token_file: PathBuf;
    }
    "What it tells" {
        /// How often the node looks how the cluster is, beside the times when a plan comes or something is lost. What comes and
        /// goes by itself has to be seen for three quarters of it before it counts as a reason.
        plain health_interval: Duration = "10s" [in "50ms" to "1h"];
        /// How log lines on stderr look: `text` for people, `json` for programs.
        plain log: LogFormat = "text";
        /// Which log lines: a level, or directives such as `info,tumen=debug`.
        plain log_filter: String = "info,openraft=warn,ractor=warn,ractor_cluster=warn" [also "RUST_LOG"];
    }
}

impl Config {
    /// Lays the sources over each other, the stronger over the weaker, fills in the defaults, reads the files of secrets,
    /// and checks everything once.
    ///
    /// # Errors
    /// All problems of all sources at once. Nothing was started or changed.
    pub fn resolve(layers: impl IntoIterator<Item = Layer>) -> Result<Self, ConfigErrors> {
        rules::resolve(layers.into_iter().collect())
    }

    /// What is worth logging about this configuration, though it holds.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// What is worth logging once `nodes` nodes are there: too few for the copies, too many for the partitions.
    pub fn warnings_for(&self, nodes: u32) -> Vec<Warning> {
        let Self { replication, partitions, .. } = *self;
        let copies = Warning::CopiesExceedNodes { replication, nodes };
        let few = Warning::FewPartitions { partitions, nodes };
        let unshared = u64::from(partitions) < 4 * u64::from(nodes);
        [(replication > nodes, copies), (unshared, few)]
            .into_iter()
            .filter_map(|(holds, warning)| holds.then_some(warning))
            .collect()
    }

    /// Whether any source said something about the knob `name`. What the cluster agrees on is compared with the others
    /// only where it was said.
    pub fn is_given(&self, name: &str) -> bool {
        self.origins.get(name).is_some_and(|origin| origin.source != Source::Preset)
    }

    /// All knobs with the values that hold, secrets left out: `GET /config`. It does not tell where they come from, so
    /// that two nodes that were told the same in different ways show the same.
    pub const fn effective(&self) -> Effective<'_> {
        Effective(self)
    }

    /// What others are told of a port that listens at `bound`: what was configured, else where it listens, else (where it
    /// listens everywhere) the address from which this machine reaches the first seed.
    pub fn advertised(&self, bound: std::net::SocketAddr) -> Address {
        self.advertise.clone().unwrap_or_else(|| self.reachable(bound))
    }

    /// The same for the HTTP interface.
    pub fn advertised_http(&self, bound: std::net::SocketAddr) -> Address {
        self.advertise_http.clone().unwrap_or_else(|| self.reachable(bound))
    }

    fn reachable(&self, bound: std::net::SocketAddr) -> Address {
        let ip = if bound.ip().is_unspecified() { self.outgoing_ip() } else { None };
        Address::new(ip.unwrap_or(bound.ip()).to_canonical().to_string(), bound.port())
    }

    /// The address that this machine sends from towards its first seed. No packet is sent to find out.
    fn outgoing_ip(&self) -> Option<std::net::IpAddr> {
        let joined = self.join.iter().map(|seed| match seed {
            Seed::Cluster(address) | Seed::Http(address) => address,
        });
        let seeds = joined.chain(self.known_nodes.iter().map(|seed| &seed.0));
        // Without a seed, towards an address that is nobody's: the default route.
        let nobody = Address::new("192.0.2.1", 9);
        seeds.chain([&nobody]).find_map(|Address { host, port }| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
            socket.connect((host.as_str(), *port)).ok()?;
            socket.local_addr().ok().map(|local| local.ip())
        })
    }
}

/// What `GET /config` tells. See [`Config::effective`].
#[derive(Clone, Copy, Debug)]
pub struct Effective<'a>(&'a Config);

/// One thing that is wrong, in the words of the source that said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(String);

impl Problem {
    pub(crate) const fn new(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a configuration was refused: everything that is wrong with it. Nothing was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Problem>);

impl ConfigErrors {
    /// What is wrong, the sources' own problems first. Never empty.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [one] => write!(f, "the configuration is refused: {one}"),
            many => {
                write!(f, "the configuration is refused, for {} reasons:", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for ConfigErrors {}
