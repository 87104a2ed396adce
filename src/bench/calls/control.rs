//! Whether a heartbeat waits behind a copy: round trips on the control lane, alone and while a gigabyte goes to the same
//! node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tumen_actors::transport::{CHUNK_LEN_MAX, Channel, Service, Session, Transport};
use tumen_core::NodeName;

use super::hundredths;
use super::ours::ECHO;
use crate::node::Node;

/// How long the control lane is watched alone.
const ALONE: Duration = Duration::from_secs(1);
/// How long it rests between two round trips.
const REST: Duration = Duration::from_millis(1);
/// How long a round trip may take at all.
const PONG_WITHIN: Duration = Duration::from_secs(5);

/// Round trips on the control lane, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Control {
    /// The median while nothing else goes on.
    pub(crate) control_ms_alone: f64,
    /// The slowest of those.
    pub(crate) control_worst_ms_alone: f64,
    /// The median while a gigabyte is copied to the same node.
    pub(crate) control_ms_during_copy: f64,
    /// The slowest of those.
    pub(crate) control_worst_ms_during_copy: f64,
    /// How many round trips there were during the copy.
    pub(crate) control_round_trips_during_copy: usize,
    /// How long the copy took, in seconds.
    pub(crate) copy_seconds: f64,
}

/// Watches the control lane to the other node, alone and while `copied` bytes go there.
pub(super) async fn watch(node: &Node, copied: u64) -> Result<Control, String> {
    let transport = node.runtime().transport();
    let echo = NodeName::new(ECHO).map_err(|why| why.to_string())?;
    let (pong, mut pongs) = mpsc::unbounded_channel();
    let ponged = move |_: &Session, _: Bytes| {
        // Nobody waits for a pong after the end.
        let _ = pong.send(());
    };
    transport.on_control(Channel::Application, Arc::new(ponged));

    let (alone, _) = beside(transport, &echo, &mut pongs, async {
        tokio::time::sleep(ALONE).await;
        Ok(())
    })
    .await?;
    let copying = tokio::spawn(copy(transport.clone(), echo.clone(), copied));
    let (during, took) = beside(transport, &echo, &mut pongs, async {
        copying.await.map_err(|why| why.to_string()).flatten()
    })
    .await?;
    Ok(Control {
        control_ms_alone: middle(&alone),
        control_worst_ms_alone: worst(&alone),
        control_ms_during_copy: middle(&during),
        control_worst_ms_during_copy: worst(&during),
        control_round_trips_during_copy: during.len(),
        copy_seconds: hundredths(took.as_secs_f64()),
    })
}

/// Round trips until something else is done, sorted, and how long that took.
async fn beside(
    transport: &Transport,
    echo: &NodeName,
    pongs: &mut mpsc::UnboundedReceiver<()>,
    done: impl Future<Output = Result<(), String>>,
) -> Result<(Vec<Duration>, Duration), String> {
    let begun = Instant::now();
    let mut times = Vec::new();
    tokio::pin!(done);
    loop {
        let sent = Instant::now();
        transport.cast(echo, Channel::Application, b"ping").map_err(|why| why.to_string())?;
        match tokio::time::timeout(PONG_WITHIN, pongs.recv()).await {
            Ok(Some(())) => times.push(sent.elapsed()),
            _ => return Err("no pong came back".into()),
        }
        tokio::select! {
            biased;
            done = &mut done => {
                done?;
                times.sort_unstable();
                return Ok((times, begun.elapsed()));
            }
            () = tokio::time::sleep(REST) => {}
        }
    }
}

async fn copy(transport: Transport, echo: NodeName, len: u64) -> Result<(), String> {
    let sink = transport.open_bulk(&echo, Service::Application, Bytes::new()).await;
    let mut sink = sink.map_err(|why| why.to_string())?;
    let chunk = Bytes::from(vec![1; CHUNK_LEN_MAX]);
    for _ in 0..len / CHUNK_LEN_MAX as u64 {
        sink.send(chunk.clone()).await.map_err(|why| why.to_string())?;
    }
    let answer = sink.finish().await.map_err(|why| why.to_string())?;
    if *answer == *len.to_string().as_bytes() { Ok(()) } else { Err(format!("{answer:?} bytes arrived")) }
}

fn middle(times: &[Duration]) -> f64 {
    millis(times.get(times.len() / 2))
}

fn worst(times: &[Duration]) -> f64 {
    millis(times.last())
}

fn millis(time: Option<&Duration>) -> f64 {
    time.map_or(0.0, |time| hundredths(time.as_secs_f64() * 1e3))
}
