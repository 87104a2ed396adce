//! The rules of DESIGN's leases and releases, broken one at a time, from outside of the law.
//!
//! The law itself knows no switches: a mutant bends what goes into it or comes out of it, exactly as an
//! implementation without the rule would.

use std::time::Duration;

use tumen_core::cluster::lease::{Answer, PlanId, Reply, Request};
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::{Moment, NodeBoot};

use crate::world::{LENGTH, Node};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// The law as it is.
    None,
    /// A grant is counted from when it came, not from when its request left.
    CountsFromReceipt,
    /// A reply to an earlier boot is taken for one's own.
    TakesRepliesToOtherBoots,
    /// A grant is as long as a lease, however old the quorum's acknowledgement is.
    GrantsFullLength,
    /// The quorum's acknowledgement counts from when it was seen, a freeze after it was given.
    StampsAfterTheFreeze,
    /// A leader grants before the first entry of its own term.
    GrantsBeforeItsFirstEntry,
    /// A new leader takes nobody for leased.
    DoesNotWaitAsNewLeader,
    /// A new leader waits for as long as a lease lasts by its own clock.
    IgnoresDriftAsNewLeader,
    /// Clocks are taken to agree.
    IgnoresDrift,
    /// A grant counts whatever plan the node has acted on: it reaches a thawed primary before the plan that
    /// deposed it.
    IgnoresNewest,
    /// A node that was counted out is granted a lease while the resulting plan is under way.
    GrantsBeforeTheOutcome,
    /// A restarted node is taken for its former self.
    RestartsUnderTheSameBoot,
    /// A release is repeated no more once it was sent.
    SendsReleasesOnce,
    /// A leader that did not ask for a release leaves it at that.
    LeavesReleasesUnanswered,
    /// A release counts whatever epoch it was given for.
    TakesReleasesOfOldEpochs,
    /// The boot that released a partition serves it again, since nothing came of it.
    TakesReleasesBack,
    /// Primary before, primary now: nothing to do.
    MissesMovesAwayAndBack,
    /// A read looks at the lease first and takes the value after.
    ChecksBeforeItReads,
}

impl Mutant {
    pub fn bend_reply(self, node: &Node, mut reply: Reply, me: NodeBoot) -> Reply {
        if self == Self::TakesRepliesToOtherBoots {
            reply.to = me;
        }
        if let Answer::Granted { newest, length, .. } = &mut reply.answer {
            if self == Self::IgnoresNewest {
                *newest = PlanId::ZERO;
            }
            if let Some(sent) = node.sent.get(&reply.number) {
                *length += Duration::from_nanos(node.clock - sent);
            }
        }
        reply
    }

    pub fn bend_stamp(self, stamp: Moment, now: Moment) -> Moment {
        if self == Self::StampsAfterTheFreeze { now } else { stamp }
    }

    pub fn bend_election(self, now: Moment) -> Moment {
        let early = match self {
            Self::DoesNotWaitAsNewLeader => LENGTH + 1,
            Self::IgnoresDriftAsNewLeader => 1,
            _ => 0,
        };
        now - Duration::from_nanos(early)
    }

    pub fn bend_request(self, node: &mut Node, mut request: Request) -> Request {
        if self == Self::SendsReleasesOnce {
            request.releases.retain(|release| node.told.insert(*release));
        }
        request
    }

    pub fn bend_arrival(self, mut request: Request, plan: &Snapshot) -> Request {
        if self == Self::TakesReleasesOfOldEpochs {
            for release in &mut request.releases {
                release.epoch = plan.assignment(release.partition).unwrap().epoch;
            }
        }
        request
    }

    pub fn bend_ack(self, leader: &mut Node) {
        if self == Self::GrantsFullLength
            && let Some(term) = leader.grantor.term()
        {
            leader.grantor.handle_quorum_ack(term, leader.now());
        }
    }
}
