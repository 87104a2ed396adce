//! Restart verdicts: what a supervisor does about a child that stopped.
//!
//! ```text
//!               exit, to be restarted                      back-off over
//!  Running ───────────────────────────▶ Pending ───────────────────────────▶ Starting ──▶ Running
//!     │  rest_for_one: those after it are       ▲                                │
//!     │  stopped in reverse, and pending too    └──────── the start failed ──────┘
//!     ├ exit, not to be restarted ──▶ Gone
//!     └ too many restarts in the window ──▶ the supervisor gives up: all stop in reverse, its own supervisor decides
//! ```
//!
//! Strategies, restart types and intensity are Erlang/OTP's (`supervisor`, "Design Principles"); the back-off is ours: OTP
//! restarts at once.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Moment;

/// Whether a child that stopped is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Always.
    #[default]
    Permanent,
    /// Only after a failure.
    Transient,
    /// Never.
    Temporary,
}

/// Who is restarted with a child.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Nobody.
    OneForOne,
    /// All that were started after it, for they may hold on to what it was.
    #[default]
    RestForOne,
}

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It stopped by itself, or was asked to.
    Normal,
    /// It failed, panicked, or was killed, or its start failed.
    Failed(String),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => f.write_str("it stopped"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// How much restarting is too much, and how long to wait before each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Policy {
    /// Who is restarted with a child. Default `rest_for_one`.
    pub strategy: Strategy,
    /// The most restarts within `window`. One more, and the supervisor gives up. Default 5; 0 gives up at the first.
    pub restarts_max: u32,
    /// The window. Default 30 s. A child that ran for so long without a failure starts its back-off from the beginning.
    pub window: Duration,
    /// The wait before a child's first restart. Default 50 ms. Each further one waits twice as long.
    pub backoff_first: Duration,
    /// The longest wait. Default 5 s; at least `backoff_first`, and shorter than `window`, or a child that fails at once would
    /// never be given up.
    pub backoff_longest: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            strategy: Strategy::default(),
            restarts_max: 5,
            window: Duration::from_secs(30),
            backoff_first: Duration::from_millis(50),
            backoff_longest: Duration::from_secs(5),
        }
    }
}

/// The policy contradicts itself. Nothing was started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("supervision.{knob} is {value:?}, and must be {must}")]
pub struct PolicyError {
    /// The knob.
    pub knob: &'static str,
    /// What it is set to.
    pub value: Duration,
    /// What it must be, beside which neighbour.
    pub must: String,
}

impl Policy {
    /// Checks each knob against its neighbours.
    ///
    /// # Errors
    /// The back-off's longest wait is shorter than its first, or not shorter than the window.
    pub fn check(&self) -> Result<(), PolicyError> {
        let value = self.backoff_longest;
        if value < self.backoff_first {
            let must = format!("at least backoff_first ({:?})", self.backoff_first);
            return Err(PolicyError { knob: "backoff_longest", value, must });
        }
        if value >= self.window {
            let must = format!("shorter than window ({:?})", self.window);
            return Err(PolicyError { knob: "backoff_longest", value, must });
        }
        Ok(())
    }

    fn backoff(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.backoff_first.saturating_mul(1 << doublings).min(self.backoff_longest)
    }
}

/// One child, by its place in the start order, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChildId(pub usize);

/// What is to be done about an exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: the child is not to be restarted, or it was stopped on purpose.
    LetBe,
    /// Stop these now, in this order; at `at` start those, in that order. It replaces every verdict before it.
    Restart {
        /// Who is to be stopped, the last started first.
        stop: Vec<ChildId>,
        /// When to start; before that nobody is started.
        at: Moment,
        /// Who is to be started, in order.
        start: Vec<ChildId>,
    },
    /// It happened too often. Stop all in this order, then fail.
    GiveUp {
        /// Who is to be stopped, the last started first.
        stop: Vec<ChildId>,
        /// Why.
        why: GaveUp,
    },
}

/// A supervisor could not keep its children running. All of them are stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{child} had to be restarted again, after {restarts} restarts within {window:?}; at last: {exit}")]
pub struct GaveUp {
    /// The child that ended last.
    pub child: String,
    /// How it ended.
    pub exit: Exit,
    /// How many restarts there had been within the window.
    pub restarts: u32,
    /// The window.
    pub window: Duration,
}

