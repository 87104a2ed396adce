//! The bytes of membership: five kinds of packet, read within bounds and without a panic.
//!
//! ```text
//! 0  Swim     foca's own: header · count · members      probes, gossip
//! 1  Hello    identity · incarnation · digest · known   "this is how I am", first on every session
//! 2  Members  answer? · count · members                 a list, whole or in part
//! 3  Sync     digest                                    "is your list the same?", answered by `Members` if not
//! 4  Leave    identity                                  goodbye
//! ```
//!
//! Everything is little-endian; texts and identities carry their length. A session is between two nodes that
//! speak the same protocol version, so packets carry none.

use bytes::{BufMut, Bytes};
use foca::State;

use super::config::PACKET_LEN_MAX;
use super::identity::Identity;
use crate::cluster::member::{NodeInfo, WEIGHT_MAX, Zone};
use crate::ids::{Boot, NodeBoot, NodeName};
use std::sync::Arc;

/// The most bytes that one node's identity may have, its name, addresses and services together.
pub const IDENTITY_LEN_MAX: usize = 4096;

/// Why a packet was dropped. Nothing changed; whoever sent it is broken, hostile, or out of date.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// It is longer than any of ours.
    #[error("a membership packet of {len} bytes, at most {PACKET_LEN_MAX} are taken")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// Its bytes make no sense.
    #[error("a malformed membership packet: {0}")]
    Malformed(&'static str),
    /// It came from a node with which there is no session.
    #[error("a membership packet from {0}, with which there is no session")]
    NoSession(NodeName),
    /// It speaks for another node than the one whose session it came over.
    #[error("a membership packet from {from} that claims to be from another node")]
    Impostor {
        /// Whose session it came over.
        from: NodeBoot,
    },
    /// Its sender sends too many.
    #[error("more than {max} membership packets a second from {from}")]
    TooOften {
        /// Who sends too many.
        from: NodeName,
        /// The most that are taken per second.
        max: u32,
    },
    /// It names more nodes than this node has room for.
    #[error("more than {max} nodes: raise membership.nodes_max on every node")]
    TooManyNodes {
        /// The most that are known at a time.
        max: usize,
    },
    /// SWIM refused it.
    #[error("a membership packet that SWIM refused: {0}")]
    Refused(String),
}

pub(super) enum Packet<'a> {
    Swim(Gossip<'a>),
    Hello(Hello<'a>),
    Members { answer: bool, members: Vec<Update<'a>> },
    Sync { digest: u64 },
    Leave(Raw<'a>),
}

/// How a node describes itself.
pub(super) struct Hello<'a> {
    pub(super) identity: Raw<'a>,
    pub(super) incarnation: u16,
    /// The hash over the nodes that the speaker holds for alive.
    pub(super) digest: u64,
    /// How many those are.
    pub(super) known: u32,
}

/// foca's packet, taken apart but not yet believed.
pub(super) struct Gossip<'a> {
    pub(super) header: &'a [u8],
    pub(super) src: Raw<'a>,
    pub(super) src_incarnation: u16,
    /// The node in the middle or at the end of an indirect probe.
    pub(super) third: Option<Raw<'a>>,
    pub(super) counted: bool,
    pub(super) updates: Vec<Update<'a>>,
}

/// An identity in a packet: enough is read to know whether it is news.
#[derive(Clone, Copy)]
pub(super) struct Raw<'a> {
    pub(super) name: &'a str,
    pub(super) boot: Boot,
    pub(super) revival: u64,
    /// The whole, its length included.
    pub(super) bytes: &'a [u8],
}

/// What somebody says about a node.
#[derive(Clone, Copy)]
pub(super) struct Update<'a> {
    pub(super) identity: Raw<'a>,
    pub(super) incarnation: u16,
    pub(super) state: State,
    pub(super) bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    pub(super) fn read(packet: &'a [u8]) -> Result<Self, PacketError> {
        if packet.len() > PACKET_LEN_MAX {
            return Err(PacketError::TooLong { len: packet.len() });
        }
        let mut reader = Reader(packet);
        let packet = match reader.u8()? {
            0 => Self::Swim(reader.gossip()?),
            1 => Self::Hello(Hello {
                identity: reader.raw()?,
                incarnation: reader.u16()?,
                digest: reader.u64()?,
                known: reader.u32()?,
            }),
            2 => Self::Members { answer: reader.flag()?, members: reader.updates()? },
            3 => Self::Sync { digest: reader.u64()? },
            4 => Self::Leave(reader.raw()?),
            _ => return Err(PacketError::Malformed("unknown kind")),
        };
        reader.end()?;
        Ok(packet)
    }
}

pub(super) fn swim(data: &[u8]) -> Bytes {
    let mut packet = Vec::with_capacity(1 + data.len());
    packet.put_u8(0);
    packet.put_slice(data);
    packet.into()
}

