//! What copies say to each other, as bytes. What is said with every write is written by hand; the rest as serde has it.
//!
//! ```text
//!  frame   item item item ..
//!  item    1 │ fence · to · counts · prev · mark │ length │ entries, as they stand in a log on disk
//!          2 │ fence · life · end
//!          0 │ length │ anything else
//! ```
//!
//! Numbers are little-endian and of fixed width. Who says that it has something is the node that answers, so that only its
//! copy's life is told.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tumen_core::ids::{Epoch, Generation, GroupId, Life, NodeName, PartitionId};
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::identity::Position;
use tumen_core::partitions::replication::CopyId;
use tumen_core::partitions::replication::wire::{Reply, Request};

use super::records::{put_entry, take_entry};
use crate::codec;

const OTHER: u8 = 0;
const APPEND: u8 = 1;
const ACKED: u8 = 2;

/// Bytes that are none of ours. Nothing was taken from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is damaged, or of another version")]
pub(super) struct Unreadable;

/// Writes what a primary asks.
pub(super) fn put_request(into: &mut BytesMut, request: &Request<Bytes>) {
    let Request::Append { fence, to, counts, prev, entries, mark } = request else {
        return put_other(into, request);
    };
    into.put_u8(APPEND);
    put_fence(into, fence);
    into.put_u64_le(to.0);
    into.put_u8(u8::from(counts.is_some()));
    into.put_u64_le(counts.map_or(0, |life| life.0));
    into.put_u64_le(prev.epoch.0);
    into.put_u64_le(prev.sequence);
    into.put_u64_le(*mark);
    put_part(into, |into| entries.iter().for_each(|entry| put_entry(into, entry)));
}

/// Reads what primaries ask.
///
/// # Errors
/// Part of it cannot be read.
pub(super) fn take_requests(mut frame: Bytes) -> Result<Vec<Request<Bytes>>, Unreadable> {
    let mut requests = Vec::new();
    while frame.has_remaining() {
        requests.push(take_request(&mut frame)?);
    }
    Ok(requests)
}

fn take_request(frame: &mut Bytes) -> Result<Request<Bytes>, Unreadable> {
    match frame.try_get_u8()? {
        APPEND => {
            let (fence, to) = (take_fence(frame)?, Life(frame.try_get_u64_le()?));
            let counts = match (frame.try_get_u8()?, frame.try_get_u64_le()?) {
                (0, 0) => None,
                (1, life) => Some(Life(life)),
                _ => return Err(Unreadable),
            };
            let prev = Position::new(Epoch(frame.try_get_u64_le()?), frame.try_get_u64_le()?);
            let mark = frame.try_get_u64_le()?;
            // These entries stay for long, and all of them as long. What else came with them does not: so they move into
            // memory of their own, once for all of them.
            let mut log = Bytes::copy_from_slice(&take_part(frame)?);
            let mut entries = Vec::new();
            while log.has_remaining() {
                entries.push(take_entry(&mut log).ok_or(Unreadable)?);
            }
            Ok(Request::Append { fence, to, counts, prev, entries, mark })
        }
        OTHER => take_other(frame),
        _ => Err(Unreadable),
    }
}

/// Writes what a copy answers.
pub(super) fn put_reply(into: &mut BytesMut, reply: &Reply<Bytes>) {
    let Reply::Acked { fence, by, end } = reply else { return put_other(into, reply) };
    into.put_u8(ACKED);
    put_fence(into, fence);
    into.put_u64_le(by.life.0);
    into.put_u64_le(*end);
}

/// Reads what the copies of a node answered.
///
/// # Errors
/// Part of it cannot be read.
pub(super) fn take_replies(node: &NodeName, mut frame: Bytes) -> Result<Vec<Reply<Bytes>>, Unreadable> {
    let mut replies = Vec::new();
    while frame.has_remaining() {
        replies.push(match frame.try_get_u8()? {
            ACKED => {
                let fence = take_fence(&mut frame)?;
                let by = CopyId { node: node.clone(), life: Life(frame.try_get_u64_le()?) };
                Reply::Acked { fence, by, end: frame.try_get_u64_le()? }
            }
            OTHER => take_other(&mut frame)?,
            _ => return Err(Unreadable),
        });
    }
    Ok(replies)
}

fn put_other<T: Serialize>(into: &mut BytesMut, value: &T) {
    into.put_u8(OTHER);
    put_part(into, |into| {
        codec::encode_body_into(value, into).expect("what copies say is bounded and encodable");
    });
}

fn take_other<T: DeserializeOwned>(frame: &mut Bytes) -> Result<T, Unreadable> {
    codec::decode_body(&take_part(frame)?).map_err(|_| Unreadable)
}

