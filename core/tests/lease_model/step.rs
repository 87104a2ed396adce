//! What the adversary may do in a state, and what comes of it. All that decides is the law's.

use tumen_core::cluster::lease::{Answer, Effect, Release, Request};
use tumen_core::{Epoch, Term};

use crate::mutant::Mutant;
use crate::plan::{Plan, name, partition};
use crate::world::{Action, Message, Node, Reading, State, World};

impl World {
    pub fn offer(&self, state: &State, actions: &mut Vec<Action>) {
        let left = state.left;
        if left.ticks > 0 {
            actions.push(Action::Tick(None));
            if left.drifts > 0 {
                for node in 0..self.nodes {
                    actions.extend([0, 2].map(|by| Action::Tick(Some((node, by)))));
                }
            }
        }
        if state.pending.is_some() {
            actions.push(Action::Commit);
        }
        for (at, node) in (0..).zip(&state.nodes) {
            let leads = node.grantor.term().is_some();
            let holds = node.holder.holds(node.now());
            if left.asks > 0 && self.askers.contains(&at) {
                actions.push(Action::Ask(at));
            }
            if left.stops > 0 && !node.stopped {
                actions.push(Action::Stop(at));
            }
            if left.elections > 0 {
                actions.push(Action::Elect(at));
            }
            if left.crashes > 0 {
                actions.push(Action::Crash(at));
            }
            if leads {
                if left.acks > 0 {
                    actions.push(Action::Ack(at));
                }
                if node.ack.is_some() {
                    actions.push(Action::AckSeen(at));
                }
                actions.push(Action::FirstEntry { leader: at, keeps: false });
                if state.pending.is_some() {
                    actions.push(Action::FirstEntry { leader: at, keeps: true });
                }
                if left.proposals > 0 && node.proposed.is_none() {
                    for partition in 0..self.partitions as usize {
                        actions.extend((0..self.nodes).map(|to| Action::Propose {
                            leader: at,
                            partition,
                            to,
                        }));
                    }
                }
                actions.extend(state.dead.iter().map(|dead| Action::Proof(at, *dead)));
            }
            if node.applied < state.newest() {
                actions.push(Action::Apply(at));
            }
            actions.extend((node.acted + 1..=state.newest()).map(|version| Action::Act(at, version)));
            for (partition, serving) in node.serving.iter().enumerate() {
                if serving.is_some() && left.releases > 0 {
                    actions.push(Action::Release(at, partition));
                }
                if serving.is_none() && self.mutant == Mutant::TakesReleasesBack {
                    actions.push(Action::Unrelease(at, partition));
                }
                if serving.is_some() && left.reads > 0 && node.reading.is_none() {
                    actions.push(Action::Read(at, partition));
                }
            }
            if node.reading.is_some() && (holds || self.mutant == Mutant::ChecksBeforeItReads) {
                actions.push(Action::Answer(at));
            }
        }
        for message in &state.net {
            match message {
                Message::Request(_) if left.grants > 0 => {
                    let leads = |at: &u8| state.nodes[*at as usize].grantor.term().is_some();
                    actions
                        .extend((0..self.nodes).filter(leads).map(|at| Action::Deliver(message.clone(), at)));
                }
                Message::Request(_) => {}
                Message::Reply(reply) => {
                    let to = (0..self.nodes).find(|at| name(*at) == reply.to.node).unwrap();
                    actions.push(Action::Deliver(message.clone(), to));
                }
            }
        }
    }

