//! Real processes of `tumen node`, in whatever trouble a test wants them to be.
//!
//! ```text
//!  Cluster ── starts, kills, freezes, stops ──▶ tumen node × n      their logs: files, printed where a test fails
//!     │                                            │ ▲
//!     ├── Http ── asks, with deadlines ────────────┘ │
//!     ├── Proxies ── between any two, cuttable ──────┘
//!     └── belief ── what each node believed that it may serve, and when: from the logs
//! ```

// Every test file takes of this what it needs.
#![allow(dead_code, unreachable_pub)]

pub mod belief;
pub mod http;
pub mod metrics;
pub mod node;
pub mod ports;
pub mod proxies;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use tempfile::TempDir;

pub use self::http::Http;
pub use self::node::Node;
use self::proxies::Proxies;

/// How long anything may take on a busy machine before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// How often to look again at what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Waits until `look` finds what it looks for.
///
/// # Panics
/// When `within` is over: with what was last found missing.
pub fn wait_until<T, E: Display>(what: &str, within: Duration, mut look: impl FnMut() -> Result<T, E>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(missing) if begun.elapsed() > within => {
                panic!("in vain it was waited for {within:?} until {what}: {missing}")
            }
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// Whether something holds, for [`wait_until`].
pub fn check(holds: bool, else_: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(else_()) }
}

/// How a cluster is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The names of the nodes, by number.
    pub names: Vec<String>,
    /// Flags of all nodes.
    pub flags: Vec<String>,
    /// Whether each node has a directory for what survives a restart.
    pub disks: bool,
    /// Whether each node is told of all others, and how many found the cluster.
    pub bootstrap: bool,
    /// Whether nodes reach each other through proxies that can be cut.
    pub proxies: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { names: Vec::new(), flags: Vec::new(), disks: false, bootstrap: true, proxies: false }
    }
}

impl Options {
    /// The same with more flags.
    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// The same with disks.
    #[must_use]
    pub fn disks(mut self) -> Self {
        self.disks = true;
        self
    }

    /// The same with proxies.
    #[must_use]
    pub fn proxies(mut self) -> Self {
        self.proxies = true;
        self
    }

    /// The same, where nodes are told of nobody unless the test does.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.bootstrap = false;
        self
    }
}

/// Nodes on one machine. Dropping it ends them all, and prints their logs if the test failed.
pub struct Cluster {
    dir: TempDir,
    options: Options,
    nodes: Vec<Node>,
    proxies: Option<Proxies>,
    pub http: Http,
}

impl Cluster {
    /// Prepares `count` nodes named `node-1` and so on; none is started.
    pub fn prepare(count: usize, options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut nodes: Vec<Node> = (0..count)
            .map(|number| {
                let name = options.names.get(number).cloned();
                let name = name.unwrap_or_else(|| format!("node-{}", number + 1));
                Node::new(name, dir.path(), ports::take(), ports::take())
            })
            .collect();
        let proxies = options.proxies.then(|| Proxies::start(nodes.iter().map(|node| node.listen.clone())));
        let base = [
            "--cluster",
            &format!("test-{}", std::process::id()),
            "--log",
            "json",
            "--log-filter",
            "warn,tumen=debug,tumen_actors=debug,tumen_core=debug,tumen_actors::partitions::replication=trace,tumen::belief=trace,openraft=error",
        ];
        for (number, node) in nodes.iter_mut().enumerate() {
            node.flag(&base);
            if let Some(proxies) = &proxies {
                node.advertise = proxies.address(number);
                node.flag(&["--advertise", &node.advertise.clone()]);
            }
            if options.disks {
                let data = node.data_dir().to_str().unwrap().to_owned();
                node.flag(&["--data-dir", &data]);
            }
        }
        if options.bootstrap && count > 1 {
            let seeds: Vec<String> = nodes.iter().map(|node| node.advertise.clone()).collect();
            for (number, node) in nodes.iter_mut().enumerate() {
                node.flag(&["--bootstrap-expect", &count.to_string()]);
                for (_, seed) in seeds.iter().enumerate().filter(|(other, _)| *other != number) {
                    node.flag(&["--join", seed]);
                }
            }
        }
        for node in &mut nodes {
            node.flag(&options.flags.iter().map(String::as_str).collect::<Vec<_>>());
        }
        Self { dir, options, nodes, proxies, http: Http::new() }
    }

    /// Starts `count` nodes, and waits until all serve by one plan.
    pub fn start(count: usize, options: Options) -> Self {
        let mut cluster = Self::prepare(count, options);
        cluster.start_all();
        cluster.wait_until_settled();
        cluster
    }

    /// Starts all nodes that do not run.
    pub fn start_all(&mut self) {
        for number in 0..self.nodes.len() {
            if !self.nodes[number].is_running() {
                self.launch(number);
            }
        }
    }

