//! Every request that was accepted ends in exactly one way: answered, rejected with a reason, or expired.
//!
//! ```text
//! accepted ──▶ open ──┬──▶ answered
//!                     ├──▶ rejected, by reason
//!                     └──▶ expired ◀── also what was open when its worker or node crashed: of these, unknown
//!
//! sent = answered + rejected + expired + open, at all times; open = 0 at rest
//! ```
//!
//! [`Counts`] is what a worker counts with, and costs an addition; [`Ledger`] is what is shown.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::ids::{Epoch, PartitionId};
use crate::partitions::request::{Failure, Reply};

/// Why a request was rejected, by the name that its failure has for programs.
const REASONS: [&str; 8] =
    ["stale", "not_ready", "no_quorum", "fenced", "overloaded", "no_partition", "rejected", "worker_failed"];

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The worker answered.
    Answered,
    /// The caller was told why not.
    Rejected(Reason),
    /// No answer came in time.
    Expired,
}

/// Why a request was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reason(u8);

impl Reason {
    /// All reasons, in the order in which they are shown.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..REASONS.len() as u8).map(Self)
    }

    /// Its name for programs: [`Failure::code`].
    pub const fn code(self) -> &'static str {
        REASONS[self.0 as usize]
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

impl Ending {
    /// How a request ended that was answered like this.
    pub const fn of(reply: &Reply) -> Self {
        match reply {
            Ok(_) => Self::Answered,
            Err(failure) => Self::of_failure(failure),
        }
    }

    /// How a request ended that failed like this.
    pub const fn of_failure(failure: &Failure) -> Self {
        let reason = match failure {
            Failure::Timeout { .. } => return Self::Expired,
            Failure::Stale { .. } => 0,
            Failure::NotReady => 1,
            Failure::NoQuorum => 2,
            Failure::Fenced { .. } => 3,
            Failure::Overloaded => 4,
            Failure::NoPartition(_) => 5,
            Failure::Rejected(_) => 6,
            Failure::WorkerFailed(_) => 7,
        };
        Self::Rejected(Reason(reason))
    }

    /// How many endings there are.
    pub const COUNT: usize = 2 + REASONS.len();

    /// Its place among all endings, for whoever counts by place: see [`Counts::counted`].
    pub const fn index(self) -> usize {
        match self {
            Self::Answered => 0,
            Self::Expired => 1,
            Self::Rejected(reason) => 2 + reason.0 as usize,
        }
    }
}

/// How many requests came, and how they ended. Add two of them with [`Self::merge`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Shown", into = "Shown")]
pub struct Counts {
    sent: u64,
    answered: u64,
    rejected: [u64; REASONS.len()],
    expired: u64,
    unknown: u64,
    /// Endings of requests that were not open: each is a fault of ours.
    excess: u64,
}

impl Counts {
    /// What somebody else counted: how many were accepted, how they ended, by [`Ending::index`], and how many of the
    /// expired are unknown.
    pub fn counted(sent: u64, ended: [u64; Ending::COUNT], unknown: u64) -> Self {
        let [answered, expired, rejected @ ..] = ended;
        let excess = ended.iter().sum::<u64>().saturating_sub(sent);
        Self { sent, answered, rejected, expired, unknown, excess }
    }

    /// A request was accepted. It is open from now on.
    pub const fn accept(&mut self) {
        self.sent += 1;
    }

    /// An open request ended.
    pub const fn end(&mut self, ending: Ending) {
        if self.open() == 0 {
            self.excess += 1;
            return;
        }
        match ending {
            Ending::Answered => self.answered += 1,
            Ending::Rejected(reason) => self.rejected[reason.0 as usize] += 1,
            Ending::Expired => self.expired += 1,
        }
    }

    /// Whoever held the open requests is gone: nobody will know how they ended.
    pub const fn write_off(&mut self) {
        let open = self.open();
        self.expired += open;
        self.unknown += open;
    }

