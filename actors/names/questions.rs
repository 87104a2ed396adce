//! What nodes ask each other about names, each question held until there is something to say.
//!
//! ```text
//!  Follow{directory, have}     ─▶ what comes after          nodes without a copy follow a directory so
//!  Reached{directory, at}      ─▶ this node knows that too  whoever wants all nodes to see a name waits so
//!  Watch{actor}                ─▶ how it ended              whoever monitors an actor of another node
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tumen_core::ids::{Boot, NodeName, PartitionId};
use tumen_core::names::directory::News;
use tumen_core::names::{Claim, ClaimNumber, Directory, Name, Reason};
use tumen_core::partitions::identity::Position;

use super::Names;
use super::table::{After, Step};
use crate::codec;
use crate::transport::{Deadline, Incoming, Serve, Service};

/// How long a question may wait for something to say.
const HELD_FOR: Duration = Duration::from_secs(5);
/// How long an answer is waited for.
const ASK_WITHIN: Duration = Duration::from_secs(8);
/// The most steps of one answer.
const STEPS_MAX: usize = 512;
/// The longest answer.
const ANSWER_LEN_MAX: usize = 8 << 20;
/// The longest question.
const QUESTION_LEN_MAX: usize = 1 << 10;

/// What a node asks another one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// What comes in a directory after this.
    Follow { directory: PartitionId, have: Position },
    /// Whether that node knows a directory up to here.
    Reached { directory: PartitionId, at: Position },
    /// Whether an actor of this run of that node is there.
    Watch { boot: Boot, actor: u64 },
}

/// What it is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    /// Nothing yet: ask again.
    Nothing,
    /// What comes after what it has.
    Steps(Vec<TailStep>),
    /// All of a directory.
    Whole { position: Position, directory: Directory },
    /// It knows the directory up to there.
    Reached,
    /// The actor ended; `None` where nobody remembers how.
    Ended(Option<Reason>),
}

/// One step of a directory, for a node without a copy.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TailStep {
    pub(super) position: Position,
    pub(super) last: ClaimNumber,
    pub(super) now: Vec<(Name, Option<Claim>)>,
    pub(super) news: Vec<News>,
}

impl TailStep {
    fn of(last: ClaimNumber, step: &Step) -> Self {
        Self { position: step.position, last, now: step.now.clone(), news: step.news.clone() }
    }
}

impl Names {
    /// Asks another node once. `None`: it did not answer in time.
    pub(super) async fn question(&self, node: &NodeName, question: &Question) -> Option<Told> {
        let frame = codec::pack(question);
        let encode = |buffer: &mut bytes::BytesMut| buffer.extend_from_slice(&frame);
        let deadline = Deadline::after(ASK_WITHIN);
        let reply = self.shared.transport.ask(node, Service::Directory, deadline, encode).await.ok()?.ok()?;
        match codec::decode(&reply, ANSWER_LEN_MAX) {
            Ok(told) => Some(told),
            Err(error) => {
                tracing::warn!(from = %node, %error, "an answer about names is dropped");
                None
            }
        }
    }

    /// The answer, as soon as there is one.
    pub(super) async fn tell(&self, question: Question) -> Told {
        match question {
            Question::Follow { directory, have } => self.tail(directory, have).await,
            Question::Reached { directory, at } => {
                if self.knows(directory, at).await {
                    Told::Reached
                } else {
                    Told::Nothing
                }
            }
            Question::Watch { boot, .. } if boot != self.shared.me.boot => {
                Told::Ended(Some(Reason::NodeDown))
            }
            Question::Watch { actor, .. } => {
                match tokio::time::timeout(HELD_FOR, self.shared.registry.ended(actor)).await {
                    Ok(reason) => Told::Ended(reason),
                    Err(_) => Told::Nothing,
                }
            }
        }
    }

    async fn knows(&self, directory: PartitionId, at: Position) -> bool {
        let Some(mut positions) = self.shared.table.positions(directory) else { return false };
        let more = positions.wait_for(|known| *known >= at);
        matches!(tokio::time::timeout(HELD_FOR, more).await, Ok(Ok(_)))
    }

    async fn tail(&self, directory: PartitionId, have: Position) -> Told {
        let next = Position::new(have.epoch, have.sequence + 1);
        if !self.knows(directory, next).await {
            return Told::Nothing;
        }
        match self.shared.table.after(directory, have, STEPS_MAX) {
            After::Steps(steps) => {
                Told::Steps(steps.iter().map(|(last, step)| TailStep::of(*last, step)).collect())
            }
            After::Whole(whole, position) => Told::Whole { position, directory: whole },
        }
    }
}

/// Answers other nodes' questions.
pub(super) struct Telling {
    names: Names,
}

impl Telling {
    pub(super) const fn new(names: Names) -> Self {
        Self { names }
    }
}

impl Serve for Telling {
    fn serve(&self, batch: &mut Vec<Incoming>) {
        for Incoming { body, reply, .. } in batch.drain(..) {
            let Ok(question) = codec::decode::<Question>(&body, QUESTION_LEN_MAX) else {
                tracing::warn!("a question about names cannot be read");
                continue;
            };
            let names = self.names.clone();
            // It ends in bounded time; how many there are is bounded by the lane.
            tokio::spawn(async move {
                let told = names.tell(question).await;
                match codec::try_pack(&told, ANSWER_LEN_MAX) {
                    Ok(frame) => reply.send(&frame),
                    Err(error) => {
                        tracing::error!(%error, "a directory is too large to be told in one answer");
                    }
                }
            });
        }
    }
}
