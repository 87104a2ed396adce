//! When a voter stands for election: not before a majority misses the leader too.
//!
//! ```text
//!  a leader's word       silence for a lease         a majority says "we miss it too"
//! ───────┬──────────────────────┬──────────────────────────┬─────────────────────────▶
//!        │                      Ask ─▶ the other voters    Elect ─▶ openraft, which votes
//!        └ whatever was asked is forgotten                 no leader after a while: Ask again
//!
//!  proof that the leader's process is gone ─▶ Elect at once; if nobody wins, Ask again and again, shortly
//! ```
//!
//! openraft would stand as soon as its own timer ran out. A voter that was frozen, or cut off for a while, then
//! takes down a leader that everybody else hears well. So openraft's timer is off, and this law asks before it
//! stands (Raft's *pre-vote*, Ongaro's thesis 9.6). It decides only *when*; who wins, and that there is one leader
//! a term, is openraft's.
//!
//! What bounds an election after a leader's crash: openraft's voters refuse every candidate for a *lease*
//! (`election_timeout_max`) after the last word of the leader they hold for established, and nothing but standing
//! themselves makes them forget it. So without proof the next leader is there a lease and [`Timing::spread`] after
//! the last heartbeat, at most. With proof every surviving voter stands at once: each thereby forgets the lease,
//! votes are ordered by (term, life), and the greatest that is up to date wins, mostly at once. Who did not win asks
//! before it stands again: one that lacks entries, and so can never win, would else raise the term again and again
//! ahead of the one that could.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::ids::Life;
use crate::time::Moment;

/// So often a voter asks again soon. From then on it waits twice as long each time, up to a lease.
const ASKED_SOON: u32 = 4;

/// How long a voter waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// For how long after a leader's word the voters refuse others. openraft's `election_timeout_max`, and a bit.
    pub lease: Duration,
    /// Voters ask at different moments within this, so that one is usually alone.
    pub spread: Duration,
    /// How long a candidate waits for an election's outcome before it tries again; as much again by chance.
    pub retry: Duration,
    /// The same, where the leader's crash is proven.
    pub retry_proven: Duration,
}

/// What the voter is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask the other voters whether they would vote for this one. Answers go to [`Election::handle_answer`].
    Ask {
        /// Which question: older answers do not count.
        round: u64,
    },
    /// Stand for election now.
    Elect,
}

/// What the voter knows of the voters, among them itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Electorate {
    /// In the midst of a joint change two sets; a majority of each decides.
    pub sets: Vec<BTreeSet<Life>>,
}

impl Electorate {
    /// Whether these lives are a majority of every set.
    pub fn is_majority(&self, lives: &BTreeSet<Life>) -> bool {
        !self.sets.is_empty() && self.sets.iter().all(|set| set.intersection(lives).count() * 2 > set.len())
    }

    /// Whether this life votes.
    pub fn contains(&self, life: Life) -> bool {
        self.sets.iter().any(|set| set.contains(&life))
    }
}

/// One voter's part in finding a leader.
#[derive(Clone, Debug)]
pub struct Election {
    timing: Timing,
    me: Life,
    electorate: Electorate,
    leading: bool,
    /// When a leader was last heard, or this voter began.
    heard: Moment,
    /// Until when somebody that this voter voted for has time to win.
    granted_until: Moment,
    /// Nothing is asked before this.
    not_before: Moment,
    /// Who said yes in this round.
    asked: Option<BTreeSet<Life>>,
    round: u64,
    /// How often it was asked since a leader was heard, or wanted this voter.
    asked_in_vain: u32,
    proven: bool,
    /// Whether this voter stood, unasked, upon the present proof.
    stood: bool,
    /// When the leader wanted this voter to follow it in office.
    called: Option<Moment>,
    chance: u64,
}

impl Election {
    /// A voter that begins now. `seed`: two voters with the same one ask at the same moment.
    pub fn new(now: Moment, me: Life, timing: Timing, seed: u64) -> Self {
        let mut election = Self {
            timing,
            me,
            electorate: Electorate::default(),
            leading: false,
            heard: now,
            granted_until: now,
            not_before: now,
            asked: None,
            round: 0,
            asked_in_vain: 0,
            proven: false,
            stood: false,
            called: None,
            chance: seed,
        };
        election.handle_heard(now);
        election
    }

