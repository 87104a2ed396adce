//! A state that was brought from another cluster, merged into the worker's own.
//!
//! ```text
//!  state ─▶ read, and compared with what is here ─▶ changes ─▶ entry, entry, ·· ─▶ every copy
//!             └ cannot be read, panics: dropped                  └ the answer waits for the last one
//! ```
//!
//! It is one message among others to the worker, so no handler runs in between. What it changes is logged as every change is. Where
//! the primary dies in the midst a part of it is there; it is brought again then, and only the rest is still to be changed.

use std::iter::Peekable;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use std::vec;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tumen_core::partitions::entry::{CHANGES_LEN_MAX, Changes};
use tumen_core::partitions::request::{Failure, MessageId, Reply};

use super::{PartitionWorker, panic_text};
use crate::codec;
use crate::partitions::delivery::{Delivery, Told};
use crate::partitions::host::Host;
use crate::partitions::machine::{Durable, Journal};
use crate::partitions::read_table::Seat;
use crate::partitions::replication::{Handling, Led};

/// How many changes one entry has at most, and how many bytes, unless a single one has more: less than an entry holds, for
/// other partitions' entries go the same way.
const TOGETHER_MAX: usize = 4096;
const TOGETHER_LEN_MAX: usize = 1 << 20;
/// From this length on a state is read where nobody else waits for the thread.
const APART_FROM: usize = 256 << 10;
/// How long the log may have no room for more. After that it is brought again.
const ROOM_WITHIN: Duration = Duration::from_secs(5);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

impl PartitionWorker {
    /// Merges a state. Answers by how many changes that took. An error ends the worker: it begins anew, from what is in the log.
    pub(super) async fn merge(
        &self,
        host: &mut Box<dyn Host>,
        (seat, led): (&Seat, &Led),
        mut delivery: Delivery,
    ) -> Result<(), String> {
        if let Err(told) = self.room(led).await {
            delivery.tell(told);
            return Ok(());
        }
        let changes = match plan(host, delivery.begin()).await? {
            Ok(changes) => changes,
            Err(why) => {
                self.drop_state(seat, delivery, Failure::Rejected, &why);
                return Ok(());
            }
        };
        let count = changes.len() as u64;
        let mut changes = changes.into_iter().peekable();
        loop {
            let handling = match self.room(led).await {
                Ok(handling) => handling,
                Err(told) => {
                    delivery.tell(told);
                    return Ok(());
                }
            };
            if let Err(why) = make_changes(host, &mut changes) {
                // What it did of the last entry's is not in the log.
                self.drop_state(seat, delivery, Failure::WorkerFailed, &why);
                return Err(why);
            }
            let made = host.journal().map(Journal::take).unwrap_or_default();
            if changes.peek().is_none() {
                let changed = !made.is_empty();
                return match handling.finish(delivery, made, reply(count)) {
                    Err(why) if changed => Err(why.to_string()),
                    Err(_) => Ok(()),
                    Ok(()) => {
                        self.merges.note_merged(count);
                        Ok(())
                    }
                };
            }
            drop(handling);
            if let Err(why) = led.log(made) {
                let told = why.to_string();
                delivery.answer(Err(why));
                return Err(told);
            }
            if let Err(why) = led.make_durable(Changes::default()).await {
                delivery.answer(Err(why));
                return Ok(());
            }
            if !seat.is_open() {
                // The partition moves: the next primary is brought the rest.
                delivery.answer(Err(Failure::Fenced { changed: true }));
                return Ok(());
            }
            // Where nobody is waited for, others have their turn all the same.
            tokio::task::yield_now().await;
        }
    }

    /// Waits until the log has room: what waits there for other copies gets less by itself.
    async fn room<'a>(&self, led: &'a Led) -> Result<Handling<'a>, Told> {
        let until = Instant::now() + ROOM_WITHIN;
        loop {
            match led.begin(self.gate.now(), None) {
                Err(Told::Reply(Err(Failure::Overloaded))) if Instant::now() < until => {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                begun => return begun,
            }
        }
    }

    /// Nothing is to be had of a state, now or later.
    fn drop_state(&self, seat: &Seat, delivery: Delivery, failure: fn(String) -> Failure, why: &str) {
        let (partition, kind) = (seat.fence().partition, &self.hosted.kind);
        tracing::error!(%partition, %kind, %why, "a state that was brought from another cluster is dropped");
        self.merges.note_dropped();
        delivery.answer(Err(failure(format!("the state cannot be merged: {why}"))));
    }
}

fn reply(count: u64) -> Reply {
    let mut bytes = BytesMut::new();
    codec::encode_body_into(&count, &mut bytes).expect("a number is small and encodable");
    Ok(bytes.freeze())
}

/// What has to change; or why nothing is to be had of the state. A large one takes its time, and so the worker is away meanwhile;
/// the outer error is that it does not come back, for the process ends.
async fn plan(host: &mut Box<dyn Host>, state: Bytes) -> Result<Result<Vec<Bytes>, String>, String> {
    if state.len() < APART_FROM {
        return Ok(plan_now(&**host, &state));
    }
    let taken = std::mem::replace(host, Box::new(Away));
    let planning = tokio::task::spawn_blocking(move || {
        let planned = plan_now(&*taken, &state);
        (taken, planned)
    });
    let (back, planned) = planning.await.map_err(|why| why.to_string())?;
    *host = back;
    Ok(planned)
}

fn plan_now(host: &dyn Host, state: &[u8]) -> Result<Vec<Bytes>, String> {
    let planned = catch_unwind(AssertUnwindSafe(|| host.plan_merge(state)));
    let changes = planned.map_err(|panic| format!("it panicked: {}", panic_text(&*panic)))??;
    match changes.iter().find(|change| change.len() > CHANGES_LEN_MAX) {
        Some(long) => Err(format!("a change has {} bytes; {CHANGES_LEN_MAX} are the most", long.len())),
        None => Ok(changes),
    }
}

/// Makes as many changes as go into one entry.
fn make_changes(
    host: &mut Box<dyn Host>,
    changes: &mut Peekable<vec::IntoIter<Bytes>>,
) -> Result<(), String> {
    let (mut count, mut len) = (0, 0);
    while let Some(change) =
        changes.next_if(|next| count == 0 || (count < TOGETHER_MAX && len + next.len() <= TOGETHER_LEN_MAX))
    {
        (count, len) = (count + 1, len + change.len());
        let made = catch_unwind(AssertUnwindSafe(|| host.make_change(change)));
        made.map_err(|panic| format!("a change panicked: {}", panic_text(&*panic)))??;
    }
    Ok(())
}

/// Stands where the worker is while it is away.
struct Away;

impl Host for Away {
    fn handle(&mut self, _: MessageId, _: Bytes) -> BoxFuture<'_, Reply> {
        Box::pin(async { Err(Failure::NotReady) })
    }
}