/// Writes a part with its length before it.
fn put_part(into: &mut BytesMut, put: impl FnOnce(&mut BytesMut)) {
    let at = into.len();
    into.put_u32_le(0);
    put(into);
    let len = u32::try_from(into.len() - at - 4).expect("parts are shorter than frames");
    into[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

fn take_part(frame: &mut Bytes) -> Result<Bytes, Unreadable> {
    let len = frame.try_get_u32_le()? as usize;
    if len > frame.len() { Err(Unreadable) } else { Ok(frame.split_to(len)) }
}

fn put_fence(into: &mut BytesMut, Fence { generation, epoch, partition }: &Fence) {
    into.put_u64_le(generation.0);
    into.put_u64_le(epoch.0);
    into.put_u8(partition.group as u8);
    into.put_u32_le(partition.index);
}

fn take_fence(frame: &mut Bytes) -> Result<Fence, Unreadable> {
    let (generation, epoch) = (Generation(frame.try_get_u64_le()?), Epoch(frame.try_get_u64_le()?));
    let group = match frame.try_get_u8()? {
        0 => GroupId::Users,
        1 => GroupId::Names,
        _ => return Err(Unreadable),
    };
    Ok(Fence { generation, epoch, partition: PartitionId { group, index: frame.try_get_u32_le()? } })
}

impl From<bytes::TryGetError> for Unreadable {
    fn from(_: bytes::TryGetError) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tumen_core::partitions::replication::{Body, Entry};

    use super::*;

    fn node() -> NodeName {
        NodeName::new("n1").unwrap()
    }

    fn fences() -> impl Strategy<Value = Fence> {
        (any::<u64>(), any::<u64>(), any::<bool>(), any::<u32>()).prop_map(
            |(generation, epoch, users, index)| {
                let group = if users { GroupId::Users } else { GroupId::Names };
                let partition = PartitionId { group, index };
                Fence { generation: Generation(generation), epoch: Epoch(epoch), partition }
            },
        )
    }

    fn positions() -> impl Strategy<Value = Position> {
        (any::<u64>(), any::<u64>()).prop_map(|(epoch, sequence)| Position::new(Epoch(epoch), sequence))
    }

    fn entries() -> impl Strategy<Value = Vec<Entry<Bytes>>> {
        let data = proptest::collection::vec(any::<u8>(), 0..40);
        let body = prop_oneof![1 => Just(Body::Opening), 4 => data.prop_map(|data| Body::Data(data.into()))];
        let entry = (any::<u64>(), body).prop_map(|(epoch, body)| Entry { epoch: Epoch(epoch), body });
        proptest::collection::vec(entry, 0..5)
    }

    fn lives() -> impl Strategy<Value = Option<Life>> {
        proptest::option::of(any::<u64>().prop_map(Life))
    }

    fn requests() -> impl Strategy<Value = Request<Bytes>> {
        let append = (fences(), any::<u64>(), lives(), positions(), entries(), any::<u64>());
        prop_oneof![
            3 => append.prop_map(|(fence, to, counts, prev, entries, mark)| {
                Request::Append { fence, to: Life(to), counts, prev, entries, mark }
            }),
            1 => (fences(), lives()).prop_map(|(fence, counts)| Request::Seal { fence, counts }),
            1 => (fences(), any::<u64>(), any::<u64>(), positions(), positions()).prop_map(
                |(fence, to, asker, last, shared)| Request::Fetch {
                    fence, to: Life(to), asker: Life(asker), last, shared
                }
            ),
        ]
    }

    fn replies() -> impl Strategy<Value = Reply<Bytes>> {
        let by = any::<u64>().prop_map(|life| CopyId { node: node(), life: Life(life) });
        let tail = (fences(), by.clone(), positions(), entries());
        prop_oneof![
            3 => (fences(), by.clone(), any::<u64>()).prop_map(|(fence, by, end)| Reply::Acked { fence, by, end }),
            1 => (fences(), by, fences()).prop_map(|(fence, by, sealed)| Reply::Refused { fence, by, sealed }),
            1 => tail.prop_map(|(fence, by, prev, entries)| Reply::Tail { fence, by, prev, entries }),
        ]
    }

    proptest! {
        #[test]
        fn what_was_said_is_what_is_read(
            requests in proptest::collection::vec(requests(), 0..5),
            replies in proptest::collection::vec(replies(), 0..5),
        ) {
            let mut bytes = BytesMut::new();
            requests.iter().for_each(|request| put_request(&mut bytes, request));
            let whole = bytes.freeze();
            prop_assert_eq!(take_requests(whole.clone()), Ok(requests));
            for len in 0..whole.len() {
                // What is cut off is no frame, or one with fewer items.
                drop(take_requests(whole.slice(..len)));
            }
            let mut bytes = BytesMut::new();
            replies.iter().for_each(|reply| put_reply(&mut bytes, reply));
            prop_assert_eq!(take_replies(&node(), bytes.freeze()), Ok(replies));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(take_requests(bytes.clone().into()));
            drop(take_replies(&node(), bytes.into()));
        }
    }
}