    /// Takes in what somebody else counted.
    pub fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        self.answered += other.answered;
        self.rejected.iter_mut().zip(other.rejected).for_each(|(ours, theirs)| *ours += theirs);
        self.expired += other.expired;
        self.unknown += other.unknown;
        self.excess += other.excess;
    }

    /// How many were accepted.
    pub const fn sent(&self) -> u64 {
        self.sent
    }

    /// How many the worker answered.
    pub const fn answered(&self) -> u64 {
        self.answered
    }

    /// How many were rejected for this reason.
    pub const fn rejected(&self, reason: Reason) -> u64 {
        self.rejected[reason.0 as usize]
    }

    /// How many were rejected.
    pub const fn rejected_total(&self) -> u64 {
        let (mut total, mut at) = (0, 0);
        while at < REASONS.len() {
            total += self.rejected[at];
            at += 1;
        }
        total
    }

    /// How many were not answered in time, those written off included.
    pub const fn expired(&self) -> u64 {
        self.expired
    }

    /// How many of the expired were written off.
    pub const fn unknown(&self) -> u64 {
        self.unknown
    }

    /// How many have not ended.
    pub const fn open(&self) -> u64 {
        self.sent.saturating_sub(self.answered + self.rejected_total() + self.expired)
    }

    /// Whether no request ended twice, or without having been accepted.
    pub const fn is_balanced(&self) -> bool {
        self.excess == 0 && self.answered + self.rejected_total() + self.expired <= self.sent
    }

    /// Whether everything that was accepted has ended, once.
    pub const fn is_closed(&self) -> bool {
        self.is_balanced() && self.open() == 0
    }

    /// What was counted since `earlier` was copied from this.
    fn since(&self, earlier: &Self) -> Self {
        let mut rejected = self.rejected;
        rejected.iter_mut().zip(earlier.rejected).for_each(|(now, then)| *now = now.saturating_sub(then));
        Self {
            sent: self.sent.saturating_sub(earlier.sent),
            answered: self.answered.saturating_sub(earlier.answered),
            rejected,
            expired: self.expired.saturating_sub(earlier.expired),
            unknown: self.unknown.saturating_sub(earlier.unknown),
            excess: self.excess.saturating_sub(earlier.excess),
        }
    }
}

/// [`Counts`] as people and programs see them: reasons by name, those that never occurred left out.
#[derive(Serialize, Deserialize)]
struct Shown {
    sent: u64,
    answered: u64,
    rejected: BTreeMap<String, u64>,
    expired: u64,
    unknown: u64,
    open: u64,
    excess: u64,
}

impl From<Counts> for Shown {
    fn from(counts: Counts) -> Self {
        let of = |reason: Reason| (reason.to_string(), counts.rejected(reason));
        Self {
            sent: counts.sent,
            answered: counts.answered,
            rejected: Reason::all().map(of).filter(|(_, count)| *count > 0).collect(),
            expired: counts.expired,
            unknown: counts.unknown,
            open: counts.open(),
            excess: counts.excess,
        }
    }
}

impl From<Shown> for Counts {
    fn from(shown: Shown) -> Self {
        let Shown { sent, answered, expired, unknown, excess, .. } = shown;
        let mut rejected = [0; REASONS.len()];
        for reason in Reason::all() {
            rejected[reason.0 as usize] = shown.rejected.get(reason.code()).copied().unwrap_or(0);
        }
        Self { sent, answered, rejected, expired, unknown, excess }
    }
}

/// What happened to a partition's requests while it moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// The epoch that ended.
    pub from: Epoch,
    /// The epoch that began. None: the old one goes on, or the new one is another node's.
    pub to: Option<Epoch>,
    /// How many requests were open when it began.
    pub open_before: u64,
    /// How many were open when it ended; until then, zero.
    pub open_after: u64,
    /// What was counted in between. Endings of requests that were open before are among them.
    pub during: Counts,
}

impl Handover {
    /// Whether every request that was open before, or came during it, ended once or was open after it.
    pub const fn is_balanced(&self) -> bool {
        let Self { open_before, open_after, during, .. } = self;
        let ended = during.answered + during.rejected_total() + during.expired;
        during.excess == 0 && *open_before + during.sent == ended + *open_after
    }
}

/// The handovers that are kept of one partition; older ones are only counted.
pub const HANDOVERS_KEPT: usize = 16;

/// One partition's part of the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    counts: Counts,
    handovers: VecDeque<Handover>,
    handovers_total: u64,
    /// Handovers in which a request was lost or ended twice.
    handovers_unbalanced: u64,
    #[serde(skip)]
    moving: Option<(Epoch, Counts)>,
}

impl Account {
    /// What is counted with.
    pub const fn counts_mut(&mut self) -> &mut Counts {
        &mut self.counts
    }

