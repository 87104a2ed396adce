//! Asks a node over HTTP, and says in one line why there was no answer.

use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::Agent;
use ureq::http::{Response, StatusCode};

use crate::config::{Address, Value};
use crate::http::shapes;

/// How long a connection may take to come about.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// How long a stream of events may be silent. The node says something every 15 s, if only that it is there.
const STREAM_SILENCE: Duration = Duration::from_secs(45);

/// The most that an answer may hold: 65,536 partitions with long names of nodes.
const ANSWER_LEN_MAX: u64 = 256 << 20;

/// The most that a line of a stream of events may hold.
const LINE_LEN_MAX: u64 = 1 << 20;

/// Which node an operator's command asks, and how it shows the answer.
#[derive(Clone, Debug, Args)]
pub(super) struct Ask {
    /// The HTTP interface of any node of the cluster.
    #[arg(long, value_name = "URL", env = "TUMEN_HTTP", default_value = "http://127.0.0.1:8080", value_parser = base_url)]
    http: String,
    /// Print JSON for programs.
    #[arg(long)]
    pub(super) json: bool,
    /// How long to wait for the answer.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = <Duration as Value>::parse)]
    timeout: Duration,
    /// The file of the HTTP token, if the node asks for one; its text may stand in TUMEN_HTTP_TOKEN instead.
    #[arg(long, value_name = "PATH", env = "TUMEN_HTTP_TOKEN_FILE")]
    http_token_file: Option<PathBuf>,
}

/// `http://HOST:PORT`; `http://` may be left out.
fn base_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    if rest.contains("://") {
        return Err("nodes speak plain http".into());
    }
    let address = Address::parse(rest).map_err(|why| format!("it {why}"))?;
    Ok(format!("http://{address}"))
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Nobody could be asked.
    #[error("{url} cannot be reached: {why}; --http or TUMEN_HTTP names another node")]
    Unreachable { url: String, why: String },
    /// The question was asked and not answered.
    #[error("{url} gave no answer: {why}{}", if *order { "; whether anything was changed is not known, so look before you ask again" } else { "" })]
    Unanswered {
        url: String,
        why: String,
        /// Whether it would have changed something.
        order: bool,
    },
    /// The node said no.
    #[error("{0}")]
    Refused(shapes::Error),
    /// What answered is no node, or another version.
    #[error("{url} does not answer as a node of this version does: {why}")]
    Strange { url: String, why: String },
    /// The token could not be read.
    #[error("--http-token-file {}: {why}", path.display())]
    Token { path: PathBuf, why: String },
    /// A file cannot be read or written.
    #[error("{}: {why}", path.display())]
    File { path: PathBuf, why: String },
    /// It was not confirmed, and so not ordered.
    #[error("nothing was done: {0}")]
    Unconfirmed(String),
    /// The answer could not be written to stdout.
    #[error("the answer cannot be written: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// The same, where an earlier request of the same order has changed something already.
    pub(super) fn after_part(self) -> Self {
        match self {
            Self::Refused(why) => Self::Refused(shapes::Error { changed: Some(true), ..why }),
            other => other,
        }
    }
}

/// An answer as it came, and as it is meant.
pub(super) struct Answer<T> {
    /// The JSON as the node wrote it.
    pub(super) raw: String,
    /// What it says.
    pub(super) value: T,
}

/// The texts of the events, as long as the connection holds.
pub(super) type Events = Box<dyn Iterator<Item = Result<String, Failure>>>;

/// Asks one node.
pub(super) struct Client {
    agent: Agent,
    base: String,
    token: Option<String>,
    timeout: Duration,
}