/// The law of one supervisor.
#[derive(Clone, Debug)]
pub struct Supervisor {
    policy: Policy,
    children: Vec<Child>,
    /// When children were restarted, within the window.
    restarts: VecDeque<Moment>,
    start_at: Moment,
    given_up: bool,
}

#[derive(Clone, Debug)]
struct Child {
    name: String,
    restart: Restart,
    state: State,
    failures: u32,
    since: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be started, at first or again.
    Pending,
    Running,
    /// Ended, and not to be started again.
    Gone,
}

impl Supervisor {
    /// A supervisor of these children, in start order. They are all to be started: see [`Self::pending`].
    ///
    /// # Errors
    /// The policy contradicts itself.
    pub fn new(
        policy: Policy,
        children: impl IntoIterator<Item = (String, Restart)>,
    ) -> Result<Self, PolicyError> {
        policy.check()?;
        let child = |(name, restart)| Child {
            name,
            restart,
            state: State::Pending,
            failures: 0,
            since: Moment::ZERO,
        };
        Ok(Self {
            policy,
            children: children.into_iter().map(child).collect(),
            restarts: VecDeque::new(),
            start_at: Moment::ZERO,
            given_up: false,
        })
    }

    /// A child runs.
    pub fn handle_started(&mut self, now: Moment, child: ChildId) {
        if let Some(child) = self.children.get_mut(child.0) {
            child.state = State::Running;
            child.since = now;
        }
    }

    /// A child that ran ended, or one that was to be started could not be.
    pub fn handle_exit(&mut self, now: Moment, id: ChildId, exit: &Exit) -> Verdict {
        let Some(child) = self.children.get_mut(id.0).filter(|child| child.state != State::Gone) else {
            return Verdict::LetBe;
        };
        if self.given_up {
            child.state = State::Gone;
            return Verdict::LetBe;
        }
        let failed = matches!(exit, Exit::Failed(_));
        let again = match child.restart {
            Restart::Permanent => true,
            Restart::Transient => failed,
            Restart::Temporary => false,
        };
        if !again {
            child.state = State::Gone;
            return Verdict::LetBe;
        }
        if child.state == State::Running && now.since(child.since) >= self.policy.window {
            child.failures = 0;
        }
        child.state = State::Pending;
        child.failures = child.failures.saturating_add(1);
        let (name, failures) = (child.name.clone(), child.failures);
        while self.restarts.front().is_some_and(|at| now.since(*at) >= self.policy.window) {
            self.restarts.pop_front();
        }
        let restarts = u32::try_from(self.restarts.len()).unwrap_or(u32::MAX);
        if restarts >= self.policy.restarts_max {
            let why = GaveUp { child: name, exit: exit.clone(), restarts, window: self.policy.window };
            return Verdict::GiveUp { stop: self.handle_stop(), why };
        }
        self.restarts.push_back(now);
        self.start_at = self.start_at.max(now + self.policy.backoff(failures));
        Verdict::Restart { stop: self.pull_down_after(id), at: self.start_at, start: self.pending() }
    }

    /// All is to stop, in this order: the last started first. Nobody is restarted from now on.
    pub fn handle_stop(&mut self) -> Vec<ChildId> {
        self.given_up = true;
        let running = self.children.iter().enumerate().filter(|(_, child)| child.state == State::Running);
        let order = running.map(|(at, _)| ChildId(at)).rev().collect();
        self.children.iter_mut().for_each(|child| child.state = State::Gone);
        order
    }

    /// Who is to be started, in order.
    pub fn pending(&self) -> Vec<ChildId> {
        let pending = self.children.iter().enumerate().filter(|(_, child)| child.state == State::Pending);
        pending.map(|(at, _)| ChildId(at)).collect()
    }

    /// Whether a child runs, as far as is known.
    pub fn is_running(&self, child: ChildId) -> bool {
        self.children.get(child.0).is_some_and(|child| child.state == State::Running)
    }

    /// A child's name.
    pub fn name(&self, child: ChildId) -> &str {
        self.children.get(child.0).map_or("", |child| &child.name)
    }

    /// How many restarts there were within the window that ends at `now`.
    pub fn restarts(&self, now: Moment) -> usize {
        self.restarts.iter().filter(|at| now.since(**at) < self.policy.window).count()
    }

