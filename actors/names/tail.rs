//! How a node that has no copy of a directory knows it all the same: it follows its log.
//!
//! ```text
//!  here: have up to p ─ Follow{p} ─▶ primary ─ once there is more ─▶ the steps after p, or the whole ─▶ NameTable
//!          ▲───────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! One question at a time for each directory: so steps come in order, a gap asks for what it needs, and nobody is sent more
//! than it takes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::{GroupId, NodeName, PartitionId};
use tumen_core::names::directory::News;
use tumen_core::names::{Claim, ClaimNumber, Directory, Name};
use tumen_core::partitions::identity::Position;

use super::Names;
use super::table::{After, Step};
use crate::codec;
use crate::transport::{Deadline, Incoming, Serve, Service};

/// How long a question may wait for something to tell.
const HELD_FOR: Duration = Duration::from_secs(5);
/// How long an answer is waited for.
const ASK_WITHIN: Duration = Duration::from_secs(8);
/// The wait after a question that came to nothing.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// The most steps of one answer.
const STEPS_MAX: usize = 512;
/// The longest answer.
const ANSWER_LEN_MAX: usize = 8 << 20;

/// What a node asks of a directory's primary.
#[derive(Debug, Serialize, Deserialize)]
struct Follow {
    directory: PartitionId,
    /// Up to where it knows it.
    have: Position,
}

/// What it is told.
#[derive(Debug, Serialize, Deserialize)]
enum Told {
    /// Nothing new yet: ask again.
    Nothing,
    /// What comes after what it has.
    Steps(Vec<TailStep>),
    /// All of it.
    Whole { position: Position, directory: Directory },
}

#[derive(Debug, Serialize, Deserialize)]
struct TailStep {
    position: Position,
    last: ClaimNumber,
    now: Vec<(Name, Option<Claim>)>,
    news: Vec<News>,
}

/// The tails that a node follows.
#[derive(Debug, Default)]
pub(super) struct Tails {
    following: BTreeMap<PartitionId, AbortHandle>,
}

impl Tails {
    /// A plan says of which directories this node has copies: it follows the others.
    pub(super) fn handle_plan(&mut self, names: &Names, plan: &Snapshot) {
        let me = plan.member_index(names.shared.me.node.as_str()).map(|at| at as u32);
        let wanted = |(partition, copies): (PartitionId, &[u32])| {
            let follows = partition.group == GroupId::Names && me.is_some_and(|me| !copies.contains(&me));
            follows.then_some(partition)
        };
        let directories: Vec<PartitionId> =
            plan.partitions().filter_map(|(partition, it)| wanted((partition, &it.copies))).collect();
        self.following.retain(|directory, task| {
            let stays = directories.contains(directory);
            if !stays {
                task.abort();
            }
            stays
        });
        for directory in directories {
            let follow = || tokio::spawn(follow(names.clone(), directory)).abort_handle();
            self.following.entry(directory).or_insert_with(follow);
        }
    }

    /// Follows nothing any more.
    pub(super) fn clear(&mut self) {
        std::mem::take(&mut self.following).values().for_each(AbortHandle::abort);
    }
}

impl Drop for Tails {
    fn drop(&mut self) {
        self.clear();
    }
}

async fn follow(names: Names, directory: PartitionId) {
    loop {
        let primary = {
            let table = names.shared.router.table();
            table.primary_of(directory).ok().map(|located| located.primary.clone())
        };
        let told = match primary.filter(|primary| *primary != names.shared.me) {
            Some(primary) => ask(&names, &primary.node, directory).await,
            None => None,
        };
        match told {
            Some(told) => names.take_tail(directory, told),
            None => tokio::time::sleep(ASK_AGAIN_AFTER).await,
        }
    }
}

/// Asks a primary once. `None`: it is none, or did not answer.
async fn ask(names: &Names, primary: &NodeName, directory: PartitionId) -> Option<Told> {
    let follow = codec::pack(&Follow { directory, have: names.shared.table.position(directory) });
    let encode = |buffer: &mut bytes::BytesMut| buffer.extend_from_slice(&follow);
    let deadline = Deadline::after(ASK_WITHIN);
    let reply = names.shared.transport.ask(primary, Service::Directory, deadline, encode).await.ok()?.ok()?;
    match codec::decode(&reply, ANSWER_LEN_MAX) {
        Ok(told) => Some(told),
        Err(error) => {
            tracing::warn!(from = %primary, %directory, %error, "a directory's tail is dropped");
            None
        }
    }
}

impl Names {
    fn take_tail(&self, directory: PartitionId, told: Told) {
        match told {
            Told::Nothing => {}
            Told::Whole { position, directory: whole } => {
                self.shared.table.take_whole(directory, position, &whole);
            }
            Told::Steps(steps) => {
                for TailStep { position, last, now, news } in steps {
                    let previous = self.shared.table.position(directory);
                    let step = Step { position, changes: Vec::new(), now, news };
                    self.shared.table.take(directory, previous, last, step);
                }
            }
        }
    }

    /// What comes after `have`, as soon as anything does.
    async fn tail(&self, Follow { directory, have }: Follow) -> Told {
        let Some(mut positions) = self.shared.table.positions(directory) else { return Told::Nothing };
        let more = positions.wait_for(|known| *known > have);
        if !matches!(tokio::time::timeout(HELD_FOR, more).await, Ok(Ok(_))) {
            return Told::Nothing;
        }
        match self.shared.table.after(directory, have, STEPS_MAX) {
            After::Steps(steps) => {
                Told::Steps(steps.iter().map(|(last, step)| tail_of(*last, step)).collect())
            }
            After::Whole(whole, position) => Told::Whole { position, directory: whole },
        }
    }
}

fn tail_of(last: ClaimNumber, step: &Step) -> TailStep {
    TailStep { position: step.position, last, now: step.now.clone(), news: step.news.clone() }
}

/// Answers nodes that follow directories of which this one has copies.
pub(super) struct Followed {
    names: Names,
}

impl Followed {
    pub(super) const fn new(names: Names) -> Self {
        Self { names }
    }
}

impl Serve for Followed {
    fn serve(&self, batch: &mut Vec<Incoming>) {
        for Incoming { body, reply, .. } in batch.drain(..) {
            let Ok(follow) = codec::decode::<Follow>(&body, 1024) else {
                tracing::warn!("a question about a directory cannot be read");
                continue;
            };
            let names = self.names.clone();
            // It ends in bounded time, and each node asks once at a time for each directory.
            tokio::spawn(async move {
                let told = names.tail(follow).await;
                match codec::try_pack(&told, ANSWER_LEN_MAX) {
                    Ok(frame) => reply.send(&frame),
                    Err(error) => {
                        tracing::error!(%error, "a directory is too large to be told in one answer")
                    }
                }
            });
        }
    }
}
