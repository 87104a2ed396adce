//! One connection whose ends can be used by others and shut by us, whatever they are doing with it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A TCP connection. Clones are the same connection.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    tcp: Arc<TcpStream>,
    /// How often bytes came: a sign of life, whatever they mean.
    heard: Arc<AtomicU64>,
}

impl Socket {
    pub(super) fn new(tcp: TcpStream) -> io::Result<Self> {
        // Batches are made before writing; waiting for more would only add to the delay.
        tcp.set_nodelay(true)?;
        Ok(Self { tcp: Arc::new(tcp), heard: Arc::default() })
    }

    /// How often something was read so far.
    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Shuts both directions: whoever reads or writes it is woken with the end or an error. The descriptor goes with
    /// the last clone, so that nobody can be left with a descriptor of something else.
    pub(super) fn shut(&self) {
        // An error means that it is shut already.
        let _ = rustix::net::shutdown(&*self.tcp, rustix::net::Shutdown::Both);
    }

    /// Shuts our direction: the peer reads what was written, and then the end.
    pub(super) fn shut_writing(&self) {
        let _ = rustix::net::shutdown(&*self.tcp, rustix::net::Shutdown::Write);
    }

    /// Whether somebody holds a clone of it.
    pub(super) fn in_use(&self) -> bool {
        Arc::strong_count(&self.tcp) > 1
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.tcp.poll_read_ready(cx))?;
            match self.tcp.try_read_buf(buf) {
                Ok(len) => {
                    if len > 0 {
                        self.heard.fetch_add(1, Ordering::Relaxed);
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.tcp.poll_write_ready(cx))?;
            match self.tcp.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.tcp.poll_write_ready(cx))?;
            match self.tcp.try_write_vectored(parts) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut_writing();
        Poll::Ready(Ok(()))
    }
}
