//! A plain HTTP client for tests: it sends exactly the bytes that it is given.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

/// Long enough for anything on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// An answer, whole.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.0 == name).map(|header| &*header.1)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|why| panic!("{why}: {:?}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The error's code; and it is a whole error, which changed nothing.
    pub(crate) fn refused(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/json"));
        let body = self.json();
        assert_eq!(body["error"]["changed"], json!(false), "{body}");
        assert!(body["error"]["message"].as_str().is_some_and(|message| message.len() > 10), "{body}");
        body["error"]["code"].as_str().unwrap().to_owned()
    }
}

/// One request on a connection of its own, byte by byte as it is given.
pub(crate) fn send(to: SocketAddr, head: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses early may not read all of it.
    drop(stream.write_all(body));
    read_answer(&mut BufReader::new(stream), head.starts_with("HEAD"))
}

/// Reads one answer, or its head only.
pub(crate) fn read_answer(reader: &mut impl BufRead, headers_only: bool) -> Answer {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no answer but {line:?}")).parse().unwrap();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    let len = answer.header("content-length").map_or(0, |len| len.parse().unwrap());
    if !headers_only {
        answer.body.resize(len, 0);
        reader.read_exact(&mut answer.body).unwrap();
    }
    answer
}

/// Asks, with more headers if wanted, each with its line's end.
pub(crate) fn ask(to: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    let len = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    send(to, &format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{len}{headers}\r\n"), body)
}

/// A stream of server-sent events that was asked for.
pub(crate) fn listen(to: SocketAddr) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let head = read_answer(&mut reader, true);
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    reader
}

/// The next event: its id, and its data.
pub(crate) fn next_event(reader: &mut impl BufRead) -> (String, Value) {
    let (mut id, mut data) = (None, None);
    while id.is_none() || data.is_none() {
        let mut line = String::new();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "the stream ended");
        match line.trim_end().split_once(": ") {
            Some(("id", value)) => id = Some(value.to_owned()),
            Some(("data", value)) => data = Some(serde_json::from_str(value).unwrap()),
            _ => {}
        }
    }
    (id.unwrap(), data.unwrap())
}
