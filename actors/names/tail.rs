//! How a node that has no copy of a directory knows it all the same: it follows its log.
//!
//! ```text
//!  here: have up to p ─ Follow{p} ─▶ primary ─ once there is more ─▶ the steps after p ─▶ NameTable
//!          ▲                                      └─ or part after part ─▶ Gathering ─ whole ─▲
//!          └──────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! One question at a time for each directory: so steps come in order, a gap asks for what it needs, and nobody is sent more
//! than it takes.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::AbortHandle;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::{GroupId, PartitionId};

use super::Names;
use super::gathering::{Gathered, Gathering};
use super::questions::{Question, TailStep, Told};
use super::table::Step;

/// The wait after a question that came to nothing.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// The tails that a node follows.
#[derive(Debug, Default)]
pub(super) struct Tails {
    following: BTreeMap<PartitionId, AbortHandle>,
}

impl Tails {
    /// A plan says of which directories this node has copies: it follows the others.
    pub(super) fn handle_plan(&mut self, names: &Names, plan: &Snapshot) {
        let me = plan.member_index(names.shared.me.node.as_str()).map(|at| at as u32);
        let wanted = |partition: PartitionId, copies: &[u32]| {
            partition.group == GroupId::Names && me.is_some_and(|me| !copies.contains(&me))
        };
        let directories = plan.partitions().filter(|(partition, it)| wanted(*partition, &it.copies));
        let directories: Vec<PartitionId> = directories.map(|(partition, _)| partition).collect();
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
    // What has come where it is told whole. A primary that falls silent, or another one, goes on with it.
    let mut gathering: Option<Gathering> = None;
    loop {
        let primary = {
            let table = names.shared.router.table();
            table.primary_of(directory).ok().map(|located| located.primary.clone())
        };
        let told = match primary.filter(|primary| *primary != names.shared.me) {
            Some(primary) => {
                let known = names.shared.table.position(directory);
                // It may have come to have a copy, and lost it again: then it knows more.
                gathering = gathering.filter(|gathering| gathering.told().0 > known);
                let (have, told) = gathering.as_ref().map_or((known, None), |gathering| {
                    let (have, mark) = gathering.told();
                    (have, Some(mark.clone()))
                });
                names.question(&primary.node, &Question::Follow { directory, have, told }).await
            }
            None => None,
        };
        match told {
            Some(told) => gathering = names.take_tail(directory, gathering, told),
            None => tokio::time::sleep(ASK_AGAIN_AFTER).await,
        }
    }
}

impl Names {
    /// Takes what was told: what is whole to the table, and what is not yet remains, to go on from.
    fn take_tail(
        &self,
        directory: PartitionId,
        gathering: Option<Gathering>,
        told: Told,
    ) -> Option<Gathering> {
        match told {
            Told::Part(part) => match Gathering::take(gathering, *part)? {
                Gathered::Part(gathering) => return Some(gathering),
                Gathered::Whole(whole, position) => self.shared.table.take_whole(directory, position, &whole),
            },
            Told::Steps(steps) => {
                for TailStep { position, last, now, meta, news } in steps {
                    let previous = self.shared.table.position(directory);
                    let step = Step { position, changes: Vec::new(), now, meta, news };
                    self.shared.table.take(directory, previous, last, step);
                }
            }
            Told::Nothing | Told::Reached | Told::Ended(_) => {}
        }
        None
    }
}
