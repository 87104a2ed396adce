//! What the nodes say, and what is logged of it.

use bytes::Bytes;

use super::{Effect, Failures, Orders};
use crate::ids::NodeBoot;
use crate::names::claim::{Child, ClaimNumber, Holder, Reason, Stage};
use crate::names::crew::{Answer, NotStarted, Order};
use crate::names::directory::{Change, Directory};
use crate::names::name::Name;
use crate::supervision::{Exit, Restart};
use crate::time::Moment;

impl Orders {
    /// A node says something.
    pub fn handle_answer(
        &mut self,
        now: Moment,
        directory: &Directory,
        from: &NodeBoot,
        answer: Answer,
    ) -> Vec<Effect> {
        match answer {
            Answer::Started { name, number, actor } => {
                self.handle_started(directory, from, name, number, actor)
            }
            Answer::NotStarted { name, number, why } => {
                let Some(child) = self.current(directory, from, &name, number) else {
                    return self.forget(from, number);
                };
                let change = self.judge_not_started(now, child, from, &name, number, &why);
                self.log(name, number, change)
            }
            Answer::Ended { name, number, exit, handed } => {
                let Some(child) = self.current(directory, from, &name, number) else {
                    return self.forget(from, number);
                };
                let change = self.judge_ended(now, child, &name, number, exit, handed);
                self.log(name, number, change)
            }
            Answer::Gone { name, actor } => {
                let holder = Holder { node: from.clone(), actor };
                let crashed = Reason::Crashed("its actor is gone".into());
                directory.judge_release(&name, &holder, &crashed).map(Effect::Commit).into_iter().collect()
            }
            Answer::Audited => {
                self.handle_audited(now, directory, from);
                self.handle_tick(now, directory)
            }
        }
    }

    fn handle_started(
        &mut self,
        directory: &Directory,
        from: &NodeBoot,
        name: Name,
        number: ClaimNumber,
        actor: u64,
    ) -> Vec<Effect> {
        let Some(child) = self.current(directory, from, &name, number) else {
            // Whatever it was started for is over. What this node was told later it is not told by this.
            let order = Order::Stop { name, number, moves: false };
            return self.send([(from.clone(), vec![order])].into());
        };
        match &child.stage {
            Stage::Starting { .. } => {
                let change = Change::Started { name: name.clone(), number, actor };
                self.log(name, number, change)
            }
            Stage::Waiting | Stage::Running { .. } | Stage::Stopping { .. } => Vec::new(),
        }
    }

    /// The child of which a node speaks, if it is still what stands there.
    fn current<'a>(
        &self,
        directory: &'a Directory,
        from: &NodeBoot,
        name: &Name,
        number: ClaimNumber,
    ) -> Option<&'a Child> {
        let claim =
            directory.get(name).filter(|claim| claim.number == number && claim.node() == Some(from))?;
        claim.child()
    }

    fn forget(&mut self, from: &NodeBoot, number: ClaimNumber) -> Vec<Effect> {
        self.send([(from.clone(), vec![Order::Forget { number }])].into())
    }

    /// Has a change logged, once.
    pub(super) fn log(&mut self, name: Name, number: ClaimNumber, change: Change) -> Vec<Effect> {
        if self.logging.get(&name) == Some(&number) {
            return Vec::new();
        }
        if let Some(task) = self.tasks.get(&name).copied() {
            self.put_task(&name, super::Task { logging: true, ..task });
        }
        self.logging.insert(name, number);
        vec![Effect::Commit(change)]
    }

    fn judge_not_started(
        &mut self,
        now: Moment,
        child: &Child,
        from: &NodeBoot,
        name: &Name,
        number: ClaimNumber,
        why: &NotStarted,
    ) -> Change {
        let (name, reason) = (name.clone(), Reason::StartFailed(why.to_string()));
        let released = |reason| Change::Released { name: name.clone(), number, reason };
        match (&child.stage, why) {
            (Stage::Stopping { moves: false, .. }, _) => released(Reason::Normal),
            // It is not the child's fault, and another node may be able to.
            (_, NotStarted::NoSuchKind | NotStarted::Full) => {
                self.failures.entry(name.clone()).or_default().unfit.insert(from.clone());
                Change::Freed { name, number, reason, handed: None }
            }
            (_, NotStarted::Ignored) => released(Reason::Ignored),
            // Whoever asked for it waits for the first start: it is told, and nothing is tracked.
            (_, NotStarted::Failed(_) | NotStarted::TimedOut) if child.restarts == 0 => released(reason),
            (_, NotStarted::Failed(_) | NotStarted::TimedOut) => {
                self.judge_failure(now, child, &name, number, &why.to_string(), None)
            }
        }
    }

    fn judge_ended(
        &mut self,
        now: Moment,
        child: &Child,
        name: &Name,
        number: ClaimNumber,
        exit: Option<Exit>,
        handed: Option<Bytes>,
    ) -> Change {
        let (owned, moved) = (name.clone(), matches!(child.stage, Stage::Stopping { moves: true, .. }));
        if moved {
            self.failures.entry(owned.clone()).or_default().moved_from = child.stage.node().cloned();
            return Change::Freed { name: owned, number, reason: Reason::Moved, handed };
        }
        if matches!(child.stage, Stage::Stopping { .. }) {
            return Change::Released { name: owned, number, reason: Reason::Normal };
        }
        match (
            exit.unwrap_or_else(|| Exit::Failed("its node knows nothing of it".into())),
            child.spec.restart,
        ) {
            (Exit::Normal, Restart::Permanent) => {
                self.judge_failure(now, child, name, number, "it stopped", handed)
            }
            (Exit::Normal, Restart::Transient | Restart::Temporary) => {
                Change::Released { name: owned, number, reason: Reason::Normal }
            }
            (Exit::Failed(why), Restart::Temporary) => {
                Change::Released { name: owned, number, reason: Reason::Crashed(why) }
            }
            (Exit::Failed(why), Restart::Permanent | Restart::Transient) => {
                self.judge_failure(now, child, name, number, &why, handed)
            }
        }
    }

    /// A child that is to go on ended: it is started again, unless that happened too often.
    fn judge_failure(
        &mut self,
        now: Moment,
        child: &Child,
        name: &Name,
        number: ClaimNumber,
        why: &str,
        handed: Option<Bytes>,
    ) -> Change {
        let (spec, name) = (&child.spec, name.clone());
        let failures: &mut Failures = self.failures.entry(name.clone()).or_default();
        if failures.at.back().is_some_and(|last| now.since(*last) >= spec.window) {
            failures.in_a_row = 0;
        }
        while failures.at.front().is_some_and(|at| now.since(*at) >= spec.window) {
            failures.at.pop_front();
        }
        if failures.at.len() >= spec.restarts_max as usize {
            let why = format!("after {} restarts within {:?}: {why}", failures.at.len(), spec.window);
            return Change::Released { name, number, reason: Reason::GivenUp(why) };
        }
        failures.at.push_back(now);
        failures.in_a_row = failures.in_a_row.saturating_add(1);
        failures.node = child.stage.node().cloned();
        Change::Freed { name, number, reason: Reason::Crashed(why.to_owned()), handed }
    }
}
