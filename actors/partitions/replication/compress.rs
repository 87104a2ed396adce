//! Whole states, made smaller for their way to another node where that pays.
//!
//! ```text
//!  state ─ pack ─▶ smaller by an eighth at least? ─┬─ yes ─▶ packed, and how long it was ─▶ unpack ─▶ state
//!                                                  └─ no ──▶ as it is ───────────────────────────────▶ state
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use lz4_flex::block;

use crate::codec::STATE_LEN_MAX;

/// States below this go as they are.
const PACK_FROM: usize = 512;
/// From this length on it is done where nobody else waits for the thread.
const APART_FROM: usize = 256 << 10;
/// No byte of what is packed by LZ4 stands for more than so many.
const RATIO_MAX: u64 = 255;

/// How many bytes states had, and how many were sent for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packing {
    /// How many states were sent.
    pub states: u64,
    /// How many bytes they had.
    pub plain: u64,
    /// How many were sent for them.
    pub sent: u64,
}

/// Where that is counted.
#[derive(Debug, Default)]
pub(in crate::partitions) struct Packed {
    states: AtomicU64,
    plain: AtomicU64,
    sent: AtomicU64,
}

impl Packed {
    fn note(&self, plain: usize, sent: usize) {
        self.states.fetch_add(1, Ordering::Relaxed);
        self.plain.fetch_add(plain as u64, Ordering::Relaxed);
        self.sent.fetch_add(sent as u64, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Packing {
        let [states, plain, sent] =
            [&self.states, &self.plain, &self.sent].map(|count| count.load(Ordering::Relaxed));
        Packing { states, plain, sent }
    }
}

/// A state's bytes as they are sent, and how many it has if they are packed. Not on a thread that others wait for.
pub(in crate::partitions) async fn pack(state: Bytes, packed: &Packed) -> (Bytes, Option<u64>) {
    if state.len() < APART_FROM {
        let (bytes, len) = pack_now(&state);
        packed.note(state.len(), bytes.len());
        return (bytes, len);
    }
    let plain = state.clone();
    // A task that was cut off by the end of the process packs nothing.
    let (bytes, len) =
        tokio::task::spawn_blocking(move || pack_now(&plain)).await.unwrap_or_else(|_| (state.clone(), None));
    packed.note(state.len(), bytes.len());
    (bytes, len)
}

fn pack_now(state: &Bytes) -> (Bytes, Option<u64>) {
    if state.len() >= PACK_FROM {
        let packed = block::compress(state);
        if packed.len() <= state.len() - state.len() / 8 {
            return (packed.into(), Some(state.len() as u64));
        }
    }
    (state.clone(), None)
}

/// The state again. The error says why it is none; nothing longer than a state may be is ever made.
pub(in crate::partitions) async fn unpack(bytes: Bytes, len: Option<u64>) -> Result<Bytes, String> {
    let Some(len) = len else { return Ok(bytes) };
    if len > STATE_LEN_MAX as u64 || len > RATIO_MAX.saturating_mul(bytes.len() as u64) {
        return Err(format!("{} bytes are said to stand for {len}", bytes.len()));
    }
    let len = usize::try_from(len).map_err(|why| why.to_string())?;
    if len < APART_FROM {
        return unpack_now(&bytes, len);
    }
    let unpacking = tokio::task::spawn_blocking(move || unpack_now(&bytes, len));
    unpacking.await.unwrap_or_else(|_| Err("this node is stopping".to_owned()))
}

fn unpack_now(bytes: &[u8], len: usize) -> Result<Bytes, String> {
    let state =
        block::decompress(bytes, len).map_err(|why| format!("it is not packed as it should be: {why}"))?;
    if state.len() != len {
        return Err(format!("{} bytes came out, not {len}", state.len()));
    }
    Ok(state.into())
}

#[cfg(test)]
mod tests {
    use tumen_core::wire::stable_hash;

    use super::*;

    #[tokio::test]
    async fn what_pays_is_packed_and_comes_back_the_same() {
        let packed = Packed::default();
        let noise: Vec<u8> = (0_u64..4096).map(|n| stable_hash(&n.to_le_bytes()) as u8).collect();
        for (state, pays) in [
            (vec![], false),
            (vec![0; PACK_FROM - 1], false),
            (b"key-1 value ".repeat(10_000), true),
            (noise, false),
        ] {
            let state = Bytes::from(state);
            let (bytes, len) = pack(state.clone(), &packed).await;
            assert_eq!((len.is_some(), bytes.len() <= state.len()), (pays, true));
            assert_eq!(unpack(bytes, len).await.unwrap(), state);
        }
        let counted = packed.read();
        assert!(counted.states == 4 && counted.sent < counted.plain / 8, "{counted:?}");
    }

    #[tokio::test]
    async fn what_a_stranger_sends_takes_no_more_room_than_a_state_may() {
        let (bytes, len) = pack_now(&Bytes::from(vec![7; 100_000]));
        let len = len.unwrap();
        for (bytes, len) in [
            (bytes.clone(), u64::MAX),
            (bytes.clone(), STATE_LEN_MAX as u64 + 1),
            (bytes.clone(), len - 1),
            (bytes.clone(), len + 1),
            (bytes.slice(..bytes.len() - 1), len),
            (Bytes::from_static(b""), 1),
            (Bytes::from_static(&[0xff; 64]), 10_000),
        ] {
            assert!(unpack(bytes, Some(len)).await.is_err(), "{len}");
        }
    }
}
