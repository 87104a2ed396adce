//! Bytes: one place where values become frames and frames become values.
//!
//! ```text
//! magic "tm" · protocol version (u16, little-endian) · codec id (u8) · body
//! ```
//!
//! Two codecs are written, and both are read everywhere: numbers of fixed width (1), which are quicker, for calls; and
//! numbers as short as they are (2), for what is large and made of small numbers: plans, leases, Raft's messages and
//! log. The id keeps the door open to a successor of bincode 1, which is finished software.

use std::io;

use bincode::Options;
use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tumen_core::wire::PROTOCOL;

/// The first bytes of every frame.
const MAGIC: [u8; 2] = *b"tm";
/// bincode 1.3, fixed-width integers, little-endian.
const CODEC_FIXED: u8 = 1;
/// bincode 1.3, variable-width integers: one byte below 251, three below 65,536.
const CODEC_PACKED: u8 = 2;
/// Magic, protocol version and codec id.
pub const HEADER_LEN: usize = 5;
/// The largest frame that is decoded, in bytes, unless the caller says otherwise.
pub const FRAME_LEN_MAX: usize = 16 << 20;

/// Why bytes could not be read as a value. They are dropped; nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The frame does not begin as ours do.
    #[error("not a frame of tumen")]
    Magic,
    /// The frame comes from another protocol version.
    #[error("protocol {theirs} is not spoken here (this node speaks {})", PROTOCOL)]
    Protocol {
        /// The frame's version.
        theirs: u16,
    },
    /// The frame is written in a codec that this build does not know.
    #[error("unknown codec {0}")]
    Codec(u8),
    /// The frame is larger than allowed here.
    #[error("a frame of {len} bytes, at most {max} are taken")]
    TooLong {
        /// The frame's length.
        len: usize,
        /// The most that is taken.
        max: usize,
    },
    /// The body is no value of the wanted type.
    #[error("malformed: {0}")]
    Malformed(#[from] bincode::Error),
}

/// What is written: its length is bounded by the [`Writer`], for bincode's own bound walks through each value twice.
fn written() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().reject_trailing_bytes()
}

fn written_packed() -> impl Options {
    bincode::DefaultOptions::new().with_varint_encoding().reject_trailing_bytes()
}

/// What is read from this many bytes.
fn options(limit: usize) -> impl Options {
    written().with_limit(limit as u64)
}

fn packed(limit: usize) -> impl Options {
    written_packed().with_limit(limit as u64)
}

/// Encodes `value` as a frame.
///
/// # Panics
/// If the value's `Serialize` fails, which no type of ours does, or if it is larger than [`FRAME_LEN_MAX`]
/// where the caller did not bound it.
pub fn encode<T: Serialize>(value: &T) -> Bytes {
    let mut frame = BytesMut::with_capacity(128);
    encode_into(value, &mut frame).expect("values of ours are encodable and bounded");
    frame.freeze()
}

/// Encodes `value` as a frame behind what `frame` holds already. On an error `frame` is as it was.
pub fn encode_into<T: Serialize>(value: &T, frame: &mut BytesMut) -> Result<(), bincode::Error> {
    let start = frame.len();
    put_header(frame, CODEC_FIXED);
    encode_body_into(value, frame).inspect_err(|_| frame.truncate(start))
}

/// Encodes `value` as a frame with packed numbers.
///
/// # Panics
/// As [`encode`].
pub fn pack<T: Serialize>(value: &T) -> Bytes {
    try_pack(value, FRAME_LEN_MAX).expect("values of ours are encodable and bounded")
}

/// Encodes `value` as a frame with packed numbers, if its body has at most `limit` bytes.
pub fn try_pack<T: Serialize>(value: &T, limit: usize) -> Result<Bytes, bincode::Error> {
    let mut frame = BytesMut::with_capacity(128);
    put_header(&mut frame, CODEC_PACKED);
    Writer::write(&mut frame, limit, |writer| written_packed().serialize_into(writer, value))?;
    Ok(frame.freeze())
}

fn put_header(frame: &mut BytesMut, codec: u8) {
    frame.put_slice(&MAGIC);
    frame.put_u16_le(PROTOCOL);
    frame.put_u8(codec);
}

/// How many bytes `value` takes as a frame with packed numbers.
pub fn packed_len<T: Serialize>(value: &T) -> usize {
    let body = packed(usize::MAX).serialized_size(value).unwrap_or(u64::MAX);
    usize::try_from(body).unwrap_or(usize::MAX).saturating_add(HEADER_LEN)
}

/// Decodes a whole frame, which may not be larger than `limit` bytes.
pub fn decode<T: DeserializeOwned>(frame: &[u8], limit: usize) -> Result<T, DecodeError> {
    if frame.len() > limit {
        return Err(DecodeError::TooLong { len: frame.len(), max: limit });
    }
    let Some((header, body)) = frame.split_at_checked(HEADER_LEN) else { return Err(DecodeError::Magic) };
    if header[..2] != MAGIC {
        return Err(DecodeError::Magic);
    }
    let theirs = u16::from_le_bytes([header[2], header[3]]);
    if theirs != PROTOCOL {
        return Err(DecodeError::Protocol { theirs });
    }
    match header[4] {
        CODEC_FIXED => decode_body(body),
        CODEC_PACKED => Ok(packed(body.len()).deserialize(body)?),
        unknown => Err(DecodeError::Codec(unknown)),
    }
}