    /// A leader's word was accepted.
    pub fn handle_heard(&mut self, now: Moment) {
        self.heard = self.heard.max(now);
        self.asked = None;
        self.asked_in_vain = 0;
        self.proven = false;
        // What the leader said before it fell silent may arrive after its call; what it says much later is a change
        // of mind.
        self.called = self.called.filter(|called| self.heard < *called + self.timing.lease);
        // A part of the spread is left to a voter that was called.
        let early = self.timing.spread / 4;
        let pause = match self.called {
            Some(_) => Duration::ZERO,
            None => early + self.by_chance(self.timing.spread - early),
        };
        self.not_before = self.heard + self.timing.lease + pause;
    }

    /// This voter voted for another, which now has some time to win: nobody is to be in its way.
    pub fn handle_granted(&mut self, now: Moment) {
        let retry = if self.proven { self.timing.retry_proven } else { self.timing.retry };
        self.asked = None;
        self.called = None;
        self.granted_until = now + retry;
        self.not_before = self.not_before.max(self.granted_until + self.by_chance(retry));
    }

    /// The voters changed, or whether this one leads.
    pub fn handle_standing(&mut self, now: Moment, electorate: Electorate, leading: bool) {
        if self.leading && !leading {
            // Whoever took over has a lease's time to be heard.
            self.handle_heard(now);
        }
        if leading {
            self.asked = None;
            self.proven = false;
            self.called = None;
        }
        if !leading && electorate != self.electorate && electorate.is_majority(&[self.me].into()) {
            // A lone voter has nobody to wait for.
            self.not_before = now;
        }
        self.electorate = electorate;
        self.leading = leading;
    }

    /// The leader's process is gone, beyond doubt. Forgotten when a leader is heard.
    pub fn handle_proof(&mut self, now: Moment) {
        if !self.leading {
            self.stood &= self.proven;
            self.asked_in_vain = if self.proven { self.asked_in_vain } else { 0 };
            self.proven = true;
            self.not_before = now;
        }
    }

    /// The leader goes, and wants this voter to be the next.
    pub fn handle_call(&mut self, now: Moment) {
        self.called = Some(now);
        self.asked_in_vain = 0;
        self.not_before = self.heard + self.timing.lease;
    }

    /// Another voter has entries that this one lacks: it is to stand first.
    pub fn handle_behind(&mut self, now: Moment) {
        self.not_before = self.not_before.max(now + self.timing.retry_proven * 3);
    }

    /// Time passed. Call it again at [`Self::wake_at`].
    pub fn handle_tick(&mut self, now: Moment) -> Option<Effect> {
        if self.wake_at()? > now {
            return None;
        }
        let alone = BTreeSet::from([self.me]);
        if (self.proven && !self.stood) || self.electorate.is_majority(&alone) {
            self.stood = self.proven;
            return Some(self.elect(now));
        }
        self.round += 1;
        self.asked = Some(alone);
        // Some heard the leader a little later than this voter did: it asks again soon. Asking disturbs nobody.
        let pause = match (self.proven, self.called) {
            (true, _) => self.timing.retry_proven,
            (false, Some(_)) => self.timing.spread / 10,
            (false, None) => self.timing.spread / 2,
        };
        // Where answers take longer than that, each would come after the next question, for ever: so there is more time by and by.
        let longer = self.asked_in_vain.saturating_sub(ASKED_SOON).min(8);
        let pause = (pause * (1 << longer)).min(self.timing.lease.max(pause));
        self.asked_in_vain = self.asked_in_vain.saturating_add(1);
        self.not_before = now + pause + self.by_chance(pause);
        Some(Effect::Ask { round: self.round })
    }

    /// Another voter would vote for this one.
    pub fn handle_answer(&mut self, now: Moment, round: u64, voter: Life) -> Option<Effect> {
        if round != self.round || self.leading {
            return None;
        }
        let asked = self.asked.as_mut()?;
        asked.insert(voter);
        if !self.electorate.is_majority(asked) {
            return None;
        }
        Some(self.elect(now))
    }

    fn elect(&mut self, now: Moment) -> Effect {
        let retry = if self.proven { self.timing.retry_proven } else { self.timing.retry };
        self.asked = None;
        self.not_before = now + retry + self.by_chance(retry);
        Effect::Elect
    }

    /// When a leader was last heard, or this voter began.
    pub const fn heard(&self) -> Moment {
        self.heard
    }

