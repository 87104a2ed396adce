//! What nodes ask each other about names, each question held until there is something to say.
//!
//! ```text
//!  Follow{directory, have}     ─▶ what comes after          nodes without a copy follow a directory so; where that is
//!         └ told up to a mark  ─▶ and the next part         kept no more, they are told it whole, part after part
//!  Reached{directory, at}      ─▶ this node knows that too  whoever wants all nodes to see a name waits so
//!  Watch{actor}                ─▶ how it ended              whoever monitors an actor of another node
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tumen_core::ids::{Boot, ClusterId, NodeName, PartitionId};
use tumen_core::names::directory::News;
use tumen_core::names::{Claim, ClaimNumber, Meta, Name, Reason};
use tumen_core::partitions::identity::Position;

use super::Names;
use super::gathering::TailPart;
use super::table::{Mark, Step};
use crate::codec;
use crate::transport::{Deadline, Incoming, Serve, Service};

/// How long a question may wait for something to say.
const HELD_FOR: Duration = Duration::from_secs(5);
/// How long a question of another cluster rests.
const STRANGE_AFTER: Duration = Duration::from_millis(50);
/// How long an answer is waited for.
const ASK_WITHIN: Duration = Duration::from_secs(8);
/// The longest answer. Most are shorter by far: see [`Part`](super::table::Part).
const ANSWER_LEN_MAX: usize = 8 << 20;
/// The longest question: the longest name is in it.
const QUESTION_LEN_MAX: usize = 4 << 10;

/// What a node asks another one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// What comes in a directory after this. `told`: it is known only up to there, and the next part is wanted too.
    Follow { directory: PartitionId, have: Position, told: Option<Mark> },
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
    /// A part of all of a directory.
    Part(Box<TailPart>),
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
    pub(super) meta: Vec<(Name, Option<Meta>)>,
    pub(super) news: Vec<News>,
}

impl TailStep {
    pub(super) fn of(last: ClaimNumber, step: &Step) -> Self {
        let Step { position, now, meta, news, .. } = step;
        Self { position: *position, last, now: now.clone(), meta: meta.clone(), news: news.clone() }
    }
}

impl Names {
    /// Asks another node once. `None`: it did not answer in time.
    pub(super) async fn question(&self, node: &NodeName, question: &Question) -> Option<Told> {
        let frame = codec::pack(&(self.shared.plans.cluster(), question));
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
            Question::Follow { directory, have, told: None } => self.tail(directory, have).await,
            Question::Follow { directory, have, told: Some(mark) } => {
                Told::Part(Box::new(TailPart::of(self.shared.table.part(directory, Some((have, &mark))))))
            }
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
        match self.shared.table.after(directory, have) {
            Some(steps) => Told::Steps(steps.iter().map(|(last, step)| TailStep::of(*last, step)).collect()),
            None => Told::Part(Box::new(TailPart::of(self.shared.table.part(directory, None)))),
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
            let Ok((of, question)) = codec::decode::<(Option<ClusterId>, Question)>(&body, QUESTION_LEN_MAX)
            else {
                tracing::warn!("a question about names cannot be read");
                continue;
            };
            let names = self.names.clone();
            // What a directory holds in another cluster is no answer.
            let watches = matches!(question, Question::Watch { .. });
            let fits = move |names: &Names| watches || of == names.shared.plans.cluster();
            // It ends in bounded time; how many there are is bounded by the lane.
            tokio::spawn(async move {
                let told = if fits(&names) {
                    Some(names.tell(question).await).filter(|_| fits(&names))
                } else {
                    tokio::time::sleep(STRANGE_AFTER).await;
                    None
                };
                let told = told.unwrap_or(Told::Nothing);
                match codec::try_pack(&told, ANSWER_LEN_MAX) {
                    Ok(frame) => reply.send(&frame),
                    Err(error) => {
                        tracing::error!(%error, "an answer about names is too long to be told");
                    }
                }
            });
        }
    }
}
