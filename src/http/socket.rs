//! A client's connection, made safe: a client that does not read is cut off, and one that sends what is no request is
//! told so as JSON.
//!
//! The HTTP library answers what it cannot read with a bare status line, and nothing of ours is asked. So the answer is
//! changed where it leaves.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::shapes::ErrorBody;

/// How much is read from a client that was refused, so that it sees the answer before the connection ends.
const LINGER_LEN_MAX: usize = 16 << 20;
/// How long that may take.
const LINGER_WITHIN: Duration = Duration::from_secs(2);

pub(super) struct Socket {
    stream: TcpStream,
    stalled_after: Duration,
    stall: Option<Pin<Box<Sleep>>>,
    /// What stands in for the library's bare answer, and is not written yet.
    refusal: Bytes,
}

impl Socket {
    pub(super) const fn new(stream: TcpStream, stalled_after: Duration) -> Self {
        Self { stream, stalled_after, stall: None, refusal: Bytes::new() }
    }

    /// Reads on for a while, so that what was written arrives: closing with unread bytes would reset the connection.
    pub(super) async fn linger(mut self) {
        let drain = async {
            drop(tokio::io::AsyncWriteExt::shutdown(&mut self.stream).await);
            let (mut left, mut buffer) = (LINGER_LEN_MAX, vec![0; 16 << 10]);
            while left > 0 {
                match self.stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(len) => left = left.saturating_sub(len),
                }
            }
        };
        drop(tokio::time::timeout(LINGER_WITHIN, drain).await);
    }

    /// An error once writing has stalled for too long.
    fn check_stall<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stall = None;
            return polled;
        }
        let after = self.stalled_after;
        let stall =
            self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + after)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answer")))
    }

    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.refusal.has_remaining() {
            let polled = Pin::new(&mut self.stream).poll_write(cx, &self.refusal);
            let written = ready!(self.check_stall(cx, polled))?;
            self.refusal.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_refusal(cx))?;
        if let Some(refusal) = in_our_words(bytes) {
            self.refusal = refusal;
            return Poll::Ready(Ok(bytes.len()));
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.check_stall(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_refusal(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_refusal(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The whole answer that stands in for the library's own, if `bytes` is one of those: a client's fault without a word
/// about it, which none of our answers is.
fn in_our_words(bytes: &[u8]) -> Option<Bytes> {
    let head = bytes.strip_prefix(b"HTTP/1.1 4").filter(|_| bytes.ends_with(b"\r\n\r\n"))?;
    let head = std::str::from_utf8(head).ok()?.to_ascii_lowercase();
    if !head.contains("\r\ncontent-length: 0\r\n") {
        return None;
    }
    let (code, message) = match &head[..2] {
        "08" => ("timeout", "no whole request came in time: send it again, faster"),
        "14" | "31" => ("too_long", "the request's head is too long: its path has at most 65,534 characters"),
        _ => ("bad_request", "this is no HTTP request"),
    };
    let line = String::from_utf8_lossy(bytes.split(|byte| *byte == b'\r').next()?).into_owned();
    let error = ErrorBody::unchanged(code, message);
    Some(full(&line, &error))
}

/// An answer with its head, after which the connection ends.
pub(super) fn full(status_line: &str, error: &ErrorBody) -> Bytes {
    let body = serde_json::to_string(error).expect("an error is plain text");
    let len = body.len();
    format!(
        "{status_line}\r\ncontent-type: application/json\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{body}"
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bare_faults_are_put_into_words() {
        let words = |head: &str| {
            in_our_words(head.as_bytes()).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
        };
        let told = words("HTTP/1.1 414 URI Too Long\r\ncontent-length: 0\r\ndate: x\r\n\r\n").unwrap();
        assert!(
            told.starts_with("HTTP/1.1 414 URI Too Long\r\ncontent-type: application/json\r\n"),
            "{told}"
        );
        assert!(told.contains("\"code\":\"too_long\""), "{told}");
        assert!(
            words("HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").is_some()
        );
        for kept in [
            "HTTP/1.1 404 Not Found\r\ncontent-length: 10\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\nbody",
            "",
        ] {
            assert_eq!(words(kept), None, "{kept}");
        }
    }
}
