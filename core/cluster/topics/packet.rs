//! The bytes of publish and subscribe, read within bounds and without a copy of the message.
//!
//! ```text
//! 0  Begin     life                                               first on every session
//! 1  Said      life · series · number · keep · rank? · topic · body
//! 2  Released  life · topic
//! ```

use bytes::{BufMut, Bytes};

use super::{Keep, MESSAGE_LEN_MAX, Message, TOPIC_LEN_MAX, Topic};
use crate::ids::NodeBoot;

/// Why a packet was dropped. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Its bytes make no sense.
    #[error("a malformed topic packet: {0}")]
    Malformed(&'static str),
    /// Its publisher retains more than is allowed here.
    #[error(
        "{publisher} retains more than this node's topics.retained_topics_max or retained_bytes_max allow"
    )]
    RetainsTooMuch {
        /// Who retains too much.
        publisher: NodeBoot,
    },
}

pub(super) enum Packet<'a> {
    Begin { life: u64 },
    Said { life: u64, said: Said<'a> },
    Released { life: u64, topic: &'a str },
}

pub(super) struct Said<'a> {
    pub(super) series: u64,
    pub(super) number: u64,
    pub(super) keep: Keep,
    pub(super) topic: &'a str,
    pub(super) body: Bytes,
}

impl<'a> Packet<'a> {
    pub(super) fn read(packet: &'a Bytes) -> Result<Self, PacketError> {
        let mut rest: &[u8] = packet;
        let [kind] = array(&mut rest)?;
        let life = u64::from_le_bytes(array(&mut rest)?);
        match kind {
            0 if rest.is_empty() => Ok(Self::Begin { life }),
            1 => {
                let (series, number) =
                    (u64::from_le_bytes(array(&mut rest)?), u64::from_le_bytes(array(&mut rest)?));
                if number == 0 {
                    return Err(PacketError::Malformed("a number"));
                }
                let keep = match array(&mut rest)? {
                    [0] => Keep::No,
                    [1] => Keep::Own,
                    [2] => Keep::Ranked(u64::from_le_bytes(array(&mut rest)?)),
                    _ => return Err(PacketError::Malformed("what to keep")),
                };
                let topic = topic(&mut rest)?;
                if rest.len() > MESSAGE_LEN_MAX {
                    return Err(PacketError::Malformed("a message too long"));
                }
                let body = packet.slice(packet.len() - rest.len()..);
                Ok(Self::Said { life, said: Said { series, number, keep, topic, body } })
            }
            2 => {
                let topic = topic(&mut rest)?;
                if rest.is_empty() { Ok(Self::Released { life, topic }) } else { Err(LEFT_OVER) }
            }
            0 => Err(LEFT_OVER),
            _ => Err(PacketError::Malformed("unknown kind")),
        }
    }
}

const LEFT_OVER: PacketError = PacketError::Malformed("bytes left over");

pub(super) fn begin(life: u64) -> Bytes {
    let mut packet = Vec::with_capacity(9);
    packet.put_u8(0);
    packet.put_u64_le(life);
    packet.into()
}

pub(super) fn said(life: u64, series: u64, message: &Message) -> Bytes {
    let mut packet = Vec::with_capacity(35 + message.topic.as_str().len() + message.body.len());
    packet.put_u8(1);
    packet.put_u64_le(life);
    packet.put_u64_le(series);
    packet.put_u64_le(message.number);
    match message.keep {
        Keep::No => packet.put_u8(0),
        Keep::Own => packet.put_u8(1),
        Keep::Ranked(rank) => {
            packet.put_u8(2);
            packet.put_u64_le(rank);
        }
    }
    put_topic(&mut packet, &message.topic);
    packet.put_slice(&message.body);
    packet.into()
}

pub(super) fn released(life: u64, topic: &Topic) -> Bytes {
    let mut packet = Vec::with_capacity(10 + topic.as_str().len());
    packet.put_u8(2);
    packet.put_u64_le(life);
    put_topic(&mut packet, topic);
    packet.into()
}

fn put_topic(packet: &mut Vec<u8>, topic: &Topic) {
    // A topic has at most `TOPIC_LEN_MAX` bytes.
    packet.put_u8(u8::try_from(topic.as_str().len()).unwrap_or(u8::MAX));
    packet.put_slice(topic.as_str().as_bytes());
}

fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], PacketError> {
    let (taken, after) = rest.split_first_chunk().ok_or(PacketError::Malformed("cut short"))?;
    *rest = after;
    Ok(*taken)
}

fn topic<'a>(rest: &mut &'a [u8]) -> Result<&'a str, PacketError> {
    let [len] = array(rest)?;
    let (name, after) = rest.split_at_checked(usize::from(len)).ok_or(PacketError::Malformed("cut short"))?;
    *rest = after;
    let name = std::str::from_utf8(name).map_err(|_| PacketError::Malformed("a topic"))?;
    debug_assert!(name.len() <= TOPIC_LEN_MAX);
    if name.is_empty() { Err(PacketError::Malformed("a topic")) } else { Ok(name) }
}
