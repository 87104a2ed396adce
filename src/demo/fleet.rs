//! The demonstration's nodes: child processes of this executable, on free ports of this machine.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::Rng;

use super::DemoError;
use super::asking::Asker;
use crate::children::Child;
use crate::config::KNOBS;
use crate::http::shapes::{Cluster, Ready};

/// Where ports are looked for first: below those that systems give to outgoing connections, so that a node that comes
/// back finds its port as it left it.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// How often all nodes are started anew because somebody else took a port in the meantime.
const TRIES_MAX: u32 = 5;
/// How long the nodes may take until they serve.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often to look again at what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How much of a node's log is shown when it fails.
const TAIL_LINES: usize = 15;

/// All the nodes. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Fleet {
    flags: Vec<String>,
    dir: PathBuf,
    disks: bool,
    /// Worker threads of each, if not as many as the machine has cores.
    threads: Option<usize>,
    nodes: Vec<Address>,
    running: Mutex<Vec<Option<Child>>>,
    interrupted: Arc<AtomicBool>,
}

/// Where a node is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// The node's name.
    pub(crate) name: String,
    /// Its cluster port, as `host:port`.
    pub(crate) cluster: String,
    /// Its HTTP interface, as `host:port`.
    pub(crate) http: String,
}

impl Fleet {
    /// Prepares `count` nodes that are all told these flags; none is started yet. Every wait ends once `interrupted`.
    ///
    /// # Errors
    /// If there is no place for their logs, or no free port.
    pub(crate) fn new(
        count: u32,
        flags: Vec<String>,
        interrupted: Arc<AtomicBool>,
    ) -> Result<Self, DemoError> {
        let dir = std::env::temp_dir().join(format!("tumen-{}", std::process::id()));
        fs::create_dir_all(&dir).map_err(|why| DemoError::Logs { path: dir.clone(), why })?;
        let nodes = addresses(count)?;
        Ok(Self { flags, dir, disks: false, threads: None, nodes, running: Mutex::default(), interrupted })
    }

    /// The same, with a directory for each node in which it keeps what survives a restart.
    #[must_use]
    pub(crate) fn with_disks(mut self) -> Self {
        self.disks = true;
        self
    }

