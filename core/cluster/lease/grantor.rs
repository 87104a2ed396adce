//! The leader's side: grants leases, knows when each has surely ended, and what was released.
//!
//! ```text
//!   elected ──▶ settling ──first entry of the own term applied──▶ granting
//!      │                                                             │
//!      └── everybody is leased until election + L + drift ──▶ run out, proven gone, returned ──▶ is_over
//!                                                                         a release of it ──▶ is_free
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::{Answer, Config, PlanId, Refusal, Release, Reply, Request};
use crate::cluster::snapshot::Snapshot;
use crate::ids::{Epoch, NodeBoot, NodeName, PartitionId, Term};
use crate::time::Moment;

/// What comes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Send this back.
    pub reply: Reply,
    /// Whether the request told of a release, or of a lease given back, that was not known: plan anew.
    pub news: bool,
}

/// A plan that may not be proposed now: somebody may still serve what it takes away. Nothing changed; leave
/// that part as it is, or ask again after a release or at the lease's end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StillHeld {
    /// This node does not lead, or has not applied its own term's first entry.
    #[error("this node does not lead, or does not know the newest plan yet")]
    NotSettled,
    /// The former primary may still answer.
    #[error("{holder} may still serve {partition} under epoch {epoch}")]
    Partition {
        /// The former primary.
        holder: NodeBoot,
        /// The partition.
        partition: PartitionId,
        /// The epoch under which it serves.
        epoch: Epoch,
    },
    /// The member may still hold names and children.
    #[error("{holder} may still hold a lease")]
    Member {
        /// The member.
        holder: NodeBoot,
    },
}

/// A plan that [`Grantor::handle_proposed`] let pass: names it if it comes to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Proposal {
    term: Term,
    number: u64,
}

/// What the leader knows of leases. Lives on every voter; knows nothing but while it leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grantor {
    config: Config,
    /// Who leads, while this node does not.
    leader: Option<NodeName>,
    office: Option<Office>,
}

/// One term of leading. All of it is forgotten with the term.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Office {
    term: Term,
    /// Until then anybody may hold a lease from an earlier leader.
    inherited_until: Moment,
    /// The plan that held when the own term's first entry was applied.
    settled: Option<PlanId>,
    /// The latest stamp that a majority has acknowledged since.
    ack: Option<Moment>,
    /// When each boot's lease surely has ended.
    ends: BTreeMap<NodeBoot, Moment>,
    /// Boots that are gone, or gave their lease back: they never serve again.
    gone: BTreeSet<NodeBoot>,
    /// Boots whose lease was counted as ended, with each proposal that was made because of it, and its plan.
    /// By proposal, not by plan: of two with one version, the second's refusal says nothing of the first.
    ended: BTreeMap<(NodeBoot, u64), PlanId>,
    /// How many plans were proposed in this term.
    proposals: u64,
    /// What the plan's primary has released: by whom, and which epoch.
    released: BTreeMap<PartitionId, (NodeBoot, Epoch)>,
}

impl Grantor {
    /// A voter that does not lead.
    pub const fn new(config: Config) -> Self {
        Self { config, leader: None, office: None }
    }

    /// This node has won the election of `term`. Call it after the fact, never before.
    pub fn handle_elected(&mut self, now: Moment, term: Term) {
        if self.term().is_some_and(|known| term <= known) {
            return;
        }
        self.leader = None;
        self.office = Some(Office {
            term,
            // Each earlier leader's last quorum answered before our election, and its grants reach no
            // further than a lease beyond that.
            inherited_until: now + self.config.with_drift(self.config.length),
            settled: None,
            ack: None,
            ends: BTreeMap::new(),
            gone: BTreeSet::new(),
            ended: BTreeMap::new(),
            proposals: 0,
            released: BTreeMap::new(),
        });
    }

    /// This node does not lead, or not any more; `leader` does, if that is known.
    pub fn handle_follows(&mut self, leader: Option<NodeName>) {
        self.office = None;
        self.leader = leader;
    }

    /// The first entry of this node's own `term` was applied, and `newest` is the plan that holds by it:
    /// every plan of an earlier leader is in it or will never be committed.
    pub fn handle_first_entry_applied(&mut self, term: Term, newest: PlanId) {
        if let Some(office) = self.office_of(term) {
            office.settled.get_or_insert(newest);
        }
    }

    /// A majority has confirmed that this node leads `term`, some time after `stamp`.
    ///
    /// The stamp is taken from the boot-time clock *before* the question leaves. A moment from after the
    /// answer would count a freeze in between, in which another leader may have been elected.
    pub fn handle_quorum_ack(&mut self, term: Term, stamp: Moment) {
        if let Some(office) = self.office_of(term) {
            office.ack = office.ack.max(Some(stamp));
        }
    }