    /// Adds a node that is told of these others; it is not started.
    pub fn add(&mut self, seeds: &[usize]) -> usize {
        let number = self.nodes.len();
        assert!(self.proxies.is_none(), "proxies are made for the nodes that are there at first");
        let mut node =
            Node::new(format!("node-{}", number + 1), self.dir.path(), ports::take(), ports::take());
        node.flags = self.nodes[0].flags.clone();
        node.forget_flags(&["--bootstrap-expect", "--join", "--data-dir"]);
        if self.options.disks {
            let data = node.data_dir().to_str().unwrap().to_owned();
            node.flag(&["--data-dir", &data]);
        }
        for seed in seeds {
            node.flag(&["--join", &self.nodes[*seed].advertise.clone()]);
        }
        self.nodes.push(node);
        number
    }

    /// Starts a node; returns at once.
    pub fn launch(&mut self, number: usize) {
        self.nodes[number].launch();
        if let (Some(proxies), Some(id)) = (&self.proxies, self.nodes[number].id()) {
            proxies.know(number, id);
        }
    }

    /// Kills a node as `kill -9` does; returns when nothing is left of it.
    pub fn kill9(&mut self, number: usize) {
        self.nodes[number].kill9();
    }

    /// Stops a node's process in its tracks, as `SIGSTOP` does.
    pub fn freeze(&mut self, number: usize) {
        self.nodes[number].freeze();
    }

    /// Lets a frozen node run again.
    pub fn thaw(&mut self, number: usize) {
        self.nodes[number].thaw();
    }

    /// Asks a node to stop in good order, and waits until it has.
    ///
    /// # Panics
    /// If it does not end in time, or not with exit code 0.
    pub fn terminate(&mut self, number: usize) {
        self.nodes[number].terminate();
        self.nodes[number].wait_until_ended(PATIENCE);
    }

    /// Kills a node and starts it again at once with the same flags.
    pub fn restart(&mut self, number: usize) {
        self.kill9(number);
        self.launch(number);
    }

    /// Cuts a node off from these others: what is sent is held back until [`Self::heal`].
    pub fn cut(&self, number: usize, others: &[usize]) {
        let proxies = self.proxies.as_ref().expect("the cluster was started with proxies");
        others.iter().for_each(|other| proxies.cut(number, *other));
    }

    /// Lets everything through again.
    pub fn heal(&self) {
        self.proxies.as_ref().expect("the cluster was started with proxies").heal();
    }

