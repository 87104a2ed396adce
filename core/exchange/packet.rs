//! The bytes that go from one node to another, read within bounds.
//!
//! ```text
//! batch:  stream (u64) · number (u64) · entries
//! entry:  1 Listens  since (u64) · count (u32) · topic              so many subscribers listen here; 0: none any more
//!         2 Member   present (u8) · actor (u64) · group             an actor of this node is a member, or is none
//!         3 Said     flags (u8) · series (u64) · number (u64) · topic · body
//!         4 Stand    retains (u8) · series (u64) · number (u64) · topic     up to where it was said, before what follows
//! answer: 0 Taken    a count (u32) for each message that asks
//!         1 Anew     begin anew: that was not what comes next
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::cluster::topics::{MESSAGE_LEN_MAX, TOPIC_LEN_MAX};
use crate::names::Name;

/// Stream and number.
pub(super) const HEADER_LEN: usize = 16;

const LISTENS: u8 = 1;
const MEMBER: u8 = 2;
const SAID: u8 = 3;
const STAND: u8 = 4;

const TAKEN: u8 = 0;
const ANEW: u8 = 1;

/// The publisher keeps it.
const RETAINED: u8 = 1;
/// The publisher wants to know how many got it.
const ASKS: u8 = 2;
/// It was said before: it is for those who did not listen then.
const AGAIN: u8 = 4;

/// A body up to this length is copied out of what came with it, or a short message that waits would keep all of that.
const COPIED_UP_TO: usize = 16 << 10;

/// Bytes that make no sense. Nothing changed beyond what stood before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {0}")]
pub struct PacketError(pub &'static str);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Listens { topic: String, since: u64, count: u32 },
    Member { group: Name, actor: u64, present: bool },
    Said(Said),
    Stand { topic: String, retains: bool, series: u64, number: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// What came, with the topic's name in it.
    pub(super) bytes: Bytes,
    pub(super) topic_len: usize,
    pub(super) retained: bool,
    pub(super) asks: bool,
    pub(super) again: bool,
    pub(super) series: u64,
    pub(super) number: u64,
}

impl Said {
    /// The topic's name: none where it is no text.
    pub(super) fn topic(&self) -> Option<&str> {
        std::str::from_utf8(self.bytes.get(..self.topic_len)?).ok()
    }

    pub(super) fn body(&self) -> Bytes {
        let body = self.bytes.get(self.topic_len + 4..).unwrap_or_default();
        if body.len() <= COPIED_UP_TO {
            Bytes::copy_from_slice(body)
        } else {
            self.bytes.slice(self.topic_len + 4..)
        }
    }
}

/// What a message is beside its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct How {
    pub(super) retained: bool,
    pub(super) asks: bool,
    pub(super) again: bool,
}

pub(super) fn put_header(into: &mut BytesMut, stream: u64, number: u64) {
    into.put_u64_le(stream);
    into.put_u64_le(number);
}

pub(super) fn put_listens(into: &mut BytesMut, topic: &str, since: u64, count: u32) {
    into.put_u8(LISTENS);
    into.put_u64_le(since);
    into.put_u32_le(count);
    put_topic(into, topic);
}

pub(super) fn put_member(into: &mut BytesMut, group: &Name, actor: u64, present: bool) {
    into.put_u8(MEMBER);
    into.put_u8(u8::from(present));
    into.put_u64_le(actor);
    let group = group.as_bytes();
    into.put_u16_le(u16::try_from(group.len()).unwrap_or(u16::MAX));
    into.put_slice(group);
}

pub(super) fn said(topic: &str, how: How, (series, number): (u64, u64), body: &[u8]) -> Bytes {
    let mut entry = BytesMut::with_capacity(23 + topic.len() + body.len());
    entry.put_u8(SAID);
    let flag = |is: bool, flag: u8| if is { flag } else { 0 };
    entry.put_u8(flag(how.retained, RETAINED) | flag(how.asks, ASKS) | flag(how.again, AGAIN));
    entry.put_u64_le(series);
    entry.put_u64_le(number);
    put_topic(&mut entry, topic);
    entry.put_u32_le(u32::try_from(body.len()).unwrap_or(u32::MAX));
    entry.put_slice(body);
    entry.freeze()
}

pub(super) fn stand(topic: &str, retains: bool, (series, number): (u64, u64)) -> Bytes {
    let mut entry = BytesMut::with_capacity(19 + topic.len());
    entry.put_u8(STAND);
    entry.put_u8(u8::from(retains));
    entry.put_u64_le(series);
    entry.put_u64_le(number);
    put_topic(&mut entry, topic);
    entry.freeze()
}

/// A topic's name has at most 255 bytes.
fn put_topic(into: &mut BytesMut, topic: &str) {
    into.put_u8(u8::try_from(topic.len()).unwrap_or(u8::MAX));
    into.put_slice(topic.as_bytes());
}

/// Stream and number of a batch, whose entries are left.
pub(super) fn read_header(batch: &mut Bytes) -> Result<(u64, u64), PacketError> {
    let stream = batch.try_get_u64_le().map_err(|_| CUT_OFF)?;
    Ok((stream, batch.try_get_u64_le().map_err(|_| CUT_OFF)?))
}

const CUT_OFF: PacketError = PacketError("cut off");

