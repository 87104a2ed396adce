//! Asks nodes over HTTP as any client would: JSON about the cluster, and keys of the built-in `kv`.

use std::io;
use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::Agent;

use crate::http::EPOCH;
use crate::http::shapes::ErrorBody;

/// How long a connection to a node of this machine may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How long an answer may take: longer than a node itself waits for one.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A client with connections of its own.
#[derive(Debug)]
pub(crate) struct Asker {
    agent: Agent,
}

/// What became of a request for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It was carried out.
    Done,
    /// Nothing changed, for the partition is on its way from one node to another: ask again.
    Again,
    /// The node that was asked is not there, or went away before it answered.
    Gone,
    /// Anything else.
    Refused(String),
}

impl Asker {
    /// A client without connections yet.
    pub(crate) fn new() -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Nodes of this machine are asked directly, whatever is set up for the web.
            .proxy(None)
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_global(Some(ANSWER_WITHIN))
            .build();
        Self { agent: Agent::new_with_config(config) }
    }

    /// `GET path` as JSON.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub(crate) fn json<T: DeserializeOwned>(&self, node: &str, path: &str) -> Result<T, String> {
        let url = format!("http://{node}{path}");
        let mut response = self.agent.get(&url).call().map_err(|error| format!("{url}: {error}"))?;
        let (status, body) = (response.status(), response.body_mut().read_to_string());
        let body = body.map_err(|error| format!("{url}: {error}"))?;
        if !status.is_success() {
            let told = serde_json::from_str::<ErrorBody>(&body);
            return Err(format!("{url}: {}", told.map_or(body, |told| told.error.to_string())));
        }
        serde_json::from_str(&body).map_err(|error| format!("{url}: {error}"))
    }

    /// `POST path`, with nothing to say beside it.
    ///
    /// # Errors
    /// Why it was not carried out, for people.
    pub(crate) fn order(&self, node: &str, path: &str) -> Result<(), String> {
        let url = format!("http://{node}{path}");
        let mut response = self.agent.post(&url).send_empty().map_err(|error| format!("{url}: {error}"))?;
        let (status, body) = (response.status(), response.body_mut().read_to_string());
        let body = body.map_err(|error| format!("{url}: {error}"))?;
        if status.is_success() { Ok(()) } else { Err(format!("{url}: {status} {body}")) }
    }

    /// Reads a key. That there is nothing under it is an answer too.
    pub(crate) fn get(&self, node: &str, key: &str) -> Answer {
        match self.agent.get(format!("http://{node}/kv/{key}")).call() {
            Ok(response) if response.status() == 404 => read(response, |told| told.code == "not_found"),
            Ok(response) => read(response, |_| false),
            Err(error) => failed(&error),
        }
    }

    /// Writes a key.
    pub(crate) fn put(&self, node: &str, key: &str, value: &str) -> Answer {
        self.put_in_epoch(node, key, value).0
    }

    /// Writes a key: what became of it, and the epoch of its partition in which it was written.
    pub(crate) fn put_in_epoch(&self, node: &str, key: &str, value: &str) -> (Answer, Option<u64>) {
        match self.agent.put(format!("http://{node}/kv/{key}")).send(value) {
            Ok(response) => {
                let epoch = response.headers().get(EPOCH.as_str()).and_then(|epoch| epoch.to_str().ok());
                let epoch = epoch.and_then(|epoch| epoch.parse().ok());
                (read(response, |_| false), epoch)
            }
            Err(error) => (failed(&error), None),
        }
    }
}

/// Reads an answer to its end, so that its connection can be used again.
fn read(
    mut response: ureq::http::Response<ureq::Body>,
    is_answer: impl Fn(&crate::http::shapes::Error) -> bool,
) -> Answer {
    let status = response.status();
    let body = match response.body_mut().read_to_vec() {
        Ok(body) => body,
        Err(error) => return failed(&error),
    };
    if status.is_success() {
        return Answer::Done;
    }
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(told) if is_answer(&told.error) => Answer::Done,
        Ok(told) if matches!(told.error.code.as_str(), "not_ready" | "stale") => Answer::Again,
        Ok(told) => Answer::Refused(told.error.to_string()),
        Err(_) => Answer::Refused(format!("{status} without a reason")),
    }
}

fn failed(error: &ureq::Error) -> Answer {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, UnexpectedEof};
    match error {
        ureq::Error::ConnectionFailed => Answer::Gone,
        ureq::Error::Io(io)
            if matches!(
                io.kind(),
                BrokenPipe | ConnectionAborted | ConnectionRefused | ConnectionReset | UnexpectedEof
            ) =>
        {
            Answer::Gone
        }
        ureq::Error::Protocol(_) => Answer::Gone,
        other => Answer::Refused(other.to_string()),
    }
}
