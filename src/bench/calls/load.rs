//! Keeps calls under way and counts what came back.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::child::{Order, answer};

/// The longest that a process waits for the first answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);

/// One way to call.
pub(in crate::bench) trait Caller: Clone + Send + Sync + 'static {
    /// Sends 64 bytes that hold `number`, and sees that the right answer comes back.
    fn call(&self, number: u64) -> impl Future<Output = Result<(), String>> + Send;
}

/// One turn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::bench) struct Run {
    /// How many calls were answered.
    calls: u64,
    /// In how many seconds.
    seconds: f64,
    /// One call's round trip, the median in microseconds; zero where nobody looked.
    pub(in crate::bench) p50_us: f64,
    /// What only one of a hundred calls takes longer than, in microseconds; zero where nobody looked.
    pub(in crate::bench) p99_us: f64,
}

impl Run {
    /// Calls a second.
    pub(in crate::bench) fn rate(&self) -> f64 {
        self.calls as f64 / self.seconds
    }
}

/// Says that this process is there, and does what any caller can do.
pub(in crate::bench) async fn obey<C: Caller>(
    caller: &C,
    mut orders: mpsc::UnboundedReceiver<Order>,
) -> Result<(), String> {
    answer(&Ok("ready"))?;
    while let Some(order) = orders.recv().await {
        match order {
            Order::Connect => answer(&connect(caller).await)?,
            Order::Load { outstanding, millis, timed } => {
                answer(&load(caller, outstanding, Duration::from_millis(millis), timed).await)?;
            }
            other => answer::<()>(&Err(format!("{other:?} is not for this process")))?,
        }
    }
    Ok(())
}

/// Calls until one call is answered.
pub(in crate::bench) async fn connect(caller: &impl Caller) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        match caller.call(0).await {
            Ok(()) => return Ok(()),
            Err(why) if begun.elapsed() > CONNECT_WITHIN => return Err(format!("nobody answers: {why}")),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Does one thing for each of these numbers, so many at once: how many seconds that took.
pub(in crate::bench) async fn each<C, F>(
    client: &C,
    numbers: Range<u64>,
    outstanding: usize,
    one: impl Fn(C, u64) -> F + Clone + Send + 'static,
) -> Result<f64, String>
where
    C: Clone + Send + Sync + 'static,
    F: Future<Output = Result<(), String>> + Send,
{
    let begun = Instant::now();
    let next = Arc::new(AtomicU64::new(numbers.start));
    let tasks: Vec<_> = (0..outstanding)
        .map(|_| {
            let (client, next, one) = (client.clone(), Arc::clone(&next), one.clone());
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        return Ok::<_, String>(());
                    }
                    one(client.clone(), number).await?;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(|why| why.to_string())??;
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// Keeps `outstanding` calls under way for a while. `timed` tells whether each is timed, which takes time too.
pub(in crate::bench) async fn load<C: Caller>(
    caller: &C,
    outstanding: usize,
    time: Duration,
    timed: bool,
) -> Result<Run, String> {
    let stopping = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..outstanding as u64)
        .map(|task| {
            let (caller, stopping) = (caller.clone(), Arc::clone(&stopping));
            tokio::spawn(async move {
                let (mut calls, mut times) = (0, Vec::new());
                while !stopping.load(Ordering::Relaxed) {
                    // No two tasks go through the keys in step.
                    let number = task.wrapping_mul(7919).wrapping_add(calls);
                    if timed {
                        let begun = Instant::now();
                        caller.call(number).await?;
                        times.push(begun.elapsed());
                    } else {
                        caller.call(number).await?;
                    }
                    calls += 1;
                }
                Ok::<_, String>((calls, times))
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    stopping.store(true, Ordering::Relaxed);
    let (mut calls, mut times) = (0, Vec::new());
    for task in tasks {
        let (more, longer) = task.await.map_err(|why| why.to_string())??;
        calls += more;
        times.extend(longer);
    }
    let seconds = begun.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |place: usize| times.get(place).map_or(0.0, |time| time.as_secs_f64() * 1e6);
    Ok(Run { calls, seconds, p50_us: at(times.len() / 2), p99_us: at(times.len() * 99 / 100) })
}