    /// A node asks for its lease. `newest` is the newest plan that this node has applied, if there is one.
    pub fn handle_request(&mut self, now: Moment, request: &Request, newest: Option<&Snapshot>) -> Answered {
        let mut news = false;
        let answer = match self.judge(now, request, newest, &mut news) {
            Ok(granted) => granted,
            Err(why) => Answer::Refused(why),
        };
        Answered { reply: Reply { to: request.from.clone(), number: request.number, answer }, news }
    }

    /// The same of a member that is to leave and has given everything away: what it gives up is taken note of, and it gets no
    /// lease any more, so that [`Self::is_over`] holds in time.
    pub fn handle_last_request(&mut self, request: &Request, newest: &Snapshot) -> Answered {
        let news = self.office.as_mut().is_some_and(|office| office.note(request, newest));
        let answer = Answer::Refused(Refusal::Leaves);
        Answered { reply: Reply { to: request.from.clone(), number: request.number, answer }, news }
    }

    /// The process of this boot is surely gone.
    pub fn handle_crash_proof(&mut self, boot: NodeBoot) {
        if let Some(office) = &mut self.office {
            office.gone.insert(boot);
        }
    }

    /// The last word before `next` is proposed to follow `previous`, the newest plan: whether everybody is
    /// out whom it deposes or removes. If so, whoever is out because its lease is over gets no other one
    /// until the outcome is known and acted on; so propose it now.
    ///
    /// # Errors
    /// Somebody may still serve what the plan takes away. Nothing changed.
    pub fn handle_proposed(
        &mut self,
        now: Moment,
        previous: &Snapshot,
        next: &Snapshot,
    ) -> Result<Proposal, StillHeld> {
        let mut counted = BTreeSet::new();
        for (partition, old) in previous.partitions() {
            let Some(holder) = previous.primary(old).map(|member| member.id()) else { continue };
            let kept = next.primary_of(partition) == Some((holder, old.epoch));
            if kept {
                continue;
            }
            let epoch = old.epoch;
            if !self.is_free(now, holder, partition, epoch) {
                return Err(StillHeld::Partition { holder: holder.clone(), partition, epoch });
            }
            if !self.is_released(holder, partition, epoch) {
                counted.insert(holder.clone());
            }
        }
        for member in previous.members.iter().filter(|member| member.status.may_serve()) {
            let stays = next
                .member(member.name().as_str())
                .is_some_and(|m| m.id() == member.id() && m.status.may_serve());
            if stays {
                continue;
            }
            if !self.is_over(now, member.id()) {
                return Err(StillHeld::Member { holder: member.id().clone() });
            }
            counted.insert(member.id().clone());
        }
        let Some(office) = self.office.as_mut().filter(|office| office.settled.is_some()) else {
            return Err(StillHeld::NotSettled);
        };
        office.proposals += 1;
        let number = office.proposals;
        office.ended.extend(counted.into_iter().map(|boot| ((boot, number), PlanId::from(next))));
        Ok(Proposal { term: office.term, number })
    }

    /// The proposal is known never to be committed: who was counted out for it may ask again.
    ///
    /// A deadline that passed proves nothing; only an entry that was applied and refused does, or one that
    /// never left this node's hands.
    pub fn handle_dropped(&mut self, proposal: Proposal) {
        if let Some(office) = self.office_of(proposal.term) {
            office.ended.retain(|(_, number), _| *number != proposal.number);
        }
    }

    /// `newest` was applied: releases that it answers, and boots that it does not know, are forgotten.
    pub fn handle_applied(&mut self, newest: &Snapshot) {
        let Some(office) = &mut self.office else { return };
        let member = |boot: &NodeBoot| newest.member(boot.node.as_str()).is_some_and(|m| m.id() == boot);
        office
            .released
            .retain(|partition, (boot, epoch)| newest.primary_of(*partition) == Some((boot, *epoch)));
        office.ends.retain(|boot, _| member(boot));
        office.gone.retain(member);
        office.ended.retain(|(boot, _), _| member(boot));
    }

    /// Whether a new epoch of `partition` may be committed, as far as `former` goes, its primary under `epoch`:
    /// it released the partition, or its lease is surely over. The one question before every change of primary.
    pub fn is_free(&self, now: Moment, former: &NodeBoot, partition: PartitionId, epoch: Epoch) -> bool {
        self.is_released(former, partition, epoch) || self.is_over(now, former)
    }

    /// Whether this boot surely holds no lease: run out, given back, or proven gone. Only then may a member be
    /// removed, or its names and children be placed elsewhere. Never while this node does not lead.
    pub fn is_over(&self, now: Moment, boot: &NodeBoot) -> bool {
        self.settled().is_some_and(|office| office.gone.contains(boot) || now >= office.end(boot))
    }

