//! Rebalances as they are seen here: one begins with a plan that moves something, and is over once all of it is there.

use std::time::Duration;

use tokio::time::Instant;
use tumen_core::Version;
use tumen_core::cluster::health::{Assessment, Standing};

use super::plans::Moves;
use crate::http::shapes::Event;

/// How long everything may be there and yet be uneven, before that is taken for all that comes: a plan that evens primaries
/// follows soon, or never, where nobody asks for it.
const EVEN_WITHIN: Duration = Duration::from_secs(10);

/// The one that is under way, if one is.
#[derive(Debug, Default)]
pub(super) struct Rebalancing(Option<UnderWay>);

#[derive(Debug)]
struct UnderWay {
    since: Instant,
    trigger: &'static str,
    moves: u64,
    version: Version,
    whole_since: Option<Instant>,
}

impl Rebalancing {
    /// A plan moves something, or nothing. One that comes while another's moves are under way is part of the same.
    pub(super) fn handle_plan(&mut self, now: Instant, version: Version, moves: Moves) -> Option<Event> {
        if let Some(under_way) = &mut self.0 {
            under_way.moves += moves.count;
            (under_way.version, under_way.whole_since) = (version, None);
            return None;
        }
        if moves.count == 0 {
            return None;
        }
        let Moves { count, trigger, nodes } = moves;
        self.0 = Some(UnderWay { since: now, trigger, moves: count, version, whole_since: None });
        let trigger = trigger.to_owned();
        Some(Event::RebalanceStarted { trigger, nodes, moves: count, version: version.0 })
    }

    /// Another cluster is another story.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }

    /// How everything is by now.
    pub(super) fn handle_health(&mut self, now: Instant, seen: &Assessment) -> Option<Event> {
        let under_way = self.0.as_mut()?;
        if seen.version < under_way.version {
            return None;
        }
        let there = |standing| matches!(standing, Standing::Serving);
        if !seen.partitions.iter().all(|one| there(one.standing) && one.healthy >= one.planned) {
            under_way.whole_since = None;
            return None;
        }
        let since = *under_way.whole_since.get_or_insert(now);
        let even = seen.balance.iter().all(|(_, one)| !one.judged || one.primary_moves == 0);
        if !even && now.duration_since(since) < EVEN_WITHIN {
            return None;
        }
        let UnderWay { since, trigger, moves, version, .. } = self.0.take()?;
        let took_ms = u64::try_from(now.duration_since(since).as_millis()).unwrap_or(u64::MAX);
        Some(Event::RebalanceCompleted { trigger: trigger.to_owned(), moves, version: version.0, took_ms })
    }
}
