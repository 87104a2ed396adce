//! One connection to a node's HTTP interface, which says exactly what became of a request: nothing is ever sent twice.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub etag: Option<String>,
    pub body: Vec<u8>,
}

/// Why there is none.
#[derive(Clone, Debug)]
pub enum Lost {
    /// Nothing was sent.
    Unsent,
    /// It was sent, in part at least.
    Sent(String),
}

/// A client of one node.
pub struct Wire {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Wire {
    pub fn new(address: &str) -> Self {
        Self { address: address.parse().expect("an address"), stream: None }
    }

    /// Asks, and waits for the answer. The connection is kept if it came.
    pub fn ask(
        &mut self,
        within: Duration,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> Result<Answer, Lost> {
        let until = Instant::now() + within;
        // What was kept may have been closed meanwhile: a closed one has something to read, which is its end.
        let kept = self.stream.take().filter(is_open);
        let mut stream = match kept {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect_timeout(&self.address, CONNECT_WITHIN.min(within));
                let stream = stream.map_err(|_| Lost::Unsent)?;
                stream.set_nodelay(true).map_err(|_| Lost::Unsent)?;
                BufReader::new(stream)
            }
        };
        let lost = |why: std::io::Error| Lost::Sent(why.to_string());
        stream.get_ref().set_write_timeout(Some(within)).map_err(lost)?;
        let len = body.len();
        let mut bytes =
            format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len}\r\n{headers}\r\n")
                .into_bytes();
        bytes.extend_from_slice(body);
        stream.get_mut().write_all(&bytes).map_err(lost)?;
        let answer = read(&mut stream, until).map_err(lost)?;
        self.stream = Some(stream);
        Ok(answer)
    }
}

fn is_open(stream: &BufReader<TcpStream>) -> bool {
    let socket = stream.get_ref();
    let quiet = || {
        socket.set_nonblocking(true)?;
        let peeked = socket.peek(&mut [0]);
        socket.set_nonblocking(false)?;
        Ok::<_, std::io::Error>(peeked.is_err_and(|why| why.kind() == std::io::ErrorKind::WouldBlock))
    };
    stream.buffer().is_empty() && quiet().unwrap_or(false)
}

fn read(stream: &mut BufReader<TcpStream>, until: Instant) -> std::io::Result<Answer> {
    let line = read_line(stream, until)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| broken(&line))?;
    let (mut etag, mut len) = (None, 0);
    loop {
        let line = read_line(stream, until)?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match &*name.to_ascii_lowercase() {
            "etag" => etag = Some(value.to_owned()),
            "content-length" => len = value.parse().map_err(|_| broken(&line))?,
            "transfer-encoding" => return Err(broken("an answer in chunks")),
            _ => {}
        }
    }
    let mut body = vec![0; len];
    wait(stream, until)?;
    stream.read_exact(&mut body)?;
    Ok(Answer { status, etag, body })
}

fn read_line(stream: &mut BufReader<TcpStream>, until: Instant) -> std::io::Result<String> {
    wait(stream, until)?;
    let mut line = String::new();
    match stream.read_line(&mut line)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

/// What is read next has to come by then.
fn wait(stream: &BufReader<TcpStream>, until: Instant) -> std::io::Result<()> {
    let left = until.saturating_duration_since(Instant::now());
    stream.get_ref().set_read_timeout(Some(left.max(Duration::from_millis(1))))
}

fn broken(why: &str) -> std::io::Error {
    std::io::Error::other(why.to_owned())
}
