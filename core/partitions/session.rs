//! Each request takes effect once, however often it is sent: what the copies of a partition remember for that.
//!
//! ```text
//! client ── request 42, lowest unanswered 40 ──▶ primary ── check ──▶ run ──▶ Record{42, changes, reply} ──▶ log
//!    ▲                                              │                                                        │ apply, on every copy
//!    └──────────── the same reply, again ◀──────────┴── answered ◀── 40 41 42 ◀──────────────────────────────┘
//! ```
//!
//! [`Sessions`] is part of the partition's replicated state: entries change it, and nothing else does; so it survives
//! whatever the data survives, and is never ahead of it or behind. What only the primary knows stands in [`desk`],
//! the client's half in [`client`]. (The idea: RIFL, Lee et al. 2015; Ongaro's thesis, section 6.3.)

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BytesMut;
use serde::{Deserialize, Serialize};

use crate::partitions::entry::encoding::put_reply;
use crate::partitions::entry::{Entry, Expiry};
use crate::partitions::identity::{Fingerprint, Identity, KeyDigest, Keyed, Numbered, Position, SessionId};
use crate::partitions::request::{Failure, Reply};
use crate::wire::{StableHasher, stable_hash};
use answers::Answers;

mod answers;
pub mod ask;
pub mod client;
pub mod desk;

/// How much one partition remembers. Asked only by the primary, before a request runs; what is logged is applied by
/// every copy, whatever its limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Sessions at once. Default 4,096.
    pub sessions_max: usize,
    /// How far a request's number may be ahead of its client's lowest unanswered one. Default 4,096. The client's
    /// must not be larger than the partition's.
    pub window: u64,
    /// Bytes of the replies that one session keeps. Default 1 MiB. One reply more may overshoot it.
    pub session_bytes_max: usize,
    /// Bytes of all replies kept, of sessions and keys. Default 64 MiB; at least twice `session_bytes_max`.
    pub bytes_max: usize,
    /// Keys at once. Default 65,536.
    pub keys_max: usize,
    /// A session ends after this long without a request. Default 10 min. A client stops using one after half of it,
    /// so both must have the same value.
    pub idle: Duration,
    /// A key is remembered for at least this long. Default 1 h.
    pub key_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions_max: 4096,
            window: 4096,
            session_bytes_max: 1 << 20,
            bytes_max: 64 << 20,
            keys_max: 1 << 16,
            idle: Duration::from_secs(600),
            key_age: Duration::from_secs(3600),
        }
    }
}

/// What is to be done with a request that has come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is new: run it.
    Run,
    /// It was carried out: this was the answer. It may leave at once.
    Answered {
        /// What it rests on: the entry that holds it, or the last one that its handler saw.
        at: Position,
        /// The answer.
        reply: Reply,
    },
    /// It is being handled, or its answer is not past the mark yet: join that answer, do not run it twice.
    Running,
    /// It was begun, and its handler never returned: what it changed until its last step is there to stay.
    InDoubt,
    /// Its session has ended. Whether it was carried out before, nobody knows any more.
    Expired,
    /// Its client has its answer, or gave it up: nobody waits for this one.
    Forgotten,
    /// It was carried out and changed nothing, but its answer was too large to be kept.
    Dropped,
    /// There is no room to remember it. Nothing changed.
    Overloaded,
    /// Its key was used for another request. Nothing changed.
    Reused,
}

impl Verdict {
    /// What the caller is told, unless the request is to be run or joined.
    pub fn into_reply(self) -> Option<Reply> {
        match self {
            Self::Run | Self::Running => None,
            Self::Answered { reply, .. } => Some(reply),
            Self::InDoubt | Self::Expired | Self::Forgotten => {
                Some(Err(Failure::Timeout { maybe_applied: true }))
            }
            Self::Dropped => Some(Err(Failure::Timeout { maybe_applied: false })),
            Self::Overloaded => Some(Err(Failure::Overloaded)),
            Self::Reused => Some(Err(Failure::Rejected(
                "this idempotency key was used for another request: nothing changed, choose another key"
                    .into(),
            ))),
        }
    }
}