    /// When this boot's lease surely has ended, by this node's clock, unless it is renewed; `None` while this
    /// node does not lead.
    pub fn lease_end(&self, boot: &NodeBoot) -> Option<Moment> {
        self.office.as_ref().map(|office| office.end(boot))
    }

    /// The members of `plan` whose lease is surely over, in order.
    pub fn ended<'a>(&'a self, now: Moment, plan: &'a Snapshot) -> impl Iterator<Item = &'a NodeBoot> {
        plan.members.iter().map(|member| member.id()).filter(move |boot| self.is_over(now, boot))
    }

    /// When the next member's lease will be over, unless it is renewed: ask [`Self::ended`] again then.
    pub fn next_end(&self, now: Moment, plan: &Snapshot) -> Option<Moment> {
        let running = plan.members.iter().map(|member| member.id()).filter(|boot| !self.is_over(now, boot));
        running.filter_map(|boot| self.lease_end(boot)).min()
    }

    /// The releases of the newest plan's primaries: each is to be answered with a newer epoch, for the same
    /// node if it shall stay. Otherwise nobody would ever serve the partition again.
    pub fn standing_releases(&self) -> impl Iterator<Item = (&NodeBoot, Release)> {
        self.settled().into_iter().flat_map(|office| {
            let release = |partition, epoch| Release { partition, epoch };
            office.released.iter().map(move |(partition, (boot, epoch))| (boot, release(*partition, *epoch)))
        })
    }

    /// The term that this node leads, if it leads.
    pub fn term(&self) -> Option<Term> {
        self.office.as_ref().map(|office| office.term)
    }

    fn judge(
        &mut self,
        now: Moment,
        request: &Request,
        newest: Option<&Snapshot>,
        news: &mut bool,
    ) -> Result<Answer, Refusal> {
        let Some(office) = &mut self.office else {
            return Err(Refusal::NotLeader { leader: self.leader.clone() });
        };
        let known =
            newest.filter(|plan| office.settled.is_some_and(|settled| settled <= PlanId::from(*plan)));
        let plan = known.ok_or(Refusal::Settling)?;
        let from = &request.from;
        if plan.member(from.node.as_str()).is_none_or(|member| member.id() != from) {
            return Err(Refusal::NotMember);
        }
        *news = office.note(request, plan);
        office.check_outcome(request)?;
        let length = office
            .ack
            .map(|ack| (ack + self.config.length).since(now))
            .filter(|length| !length.is_zero())
            .ok_or(Refusal::NoQuorum)?;
        let end = office.ends.entry(from.clone()).or_default();
        // An earlier grant was longer, and so is what its clock may drift.
        *end = (*end).max(now + self.config.with_drift(length));
        Ok(Answer::Granted { term: office.term, length, newest: PlanId::from(plan) })
    }

    fn is_released(&self, former: &NodeBoot, partition: PartitionId, epoch: Epoch) -> bool {
        let released = self.settled().and_then(|office| office.released.get(&partition));
        released.is_some_and(|(boot, known)| boot == former && *known == epoch)
    }

    fn office_of(&mut self, term: Term) -> Option<&mut Office> {
        self.office.as_mut().filter(|office| office.term == term)
    }

    fn settled(&self) -> Option<&Office> {
        self.office.as_ref().filter(|office| office.settled.is_some())
    }
}

impl Office {
    fn end(&self, boot: &NodeBoot) -> Moment {
        self.ends.get(boot).map_or(self.inherited_until, |end| self.inherited_until.max(*end))
    }

    /// Takes note of what the request gives up. A release of anything but the plan's own epoch is old news,
    /// or is repeated until this node has applied the plan that it speaks of.
    fn note(&mut self, request: &Request, plan: &Snapshot) -> bool {
        let from = &request.from;
        let mut news = request.returned && self.gone.insert(from.clone());
        if request.acted_on.generation != plan.generation {
            return news;
        }
        for Release { partition, epoch } in &request.releases {
            if plan.primary_of(*partition) == Some((from, *epoch)) {
                let known = self.released.insert(*partition, (from.clone(), *epoch));
                news |= known.as_ref() != Some(&(from.clone(), *epoch));
            }
        }
        news
    }

    /// Whoever was counted out gets nothing until it has acted on the plan made of it, or on one that took that
    /// plan's place: until then, its partitions may already be another's.
    fn check_outcome(&mut self, request: &Request) -> Result<(), Refusal> {
        if self.gone.contains(&request.from) {
            return Err(Refusal::Ended { after: None });
        }
        self.ended.retain(|(boot, _), plan| *boot != request.from || request.acted_on < *plan);
        match self.ended.iter().find(|((boot, _), _)| *boot == request.from) {
            Some((_, plan)) => Err(Refusal::Ended { after: Some(*plan) }),
            None => Ok(()),
        }
    }
}