    /// Somebody else counts: this is what they have.
    pub const fn observe(&mut self, counts: Counts) {
        self.counts = counts;
    }

    /// What was counted.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The partition begins to move away from the primary of this epoch.
    pub const fn handle_handover_begun(&mut self, from: Epoch) {
        self.moving = Some((from, self.counts));
    }

    /// The move is over: the partition is served under `to`, or, with none, as before.
    pub fn handle_handover_ended(&mut self, to: Option<Epoch>) {
        let Some((from, before)) = self.moving.take() else { return };
        let during = self.counts.since(&before);
        let (open_before, open_after) = (before.open(), self.counts.open());
        let handover = Handover { from, to, open_before, open_after, during };
        self.handovers_total += 1;
        self.handovers_unbalanced += u64::from(!handover.is_balanced());
        self.handovers.push_back(handover);
        if self.handovers.len() > HANDOVERS_KEPT {
            self.handovers.pop_front();
        }
    }

    /// The last [`HANDOVERS_KEPT`] handovers, the oldest first.
    pub fn handovers(&self) -> impl Iterator<Item = &Handover> {
        self.handovers.iter()
    }

    /// How many handovers there were.
    pub const fn handovers_total(&self) -> u64 {
        self.handovers_total
    }

    /// Whether no request was lost or ended twice, in or out of handovers.
    pub const fn is_balanced(&self) -> bool {
        self.counts.is_balanced() && self.handovers_unbalanced == 0
    }

    fn merge(&mut self, other: &Self) {
        self.counts.merge(&other.counts);
        self.handovers.extend(other.handovers.iter().copied());
        self.handovers.make_contiguous().sort_by_key(|handover| handover.from);
        let surplus = self.handovers.len().saturating_sub(HANDOVERS_KEPT);
        self.handovers.drain(..surplus);
        self.handovers_total += other.handovers_total;
        self.handovers_unbalanced += other.handovers_unbalanced;
    }
}

/// The accounts of all partitions that a node has served, or, merged, of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    accounts: BTreeMap<PartitionId, Account>,
}

impl Ledger {
    /// A partition's account; a new one, if it has none.
    pub fn account_mut(&mut self, partition: PartitionId) -> &mut Account {
        self.accounts.entry(partition).or_default()
    }

    /// A partition's account.
    pub fn account(&self, partition: PartitionId) -> Option<&Account> {
        self.accounts.get(&partition)
    }

    /// All accounts, by partition.
    pub fn accounts(&self) -> impl Iterator<Item = (PartitionId, &Account)> {
        self.accounts.iter().map(|(partition, account)| (*partition, account))
    }

    /// A partition's worker crashed, or its node: what it held is written off.
    pub fn handle_crash(&mut self, partition: PartitionId) {
        if let Some(account) = self.accounts.get_mut(&partition) {
            account.counts.write_off();
        }
    }

    /// Takes in another node's ledger.
    pub fn merge(&mut self, other: &Self) {
        for (partition, account) in &other.accounts {
            self.account_mut(*partition).merge(account);
        }
    }

    /// All partitions together.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.accounts.values().for_each(|account| total.merge(&account.counts));
        total
    }

    /// Whether no request was lost or ended twice.
    pub fn is_balanced(&self) -> bool {
        self.accounts.values().all(Account::is_balanced)
    }

    /// Whether everything that was accepted has ended, once.
    pub fn is_closed(&self) -> bool {
        self.is_balanced() && self.total().open() == 0
    }
}

