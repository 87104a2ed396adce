//! The child processes, as this one holds them: orders go out line by line, and each is answered by one line.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{ChildStdout, Command, Stdio};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::child::{Contestant, Order, Part};
use crate::children::Child;
use crate::config::KNOBS;

/// Why calls could not be measured. The child processes are gone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallsError {
    /// The system gives no child process, or no way to speak to it.
    #[error("the {part} of {contestant} cannot be run: {why}")]
    Child { contestant: Contestant, part: Part, why: io::Error },
    /// A child process failed at what it was told.
    #[error("the {part} of {contestant} failed: {why}")]
    Failed { contestant: Contestant, part: Part, why: String },
}

/// Two processes, one of which calls the other.
pub(super) struct Pair {
    pub(super) caller: Peer,
    pub(super) echo: Peer,
}

impl Pair {
    /// Starts both, and waits until calls arrive.
    pub(super) fn start(contestant: Contestant, threads: usize) -> Result<Self, CallsError> {
        // tumen's caller founds the cluster and leads it, so that it goes on where the other node is frozen.
        let (first, second) = match contestant {
            Contestant::Tumen => (Part::Caller, Part::Echo),
            Contestant::Raw
            | Contestant::RactorCluster
            | Contestant::Kv
            | Contestant::Names
            | Contestant::Config
            | Contestant::Topics
            | Contestant::Pg
            | Contestant::Handover => (Part::Echo, Part::Caller),
        };
        let mut first = Peer::start(contestant, first, threads, None)?;
        let address: String = first.hear()?;
        let mut second = Peer::start(contestant, second, threads, Some(&address))?;
        let _: String = second.hear()?;
        let (mut caller, echo) = if first.part == Part::Caller { (first, second) } else { (second, first) };
        caller.tell::<()>(&Order::Connect)?;
        Ok(Self { caller, echo })
    }
}

/// One child process.
pub(in crate::bench) struct Peer {
    contestant: Contestant,
    part: Part,
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts it, at work with the process at `to` if it is told one.
    pub(in crate::bench) fn start(
        contestant: Contestant,
        part: Part,
        threads: usize,
        to: Option<&str>,
    ) -> Result<Self, CallsError> {
        let start = || {
            let mut command = Command::new(std::env::current_exe()?);
            // What is set for the user's own nodes is not meant for these.
            for knob in KNOBS {
                command.env_remove(knob.variable());
                knob.also.map(|also| command.env_remove(also));
            }
            command.env_remove("TUMEN_CONFIG");
            let (contestant, part) = (contestant.to_string(), part.to_string());
            command.args(["bench-child", &contestant, &part, "--threads", &threads.to_string()]);
            if let Some(to) = to {
                command.args(["--to", to]);
            }
            let mut child = Child::spawn(command.stdout(Stdio::piped()))?;
            let output = child.take_output().ok_or(io::ErrorKind::BrokenPipe)?;
            Ok((child, BufReader::new(output)))
        };
        let (child, output) = start().map_err(|why| CallsError::Child { contestant, part, why })?;
        Ok(Self { contestant, part, child, output })
    }

    /// Gives an order, and waits for what came of it.
    pub(in crate::bench) fn tell<T: DeserializeOwned>(&mut self, order: &Order) -> Result<T, CallsError> {
        self.give(order)?;
        self.hear()
    }

    /// Gives an order. What came of it is to be heard before the next one is given.
    pub(in crate::bench) fn give(&mut self, order: &Order) -> Result<(), CallsError> {
        let mut line = serde_json::to_string(order).unwrap_or_default();
        line.push('\n');
        let input = self.child.input().ok_or_else(|| io::ErrorKind::BrokenPipe.into());
        let told = input.and_then(|input| input.write_all(line.as_bytes()).and_then(|()| input.flush()));
        told.map_err(|why| self.broken(why))
    }

    /// What the system calls its process.
    pub(in crate::bench) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends the process.
    pub(in crate::bench) fn end(&mut self) {
        self.child.end();
    }

    /// Stops the process in its tracks, for ever.
    pub(super) fn freeze(&self) -> Result<(), CallsError> {
        self.child.freeze(true).map_err(|why| self.broken(why))
    }

    /// Waits for what it says: where it is found, before all else.
    pub(in crate::bench) fn hear<T: DeserializeOwned>(&mut self) -> Result<T, CallsError> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) => Err(self.failed("it ended".into())),
            Ok(_) => match serde_json::from_str::<Heard<T>>(&line) {
                Ok(Heard::Ok(it)) => Ok(it),
                Ok(Heard::Err(why)) => Err(self.failed(why)),
                Err(why) => Err(self.failed(format!("it said {line:?}: {why}"))),
            },
            Err(why) => Err(self.broken(why)),
        }
    }

    const fn broken(&self, why: io::Error) -> CallsError {
        CallsError::Child { contestant: self.contestant, part: self.part, why }
    }

    const fn failed(&self, why: String) -> CallsError {
        CallsError::Failed { contestant: self.contestant, part: self.part, why }
    }
}

/// What a child says of an order: as `Result` is written.
#[derive(Deserialize)]
enum Heard<T> {
    Ok(T),
    Err(String),
}