    /// Does one step, or finds that it cannot be done.
    pub fn step(&self, state: &mut State, action: &Action) -> Option<()> {
        match action {
            Action::Tick(drift) => {
                state.left.ticks -= 1;
                state.left.drifts -= u8::from(drift.is_some());
                for (at, node) in (0..).zip(&mut state.nodes) {
                    node.clock += drift.filter(|(slow, _)| *slow == at).map_or(1, |(_, by)| by);
                }
            }
            Action::Ask(at) => {
                let node = state.node(*at);
                let effects = match self.mutant {
                    // Its lease is long in its own eyes: asked as seldom as that allows, it proves nothing.
                    Mutant::CountsFromReceipt => node.holder.handle_released(node.now(), []),
                    _ => node.holder.handle_wake(node.now()),
                };
                self.send(state, *at, effects)?;
            }
            Action::Deliver(Message::Request(request), at) => self.answer(state, request, *at)?,
            Action::Deliver(Message::Reply(reply), at) => {
                let node = state.node(*at);
                let before = node.holder.clone();
                let reply = self.mutant.bend_reply(node, reply.clone(), self.boot(*at, node.run));
                node.holder.handle_reply(node.now(), reply);
                (node.holder != before).then_some(())?;
            }
            Action::Ack(at) => {
                let term = state.term;
                let node = state.node(*at);
                (node.grantor.term() == Some(Term(term))).then_some(())?;
                node.ack = Some((Term(term), node.now()));
                state.left.acks -= 1;
                if !self.slow_acks {
                    self.step(state, &Action::AckSeen(*at))?;
                }
            }
            Action::AckSeen(at) => {
                let node = state.node(*at);
                let (term, stamp) = node.ack.take()?;
                let stamp = self.mutant.bend_stamp(stamp, node.now());
                node.grantor.handle_quorum_ack(term, stamp);
            }
            Action::Elect(at) => {
                state.left.elections -= 1;
                state.term += 1;
                state.leader = *at;
                let term = Term(state.term);
                let node = state.node(*at);
                let since = self.mutant.bend_election(node.now());
                node.grantor.handle_elected(since, term);
                (node.ack, node.proposed) = (None, None);
                if self.mutant == Mutant::GrantsBeforeItsFirstEntry {
                    node.grantor.handle_first_entry_applied(term, node.applied_id());
                }
            }
            Action::FirstEntry { leader, keeps } => {
                let here = *leader == state.leader && state.settled < state.term;
                (here && state.nodes[*leader as usize].grantor.term() == Some(Term(state.term)))
                    .then_some(())?;
                state.settled = state.term;
                // Whatever was pending is in the log before this entry, or can never be committed.
                let kept = state.pending.take().filter(|_| *keeps);
                state.log.extend(kept.map(|(_, plan)| plan));
                let (newest, term) = (state.newest(), Term(state.term));
                let node = state.node(*leader);
                node.applied = newest;
                node.grantor.handle_first_entry_applied(term, node.applied_id());
            }
            Action::Propose { leader, partition, to } => self.propose(state, *leader, *partition, *to)?,
            Action::Commit => {
                let (term, _) = state.pending.as_ref()?;
                let proposer = state.nodes[state.leader as usize].grantor.term();
                (*term == state.term && proposer == Some(Term(*term))).then_some(())?;
                let (_, plan) = state.pending.take()?;
                state.log.push(plan);
                if !self.slow_applies {
                    self.step(state, &Action::Apply(state.leader))?;
                }
            }
            Action::Apply(at) => {
                let newest = state.log.last()?.clone();
                let node = state.node(*at);
                node.applied = newest.version;
                node.proposed = node.proposed.filter(|(version, _)| *version > newest.version);
                node.grantor.handle_applied(&self.snapshot(&newest));
            }
            Action::Act(at, version) => {
                let plan = state.log.get(usize::try_from(version - 1).ok()?)?.clone();
                self.act(state.node(*at), &plan);
            }
            Action::Release(at, at_partition) => {
                let node = state.node(*at);
                let epoch = Epoch(node.serving[*at_partition].take()?);
                let release = Release { partition: partition(*at_partition), epoch };
                let effects = node.holder.handle_released(node.now(), [release]);
                state.left.releases -= 1;
                state.left.asks = state.left.asks.max(1);
                self.send(state, *at, effects)?;
            }
            Action::Unrelease(at, at_partition) => {
                let node = state.node(*at);
                let given = node.holder.releases().find(|r| r.partition == partition(*at_partition))?;
                node.serving[*at_partition] = Some(given.epoch.0);
            }
            Action::Crash(at) => {
                state.left.crashes -= 1;
                let run = state.nodes[*at as usize].run;
                state.dead.insert((*at, run));
                let node = state.node(*at);
                *node = self.process(*at, run + 1, node.clock, node.applied);
            }
            Action::Stop(at) => {
                let node = state.node(*at);
                node.stopped = true;
                node.serving.fill(None);
                let effects = node.holder.handle_stopping(node.now());
                state.left.stops -= 1;
                state.left.asks = state.left.asks.max(1);
                self.send(state, *at, effects)?;
            }
            Action::Proof(at, (node, run)) => {
                let boot = self.boot(*node, *run);
                let grantor = &mut state.node(*at).grantor;
                let before = grantor.clone();
                grantor.handle_crash_proof(boot);
                (*grantor != before).then_some(())?;
            }
            Action::Read(at, partition) => {
                state.left.reads -= 1;
                let newest = state.log.last()?.primaries[*partition];
                let node = state.node(*at);
                let epoch = node.serving[*partition]?;
                let fresh = newest == (*at, epoch);
                if self.mutant == Mutant::ChecksBeforeItReads && !node.holder.holds(node.now()) {
                    return None;
                }
                node.reading = Some(Reading { partition: *partition, epoch, fresh });
            }
            Action::Answer(at) => {
                let newest = state.log.last()?.clone();
                let node = state.node(*at);
                let Reading { partition, epoch, fresh } = node.reading.take()?;
                // The mutant looked at the lease in the step before, and takes the value only now.
                let late = self.mutant == Mutant::ChecksBeforeItReads;
                let fresh = if late { newest.primaries[partition] == (*at, epoch) } else { fresh };
                (node.serving[partition] == Some(epoch)).then_some(())?;
                state.stale_read |= !fresh;
            }
        }
        Some(())
    }