    /// How many nodes there are, running or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// One node.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    /// One node, to change how it is started.
    pub fn node_mut(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number]
    }

    /// The numbers of the nodes whose processes run and are not frozen.
    pub fn awake(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|number| self.nodes[*number].is_awake()).collect()
    }

    /// Which node has this name.
    pub fn number_of(&self, name: &str) -> usize {
        self.nodes
            .iter()
            .position(|node| node.name == name)
            .unwrap_or_else(|| panic!("no node is called {name}"))
    }

    /// `GET path` at a node, which must be a success before long: on a busy machine a lease may run out at any moment.
    pub fn get(&self, number: usize, path: &str) -> Json {
        let name = &self.nodes[number].name;
        wait_until(&format!("{name} answers {path}"), PATIENCE, || self.try_get(number, path))
    }

    /// `GET path` at a node, if it succeeds.
    pub fn try_get(&self, number: usize, path: &str) -> Result<Json, String> {
        let node = &self.nodes[number];
        let answer = self.http.get(&node.http, path).map_err(|why| format!("{}: {why}", node.name))?;
        check(answer.status == 200, || format!("{} {path}: {} {}", node.name, answer.status, answer.text()))?;
        Ok(answer.json())
    }

    /// The version that a node knows.
    pub fn version(&self, number: usize) -> u64 {
        self.get(number, "/cluster")["version"].as_u64().unwrap()
    }

    /// The node that leads, as another one says.
    pub fn leader(&self, asked: usize) -> usize {
        wait_until("somebody leads", PATIENCE, || {
            let shown = self.try_get(asked, "/cluster")?;
            let leader = shown["leader"].as_str().map(|name| self.number_of(name));
            leader.ok_or_else(|| format!("nobody leads: {shown}"))
        })
    }

    /// Waits until all nodes that are awake serve all that they should, by one plan in which exactly they are up, and agree
    /// on who leads. Answers with that plan as `GET /cluster` shows it.
    pub fn wait_until_settled(&self) -> Json {
        self.wait_until_settled_within(PATIENCE)
    }

    /// Waits until they do, and each is primary of as many partitions as the others, or of one more.
    pub fn wait_until_balanced(&self) -> Json {
        let asked = self.awake()[0];
        wait_until("primaries are balanced", PATIENCE, || {
            let stats = self.try_get(asked, "/partitions/stats")?;
            let of = |number: &usize| {
                stats["partitions_per_node"][&self.nodes[*number].name].as_u64().unwrap_or(0)
            };
            let counts: Vec<u64> = self.awake().iter().map(of).collect();
            let even = counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0) <= 1;
            check(even, || format!("{counts:?}"))
        });
        self.wait_until_settled()
    }

    /// The same with a deadline of its own.
    pub fn wait_until_settled_within(&self, within: Duration) -> Json {
        wait_until("all nodes serve by one plan", within, || {
            self.look_for_ended();
            let names: Vec<&str> = {
                let mut names: Vec<&str> =
                    self.awake().into_iter().map(|number| self.nodes[number].name.as_str()).collect();
                names.sort_unstable();
                names
            };
            let mut first: Option<Json> = None;
            for number in self.awake() {
                self.try_get(number, "/ready")?;
                let shown = self.try_get(number, "/cluster")?;
                let up = up(&shown);
                check(up == names, || format!("{} holds {up:?} for up", self.nodes[number].name))?;
                check(shown["leader"].is_string(), || format!("nobody leads: {shown}"))?;
                let same = |other: &Json| {
                    ["id", "version", "term", "leader"].iter().all(|field| other[field] == shown[field])
                };
                check(first.as_ref().is_none_or(same), || format!("{shown} is not {first:?}"))?;
                first.get_or_insert(shown);
            }
            first.ok_or_else(|| "no node runs".to_owned())
        })
    }

    /// # Panics
    /// If a node ended that was not told to.
    fn look_for_ended(&self) {
        for node in &self.nodes {
            if let Some(status) = node.ended_by_itself() {
                panic!("{} ended by itself: {status}", node.name);
            }
        }
    }

    /// A key of which this node is primary, as it says itself.
    pub fn key_of(&self, number: usize) -> String {
        self.key_where(number, |primary| primary == self.nodes[number].name)
    }

    /// A key of which this node says that its primary is such.
    pub fn key_where(&self, asked: usize, is_wanted: impl Fn(&str) -> bool) -> String {
        let wanted = |key: &String| {
            let shown = self.get(asked, &format!("/partitions/key?key={key}"));
            shown["primary_node"].as_str().is_some_and(&is_wanted)
        };
        (0..10_000)
            .map(|number| format!("key-{number}"))
            .find(wanted)
            .expect("a node is primary of something")
    }

    /// A key of each partition, and the nodes that are to have copies of it, the primary first, as this node says.
    pub fn key_of_each(&self, asked: usize) -> BTreeMap<String, Vec<usize>> {
        let count = self.get(asked, "/partitions")["count"].as_u64().unwrap() as usize;
        let mut keys: BTreeMap<String, (String, Vec<usize>)> = BTreeMap::new();
        for key in (0..10_000).map(|number| format!("key-{number}")) {
            let shown = self.get(asked, &format!("/partitions/key?key={key}"));
            keys.entry(shown["id"].as_str().unwrap().to_owned()).or_insert((key, self.holders(&shown)));
            if keys.len() == count {
                break;
            }
        }
        keys.into_values().collect()
    }

    /// The nodes that are to have copies of a partition that is shown so, the primary first.
    pub fn holders(&self, shown: &Json) -> Vec<usize> {
        let replicas = shown["replica_nodes"].as_array().unwrap();
        let names =
            shown["primary_node"].as_str().into_iter().chain(replicas.iter().filter_map(Json::as_str));
        names.map(|name| self.number_of(name)).collect()
    }

    /// Writes a key at a node, as soon as it can be written.
    pub fn put(&self, asked: usize, key: &str, value: &str) {
        let node = &self.nodes[asked];
        wait_until(&format!("{key} is written at {}", node.name), PATIENCE, || {
            let put = self.http.put(&node.http, &format!("/kv/{key}"), value)?;
            check(matches!(put.status, 201 | 204), || put.text())
        });
    }

    /// Where the nodes' logs and disks are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The logs of all runs of all nodes, in the order in which the runs began.
    pub fn logs(&self) -> Vec<PathBuf> {
        self.nodes.iter().flat_map(Node::logs).collect()
    }
}

/// The names of the nodes that are up, as `GET /cluster` shows them.
pub fn up(shown: &Json) -> Vec<&str> {
    let nodes = shown["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    nodes.iter().filter(|node| node["state"] == "up").filter_map(|node| node["name"].as_str()).collect()
}

/// How a node is held, as `GET /cluster` shows it.
pub fn state_of<'a>(shown: &'a Json, name: &str) -> Option<&'a str> {
    let nodes = shown["nodes"].as_array()?;
    nodes.iter().find(|node| node["name"] == name)?["state"].as_str()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.iter_mut().for_each(Node::end);
        if std::thread::panicking() {
            for log in self.logs() {
                node::print_tail(&log);
            }
            self.dir.disable_cleanup(true);
            eprintln!("---- all of it is in {} ----", self.dir.path().display());
        }
    }
}
