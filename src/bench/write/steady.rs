//! Whether memory, and files, stay as they are over millions of writes to a bounded number of keys.

use std::fs;

use serde::Serialize;

use super::{Cluster, Setting, WriteError, say, settings};
use crate::bench::calls::child::Order;
use crate::bench::calls::hundredths;

/// How many writes are under way at once.
const OUTSTANDING: usize = 1024;
/// Into how many parts the writes are cut: after each, memory is looked at.
const PARTS: u64 = 20;
/// After how many of them all is as large as it should get: half of the writes.
const WARM: usize = 10;

/// One cluster's memory while it was written to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Steady {
    /// How it was replicated.
    #[serde(flatten)]
    pub(crate) setting: Setting,
    /// How many writes.
    pub(crate) writes: u64,
    /// How many of them a second, over all.
    pub(crate) per_s: f64,
    /// What was seen after each twentieth of the writes.
    pub(crate) seen: Vec<Seen>,
    /// How much more memory the processes held in all at the end than halfway, in MB.
    pub(crate) growth_mb: f64,
}

/// What the processes held after some of the writes, in MB. The client is the last.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Seen {
    /// After how many hundredths of the writes.
    pub(crate) percent: u64,
    /// Each process.
    pub(crate) rss_mb: Vec<f64>,
    /// The files with the copies, and those with what the voters agreed on, of each node that has a disk.
    pub(crate) files_mb: Vec<f64>,
}

/// Writes so many times to each of the clusters.
pub(super) fn measure(
    writes: u64,
    mode: Option<tumen_core::cluster::snapshot::Mode>,
) -> Result<Vec<Steady>, WriteError> {
    let three = settings(mode).into_iter().filter(|setting| setting.copies == super::NODES);
    three.map(|setting| one(writes, setting)).collect()
}

fn one(writes: u64, setting: Setting) -> Result<Steady, WriteError> {
    let mut cluster = Cluster::start(setting.clone())?;
    let (mut seen, mut seconds) = (vec![look(&cluster, 0)], 0.0);
    let part = writes.div_ceil(PARTS);
    for at in 1..=PARTS {
        let order = Order::Many { outstanding: OUTSTANDING, count: part };
        let took: f64 = cluster.client.tell(&order)?;
        seconds += took;
        let now = look(&cluster, at * 100 / PARTS);
        say(&format!(
            "{setting}: {} % of {writes}, {:.0} a second; memory {:?} MB, files {:?} MB",
            now.percent,
            part as f64 / took,
            now.rss_mb,
            now.files_mb
        ));
        seen.push(now);
    }
    let sum = |seen: &Seen| seen.rss_mb.iter().sum::<f64>();
    let (warm, end) = (seen.get(WARM).map_or(0.0, sum), seen.last().map_or(0.0, sum));
    let writes = part * PARTS;
    let per_s = (writes as f64 / seconds).round();
    cluster.forget();
    Ok(Steady { setting, writes, per_s, seen, growth_mb: hundredths(end - warm) })
}

fn look(cluster: &Cluster, percent: u64) -> Seen {
    let files = cluster.data_dirs().map(|dir| {
        let len = |name| fs::metadata(dir.join(name)).map_or(0, |file| file.len());
        let all = len(tumen_actors::store::COPIES_FILE_NAME) + len(tumen_actors::store::FILE_NAME);
        hundredths(all as f64 / f64::from(1 << 20))
    });
    Seen { percent, rss_mb: cluster.memory(), files_mb: files.collect() }
}