    fn pull_down_after(&mut self, id: ChildId) -> Vec<ChildId> {
        if self.policy.strategy == Strategy::OneForOne {
            return Vec::new();
        }
        let rest = self.children.iter_mut().enumerate().skip(id.0 + 1).rev();
        let running = rest.filter(|(_, child)| child.state == State::Running);
        let mut stop = Vec::new();
        for (at, child) in running {
            // As in OTP, a temporary child that is pulled down stays down.
            child.state = if child.restart == Restart::Temporary { State::Gone } else { State::Pending };
            stop.push(ChildId(at));
        }
        stop
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::supervision::Strategy;

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    fn failed() -> Exit {
        Exit::Failed("boom".into())
    }

    fn ids(ids: &[usize]) -> Vec<ChildId> {
        ids.iter().copied().map(ChildId).collect()
    }

    fn running(policy: Policy, kinds: &[Restart]) -> Supervisor {
        let children = kinds.iter().enumerate().map(|(at, kind)| (format!("child-{at}"), *kind));
        let mut law = Supervisor::new(policy, children).unwrap();
        assert_eq!(law.pending().len(), kinds.len());
        law.pending().into_iter().for_each(|child| law.handle_started(at(0), child));
        law
    }

    use Restart::{Permanent, Temporary, Transient};

    #[test]
    fn those_after_the_failed_one_stop_in_reverse_and_start_in_order_and_those_before_run_on() {
        let mut law = running(Policy::default(), &[Permanent; 4]);
        let verdict = law.handle_exit(at(100), ChildId(1), &failed());
        assert_eq!(verdict, Verdict::Restart { stop: ids(&[3, 2]), at: at(150), start: ids(&[1, 2, 3]) });
        assert!(law.is_running(ChildId(0)));
        // One before them fails while they wait: one plan for all, and never before its back-off.
        let verdict = law.handle_exit(at(120), ChildId(0), &failed());
        assert_eq!(verdict, Verdict::Restart { stop: vec![], at: at(170), start: ids(&[0, 1, 2, 3]) });

        let one_for_one = Policy { strategy: Strategy::OneForOne, ..Policy::default() };
        let mut law = running(one_for_one, &[Permanent; 3]);
        let verdict = law.handle_exit(at(100), ChildId(0), &failed());
        assert_eq!(verdict, Verdict::Restart { stop: vec![], at: at(150), start: ids(&[0]) });
    }

    #[test]
    fn transient_ones_are_restarted_after_a_failure_only_and_temporary_ones_never() {
        let mut law = running(Policy::default(), &[Transient, Temporary, Permanent]);
        assert_eq!(law.handle_exit(at(1), ChildId(1), &failed()), Verdict::LetBe);
        assert_eq!(law.handle_exit(at(1), ChildId(0), &Exit::Normal), Verdict::LetBe);
        assert!(law.pending().is_empty());
        let mut law = running(Policy::default(), &[Transient, Temporary, Permanent]);
        let verdict = law.handle_exit(at(100), ChildId(0), &failed());
        assert_eq!(verdict, Verdict::Restart { stop: ids(&[2, 1]), at: at(150), start: ids(&[0, 2]) });
        let mut law = running(Policy::default(), &[Permanent]);
        assert!(matches!(law.handle_exit(at(1), ChildId(0), &Exit::Normal), Verdict::Restart { .. }));
    }

    #[test]
    fn each_wait_is_twice_the_last_up_to_the_longest_and_calm_forgives() {
        let policy = Policy { restarts_max: 100, ..Policy::default() };
        let mut law = running(policy, &[Permanent]);
        let (mut now, mut waits) = (at(0), Vec::new());
        for _ in 0..9 {
            let Verdict::Restart { at, .. } = law.handle_exit(now, ChildId(0), &failed()) else { panic!() };
            waits.push(u64::try_from(at.since(now).as_millis()).unwrap());
            now = at;
            law.handle_started(now, ChildId(0));
        }
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        let Verdict::Restart { at, .. } = law.handle_exit(now + policy.window, ChildId(0), &failed()) else {
            panic!()
        };
        assert_eq!(at, now + policy.window + Duration::from_millis(50));
    }

    #[test]
    fn a_start_that_fails_counts_like_an_exit() {
        let mut law = running(Policy::default(), &[Permanent, Permanent]);
        law.handle_exit(at(0), ChildId(0), &failed());
        let verdict = law.handle_exit(at(50), ChildId(0), &Exit::Failed("no such port".into()));
        assert_eq!(verdict, Verdict::Restart { stop: vec![], at: at(150), start: ids(&[0, 1]) });
    }

    #[test]
    fn too_many_restarts_in_the_window_are_given_up_and_spread_out_ones_are_not() {
        let policy = Policy { restarts_max: 3, window: Duration::from_secs(10), ..Policy::default() };
        let mut law = running(policy, &[Permanent; 3]);
        for second in 0..3 {
            let now = at(second * 1000);
            let verdict = law.handle_exit(now, ChildId(1), &failed());
            assert!(matches!(verdict, Verdict::Restart { .. }), "{verdict:?}");
            law.pending().into_iter().for_each(|child| law.handle_started(now, child));
        }
        let verdict = law.handle_exit(at(3000), ChildId(1), &failed());
        let why = GaveUp { child: "child-1".into(), exit: failed(), restarts: 3, window: policy.window };
        assert_eq!(
            why.to_string(),
            "child-1 had to be restarted again, after 3 restarts within 10s; at last: boom"
        );
        assert_eq!(verdict, Verdict::GiveUp { stop: ids(&[2, 0]), why });
        assert_eq!(
            law.handle_exit(at(3001), ChildId(0), &failed()),
            Verdict::LetBe,
            "it was stopped on purpose"
        );
        assert!(law.pending().is_empty());

        let mut law = running(policy, &[Permanent]);
        for turn in 0..50 {
            let verdict = law.handle_exit(at(turn * 3500), ChildId(0), &failed());
            assert!(matches!(verdict, Verdict::Restart { .. }), "{verdict:?}");
            law.handle_started(at(turn * 3500 + 1), ChildId(0));
        }
    }

    #[test]
    fn a_stop_is_in_reverse_and_nobody_comes_back() {
        let mut law = running(Policy::default(), &[Permanent; 3]);
        law.handle_exit(at(1), ChildId(2), &failed());
        assert_eq!(law.handle_stop(), ids(&[1, 0]));
        assert_eq!(law.handle_exit(at(2), ChildId(0), &failed()), Verdict::LetBe);
        assert!(law.pending().is_empty());
    }

    #[test]
    fn a_policy_that_contradicts_itself_is_refused() {
        let secs = Duration::from_secs;
        let policy = Policy { backoff_longest: secs(30), ..Policy::default() };
        assert_eq!(policy.check().unwrap_err().knob, "backoff_longest");
        let policy = Policy { backoff_first: secs(6), ..Policy::default() };
        assert_eq!(policy.check().unwrap_err().must, "at least backoff_first (6s)");
    }

    proptest! {
        /// Whoever fails when: those before it are not stopped, the order is kept, no start is early, and the restarts within any
        /// window stay within the bound.
        #[test]
        fn verdicts_keep_their_promises(exits in proptest::collection::vec((0_usize..5, 0_u64..4000), 1..80)) {
            let policy = Policy { restarts_max: 4, window: Duration::from_secs(10), ..Policy::default() };
            let mut law = running(policy, &[Permanent; 5]);
            let (mut now, mut due, mut restarts) = (at(0), None, Vec::new());
            for (child, pause) in exits {
                now += Duration::from_millis(pause);
                if due.is_some_and(|due| due <= now) {
                    law.pending().into_iter().for_each(|child| law.handle_started(now, child));
                    due = None;
                }
                if !law.is_running(ChildId(child)) {
                    continue;
                }
                match law.handle_exit(now, ChildId(child), &failed()) {
                    Verdict::Restart { stop, at, start } => {
                        prop_assert!(stop.iter().all(|stopped| stopped.0 > child) && stop.is_sorted_by(|a, b| a > b));
                        prop_assert!(start.contains(&ChildId(child)) && start.is_sorted());
                        prop_assert!(at >= now + policy.backoff_first && due.is_none_or(|due| at >= due));
                        prop_assert!((child..5).all(|at| !law.is_running(ChildId(at))));
                        restarts.push(now);
                        due = Some(at);
                    }
                    Verdict::GiveUp { .. } => {
                        let recent = restarts.iter().filter(|at| now.since(**at) < policy.window).count();
                        prop_assert_eq!(recent, 4);
                        break;
                    }
                    Verdict::LetBe => prop_assert!(false, "a permanent child is never let be"),
                }
                let recent = restarts.iter().filter(|at| now.since(**at) < policy.window).count();
                prop_assert!(recent <= 4);
            }
        }
    }
}