impl Serialize for Ledger {
    /// `{"closed": …, "balanced": …, "total": {…}, "partitions": {"partition-0": {…}, …}}`
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Image<'a> {
            closed: bool,
            balanced: bool,
            total: Counts,
            partitions: BTreeMap<String, &'a Account>,
        }
        let image = Image {
            closed: self.is_closed(),
            balanced: self.is_balanced(),
            total: self.total(),
            partitions: self.accounts.iter().map(|(id, account)| (id.to_string(), account)).collect(),
        };
        image.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Ledger {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Image {
            partitions: BTreeMap<String, Account>,
        }
        let parse = |(id, account): (String, Account)| Ok((id.parse::<PartitionId>()?, account));
        let accounts: Result<_, crate::ids::ParsePartitionIdError> =
            Image::deserialize(deserializer)?.partitions.into_iter().map(parse).collect();
        Ok(Self { accounts: accounts.map_err(serde::de::Error::custom)? })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_failure_has_the_reason_that_its_code_says() {
        let failures = [
            Failure::Stale { version: crate::ids::Version(1) },
            Failure::NotReady,
            Failure::NoQuorum,
            Failure::Fenced { changed: true },
            Failure::Overloaded,
            Failure::NoPartition(String::new()),
            Failure::Rejected(String::new()),
            Failure::WorkerFailed(String::new()),
        ];
        for failure in failures {
            let code = failure.code();
            let Ending::Rejected(reason) = Ending::of(&Err(failure)) else {
                panic!("{code} is no rejection")
            };
            assert_eq!(reason.code(), code);
        }
        let all = [Ending::Answered, Ending::Expired].into_iter().chain(Reason::all().map(Ending::Rejected));
        assert!(all.map(Ending::index).eq(0..Ending::COUNT), "each has a place of its own");
        assert_eq!(Ending::of(&Ok(Bytes::new())), Ending::Answered);
        assert_eq!(Ending::of(&Err(Failure::Timeout { maybe_applied: true })), Ending::Expired);
    }

    #[test]
    fn a_handover_accounts_for_what_was_open_and_what_came() {
        let mut account = Account::default();
        (0..5).for_each(|_| account.counts_mut().accept());
        account.counts_mut().end(Ending::Answered);
        account.handle_handover_begun(Epoch(3));
        account.counts_mut().accept();
        account.counts_mut().end(Ending::of(&Err(Failure::Fenced { changed: false })));
        account.counts_mut().end(Ending::Answered);
        account.handle_handover_ended(Some(Epoch(4)));
        let handover = account.handovers().next().unwrap();
        assert_eq!((handover.open_before, handover.open_after), (4, 3));
        assert!(handover.is_balanced());
        // An ending too many shows.
        (0..4).for_each(|_| account.counts_mut().end(Ending::Answered));
        assert!(!account.is_balanced());
    }

    #[test]
    fn it_is_shown_by_name_and_reads_back() {
        let mut ledger = Ledger::default();
        let partition = PartitionId::user(3);
        (0..3).for_each(|_| ledger.account_mut(partition).counts_mut().accept());
        ledger.account_mut(partition).counts_mut().end(Ending::of(&Err(Failure::Overloaded)));
        ledger.handle_crash(partition);
        let json = serde_json::to_value(&ledger).unwrap();
        assert_eq!(json["closed"], true);
        assert_eq!(json["partitions"]["partition-3"]["counts"]["rejected"]["overloaded"], 1);
        assert_eq!((&json["total"]["expired"], &json["total"]["unknown"]), (&2.into(), &2.into()));
        assert_eq!(serde_json::from_value::<Ledger>(json).unwrap(), ledger);
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Accept,
        End(u8),
        Crash,
        Begin,
        Finish,
    }

    proptest! {
        #[test]
        fn the_books_balance_at_all_times(
            steps in proptest::collection::vec((0_u32..3, prop_oneof![
                6 => Just(Step::Accept),
                5 => (0_u8..10).prop_map(Step::End),
                1 => Just(Step::Crash),
                1 => Just(Step::Begin),
                1 => Just(Step::Finish),
            ]), 0..300),
        ) {
            let mut nodes = [Ledger::default(), Ledger::default()];
            for (at, (partition, step)) in steps.into_iter().enumerate() {
                let (ledger, partition) = (&mut nodes[at % 2], PartitionId::user(partition));
                let account = ledger.account_mut(partition);
                match step {
                    Step::Accept => account.counts_mut().accept(),
                    Step::End(_) if account.counts().open() == 0 => {}
                    Step::End(8) => account.counts_mut().end(Ending::Answered),
                    Step::End(9) => account.counts_mut().end(Ending::Expired),
                    Step::End(reason) => account.counts_mut().end(Ending::Rejected(Reason(reason))),
                    Step::Crash => ledger.handle_crash(partition),
                    Step::Begin => account.handle_handover_begun(Epoch(at as u64)),
                    Step::Finish => account.handle_handover_ended(None),
                }
                let mut both = nodes[0].clone();
                both.merge(&nodes[1]);
                let total = both.total();
                prop_assert_eq!(
                    total.sent(),
                    total.answered() + total.rejected_total() + total.expired() + total.open()
                );
                prop_assert!(both.is_balanced());
                prop_assert_eq!(both.is_closed(), total.open() == 0);
            }
        }
    }
}