pub(super) fn hello(identity: &Identity, incarnation: u16, digest: u64, known: u32) -> Bytes {
    let mut packet = Vec::with_capacity(15 + identity.bytes().len());
    packet.put_u8(1);
    packet.put_slice(identity.bytes());
    packet.put_u16_le(incarnation);
    packet.put_u64_le(digest);
    packet.put_u32_le(known);
    packet.into()
}

/// One or more packets, as the members need room. The last one alone asks for an answer.
pub(super) fn members<'a>(
    answer: bool,
    members: impl Iterator<Item = (&'a Identity, u16, State)>,
) -> Vec<Bytes> {
    let mut packets: Vec<Vec<u8>> = Vec::new();
    let mut counts: Vec<u16> = Vec::new();
    for (identity, incarnation, state) in members {
        let len = identity.bytes().len() + 3;
        if packets.last().is_none_or(|packet| packet.len() + len > PACKET_LEN_MAX) {
            packets.push(vec![2, 0, 0, 0]);
            counts.push(0);
        }
        if let (Some(packet), Some(count)) = (packets.last_mut(), counts.last_mut()) {
            put_member(packet, identity, incarnation, state);
            *count += 1;
        }
    }
    for (packet, count) in packets.iter_mut().zip(counts) {
        packet[2..4].copy_from_slice(&count.to_le_bytes());
    }
    if let Some(last) = packets.last_mut() {
        last[1] = u8::from(answer);
    }
    packets.into_iter().map(Bytes::from).collect()
}

pub(super) fn sync(digest: u64) -> Bytes {
    let mut packet = Vec::with_capacity(9);
    packet.put_u8(3);
    packet.put_u64_le(digest);
    packet.into()
}

pub(super) fn leave(identity: &Identity) -> Bytes {
    let mut packet = Vec::with_capacity(1 + identity.bytes().len());
    packet.put_u8(4);
    packet.put_slice(identity.bytes());
    packet.into()
}

/// foca's packet anew, with only those updates that are news.
pub(super) fn filtered(gossip: &Gossip<'_>, news: &[Update<'_>]) -> Vec<u8> {
    let mut data = gossip.header.to_vec();
    if gossip.counted {
        // foca counts in network byte order.
        data.put_u16(u16::try_from(news.len()).unwrap_or(u16::MAX));
        news.iter().for_each(|update| data.put_slice(update.bytes));
    }
    data
}

/// How many bytes of foca's header come before the sender's incarnation, which it keeps to itself.
pub(super) fn header_incarnation(data: &[u8]) -> Option<u16> {
    let mut reader = Reader(data);
    reader.raw().ok()?;
    reader.u16().ok()
}

/// An identity as bytes, its length first.
pub(super) fn identity_bytes(info: &NodeInfo, revival: u64) -> Box<[u8]> {
    let mut bytes = vec![0, 0];
    let name = info.name().as_str().as_bytes();
    // A name has at most `NAME_LEN_MAX` bytes; the other texts are bounded where an identity is made.
    bytes.put_u8(u8::try_from(name.len()).unwrap_or(u8::MAX));
    bytes.put_slice(name);
    bytes.put_u64_le(info.boot().0);
    bytes.put_u64_le(revival);
    bytes.put_u16_le(info.protocol);
    bytes.put_u32_le(info.weight);
    put_str(&mut bytes, &info.address);
    for optional in [info.http.as_deref(), info.zone.as_ref().map(|zone| &*zone.0)] {
        bytes.put_u8(u8::from(optional.is_some()));
        optional.into_iter().for_each(|text| put_str(&mut bytes, text));
    }
    bytes.put_u16_le(u16::try_from(info.services.len()).unwrap_or(u16::MAX));
    info.services.iter().for_each(|service| put_str(&mut bytes, service));
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    bytes[..2].copy_from_slice(&len.to_le_bytes());
    bytes.into()
}

fn put_str(bytes: &mut Vec<u8>, text: &str) {
    bytes.put_u16_le(u16::try_from(text.len()).unwrap_or(u16::MAX));
    bytes.put_slice(text.as_bytes());
}

pub(super) fn put_member(mut bytes: impl BufMut, identity: &Identity, incarnation: u16, state: State) {
    bytes.put_slice(identity.bytes());
    bytes.put_u16_le(incarnation);
    bytes.put_u8(match state {
        State::Alive => 0,
        State::Suspect => 1,
        State::Down => 2,
    });
}

impl<'a> Update<'a> {
    /// What a node that speaks says of itself by speaking.
    pub(super) fn alive(identity: Raw<'a>, incarnation: u16) -> Self {
        Self { identity, incarnation, state: State::Alive, bytes: &[] }
    }
}

