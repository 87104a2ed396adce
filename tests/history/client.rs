//! One client: asks this and that of whichever node, and writes down what it was told.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value as Json;
use tumen_core::history::{Answer, Call};

use super::super::harness::{PATIENCE, wait_until};
use super::wire::{self, Lost, Wire};
use super::{Chance, Recorded, Told, now};

/// How long a client waits: some go before the node gives up, some stay.
const WITHIN: [Duration; 3] =
    [Duration::from_millis(700), Duration::from_millis(2000), Duration::from_millis(6500)];

/// What became of a request, for certain.
#[derive(Clone, Debug)]
enum Outcome {
    /// It was carried out, or found to be impossible: the answer holds.
    Answered(wire::Answer),
    /// Nothing was changed, and never will be.
    Refused(String),
    /// Nobody knows.
    Unknown(String),
}

pub struct Client<'a> {
    nodes: Vec<Wire>,
    at: usize,
    /// Whether it never goes to another node.
    pub stays: bool,
    chance: Chance,
    values: &'a AtomicU64,
    /// What was read of each key last, with its tag.
    read: std::collections::BTreeMap<String, (Option<u64>, Option<String>)>,
    history: Recorded,
    told: Told,
}

impl<'a> Client<'a> {
    pub fn new(nodes: &[String], at: usize, seed: u64, values: &'a AtomicU64) -> Self {
        Self {
            at: at % nodes.len(),
            stays: false,
            nodes: nodes.iter().map(|node| Wire::new(node)).collect(),
            chance: Chance::new(seed),
            values,
            read: std::collections::BTreeMap::new(),
            history: Recorded::new(),
            told: Told::default(),
        }
    }

    pub fn into_parts(self) -> (Recorded, Told) {
        (self.history, self.told)
    }

    /// Goes on until it is stopped.
    pub fn run(&mut self, stop: &AtomicBool, keys: &[String], think_max_us: u64) {
        while !stop.load(Ordering::SeqCst) {
            let key = self.chance.pick(keys).clone();
            let within = *self.chance.pick(&WITHIN);
            let went_well = match self.chance.below(100) {
                0..35 => self.read(&key, within),
                35..65 => self.write(&key, within),
                65..93 => self.swap(&key, within),
                _ => self.delete(&key, within),
            };
            // Who is not served goes to another node; who is does so now and then.
            if !self.stays && (!went_well || self.chance.below(20) == 0) {
                self.at = self.chance.below(self.nodes.len() as u64) as usize;
            }
            let think = self.chance.below(think_max_us.max(1)) + if went_well { 0 } else { 5_000 };
            thread::sleep(Duration::from_micros(think));
        }
    }

    /// Reads a key at one node, until it answers.
    pub fn read_surely(&mut self, key: &str, at: usize) {
        self.at = at;
        wait_until(&format!("{key} is read"), PATIENCE, || {
            self.read(key, Duration::from_secs(10)).then_some(()).ok_or("it is not answered")
        });
    }

    fn read(&mut self, key: &str, within: Duration) -> bool {
        let id = self.history.call(key.to_owned(), now(), Call::Read);
        match self.ask("get", within, "GET", key, "", b"") {
            Outcome::Answered(answer) => {
                let value = (answer.status == 200).then(|| number(&answer.body));
                self.read.insert(key.to_owned(), (value, answer.etag));
                self.history.answer(&id, now(), Answer::Value(value)).unwrap();
                true
            }
            Outcome::Refused(_) | Outcome::Unknown(_) => {
                self.history.refuse(&id);
                false
            }
        }
    }

    fn write(&mut self, key: &str, within: Duration) -> bool {
        let value = self.values.fetch_add(1, Ordering::SeqCst);
        let id = self.history.call(key.to_owned(), now(), Call::Write(value));
        match self.ask("put", within, "PUT", key, "", value.to_string().as_bytes()) {
            Outcome::Answered(_) => self.history.answer(&id, now(), Answer::Done).is_ok(),
            Outcome::Refused(_) => {
                self.history.refuse(&id);
                false
            }
            Outcome::Unknown(_) => false,
        }
    }

    /// Replaces what was read last, if it is still there.
    fn swap(&mut self, key: &str, within: Duration) -> bool {
        // What was read long ago is gone: most look anew.
        if (self.chance.below(4) > 0 || !self.read.contains_key(key)) && !self.read(key, within) {
            return false;
        }
        let Some((from, tag)) = self.read.get(key).cloned() else { return false };
        let header = match &tag {
            Some(tag) => format!("if-match: {tag}\r\n"),
            None => "if-none-match: *\r\n".to_owned(),
        };
        let value = self.values.fetch_add(1, Ordering::SeqCst);
        let id = self.history.call(key.to_owned(), now(), Call::Swap { from, to: Some(value) });
        match self.ask("swap", within, "PUT", key, &header, value.to_string().as_bytes()) {
            Outcome::Answered(answer) => {
                let swapped = answer.status != 412;
                self.history.answer(&id, now(), Answer::Swapped(swapped)).unwrap();
                if swapped {
                    self.read.insert(key.to_owned(), (Some(value), answer.etag));
                }
                true
            }
            Outcome::Refused(_) => {
                self.history.refuse(&id);
                false
            }
            Outcome::Unknown(_) => false,
        }
    }

    fn delete(&mut self, key: &str, within: Duration) -> bool {
        let id = self.history.call(key.to_owned(), now(), Call::Delete);
        match self.ask("delete", within, "DELETE", key, "", b"") {
            Outcome::Answered(answer) => {
                self.history.answer(&id, now(), Answer::Existed(answer.status == 204)).unwrap();
                true
            }
            Outcome::Refused(_) => {
                self.history.refuse(&id);
                false
            }
            Outcome::Unknown(_) => false,
        }
    }

    fn ask(
        &mut self,
        what: &'static str,
        within: Duration,
        method: &str,
        key: &str,
        headers: &str,
        body: &[u8],
    ) -> Outcome {
        let begun = std::time::Instant::now();
        let answer = self.nodes[self.at].ask(within, method, &format!("/kv/{key}"), headers, body);
        let outcome = outcome(answer);
        let said = match &outcome {
            Outcome::Answered(answer) => answer.status.to_string(),
            Outcome::Refused(why) => format!("refused ({why})"),
            Outcome::Unknown(why) => format!("unknown ({why})"),
        };
        if matches!(outcome, Outcome::Answered(_)) {
            self.told.slowest_ms = self.told.slowest_ms.max(begun.elapsed().as_millis() as u64);
        }
        *self.told.counts.entry((what, said)).or_default() += 1;
        outcome
    }
}

fn outcome(answer: Result<wire::Answer, Lost>) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(Lost::Unsent) => return Outcome::Refused("unsent".into()),
        Err(Lost::Sent(why)) => return Outcome::Unknown(why),
    };
    let told: Json = serde_json::from_slice(&answer.body).unwrap_or_default();
    let code = told["error"]["code"].as_str().unwrap_or("no code").to_owned();
    match answer.status {
        200 | 201 | 204 => Outcome::Answered(answer),
        404 if code == "not_found" => Outcome::Answered(answer),
        412 if code == "precondition_failed" => Outcome::Answered(answer),
        // It is said that nothing was changed; anything else may have been.
        503 | 504 if told["error"]["changed"] == false => Outcome::Refused(code),
        503 | 504 => Outcome::Unknown(code),
        status => panic!("nobody should be told {status}: {}", String::from_utf8_lossy(&answer.body)),
    }
}

fn number(body: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(body);
    text.parse().unwrap_or_else(|_| panic!("what was read is no number: {text}"))
}