/// Encodes `value` without a header, for places where an enclosing frame already has one.
pub fn encode_body_into<T: Serialize>(value: &T, frame: &mut BytesMut) -> Result<(), bincode::Error> {
    Writer::write(frame, FRAME_LEN_MAX, |writer| written().serialize_into(writer, value))
}

/// Decodes a body without a header. Its own length bounds what is allocated.
pub fn decode_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    Ok(options(body.len()).deserialize(body)?)
}

/// The most bytes that a worker's whole state may have.
pub const STATE_LEN_MAX: usize = 1 << 30;

/// Writes a worker's whole state, which may be larger than any frame.
pub fn write_state<T: Serialize>(state: &T, to: impl io::Write) -> Result<(), bincode::Error> {
    options(STATE_LEN_MAX).serialize_into(to, state)
}

/// Reads what [`write_state`] wrote. The bytes' own length bounds what is allocated.
pub fn read_state<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    Ok(options(bytes.len()).deserialize(bytes)?)
}

/// Appends to a frame, up to a bound.
struct Writer<'a> {
    frame: &'a mut BytesMut,
    room: usize,
}

impl<'a> Writer<'a> {
    /// Has `write` append at most `limit` bytes. On an error the frame is as it was.
    fn write(
        frame: &'a mut BytesMut,
        limit: usize,
        write: impl FnOnce(&mut Self) -> Result<(), bincode::Error>,
    ) -> Result<(), bincode::Error> {
        let start = frame.len();
        let mut writer = Self { frame, room: limit };
        write(&mut writer).map_err(|why| {
            writer.frame.truncate(start);
            match *why {
                bincode::ErrorKind::Io(_) => Box::new(bincode::ErrorKind::SizeLimit),
                _ => why,
            }
        })
    }
}

impl io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.room = self.room.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        self.frame.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_reads_back_and_trailing_bytes_are_refused() {
        let frame = encode(&("hello".to_owned(), 7_u64));
        assert_eq!(decode::<(String, u64)>(&frame, 1024).unwrap(), ("hello".to_owned(), 7));
        let mut longer = frame.to_vec();
        longer.push(0);
        assert!(decode::<(String, u64)>(&longer, 1024).is_err());
    }

    #[test]
    fn packed_numbers_read_back_and_are_as_short_as_they_are() {
        let value = (vec![1_u64, 250, 251, 65_535, 65_536, u64::MAX], "hello".to_owned(), Some(-1_i64));
        let frame = pack(&value);
        assert_eq!(frame.len(), packed_len(&value));
        assert_eq!(frame.len(), HEADER_LEN + 1 + (1 + 1 + 3 + 3 + 5 + 9) + (1 + 5) + (1 + 1));
        assert_eq!(decode::<(Vec<u64>, String, Option<i64>)>(&frame, 1024).unwrap(), value);
        let longer = [&frame[..], &[0]].concat();
        assert!(decode::<(Vec<u64>, String, Option<i64>)>(&longer, 1024).is_err(), "trailing bytes");
        assert!(matches!(decode::<u8>(&frame, 10), Err(DecodeError::TooLong { .. })));
        assert!(try_pack(&value, 10).is_err());
        let mut unknown = frame.to_vec();
        unknown[4] = 3;
        assert!(matches!(decode::<u8>(&unknown, 1024), Err(DecodeError::Codec(3))));
    }

    #[test]
    fn what_is_too_long_is_refused_and_leaves_nothing_behind() {
        let value = vec![7_u8; 100];
        let len = packed_len(&value) - HEADER_LEN;
        assert!(try_pack(&value, len).is_ok());
        let refused = try_pack(&value, len - 1).unwrap_err();
        assert!(matches!(*refused, bincode::ErrorKind::SizeLimit), "{refused}");
        let mut frame = BytesMut::from(&b"before"[..]);
        encode_body_into(&serde_bytes::ByteBuf::from(vec![0; FRAME_LEN_MAX]), &mut frame).unwrap_err();
        assert_eq!(&frame[..], b"before");
    }

    #[test]
    fn a_length_that_lies_allocates_nothing() {
        let mut frame = encode(&0_u8).to_vec();
        frame.truncate(HEADER_LEN);
        frame.extend_from_slice(&u64::MAX.to_le_bytes());
        assert!(decode::<Vec<u64>>(&frame, 1024).is_err());
        assert!(decode::<String>(&frame, 1024).is_err());
        let mut frame = pack(&0_u8).to_vec();
        frame.truncate(HEADER_LEN);
        frame.push(253);
        frame.extend_from_slice(&u64::MAX.to_le_bytes());
        assert!(decode::<Vec<u64>>(&frame, 1024).is_err());
        assert!(decode::<String>(&frame, 1024).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            for codec in [CODEC_FIXED, CODEC_PACKED] {
                let mut frame = BytesMut::new();
                put_header(&mut frame, codec);
                frame.extend_from_slice(&bytes);
                let _ = decode::<tumen_core::cluster::snapshot::Snapshot>(&frame, 1 << 20);
            }
            let _ = decode::<tumen_core::cluster::snapshot::Snapshot>(&bytes, 1 << 20);
            let _ = decode_body::<tumen_core::cluster::greeting::Greeting>(&bytes);
        }
    }
}