    /// The same, with so many worker threads in each.
    #[must_use]
    pub(crate) fn with_threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Starts all nodes and waits until all serve: how long that took. If a port was taken meanwhile, others are tried.
    ///
    /// # Errors
    /// If a node ends, or does not serve in time.
    pub(crate) fn start(&mut self) -> Result<Duration, DemoError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let begun = Instant::now();
            (0..self.nodes.len()).try_for_each(|node| self.launch(node))?;
            match self.wait_until_ready() {
                Ok(()) => return Ok(begun.elapsed()),
                Err(DemoError::Ended { tail, .. }) if tries < TRIES_MAX && is_port_taken(&tail) => {
                    self.lock().clear();
                    let count = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
                    self.nodes = addresses(count)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Starts one node, with the flags that it had before.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn launch(&self, node: usize) -> Result<(), DemoError> {
        let spawn = |why| DemoError::Spawn { node: self.nodes[node].name.clone(), why };
        let mut command = self.command(node).map_err(spawn)?;
        let child = Child::spawn(&mut command).map_err(spawn)?;
        let mut running = self.lock();
        if running.len() <= node {
            running.resize_with(node + 1, || None);
        }
        running[node] = Some(child);
        Ok(())
    }

    fn command(&self, node: usize) -> std::io::Result<Command> {
        let Address { name, cluster, http } = &self.nodes[node];
        let log = File::options().append(true).create(true).open(self.log(name))?;
        let mut command = Command::new(std::env::current_exe()?);
        // What is set for the user's own nodes is not meant for these, but for how much they log.
        for knob in KNOBS.iter().filter(|knob| knob.name != "log_filter") {
            command.env_remove(knob.variable());
            knob.also.map(|also| command.env_remove(also));
        }
        command.env_remove("TUMEN_CONFIG");
        command.args(["node", "--end-with-stdin", "--name", name, "--listen", cluster, "--http", http]);
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != node);
        others.for_each(|(_, other)| {
            command.args(["--join", &other.cluster]);
        });
        command.args(["--bootstrap-expect", &self.nodes.len().to_string()]).args(&self.flags);
        if self.disks {
            command.arg("--data-dir").arg(self.dir.join(name));
        }
        if let Some(threads) = self.threads {
            // As tokio's own runtime has it.
            command.env("TOKIO_WORKER_THREADS", threads.to_string());
        }
        command.stdout(Stdio::null()).stderr(log);
        Ok(command)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// Kills one node as `kill -9` does. Returns once it is gone: when the signal was sent.
    pub(crate) fn kill(&self, node: usize) -> Option<Instant> {
        let child = self.lock().get_mut(node).and_then(Option::take);
        child.map(Child::kill)
    }

    /// Freezes a node's process as `SIGSTOP` does, or lets it run on.
    ///
    /// # Errors
    /// If the system knows no such thing, or the node does not run.
    pub(crate) fn freeze(&self, node: usize, frozen: bool) -> Result<(), DemoError> {
        let running = self.lock();
        let child = running.get(node).and_then(Option::as_ref);
        let done =
            child.map_or_else(|| Err(std::io::ErrorKind::NotFound.into()), |child| child.freeze(frozen));
        done.map_err(|why| DemoError::Strange(format!("{} cannot be frozen: {why}", self.nodes[node].name)))
    }

    /// What the system calls a node's process, while it runs.
    pub(crate) fn id(&self, node: usize) -> Option<u32> {
        self.lock().get(node).and_then(Option::as_ref).map(Child::id)
    }

    /// Where the nodes' logs are, and their disks.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Ends all nodes, and removes what they wrote.
    pub(crate) fn forget(self) {
        self.lock().clear();
        // It lies where temporary files lie, which the system tidies too.
        drop(fs::remove_dir_all(&self.dir));
    }

    /// Where the nodes are reached.
    pub(crate) fn nodes(&self) -> &[Address] {
        &self.nodes
    }

    /// Whether this node's process was started and not killed.
    pub(crate) fn is_running(&self, node: usize) -> bool {
        self.lock().get(node).is_some_and(Option::is_some)
    }

    /// Waits until every running node serves all that it should, by one and the same plan, which names exactly them as
    /// members that take their share, and says who leads.
    ///
    /// # Errors
    /// If a node ends, or time runs out.
    pub(crate) fn wait_until_ready(&self) -> Result<(), DemoError> {
        let asker = Asker::new();
        self.wait_until("all nodes serve by one plan", || self.look_whether_ready(&asker))
    }

    fn look_whether_ready(&self, asker: &Asker) -> Result<(), String> {
        let running: Vec<_> = (0..self.nodes.len()).filter(|node| self.is_running(*node)).collect();
        let names: BTreeSet<&str> = running.iter().map(|node| self.nodes[*node].name.as_str()).collect();
        let mut seen: Option<(u64, String)> = None;
        for Address { http, .. } in running.into_iter().map(|node| &self.nodes[node]) {
            asker.json::<Ready>(http, "/ready")?;
            let cluster: Cluster = asker.json(http, "/cluster")?;
            let up: BTreeSet<&str> = cluster
                .nodes
                .iter()
                .filter(|node| node.state == "up")
                .map(|node| node.name.as_str())
                .collect();
            if up != names {
                return Err(format!("{http} holds {up:?} for up"));
            }
            let leader = cluster.leader.ok_or_else(|| format!("{http} knows no leader"))?;
            let shown = (cluster.version, leader);
            match &seen {
                Some(seen) if *seen != shown => return Err(format!("{seen:?} and {shown:?} are both told")),
                _ => seen = Some(shown),
            }
        }
        Ok(())
    }

    /// Waits for anything, as long as no node ends.
    ///
    /// # Errors
    /// If a node ends, or time runs out: then with what was last found missing.
    pub(crate) fn wait_until<T>(
        &self,
        what: &'static str,
        mut look: impl FnMut() -> Result<T, String>,
    ) -> Result<T, DemoError> {
        let begun = Instant::now();
        loop {
            let missing = match look() {
                Ok(found) => return Ok(found),
                Err(missing) => missing,
            };
            self.check_running()?;
            if begun.elapsed() > READY_WITHIN {
                return Err(DemoError::Late { what, within: READY_WITHIN, missing });
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits, as long as no node ends.
    ///
    /// # Errors
    /// If a node ends.
    pub(crate) fn wait(&self, time: Duration) -> Result<(), DemoError> {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            std::thread::sleep(left.min(LOOK_EVERY * 4));
            self.check_running()?;
        }
        Ok(())
    }

    /// Whether every node that was started and not killed still runs.
    fn check_running(&self) -> Result<(), DemoError> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(DemoError::Interrupted);
        }
        for (child, Address { name, .. }) in self.lock().iter_mut().zip(&self.nodes) {
            if let Some(status) = child.as_mut().and_then(Child::ended) {
                return Err(DemoError::Ended { node: name.clone(), status, tail: self.tail(name) });
            }
        }
        Ok(())
    }

    fn tail(&self, name: &str) -> String {
        let log = fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Child>>> {
        // A panic while the lock was held left the list in a state that it had.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_port_taken(log: &str) -> bool {
    let log = log.to_lowercase();
    log.contains("in use") || log.contains("taken")
}

fn addresses(count: u32) -> Result<Vec<Address>, DemoError> {
    // All are held until all are found, or the same one would be found twice.
    let mut held = Vec::new();
    let mut free = || -> std::io::Result<String> {
        let listener = free_port()?;
        let address = listener.local_addr()?.to_string();
        held.push(listener);
        Ok(address)
    };
    let address = |number| Ok(Address { name: format!("node-{number}"), cluster: free()?, http: free()? });
    (1..=count).map(address).collect::<std::io::Result<_>>().map_err(DemoError::Ports)
}

fn free_port() -> std::io::Result<TcpListener> {
    let mut rng = rand::rng();
    for _ in 0..100 {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, rng.random_range(PORTS))) {
            return Ok(listener);
        }
    }
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
}