impl Raw<'_> {
    pub(super) fn is(&self, id: &NodeBoot) -> bool {
        self.name == id.node.as_str() && self.boot == id.boot
    }

    /// Reads all of it.
    pub(super) fn decode(&self) -> Result<Identity, PacketError> {
        let mut reader = Reader(self.bytes);
        let _len = reader.u16()?;
        let (name, boot, revival) = reader.key()?;
        let node = NodeName::new(name).map_err(|_| PacketError::Malformed("a node name"))?;
        let (protocol, weight) = (reader.u16()?, reader.u32()?);
        if weight > WEIGHT_MAX {
            return Err(PacketError::Malformed("a weight"));
        }
        let address = reader.str()?.to_owned();
        let http = if reader.flag()? { Some(reader.str()?.to_owned()) } else { None };
        let zone = if reader.flag()? { Some(Zone(reader.str()?.into())) } else { None };
        let count = reader.u16()?;
        // A service takes two bytes at least, so that a count that lies ends soon.
        let services = (0..count).map(|_| reader.str().map(ToOwned::to_owned)).collect::<Result<_, _>>()?;
        reader.end()?;
        let id = NodeBoot::new(node, boot);
        let info = NodeInfo { id, address, http, zone, weight, services, protocol };
        Ok(Identity::new(Arc::new(info), revival))
    }
}

pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], PacketError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(PacketError::Malformed("cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PacketError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(PacketError::Malformed("cut short"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, PacketError> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, PacketError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, PacketError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, PacketError> {
        self.array().map(u64::from_le_bytes)
    }

    fn flag(&mut self) -> Result<bool, PacketError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(PacketError::Malformed("a flag")),
        }
    }

    fn str(&mut self) -> Result<&'a str, PacketError> {
        let len = self.u16()?;
        self.text(usize::from(len))
    }

    fn text(&mut self, len: usize) -> Result<&'a str, PacketError> {
        std::str::from_utf8(self.take(len)?).map_err(|_| PacketError::Malformed("a text"))
    }

    fn key(&mut self) -> Result<(&'a str, Boot, u64), PacketError> {
        let len = self.u8()?;
        Ok((self.text(usize::from(len))?, Boot(self.u64()?), self.u64()?))
    }

    pub(super) fn raw(&mut self) -> Result<Raw<'a>, PacketError> {
        let whole = self.0;
        let len = usize::from(self.u16()?);
        if len > IDENTITY_LEN_MAX {
            return Err(PacketError::Malformed("an identity too long"));
        }
        let bytes = whole.get(..len).ok_or(PacketError::Malformed("cut short"))?;
        let mut inner = Self(bytes);
        let _len = inner.u16()?;
        let (name, boot, revival) = inner.key()?;
        self.0 = &whole[len..];
        Ok(Raw { name, boot, revival, bytes })
    }

    pub(super) fn update(&mut self) -> Result<Update<'a>, PacketError> {
        let whole = self.0;
        let identity = self.raw()?;
        let incarnation = self.u16()?;
        let state = match self.u8()? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err(PacketError::Malformed("a state")),
        };
        let bytes = &whole[..whole.len() - self.0.len()];
        Ok(Update { identity, incarnation, state, bytes })
    }

    fn updates(&mut self) -> Result<Vec<Update<'a>>, PacketError> {
        let count = self.u16()?;
        (0..count).map(|_| self.update()).collect()
    }

    fn gossip(&mut self) -> Result<Gossip<'a>, PacketError> {
        let whole = self.0;
        let src = self.raw()?;
        let src_incarnation = self.u16()?;
        let _dst = self.raw()?;
        let third = match self.u8()? {
            PING | ACK => {
                self.u8()?;
                None
            }
            PING_REQ | INDIRECT_PING | INDIRECT_ACK | FORWARDED_ACK => {
                let third = self.raw()?;
                self.u8()?;
                Some(third)
            }
            ANNOUNCE | FEED | GOSSIP | TURN_UNDEAD => None,
            _ => return Err(PacketError::Malformed("a message that is never sent")),
        };
        let header = &whole[..whole.len() - self.0.len()];
        let counted = !self.0.is_empty();
        let updates = if counted {
            let count = u16::from_be_bytes(self.array()?);
            (0..count).map(|_| self.update()).collect::<Result<_, _>>()?
        } else {
            Vec::new()
        };
        Ok(Gossip { header, src, src_incarnation, third, counted, updates })
    }

    fn end(&self) -> Result<(), PacketError> {
        if self.0.is_empty() { Ok(()) } else { Err(PacketError::Malformed("bytes left over")) }
    }
}

pub(super) const PING: u8 = 0;
pub(super) const ACK: u8 = 1;
pub(super) const PING_REQ: u8 = 2;
pub(super) const INDIRECT_PING: u8 = 3;
pub(super) const INDIRECT_ACK: u8 = 4;
pub(super) const FORWARDED_ACK: u8 = 5;
pub(super) const ANNOUNCE: u8 = 6;
pub(super) const FEED: u8 = 7;
pub(super) const GOSSIP: u8 = 8;
pub(super) const TURN_UNDEAD: u8 = 9;
