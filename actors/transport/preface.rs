//! The first bytes of a connection: who calls whom for what, and that both know the cookie.
//!
//! ```text
//!  dialler                                        acceptor
//!     │ ── Opening { protocol, lane, nonce } ────────▶ │
//!     │ ◀─ Opening { protocol, lane, nonce } ───────── │
//!     │ ── Introduction { number, greeting } + proof ▶ │ judges
//!     │ ◀─ Verdict { greeting, current | refusal } + proof
//!     │ judges                                         │
//!     │ ── Decision { peers | already | refusal } + proof ▶
//! ```
//!
//! A proof is an HMAC-SHA256, keyed with the cookie, over both nonces, the speaker's role and what is said. So the
//! cookie never crosses the wire, nothing can be replayed, and nothing is decoded that was not proven, except a refusal.
//! Later connections of the same session are opened with a pass that the accepting side gave over the control lane,
//! once: number and proof, keyed with the session's own key.

use std::io;

use bytes::Bytes;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tumen_core::cluster::greeting::{Greeting, Refusal};
use tumen_core::cluster::transport::Connection;

use super::settings::Cookie;
use super::socket::Socket;
use crate::codec;

const MAGIC: [u8; 6] = *b"tumen\n";
/// Magic, protocol, lane, an unused byte, the pass's number, and a nonce or a proof.
const OPENING_LEN: usize = 50;
/// The most bytes that one statement of the preface may have.
const STATEMENT_LEN_MAX: usize = 64 << 10;

/// A key, a nonce, a token or a proof.
pub(super) type Secret = [u8; 32];

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Lane {
    Control = 1,
    Data = 2,
    Bulk = 3,
}

/// The first bytes of each side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    pub(super) protocol: u16,
    pub(super) lane: Lane,
    /// The pass's number; zero on the control lane.
    pub(super) pass: u64,
    /// A nonce on the control lane, else the pass's proof.
    pub(super) secret: Secret,
}

/// What a dialler says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Introduction {
    /// The dialler's number of this connection: larger than those before it.
    pub(super) number: u64,
    pub(super) greeting: Box<Greeting>,
}

/// What an acceptor answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Verdict {
    Welcome {
        greeting: Box<Greeting>,
        /// The connection of the session that the acceptor holds with this very run of the dialler, if it does.
        current: Option<Connection>,
    },
    Refused(Refusal),
}

/// What the dialler makes of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Decision {
    /// This connection becomes the session.
    Peers,
    /// Both hold a session already: this connection is not needed.
    Already,
    Refused(Refusal),
}

/// Why a preface came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrefaceError {
    /// The other side closed, or the connection broke.
    #[error("the connection ended: {0}")]
    Io(#[from] io::Error),
    /// What came is no preface of ours.
    #[error("{0}")]
    Hostile(String),
    /// One of the two refuses.
    #[error("{refusal}")]
    Refused { refusal: Refusal, by_us: bool },
}

impl PrefaceError {
    fn hostile(why: &str) -> Self {
        Self::Hostile(why.to_owned())
    }
}

impl Opening {
    pub(super) async fn write(&self, socket: &mut Socket) -> io::Result<()> {
        let mut bytes = [0; OPENING_LEN];
        bytes[..6].copy_from_slice(&MAGIC);
        bytes[6..8].copy_from_slice(&self.protocol.to_le_bytes());
        bytes[8] = self.lane as u8;
        bytes[10..18].copy_from_slice(&self.pass.to_le_bytes());
        bytes[18..].copy_from_slice(&self.secret);
        socket.write_all(&bytes).await
    }

    pub(super) async fn read(socket: &mut Socket) -> Result<Self, PrefaceError> {
        let mut bytes = [0; OPENING_LEN];
        // A stranger is known for one by its first bytes, and need not send as many as a friend.
        socket.read_exact(&mut bytes[..6]).await?;
        if bytes[..6] != MAGIC {
            return Err(PrefaceError::hostile("not a connection of tumen"));
        }
        socket.read_exact(&mut bytes[6..]).await?;
        let lane = match bytes[8] {
            1 => Lane::Control,
            2 => Lane::Data,
            3 => Lane::Bulk,
            other => return Err(PrefaceError::Hostile(format!("unknown lane {other}"))),
        };
        let mut pass = [0; 8];
        pass.copy_from_slice(&bytes[10..18]);
        let mut secret = [0; 32];
        secret.copy_from_slice(&bytes[18..]);
        let protocol = u16::from_le_bytes([bytes[6], bytes[7]]);
        Ok(Self { protocol, lane, pass: u64::from_le_bytes(pass), secret })
    }
}