/// What is known of a request that was logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Answer {
    /// Steps, and no answer.
    InDoubt,
    /// The answer, and the entry that holds it.
    Given { at: Position, reply: Reply },
}

impl Answer {
    /// What an answer takes, beside its reply.
    const OVERHEAD: usize = 96;

    fn bytes_len(&self) -> usize {
        let reply = match self {
            Self::Given { reply: Ok(bytes), .. } => bytes.len(),
            Self::Given {
                reply: Err(Failure::Rejected(text) | Failure::WorkerFailed(text) | Failure::NoPartition(text)),
                ..
            } => text.len(),
            Self::Given { reply: Err(_), .. } | Self::InDoubt => 0,
        };
        reply + Self::OVERHEAD
    }

    /// What a request is told that comes again, on a primary whose log is safe up to `mark`.
    fn verdict(&self, mark: Position) -> Verdict {
        match self {
            Self::InDoubt => Verdict::InDoubt,
            Self::Given { at, .. } if *at > mark => Verdict::Running,
            Self::Given { at, reply } => Verdict::Answered { at: *at, reply: reply.clone() },
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    nonce: u128,
    /// All below are answered.
    lowest: u64,
    answers: Answers,
    bytes: usize,
}

impl Session {
    /// Forgets what the client has. How many bytes that freed.
    fn forget_below(&mut self, lowest: u64) -> usize {
        self.lowest = self.lowest.max(lowest);
        let mut freed = 0;
        while let Some(first) = self.answers.pop_below(self.lowest) {
            freed += first.bytes_len();
        }
        self.bytes -= freed;
        freed
    }

    /// How many bytes would be left, were everything below `lowest` forgotten.
    fn bytes_from(&self, lowest: u64) -> usize {
        let below: usize = self.answers.below(lowest).map(Answer::bytes_len).sum();
        self.bytes - below
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    fingerprint: Fingerprint,
    first_seen: Position,
    answer: Answer,
}

/// What every copy of a partition remembers of the requests that its log holds.
///
/// Two copies that applied the same entries are equal, and have the same [`Self::digest`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Image", into = "Image")]
pub struct Sessions {
    sessions: BTreeMap<SessionId, Session>,
    keys: BTreeMap<KeyDigest, Key>,
    // What follows is computed from the above.
    by_nonce: BTreeMap<u128, SessionId>,
    keys_by_age: BTreeMap<Position, KeyDigest>,
    bytes: usize,
}

/// [`Sessions`] in a snapshot: lists instead of maps, for a map's keys must be texts in JSON; and nothing that could
/// contradict itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Image {
    sessions: Vec<SessionImage>,
    keys: Vec<(KeyDigest, Key)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SessionImage {
    id: SessionId,
    nonce: u128,
    lowest: u64,
    answers: Vec<(u64, Answer)>,
}

impl From<Sessions> for Image {
    fn from(sessions: Sessions) -> Self {
        let image = |(id, Session { nonce, lowest, answers, .. })| SessionImage {
            id,
            nonce,
            lowest,
            answers: answers.into_list(),
        };
        Self {
            sessions: sessions.sessions.into_iter().map(image).collect(),
            keys: sessions.keys.into_iter().collect(),
        }
    }
}

impl From<Image> for Sessions {
    fn from(image: Image) -> Self {
        let session = |SessionImage { id, nonce, lowest, answers }| {
            let answers: Answers = answers.into_iter().collect();
            let bytes = answers.iter().map(|(_, answer)| answer.bytes_len()).sum();
            (id, Session { nonce, lowest, answers, bytes })
        };
        let sessions: BTreeMap<_, _> = image.sessions.into_iter().map(session).collect();
        let keys: BTreeMap<_, _> = image.keys.into_iter().collect();
        let by_nonce = sessions.iter().map(|(id, session)| (session.nonce, *id)).collect();
        let keys_by_age = keys.iter().map(|(digest, key): (_, &Key)| (key.first_seen, *digest)).collect();
        let of_sessions: usize = sessions.values().map(|session| session.bytes).sum();
        let of_keys: usize = keys.values().map(|key| key.answer.bytes_len()).sum();
        Self { sessions, keys, by_nonce, keys_by_age, bytes: of_sessions + of_keys }
    }
}

impl Sessions {
    /// Takes in the entry at `position`. The same entries in the same order give the same state, on every copy.
    pub fn apply(&mut self, position: Position, entry: &Entry) {
        match entry {
            Entry::Open { nonce } => self.open(SessionId(position), *nonce),
            Entry::Expire(expiry) => self.expire(expiry),
            Entry::Step { identity, .. } => self.note(position, identity, Answer::InDoubt),
            Entry::Record { identity, reply, .. } => {
                self.note(position, identity, Answer::Given { at: position, reply: reply.clone() });
            }
            Entry::Changes(_) => {}
        }
    }

    fn open(&mut self, id: SessionId, nonce: u128) {
        if self.opened(nonce).is_none() {
            self.by_nonce.insert(nonce, id);
            self.sessions.insert(id, Session { nonce, lowest: 1, answers: Answers::default(), bytes: 0 });
        }
    }

    fn expire(&mut self, expiry: &Expiry) {
        for id in &expiry.sessions {
            if let Some(session) = self.sessions.remove(id) {
                self.by_nonce.remove(&session.nonce);
                self.bytes -= session.bytes;
            }
        }
        for (id, lowest) in &expiry.answered {
            if let Some(session) = self.sessions.get_mut(id) {
                self.bytes -= session.forget_below(*lowest);
            }
        }
        while let Some(oldest) = self.keys_by_age.first_entry().filter(|o| *o.key() <= expiry.keys_through) {
            if let Some(key) = self.keys.remove(&oldest.remove()) {
                self.bytes -= key.answer.bytes_len();
            }
        }
    }

    fn note(&mut self, position: Position, identity: &Identity, answer: Answer) {
        match identity {
            Identity::Numbered(numbered) => self.note_numbered(numbered, answer),
            Identity::Keyed(keyed) => self.note_keyed(position, keyed, answer),
        }
    }

    fn note_numbered(&mut self, numbered: &Numbered, answer: Answer) {
        // A session that ended while its request was being handled: what that changed stays, its answer goes.
        let Some(session) = self.sessions.get_mut(&numbered.session) else { return };
        self.bytes -= session.forget_below(numbered.lowest);
        let known = session.answers.get(numbered.number);
        // The first answer stays: it is the one that may have been given.
        if numbered.number >= session.lowest && !matches!(known, Some(Answer::Given { .. })) {
            let (more, less) = (answer.bytes_len(), known.map_or(0, Answer::bytes_len));
            session.bytes = session.bytes + more - less;
            self.bytes = self.bytes + more - less;
            session.answers.insert(numbered.number, answer);
        }
    }

    fn note_keyed(&mut self, position: Position, keyed: &Keyed, answer: Answer) {
        let more = answer.bytes_len();
        match self.keys.get_mut(&keyed.key) {
            None => {
                let key = Key { fingerprint: keyed.fingerprint, first_seen: position, answer };
                self.keys.insert(keyed.key, key);
                self.keys_by_age.insert(position, keyed.key);
                self.bytes += more;
            }
            Some(key) if key.answer == Answer::InDoubt && key.fingerprint == keyed.fingerprint => {
                self.bytes = self.bytes + more - key.answer.bytes_len();
                key.answer = answer;
            }
            Some(_) => {}
        }
    }

    /// The session that was opened with this nonce.
    pub fn opened(&self, nonce: u128) -> Option<SessionId> {
        self.by_nonce.get(&nonce).copied()
    }

    /// Whether this session is open.
    pub fn is_open(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    /// The sessions that are open, in the order in which they were opened.
    pub fn open_sessions(&self) -> impl Iterator<Item = SessionId> {
        self.sessions.keys().copied()
    }

    /// How many sessions are open.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether no session is open.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// How many keys are remembered.
    pub fn keys_len(&self) -> usize {
        self.keys.len()
    }

    /// How many bytes the answers take, in sessions and keys.
    pub const fn bytes_len(&self) -> usize {
        self.bytes
    }

    /// What the log says about a request, on a copy where it is safe up to `mark`. [`Verdict::Run`]: nothing, and
    /// there is room to remember it.
    pub fn check(&self, limits: &Limits, mark: Position, identity: &Identity) -> Verdict {
        match identity {
            Identity::Numbered(numbered) => self.check_numbered(limits, mark, numbered),
            Identity::Keyed(keyed) => self.check_keyed(limits, mark, keyed),
        }
    }

    fn check_numbered(&self, limits: &Limits, mark: Position, numbered: &Numbered) -> Verdict {
        let Numbered { session, number, lowest } = numbered;
        let Some(session) = self.sessions.get(session) else { return Verdict::Expired };
        if *number < session.lowest || number < lowest {
            return Verdict::Forgotten;
        }
        if let Some(answer) = session.answers.get(*number) {
            return answer.verdict(mark);
        }
        // Whoever is waited for longest is let in although the session is full: or nothing would ever empty it.
        let full = number != lowest
            && session.bytes >= limits.session_bytes_max
            && session.bytes_from(*lowest) >= limits.session_bytes_max;
        if full || number - lowest >= limits.window || self.bytes >= limits.bytes_max {
            return Verdict::Overloaded;
        }
        Verdict::Run
    }

    fn check_keyed(&self, limits: &Limits, mark: Position, keyed: &Keyed) -> Verdict {
        match self.keys.get(&keyed.key) {
            Some(key) if key.fingerprint != keyed.fingerprint => Verdict::Reused,
            Some(key) => key.answer.verdict(mark),
            None if self.keys.len() >= limits.keys_max || self.bytes >= limits.bytes_max => {
                Verdict::Overloaded
            }
            None => Verdict::Run,
        }
    }

    /// XXH3-64 of all that is remembered. Copies that show the same remember the same.
    pub fn digest(&self) -> u64 {
        let mut hash = StableHasher::new();
        let mut scratch = BytesMut::new();
        let position = |hash: &mut StableHasher, position: Position| {
            hash.write_u64(position.epoch.0);
            hash.write_u64(position.sequence);
        };
        let wide = |hash: &mut StableHasher, number: u128| {
            hash.write_u64(number as u64);
            hash.write_u64((number >> 64) as u64);
        };
        let mut answer = |hash: &mut StableHasher, answer: &Answer| match answer {
            Answer::InDoubt => hash.write_u64(0),
            Answer::Given { at, reply } => {
                hash.write_u64(1);
                position(hash, *at);
                scratch.clear();
                put_reply(&mut scratch, reply);
                hash.write_u64(stable_hash(&scratch));
            }
        };
        hash.write_u64(self.sessions.len() as u64);
        for (id, session) in &self.sessions {
            position(&mut hash, id.0);
            wide(&mut hash, session.nonce);
            hash.write_u64(session.lowest);
            hash.write_u64(session.answers.len() as u64);
            for (number, given) in session.answers.iter() {
                hash.write_u64(*number);
                answer(&mut hash, given);
            }
        }
        hash.write_u64(self.keys.len() as u64);
        for (digest, key) in &self.keys {
            wide(&mut hash, digest.0);
            hash.write_u64(key.fingerprint.0);
            position(&mut hash, key.first_seen);
            answer(&mut hash, &key.answer);
        }
        hash.finish()
    }
}

#[cfg(test)]
mod tests;
