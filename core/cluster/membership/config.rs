//! The knobs of membership, each with its unit, its default and its neighbours.

use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

/// The largest packet of membership, in bytes: longer ones are refused unread. A list of nodes is cut into
/// packets of this length.
pub const PACKET_LEN_MAX: usize = 64 << 10;

/// The largest packet that SWIM itself makes and takes, in bytes. Gossip runs over ordered streams, so no
/// datagram bounds it: one packet has room for the news of a hundred nodes.
pub(super) const SWIM_PACKET_LEN_MAX: usize = 16 << 10;

/// How a node watches the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How often one other node, in a shuffled round, is asked whether it lives. Default 250 ms.
    /// At least twice `probe_rtt`: what is left is for asking through others.
    pub probe_interval: Duration,
    /// How long a direct answer may take before others are asked to try. Default 100 ms.
    pub probe_rtt: Duration,
    /// How many others are asked to try. Default 3.
    pub indirect_probes: u8,
    /// How long a suspected node has for a sign of life, before it is held for down. Default 500 ms.
    /// At least `probe_interval`, and at least three times `gossip_interval`, or a suspicion runs out before
    /// its refutation has come around.
    pub suspicion: Duration,
    /// How often news is passed on to `gossip_fanout` others, while there is any. Default 100 ms.
    pub gossip_interval: Duration,
    /// How many others hear the news each time. Default 3.
    pub gossip_fanout: u8,
    /// How often the whole list is compared, by a hash, with one other node's. Default 2 s. What gossip
    /// lost on its way is repaired then.
    pub sync_interval: Duration,
    /// How long a newcomer's arrival waits for others', so that a burst is told in one packet. Default 10 ms.
    /// Below `gossip_interval`.
    pub news_window: Duration,
    /// How long a node that is down is remembered, and dialled. Default 1 h. Longer than `suspicion` and
    /// `sync_interval`, or a node is forgotten and learned again in a circle.
    pub forget_after: Duration,
    /// The most nodes that are known at a time, those that are down and this one included. Default 2,048.
    pub nodes_max: usize,
    /// The most packets per second that are taken from one node, with as many at once. Default 500.
    pub packets_per_second_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_millis(250),
            probe_rtt: Duration::from_millis(100),
            indirect_probes: 3,
            suspicion: Duration::from_millis(500),
            gossip_interval: Duration::from_millis(100),
            gossip_fanout: 3,
            sync_interval: Duration::from_secs(2),
            news_window: Duration::from_millis(10),
            forget_after: Duration::from_secs(3600),
            nodes_max: 2048,
            packets_per_second_max: 500,
        }
    }
}

/// A knob of membership is out of its range. Nothing was started; change the knob, or the neighbour named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("membership.{knob} is {value}, and must be {must}")]
pub struct ConfigError {
    /// The knob.
    pub knob: &'static str,
    /// What it is set to.
    pub value: String,
    /// What it must be, beside which neighbour.
    pub must: String,
}