impl Client {
    /// Prepares to ask; nothing is sent yet.
    pub(super) fn new(ask: &Ask) -> Result<Self, Failure> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // A node is asked directly: a proxy that is set up for the web knows nothing of it.
            .proxy(None)
            .timeout_connect(Some(CONNECT_DEADLINE.min(ask.timeout)))
            .build();
        let agent = Agent::new_with_config(config);
        Ok(Self { agent, base: ask.http.clone(), token: token(ask)?, timeout: ask.timeout })
    }

    /// The node's address, for people.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Asks a question, which changes nothing.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, Failure> {
        let mut request = self.agent.get(self.url(path)).header("accept", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", token);
        }
        let response = request.config().timeout_global(Some(self.timeout)).build().call();
        self.answer(response, false)
    }

    /// Gives an order.
    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Answer<T>, Failure> {
        let mut request = self.agent.post(self.url(path)).header("accept", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", token);
        }
        let response = request.config().timeout_global(Some(self.timeout)).build().send_json(body);
        self.answer(response, true)
    }

    /// Puts something where its path says.
    pub(super) fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Answer<T>, Failure> {
        let mut request = self.agent.put(self.url(path)).header("accept", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", token);
        }
        let response = request.config().timeout_global(Some(self.timeout)).build().send_json(body);
        self.answer(response, true)
    }

    /// Gives an order with text beside it.
    pub(super) fn post_text<T: DeserializeOwned>(
        &self,
        path: &str,
        text: &str,
    ) -> Result<Answer<T>, Failure> {
        let mut request = self.agent.post(self.url(path)).header("accept", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", token);
        }
        let response = request.config().timeout_global(Some(self.timeout)).build().send(text);
        self.answer(response, true)
    }

    /// Orders that something is to be no more.
    pub(super) fn delete(&self, path: &str) -> Result<(), Failure> {
        let mut request = self.agent.delete(self.url(path)).header("accept", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", token);
        }
        let response = request.config().timeout_global(Some(self.timeout)).build().call();
        let response = response.map_err(|why| self.failure(&why, true))?;
        self.accepted(response, true).map(drop)
    }

    /// Puts JSON somewhere, with one more header if it is given.
    pub(super) fn put_json<T: DeserializeOwned>(
        &self,
        path: &str,
        json: &str,
        header: Option<(&str, &str)>,
    ) -> Result<Answer<T>, Failure> {
        let mut request = self.agent.put(self.url(path)).header("content-type", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", token);
        }
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let response = request.config().timeout_global(Some(self.timeout)).build().send(json);
        self.answer(response, true)
    }

    /// Orders that something is to be no more, with one more header if it is given, and reads the answer.
    pub(super) fn delete_if<T: DeserializeOwned>(
        &self,
        path: &str,
        header: Option<(&str, &str)>,
    ) -> Result<Answer<T>, Failure> {
        let mut request = self.agent.delete(self.url(path)).header("accept", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", token);
        }
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let response = request.config().timeout_global(Some(self.timeout)).build().call();
        self.answer(response, true)
    }

    /// Opens a stream of events: one `data:` text at a time, for as long as the connection holds.
    pub(super) fn events(&self, path: &str) -> Result<Events, Failure> {
        let mut request = self.agent.get(self.url(path)).header("accept", "text/event-stream");
        if let Some(token) = &self.token {
            request = request.header("authorization", token);
        }
        let response = request
            .config()
            .timeout_recv_response(Some(self.timeout))
            .timeout_per_read(Some(STREAM_SILENCE))
            .build()
            .call();
        let response = response.map_err(|why| self.failure(&why, false))?;
        let response = self.accepted(response, false)?;
        let body = response.into_body().into_with_config().limit(u64::MAX).reader();
        let url = self.base.clone();
        let broken = move |why: String| Failure::Unanswered { url: url.clone(), why, order: false };
        Ok(Box::new(Data { lines: BufReader::new(body), broken }))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn answer<T: DeserializeOwned>(
        &self,
        response: Result<Response<ureq::Body>, ureq::Error>,
        order: bool,
    ) -> Result<Answer<T>, Failure> {
        let response = response.map_err(|why| self.failure(&why, order))?;
        let mut response = self.accepted(response, order)?;
        let raw = self.text(&mut response, order)?;
        match serde_json::from_str(&raw) {
            Ok(value) => Ok(Answer { raw, value }),
            Err(why) => Err(self.strange(format!("{} {why}", response.status()))),
        }
    }

    /// The response if it is a success; else what the node says is wrong.
    fn accepted(
        &self,
        mut response: Response<ureq::Body>,
        order: bool,
    ) -> Result<Response<ureq::Body>, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = self.text(&mut response, order)?;
        match serde_json::from_str::<shapes::ErrorBody>(&text) {
            Ok(body) => Err(Failure::Refused(body.error)),
            Err(_) if status == StatusCode::UNAUTHORIZED => Err(self.strange("it wants a token".into())),
            Err(_) => Err(self.strange(format!("{status} without a reason"))),
        }
    }

    fn text(&self, response: &mut Response<ureq::Body>, order: bool) -> Result<String, Failure> {
        let body = response.body_mut().with_config().limit(ANSWER_LEN_MAX).read_to_string();
        body.map_err(|why| self.failure(&why, order))
    }

    fn failure(&self, why: &ureq::Error, order: bool) -> Failure {
        let url = self.base.clone();
        let unreachable = |why: &str| Failure::Unreachable { url: url.clone(), why: why.to_owned() };
        match why {
            ureq::Error::Io(io) if io.kind() == io::ErrorKind::ConnectionRefused => {
                unreachable("nothing listens there")
            }
            ureq::Error::HostNotFound => unreachable("there is no such host"),
            ureq::Error::ConnectionFailed => unreachable("the connection failed"),
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                unreachable("the connection takes too long")
            }
            ureq::Error::Io(io)
                if matches!(
                    io.kind(),
                    io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
                ) =>
            {
                unreachable("there is no way to it")
            }
            ureq::Error::Timeout(_) => {
                let why = format!("not within {}", self.timeout.show());
                Failure::Unanswered { url, why, order }
            }
            ureq::Error::Io(io) => Failure::Unanswered { url, why: io.to_string(), order },
            other => self.strange(other.to_string()),
        }
    }

    pub(super) fn strange(&self, why: String) -> Failure {
        Failure::Strange { url: self.base.clone(), why }
    }
}

