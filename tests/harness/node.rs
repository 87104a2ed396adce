//! One node: a process, or several one after the other.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};

use super::wait_until;

/// How much of a log is printed where a test fails.
const TAIL_LINES: usize = 60;

/// A node, and where it is reached.
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where it listens for other nodes.
    pub listen: String,
    /// Where other nodes are told that it is.
    pub advertise: String,
    /// Its HTTP interface.
    pub http: String,
    /// Its other flags.
    pub flags: Vec<String>,
    /// Its environment, beside which it has none of the test's that concerns nodes.
    pub envs: Vec<(String, String)>,
    /// Whether its name and its addresses are told it by flags.
    pub by_flags: bool,
    dir: PathBuf,
    runs: Vec<Run>,
    frozen: bool,
    process: Mutex<Option<Child>>,
}

/// One run of a node's process.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its log.
    pub log: PathBuf,
    /// What it said on stdout.
    pub stdout: PathBuf,
    /// When it was killed, on the clock by which nodes count their leases; nothing of it happened after that.
    pub killed_at: Option<u64>,
}

/// The clock by which nodes count their leases, in nanoseconds. All processes of a machine share it.
pub fn boot_time() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

impl Node {
    /// A node that was never started.
    pub fn new(name: String, dir: &Path, listen: String, http: String) -> Self {
        let advertise = listen.clone();
        Self {
            name,
            listen,
            advertise,
            http,
            flags: Vec::new(),
            envs: Vec::new(),
            by_flags: true,
            dir: dir.to_owned(),
            runs: Vec::new(),
            frozen: false,
            process: Mutex::default(),
        }
    }

    /// Adds flags.
    pub fn flag(&mut self, flags: &[&str]) {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
    }

    /// Removes flags, and what was said with each.
    pub fn forget_flags(&mut self, names: &[&str]) {
        let mut kept = Vec::new();
        let mut flags = std::mem::take(&mut self.flags).into_iter();
        while let Some(flag) = flags.next() {
            if names.contains(&flag.as_str()) {
                flags.next();
            } else {
                kept.push(flag);
            }
        }
        self.flags = kept;
    }

    /// Where it keeps what survives a restart, if it does.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join(format!("{}.data", self.name))
    }

    /// Starts its process.
    pub fn launch(&mut self) {
        assert!(!self.is_running(), "{} runs already", self.name);
        let number = self.runs.len() + 1;
        let file = |kind: &str| self.dir.join(format!("{}.{number}.{kind}", self.name));
        let run = Run { log: file("log"), stdout: file("out"), killed_at: None };
        let mut command = bare();
        command.arg("node");
        if self.by_flags {
            command.args(["--name", &self.name, "--listen", &self.listen, "--http", &self.http]);
        }
        command.args(&self.flags).envs(self.envs.iter().cloned());
        command.arg("--end-with-stdin").stdin(Stdio::piped());
        command.stdout(File::create(&run.stdout).unwrap()).stderr(File::create(&run.log).unwrap());
        *self.process.lock().unwrap() = Some(command.spawn().unwrap());
        self.runs.push(run);
        self.frozen = false;
    }

    /// Whether its process was started and is not known to have ended.
    pub fn is_running(&self) -> bool {
        self.process.lock().unwrap().is_some()
    }

    /// Whether its process runs and is not frozen.
    pub fn is_awake(&self) -> bool {
        self.is_running() && !self.frozen
    }

    /// Its process, as the system calls it.
    pub fn id(&self) -> Option<u32> {
        self.process.lock().unwrap().as_ref().map(Child::id)
    }

    /// How its process ended, if it ended without being told to.
    pub fn ended_by_itself(&self) -> Option<ExitStatus> {
        self.process.lock().unwrap().as_mut()?.try_wait().unwrap()
    }

    /// Kills its process, and returns once nothing is left of it.
    pub fn kill9(&mut self) {
        let mut process =
            self.process.lock().unwrap().take().unwrap_or_else(|| panic!("{} does not run", self.name));
        // A process that this signal is on its way to runs no instruction of its own any more.
        process.kill().unwrap();
        self.runs.last_mut().unwrap().killed_at = Some(boot_time());
        process.wait().unwrap();
    }

    /// Stops its process in its tracks.
    pub fn freeze(&mut self) {
        self.signal(Signal::STOP);
        self.frozen = true;
        // The signal is on its way; until it came the process may still do things.
        let id = self.id().unwrap();
        wait_until("the process is stopped", Duration::from_secs(10), || {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).map_err(|why| why.to_string())?;
            let state = stat.rsplit(')').next().unwrap_or_default().trim_start().to_owned();
            super::check(state.starts_with('T'), || state.clone())
        });
    }

    /// Lets its process run on.
    pub fn thaw(&mut self) {
        self.frozen = false;
        self.signal(Signal::CONT);
    }

    /// Asks it to stop in good order.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits until its process has ended by itself, with exit code 0.
    pub fn wait_until_ended(&mut self, within: Duration) {
        let status = self.wait_for_end(within);
        assert!(status.success(), "{} ended with {status}", self.name);
    }

    /// Waits until its process has ended by itself.
    pub fn wait_for_end(&mut self, within: Duration) -> ExitStatus {
        let status = wait_until(&format!("{} ended", self.name), within, || {
            self.ended_by_itself().ok_or("it runs on")
        });
        *self.process.lock().unwrap() = None;
        status
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.lock().unwrap();
        let process = process.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name));
        kill_process(Pid::from_child(process), signal).unwrap();
    }

    /// Ends it in any way.
    pub fn end(&mut self) {
        if let Some(mut process) = self.process.lock().unwrap().take() {
            // Fails only where it has ended by itself.
            drop(process.kill());
            drop(process.wait());
            if let Some(run) = self.runs.last_mut() {
                run.killed_at = Some(boot_time());
            }
        }
    }

    /// Its runs, the first one first.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The logs of its runs.
    pub fn logs(&self) -> impl Iterator<Item = PathBuf> {
        self.runs.iter().map(|run| run.log.clone())
    }

    /// The log of its last run.
    pub fn log(&self) -> String {
        let run = self.runs.last().expect("it was started");
        String::from_utf8_lossy(&std::fs::read(&run.log).unwrap()).into_owned()
    }

    /// What its last run said on stdout.
    pub fn stdout(&self) -> String {
        std::fs::read_to_string(&self.runs.last().expect("it was started").stdout).unwrap()
    }
}

/// `tumen`, with nothing in its environment that is meant for other nodes.
pub fn bare() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tumen"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let known = ["NODE_ID", "HTTP_ADDR", "KNOWN_NODES", "RUST_LOG"];
        if text.starts_with("TUMEN_") || known.contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
    command
}

/// Prints the end of a log.
pub fn print_tail(log: &Path) {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("tumen::belief")).collect();
    eprintln!("---- {} ----", log.display());
    for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
        eprintln!("{line}");
    }
}