/// The next entry. `None`: there is none any more.
pub(super) fn read_entry(batch: &mut Bytes) -> Result<Option<Entry>, PacketError> {
    let Ok(kind) = batch.try_get_u8() else { return Ok(None) };
    let flags = |batch: &mut Bytes| batch.try_get_u8().map_err(|_| CUT_OFF);
    let number = |batch: &mut Bytes| batch.try_get_u64_le().map_err(|_| CUT_OFF);
    Ok(Some(match kind {
        LISTENS => {
            let since = number(batch)?;
            let count = batch.try_get_u32_le().map_err(|_| CUT_OFF)?;
            Entry::Listens { since, count, topic: read_topic(batch)? }
        }
        MEMBER => {
            let present = flags(batch)? != 0;
            let actor = number(batch)?;
            let len = batch.try_get_u16_le().map_err(|_| CUT_OFF)?;
            let group = take(batch, usize::from(len))?;
            let group = Name::new(&group).map_err(|_| PacketError("a group's name"))?;
            Entry::Member { group, actor, present }
        }
        SAID => {
            let flags = flags(batch)?;
            let (series, number) = (number(batch)?, number(batch)?);
            let topic_len = usize::from(batch.try_get_u8().map_err(|_| CUT_OFF)?);
            let mut ahead = batch.get(topic_len..).unwrap_or_default();
            let body_len = ahead.try_get_u32_le().map_err(|_| CUT_OFF)? as usize;
            if body_len > MESSAGE_LEN_MAX || topic_len == 0 || number == 0 {
                return Err(PacketError("a message"));
            }
            let bytes = take(batch, topic_len + 4 + body_len)?;
            let is = |flag| flags & flag != 0;
            let (retained, asks, again) = (is(RETAINED), is(ASKS), is(AGAIN));
            Entry::Said(Said { bytes, topic_len, retained, asks, again, series, number })
        }
        STAND => {
            let retains = flags(batch)? != 0;
            let (series, number) = (number(batch)?, number(batch)?);
            Entry::Stand { retains, series, number, topic: read_topic(batch)? }
        }
        _ => return Err(PacketError("an unknown entry")),
    }))
}

fn read_topic(batch: &mut Bytes) -> Result<String, PacketError> {
    let len = usize::from(batch.try_get_u8().map_err(|_| CUT_OFF)?);
    if !(1..=TOPIC_LEN_MAX).contains(&len) {
        return Err(PacketError("a topic's name"));
    }
    let bytes = take(batch, len)?;
    std::str::from_utf8(&bytes).map(str::to_owned).map_err(|_| PacketError("a topic's name"))
}

fn take(batch: &mut Bytes, len: usize) -> Result<Bytes, PacketError> {
    if batch.len() < len { Err(CUT_OFF) } else { Ok(batch.split_to(len)) }
}

/// What a node says of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Taken(Vec<u32>),
    Anew,
}

impl Answer {
    pub(super) fn write(&self) -> Bytes {
        match self {
            Self::Anew => Bytes::from_static(&[ANEW]),
            Self::Taken(counts) if counts.is_empty() => Bytes::from_static(&[TAKEN]),
            Self::Taken(counts) => {
                let mut answer = BytesMut::with_capacity(1 + 4 * counts.len());
                answer.put_u8(TAKEN);
                counts.iter().for_each(|count| answer.put_u32_le(*count));
                answer.freeze()
            }
        }
    }

    /// Whatever makes no sense has the sender begin anew.
    pub(super) fn read(mut answer: &[u8]) -> Self {
        if answer.try_get_u8() != Ok(TAKEN) {
            return Self::Anew;
        }
        let mut counts = Vec::with_capacity(answer.len() / 4);
        while let Ok(count) = answer.try_get_u32_le() {
            counts.push(count);
        }
        Self::Taken(counts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(mut bytes: Bytes) -> Result<Vec<Entry>, PacketError> {
        let mut entries = Vec::new();
        while let Some(entry) = read_entry(&mut bytes)? {
            entries.push(entry);
        }
        Ok(entries)
    }

    #[test]
    fn what_is_written_is_read() {
        let mut batch = BytesMut::new();
        put_header(&mut batch, 7, 9);
        put_listens(&mut batch, "prices", 3, 2);
        put_member(&mut batch, &Name::new("crew").unwrap(), 5, true);
        let how = How { retained: true, asks: true, again: false };
        batch.extend_from_slice(&said("prices", how, (1, 4), b"tea"));
        batch.extend_from_slice(&stand("prices", true, (1, 4)));
        let mut batch = batch.freeze();
        assert_eq!(read_header(&mut batch), Ok((7, 9)));
        let entries = all(batch.clone()).unwrap();
        assert_eq!(entries[0], Entry::Listens { topic: "prices".into(), since: 3, count: 2 });
        assert_eq!(entries[1], Entry::Member { group: Name::new("crew").unwrap(), actor: 5, present: true });
        let Entry::Said(said) = &entries[2] else { panic!("{entries:?}") };
        assert_eq!((said.topic(), &said.body()[..]), (Some("prices"), &b"tea"[..]));
        assert_eq!(
            (said.retained, said.asks, said.again, said.series, said.number),
            (true, true, false, 1, 4)
        );
        let stand = Entry::Stand { topic: "prices".into(), retains: true, series: 1, number: 4 };
        assert_eq!(entries[3], stand);
        for len in 1..batch.len() {
            // Cut where an entry ends, it is whole.
            let cut = all(batch.slice(..len));
            assert!(cut.as_ref().is_err_and(|why| *why == CUT_OFF) || cut.is_ok_and(|all| all.len() < 4));
        }
        for answer in [Answer::Anew, Answer::Taken(Vec::new()), Answer::Taken(vec![1, 0, u32::MAX])] {
            assert_eq!(Answer::read(&answer.write()), answer);
        }
        assert_eq!(Answer::read(&[]), Answer::Anew);
    }

    proptest! {
        #[test]
        fn hostile_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let len = bytes.len();
            if let Ok(entries) = all(bytes.into()) {
                prop_assert!(entries.len() <= len);
            }
        }
    }
}