    /// When to call [`Self::handle_tick`]; `None` while there is nothing to wait for.
    pub fn wake_at(&self) -> Option<Moment> {
        (!self.leading && self.electorate.contains(self.me)).then_some(self.not_before)
    }

    /// Whether this voter would vote for another, which has (or lacks) all entries that this one has.
    pub fn would_vote(&self, now: Moment, up_to_date: bool) -> bool {
        let missed = self.proven || now >= self.heard + self.timing.lease;
        up_to_date && missed && !self.leading && now >= self.granted_until
    }

    /// A duration below `bound`, by chance: xorshift64*, which is good enough to be apart.
    fn by_chance(&mut self, bound: Duration) -> Duration {
        self.chance = self.chance.max(1);
        self.chance ^= self.chance >> 12;
        self.chance ^= self.chance << 25;
        self.chance ^= self.chance >> 27;
        let drawn = self.chance.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let bound = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(drawn.checked_rem(bound).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn timing() -> Timing {
        Timing { lease: 300 * MS, spread: 50 * MS, retry: 80 * MS, retry_proven: 15 * MS }
    }

    fn at(millis: u64) -> Moment {
        Moment::from_millis(10_000 + millis)
    }

    fn three() -> Electorate {
        Electorate { sets: vec![[1, 2, 3].map(Life).into()] }
    }

    fn voter(me: u64) -> Election {
        let mut election = Election::new(at(0), Life(me), timing(), me);
        election.handle_standing(at(0), three(), false);
        election
    }

    #[test]
    fn answers_that_take_longer_than_the_pause_come_in_time_by_and_by() {
        for proven in [false, true] {
            let mut law = voter(1);
            if proven {
                law.handle_proof(at(300));
                // Stood at once, and did not win.
                assert_eq!(law.handle_tick(at(300)), Some(Effect::Elect));
            }
            let round_trip = 80 * MS;
            let (mut answers, mut stood) = (Vec::new(), None);
            while stood.is_none() {
                let wake = law.wake_at().unwrap();
                assert!(wake < at(5_000), "each answer comes after the next question");
                let next = answers.first().copied().filter(|(arrives, _)| *arrives <= wake);
                if let Some((arrives, round)) = next {
                    answers.remove(0);
                    stood = law.handle_answer(arrives, round, Life(2)).map(|_| arrives);
                } else if let Some(Effect::Ask { round }) = law.handle_tick(wake) {
                    answers.push((wake + round_trip, round));
                }
            }
            assert!(stood.unwrap() < at(1_500), "{stood:?}");
        }
    }

    #[test]
    fn silence_is_asked_about_before_anybody_stands() {
        let mut law = voter(1);
        assert_eq!(law.handle_tick(at(299)), None);
        let wake = law.wake_at().unwrap();
        assert!(wake >= at(305) && wake < at(350));
        assert_eq!(law.handle_tick(wake), Some(Effect::Ask { round: 1 }));
        assert_eq!(law.handle_answer(at(351), 1, Life(2)), Some(Effect::Elect));
        assert_eq!(law.handle_answer(at(352), 1, Life(3)), None, "once is enough");
    }

    #[test]
    fn a_frozen_voter_that_wakes_disturbs_nobody() {
        let (mut frozen, mut well) = (voter(1), voter(2));
        well.handle_heard(at(4_990));
        assert_eq!(frozen.handle_tick(at(5_000)), Some(Effect::Ask { round: 1 }));
        assert!(!well.would_vote(at(5_001), true));
        frozen.handle_heard(at(5_002));
        assert_eq!(frozen.handle_answer(at(5_003), 1, Life(2)), None, "old news");
        assert_eq!(frozen.handle_tick(at(5_100)), None);
    }

    #[test]
    fn questions_are_repeated_and_old_answers_do_not_count() {
        let mut law = voter(1);
        assert_eq!(law.handle_tick(at(400)), Some(Effect::Ask { round: 1 }));
        let again = law.wake_at().unwrap();
        assert!(again > at(400) && again <= at(480));
        assert_eq!(law.handle_tick(again), Some(Effect::Ask { round: 2 }));
        assert_eq!(law.handle_answer(again, 1, Life(2)), None);
        assert_eq!(law.handle_answer(again, 2, Life(2)), Some(Effect::Elect));
        let unheard = law.wake_at().unwrap();
        assert!(unheard > again, "an election without outcome is tried again");
        assert_eq!(law.handle_tick(unheard), Some(Effect::Ask { round: 3 }));
    }

    #[test]
    fn a_proven_crash_is_followed_at_once() {
        let mut law = voter(1);
        law.handle_heard(at(1_000));
        law.handle_proof(at(1_001));
        assert!(law.would_vote(at(1_001), true) && !law.would_vote(at(1_001), false));
        assert_eq!(law.handle_tick(at(1_001)), Some(Effect::Elect));
        let again = law.wake_at().unwrap();
        assert!(again <= at(1_031));
        law.handle_heard(again);
        assert_eq!(law.handle_tick(again + 100 * MS), None, "there is a leader");
        law.handle_proof(again + 200 * MS);
        assert_eq!(law.handle_tick(again + 200 * MS), Some(Effect::Elect), "another leader's crash");
    }

    #[test]
    fn who_stood_in_vain_asks_before_it_stands_again() {
        let mut law = voter(1);
        law.handle_proof(at(1_001));
        assert_eq!(law.handle_tick(at(1_001)), Some(Effect::Elect));
        let again = law.wake_at().unwrap();
        assert_eq!(law.handle_tick(again), Some(Effect::Ask { round: 1 }));
        law.handle_proof(again);
        assert_eq!(
            law.handle_tick(again),
            Some(Effect::Ask { round: 2 }),
            "the same proof again proves no more"
        );
        law.handle_behind(again);
        let again = law.wake_at().unwrap();
        assert!(again > at(1_001) + 40 * MS, "who is behind lets others go first");
        assert_eq!(law.handle_tick(again), Some(Effect::Ask { round: 3 }), "and raises no term meanwhile");
        assert_eq!(law.handle_answer(again, 3, Life(3)), Some(Effect::Elect));
        assert!(law.wake_at().unwrap() <= again + 30 * MS, "quickly, for the crash is proven");
    }

    #[test]
    fn whoever_is_called_asks_first() {
        let (mut called, mut other) = (voter(1), voter(2));
        for law in [&mut called, &mut other] {
            law.handle_heard(at(1_000));
        }
        called.handle_call(at(1_001));
        called.handle_heard(at(1_002));
        assert_eq!(called.wake_at(), Some(at(1_302)), "its last words came later than its call");
        assert!(other.wake_at().unwrap() >= at(1_312));
        assert!(!other.would_vote(at(1_299), true) && other.would_vote(at(1_300), true));
    }

    #[test]
    fn whoever_was_voted_for_has_time_to_win() {
        let mut law = voter(1);
        assert_eq!(law.handle_tick(at(400)), Some(Effect::Ask { round: 1 }));
        law.handle_granted(at(401));
        assert_eq!(law.handle_answer(at(402), 1, Life(2)), None);
        assert!(!law.would_vote(at(402), true) && law.would_vote(at(481), true));
        assert_eq!(law.handle_tick(at(480)), None);
        assert!(law.wake_at().unwrap() <= at(561), "but not for ever");
    }

    #[test]
    fn a_leader_and_a_node_without_a_vote_wait_for_nothing_and_a_lone_voter_for_nobody() {
        let mut law = voter(1);
        law.handle_standing(at(10), three(), true);
        law.handle_proof(at(11));
        assert_eq!((law.wake_at(), law.handle_tick(at(9_000))), (None, None));
        assert!(!law.would_vote(at(9_000), true));
        law.handle_standing(at(9_000), Electorate { sets: vec![[2, 3].map(Life).into()] }, false);
        assert_eq!(law.wake_at(), None);
        law.handle_standing(at(9_000), Electorate { sets: vec![[1].map(Life).into()] }, false);
        assert_eq!(law.handle_tick(at(9_001)), Some(Effect::Elect));
        assert_eq!(law.handle_tick(at(9_002)), None, "one try at a time");
    }

    #[test]
    fn a_joint_change_needs_both_majorities() {
        let joint = Electorate { sets: vec![[1, 2, 3].map(Life).into(), [1, 4, 5].map(Life).into()] };
        assert!(!joint.is_majority(&[1, 2, 3].map(Life).into()));
        assert!(joint.is_majority(&[1, 2, 4].map(Life).into()));
        assert!(!Electorate::default().is_majority(&[1].map(Life).into()));
    }
}
