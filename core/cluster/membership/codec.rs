//! How foca's own values become bytes, and are read again.

use bytes::{Buf, BufMut};

use super::identity::Identity;
use super::packet::{
    ACK, ANNOUNCE, FEED, FORWARDED_ACK, GOSSIP, INDIRECT_ACK, INDIRECT_PING, PING, PING_REQ, PacketError,
    Reader, TURN_UNDEAD, put_member,
};

/// How foca's values become bytes.
pub(super) struct Codec;

impl foca::Codec<Identity> for Codec {
    type Error = PacketError;

    fn encode_header(
        &mut self,
        header: &foca::Header<Identity>,
        mut buf: impl BufMut,
    ) -> Result<(), PacketError> {
        use foca::Message::{
            Ack, Announce, Broadcast, Feed, ForwardedAck, Gossip, IndirectAck, IndirectPing, Ping, PingReq,
            TurnUndead,
        };
        let (tag, third, number) = match &header.message {
            Ping(number) => (PING, None, Some(*number)),
            Ack(number) => (ACK, None, Some(*number)),
            PingReq { target, probe_number } => (PING_REQ, Some(target), Some(*probe_number)),
            IndirectPing { origin, probe_number } => (INDIRECT_PING, Some(origin), Some(*probe_number)),
            IndirectAck { target, probe_number } => (INDIRECT_ACK, Some(target), Some(*probe_number)),
            ForwardedAck { origin, probe_number } => (FORWARDED_ACK, Some(origin), Some(*probe_number)),
            Announce => (ANNOUNCE, None, None),
            Feed => (FEED, None, None),
            Gossip => (GOSSIP, None, None),
            TurnUndead => (TURN_UNDEAD, None, None),
            Broadcast => return Err(PacketError::Malformed("a message that is never sent")),
        };
        let third = third.map_or(&[][..], Identity::bytes);
        let len = header.src.bytes().len() + header.dst.bytes().len() + third.len() + 4;
        room(&buf, len)?;
        buf.put_slice(header.src.bytes());
        buf.put_u16_le(header.src_incarnation);
        buf.put_slice(header.dst.bytes());
        buf.put_u8(tag);
        buf.put_slice(third);
        number.into_iter().for_each(|number| buf.put_u8(number));
        Ok(())
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<foca::Header<Identity>, PacketError> {
        decode(buf, |reader| {
            let src = reader.raw()?.decode()?;
            let src_incarnation = reader.u16()?;
            let dst = reader.raw()?.decode()?;
            let tag = reader.u8()?;
            let third =
                if (PING_REQ..=FORWARDED_ACK).contains(&tag) { Some(reader.raw()?.decode()?) } else { None };
            let message = match (tag, third) {
                (PING, _) => foca::Message::Ping(reader.u8()?),
                (ACK, _) => foca::Message::Ack(reader.u8()?),
                (PING_REQ, Some(target)) => foca::Message::PingReq { target, probe_number: reader.u8()? },
                (INDIRECT_PING, Some(origin)) => {
                    foca::Message::IndirectPing { origin, probe_number: reader.u8()? }
                }
                (INDIRECT_ACK, Some(target)) => {
                    foca::Message::IndirectAck { target, probe_number: reader.u8()? }
                }
                (FORWARDED_ACK, Some(origin)) => {
                    foca::Message::ForwardedAck { origin, probe_number: reader.u8()? }
                }
                (ANNOUNCE, _) => foca::Message::Announce,
                (FEED, _) => foca::Message::Feed,
                (GOSSIP, _) => foca::Message::Gossip,
                (TURN_UNDEAD, _) => foca::Message::TurnUndead,
                _ => return Err(PacketError::Malformed("a message that is never sent")),
            };
            Ok(foca::Header { src, src_incarnation, dst, message })
        })
    }

    fn encode_member(
        &mut self,
        member: &foca::Member<Identity>,
        buf: impl BufMut,
    ) -> Result<(), PacketError> {
        room(&buf, member.id().bytes().len() + 3)?;
        put_member(buf, member.id(), member.incarnation(), member.state());
        Ok(())
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<foca::Member<Identity>, PacketError> {
        decode(buf, |reader| {
            let update = reader.update()?;
            Ok(foca::Member::new(update.identity.decode()?, update.incarnation, update.state))
        })
    }
}

fn room(buf: &impl BufMut, len: usize) -> Result<(), PacketError> {
    if buf.remaining_mut() < len { Err(PacketError::Malformed("no room")) } else { Ok(()) }
}

fn decode<T>(
    mut buf: impl Buf,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, PacketError>,
) -> Result<T, PacketError> {
    // foca says that its buffers are contiguous.
    let mut reader = Reader(buf.chunk());
    let (before, value) = (reader.0.len(), read(&mut reader)?);
    let taken = before - reader.0.len();
    buf.advance(taken);
    Ok(value)
}