impl Config {
    /// Checks each knob against its neighbours.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |knob, value: String, must: String| -> Result<(), ConfigError> {
            Err(ConfigError { knob, value, must })
        };
        let times = [
            ("probe_interval", self.probe_interval),
            ("probe_rtt", self.probe_rtt),
            ("suspicion", self.suspicion),
            ("gossip_interval", self.gossip_interval),
            ("sync_interval", self.sync_interval),
            ("news_window", self.news_window),
            ("forget_after", self.forget_after),
        ];
        for (knob, time) in times {
            if time < Duration::from_millis(1) || time > Duration::from_secs(30 * 86_400) {
                return refuse(knob, format!("{time:?}"), "from 1 ms to 30 days".into());
            }
        }
        let at_least = |knob, time: Duration, least: Duration, neighbour: &str| {
            if time < least {
                return refuse(knob, format!("{time:?}"), format!("at least {least:?} ({neighbour})"));
            }
            Ok(())
        };
        at_least("probe_interval", self.probe_interval, self.probe_rtt * 2, "twice probe_rtt")?;
        at_least("suspicion", self.suspicion, self.probe_interval, "probe_interval")?;
        at_least("suspicion", self.suspicion, self.gossip_interval * 3, "three times gossip_interval")?;
        at_least("gossip_interval", self.gossip_interval, self.news_window, "news_window")?;
        at_least("forget_after", self.forget_after, self.suspicion * 4, "four times suspicion")?;
        at_least("forget_after", self.forget_after, self.sync_interval * 4, "four times sync_interval")?;
        for (knob, count) in
            [("indirect_probes", self.indirect_probes), ("gossip_fanout", self.gossip_fanout)]
        {
            if !(1..=16).contains(&count) {
                return refuse(knob, count.to_string(), "from 1 to 16".into());
            }
        }
        if !(2..=16_384).contains(&self.nodes_max) {
            return refuse("nodes_max", self.nodes_max.to_string(), "from 2 to 16384".into());
        }
        // Below this, the answers to ordinary probes of a few nodes would be refused.
        if !(50..=1_000_000).contains(&self.packets_per_second_max) {
            let value = self.packets_per_second_max.to_string();
            return refuse("packets_per_second_max", value, "from 50 to 1000000".into());
        }
        Ok(())
    }

    /// The time within which a node that froze without a word is held for down, in a cluster of `nodes`
    /// without loss: its turn to be probed comes (a shuffled round, then the next), the probe fails, the
    /// suspicion runs out, and the news comes around. A node whose session ends is found after `suspicion`.
    pub fn detection_max(&self, nodes: usize) -> Duration {
        let others = u32::try_from(nodes.saturating_sub(1)).unwrap_or(u32::MAX).max(1);
        // Every survivor probes on its own: from four nodes on, the first of them is early enough.
        let turns = others.saturating_mul(2).saturating_sub(1).min(5);
        let hops = others.ilog2() + 2;
        self.probe_interval * (turns + 2) + self.suspicion + self.gossip_interval * hops
    }

    /// A silence after which this node itself must have been frozen: what it slept through proves nothing.
    pub(super) fn frozen_after(&self) -> Duration {
        self.probe_interval * 2
    }

    /// What foca is told, in a cluster of so many living nodes.
    pub(super) fn swim(&self, nodes: usize) -> foca::Config {
        // Each piece of news is passed on a few times the logarithm of the cluster's size (SWIM, section 4.1).
        let transmissions = 4 + u8::try_from(nodes.max(1).ilog2()).unwrap_or(u8::MAX).saturating_mul(3) / 2;
        let count = |n: u8| NonZeroUsize::new(usize::from(n)).unwrap_or(NonZeroUsize::MIN);
        foca::Config {
            probe_period: self.probe_interval,
            probe_rtt: self.probe_rtt,
            num_indirect_probes: count(self.indirect_probes),
            max_transmissions: NonZeroU8::new(transmissions).unwrap_or(NonZeroU8::MIN),
            suspect_to_down_after: self.suspicion,
            // Forgetting is ours: the transport must hear of it.
            remove_down_after: None,
            max_packet_size: NonZeroUsize::new(SWIM_PACKET_LEN_MAX).unwrap_or(NonZeroUsize::MIN),
            notify_down_members: true,
            // Lists are compared by our own `Sync` packets instead.
            periodic_announce: None,
            periodic_announce_to_down_members: None,
            periodic_gossip: Some(foca::PeriodicParams {
                frequency: self.gossip_interval,
                num_members: count(self.gossip_fanout),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_in_range_and_neighbours_are_checked() {
        Config::default().check().unwrap();
        let ms = Duration::from_millis;
        let refused = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.check().unwrap_err().knob
        };
        assert_eq!(refused(|c| c.probe_rtt = Duration::from_millis(126)), "probe_interval");
        assert_eq!(refused(|c| c.suspicion = Duration::from_millis(249)), "suspicion");
        assert_eq!(refused(|c| c.gossip_interval = Duration::from_millis(200)), "suspicion");
        assert_eq!(refused(|c| c.news_window = Duration::ZERO), "news_window");
        assert_eq!(refused(|c| c.forget_after = Duration::from_secs(7)), "forget_after");
        assert_eq!(refused(|c| c.nodes_max = 1), "nodes_max");
        assert_eq!(refused(|c| c.gossip_fanout = 0), "gossip_fanout");
        assert_eq!(refused(|c| c.packets_per_second_max = 1), "packets_per_second_max");
        let error = Config { probe_rtt: ms(200), ..Config::default() }.check().unwrap_err();
        assert_eq!(
            error.to_string(),
            "membership.probe_interval is 250ms, and must be at least 400ms (twice probe_rtt)"
        );
    }
}