/// Which side speaks: a statement of one is never taken for one of the other.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    Dialler,
    Acceptor,
}

/// Two nodes' nonces and the cookie that both should know: what proves a statement.
pub(super) struct Proofs {
    mac: Hmac<Sha256>,
}

impl Proofs {
    pub(super) fn new(cookie: &Cookie, dialler: &Secret, acceptor: &Secret) -> Self {
        let mut mac = keyed(cookie.as_bytes());
        mac.update(b"tumen preface");
        mac.update(dialler);
        mac.update(acceptor);
        Self { mac }
    }

    /// The key of the session that follows.
    pub(super) fn session_key(&self) -> Secret {
        let mut mac = self.mac.clone();
        mac.update(b"session");
        mac.finalize().into_bytes().into()
    }

    /// Says something, with proof.
    pub(super) async fn say<T: Serialize>(
        &self,
        socket: &mut Socket,
        role: Role,
        what: &T,
    ) -> Result<(), PrefaceError> {
        let body = codec::encode(what);
        let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let mut frame = Vec::with_capacity(36 + body.len());
        frame.extend_from_slice(&len.to_le_bytes());
        frame.extend_from_slice(&self.proof(role, &body));
        frame.extend_from_slice(&body);
        Ok(socket.write_all(&frame).await?)
    }

    /// Hears something, and whether it was proven.
    pub(super) async fn hear(&self, socket: &mut Socket, role: Role) -> Result<(Bytes, bool), PrefaceError> {
        let len = socket.read_u32_le().await? as usize;
        if len > STATEMENT_LEN_MAX {
            return Err(PrefaceError::Hostile(format!(
                "a statement of {len} bytes, at most {STATEMENT_LEN_MAX} are heard"
            )));
        }
        let mut proof = [0; 32];
        socket.read_exact(&mut proof).await?;
        let mut body = vec![0; len];
        socket.read_exact(&mut body).await?;
        let proven: bool = proof.ct_eq(&self.proof(role, &body)).into();
        Ok((body.into(), proven))
    }

    fn proof(&self, role: Role, body: &[u8]) -> Secret {
        let mut mac = self.mac.clone();
        mac.update(match role {
            Role::Dialler => b"dialler ",
            Role::Acceptor => b"acceptor",
        });
        mac.update(body);
        mac.finalize().into_bytes().into()
    }
}

/// Reads a statement that was proven.
pub(super) fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, PrefaceError> {
    codec::decode(body, STATEMENT_LEN_MAX).map_err(|error| PrefaceError::Hostile(error.to_string()))
}

/// The proof that a connection was opened with this pass.
pub(super) fn pass_proof(session_key: &Secret, lane: Lane, pass: u64, token: &Secret) -> Secret {
    let mut mac = keyed(session_key);
    mac.update(b"tumen pass");
    mac.update(&[lane as u8]);
    mac.update(&pass.to_le_bytes());
    mac.update(token);
    mac.finalize().into_bytes().into()
}

/// Whether two proofs are the same, in a time that tells nothing.
pub(super) fn same(one: &Secret, other: &Secret) -> bool {
    one.ct_eq(other).into()
}

/// A secret for another purpose, from which the cookie cannot be told.
pub(super) fn derive(cookie: &Cookie, purpose: &[u8]) -> Secret {
    let mut mac = keyed(cookie.as_bytes());
    mac.update(b"tumen derived");
    mac.update(purpose);
    mac.finalize().into_bytes().into()
}

/// 32 bytes that nobody else will draw.
pub(super) fn draw_secret() -> Secret {
    let mut secret = [0; 32];
    rand::RngCore::fill_bytes(&mut rand::rng(), &mut secret);
    secret
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("an HMAC takes a key of any length")
}