/// The `authorization` to show, from the file or from the environment.
fn token(ask: &Ask) -> Result<Option<String>, Failure> {
    let text = match &ask.http_token_file {
        Some(path) => {
            let why = |why: io::Error| Failure::Token { path: path.clone(), why: why.to_string() };
            Some(std::fs::read_to_string(path).map_err(why)?)
        }
        None => std::env::var("TUMEN_HTTP_TOKEN").ok().filter(|token| !token.is_empty()),
    };
    Ok(text.map(|text| format!("Bearer {}", text.trim_end_matches(['\r', '\n']))))
}

/// The `data:` of server-sent events, one after the other.
struct Data<R, F> {
    lines: BufReader<R>,
    broken: F,
}

impl<R: io::Read, F: Fn(String) -> Failure> Iterator for Data<R, F> {
    type Item = Result<String, Failure>;

    /// Lines of `data:` are gathered until an empty line ends the event. Comments and other fields say nothing new: the
    /// event's name stands in its data too.
    fn next(&mut self) -> Option<Self::Item> {
        let mut data = String::new();
        loop {
            let mut line = Vec::new();
            match io::Read::take(&mut self.lines, LINE_LEN_MAX).read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(_) if line.last() != Some(&b'\n') => {
                    return Some(Err((self.broken)("a line of events has no end".into())));
                }
                Ok(_) => {}
                Err(why) => return Some(Err((self.broken)(why.to_string()))),
            }
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\r', '\n']);
            if line.is_empty() && !data.is_empty() {
                return Some(Ok(data));
            }
            if let Some(text) = line.strip_prefix("data:") {
                if !data.is_empty() {
                    data.push('\n');
                }
                data.push_str(text.strip_prefix(' ').unwrap_or(text));
                if data.len() as u64 > LINE_LEN_MAX {
                    return Some(Err((self.broken)("an event is too long".into())));
                }
            }
        }
    }
}

/// Percent-encodes a key or a name for a path or a query.
pub(super) fn encoded(text: &str) -> String {
    encoded_bytes(text.as_bytes())
}

/// The same of any bytes.
pub(super) fn encoded_bytes(bytes: &[u8]) -> String {
    let mut encoded = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push((*byte).into());
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_encoded_whatever_they_hold() {
        assert_eq!(encoded("user:1001"), "user%3A1001");
        assert_eq!(encoded("a b/c?d=e&f#g%h+i~"), "a%20b%2Fc%3Fd%3De%26f%23g%25h%2Bi~");
        assert_eq!(encoded("ключ"), "%D0%BA%D0%BB%D1%8E%D1%87");
    }

    #[test]
    fn urls_may_be_short() {
        assert_eq!(base_url("127.0.0.1:8101").as_deref(), Ok("http://127.0.0.1:8101"));
        assert_eq!(base_url("http://[::1]:80/").as_deref(), Ok("http://[::1]:80"));
        assert!(base_url("https://a:1").is_err() && base_url("a").is_err() && base_url("a:1/x").is_err());
    }

    #[test]
    fn events_are_read_as_they_are_sent() {
        let sent = ": hello\n\nevent: a\ndata: 1\n\ndata: 2\r\ndata:3\r\nid: 7\r\n\r\n\n\n:\ndata: left out";
        let broken = |why: String| Failure::Unanswered { url: String::new(), why, order: false };
        let data = Data { lines: BufReader::new(sent.as_bytes()), broken };
        let got: Vec<_> = data.map(|one| one.map_err(|why| why.to_string())).take(3).collect();
        assert_eq!(got[..2], [Ok("1".to_owned()), Ok("2\n3".to_owned())]);
        assert!(got[2].as_ref().is_err_and(|why| why.contains("no end")));
        let endless = Data { lines: BufReader::new(io::repeat(b'x')), broken };
        assert!(endless.take(1).all(|one| one.is_err()));
    }
}