    fn send(&self, state: &mut State, from: u8, effects: Vec<Effect>) -> Option<()> {
        let request = effects.into_iter().find_map(|effect| match effect {
            Effect::Ask { request, .. } => Some(request),
            Effect::Publish { .. } | Effect::Pause | Effect::Resume => None,
        })?;
        state.left.asks -= 1;
        if self.mutant == Mutant::CountsFromReceipt {
            let node = state.node(from);
            node.sent.insert(request.number, node.clock);
        }
        let request = self.mutant.bend_request(state.node(from), request);
        state.net.insert(Message::Request(request));
        Some(())
    }

    fn answer(&self, state: &mut State, request: &Request, at: u8) -> Option<()> {
        let plan = self.snapshot(&state.log[usize::try_from(state.nodes[at as usize].applied).unwrap() - 1]);
        let node = state.node(at);
        let before = node.grantor.clone();
        let request = self.mutant.bend_arrival(request.clone(), &plan);
        self.mutant.bend_ack(node);
        let answered = node.grantor.handle_request(node.now(), &request, Some(&plan));
        let changed = node.grantor != before;
        let granted = matches!(answered.reply.answer, Answer::Granted { .. });
        // A refusal tells the holder nothing that it could act on: it is lost.
        if granted {
            state.left.grants -= 1;
            state.net.insert(Message::Reply(answered.reply));
        }
        (granted || changed).then_some(())
    }

    fn propose(&self, state: &mut State, leader: u8, at: usize, to: u8) -> Option<()> {
        let node = &state.nodes[leader as usize];
        let previous = state.log[usize::try_from(node.applied).unwrap() - 1].clone();
        let mut next = previous.clone();
        next.version += 1;
        next.members[to as usize] = state.nodes[to as usize].run;
        for (partition, (primary, epoch)) in next.primaries.iter_mut().enumerate() {
            let replaced = next.members[*primary as usize] != previous.members[*primary as usize];
            if partition == at || replaced {
                (*primary, *epoch) = (to, *epoch + 1);
            }
        }
        let (old, new) = (self.snapshot(&previous), self.snapshot(&next));
        let node = state.node(leader);
        let proposal = node.grantor.handle_proposed(node.now(), &old, &new).ok()?;
        if self.mutant == Mutant::GrantsBeforeTheOutcome {
            node.grantor.handle_dropped(proposal);
        }
        node.proposed = Some((next.version, proposal));
        let term = node.grantor.term()?.0;
        state.left.proposals -= 1;
        // Behind another leader's first entry, a former leader's proposal has no chance.
        if state.settled <= term {
            state.pending = Some((term, next));
        }
        Some(())
    }

    /// What a partition manager does: stop what is not ours any more, tell the lease, start what is.
    fn act(&self, node: &mut Node, plan: &Plan) {
        let snapshot = self.snapshot(plan);
        for (at, serving) in node.serving.iter_mut().enumerate() {
            let duty = node.holder.duty(&snapshot, partition(at)).map(|epoch| epoch.0);
            let moved_back = duty.is_some() && serving.is_some();
            if !(moved_back && self.mutant == Mutant::MissesMovesAwayAndBack) {
                *serving = duty;
            }
        }
        node.acted = plan.version;
        node.reading = node.reading.filter(|reading| node.serving[reading.partition] == Some(reading.epoch));
        node.holder.handle_acted(node.now(), &snapshot);
    }
}
