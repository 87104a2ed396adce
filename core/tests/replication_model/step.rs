//! What the adversary may do in a state, and what comes of it. All that decides is the law's.

use tumen_core::partitions::replication::wire::{Reply, Request, SnapshotHeader};
use tumen_core::partitions::replication::{Acks, Answer, Effect, Entry, LocalCopy, Phase, Primary, Saved};

use crate::mutant::Mutant;
use crate::world::{
    Action, Contents, Message, Node, Register, Role, State, Value, World, copy_id, fence, name, partition,
    place,
};

impl World {
    pub fn offer(&self, state: &State, actions: &mut Vec<Action>) {
        let left = state.left;
        for (at, node) in (0..).zip(&state.nodes) {
            // Others have nothing to do about it.
            let concerned = node.role.is_primary() || state.register.primary.0 == at;
            if concerned && node.known < state.register.version {
                actions.push(Action::Learn(at));
            }
            if node.lease && left.lapses > 0 {
                actions.push(Action::Lapse(at));
            }
            let current = node.known_epoch == state.register.record.epoch;
            if !node.lease && (current || self.mutant == Mutant::LeaseReturnsFirst) && node.known > 0 {
                actions.push(Action::Grant(at));
            }
            if !node.writes.is_empty() {
                actions.push(Action::Written(at));
            }
            if left.crashes > 0 && self.mortals.contains(&at) {
                actions.push(Action::Crash(at));
            }
            if left.promotions > 0 && self.heirs.contains(&at) && self.may_promote(state) {
                actions.push(Action::Promote(at));
            }
            if left.gone > 0 && !node.lease && !state.register.gone.contains(&at) {
                actions.push(Action::Gone(at));
            }
            if left.wakes > 0 && node.role.is_primary() {
                actions.push(Action::Wake(at));
                actions.extend((0..self.nodes).map(|to| Action::SnapshotFails(at, to)));
            }
            if left.snapshots > 0 && node.copy().mark_position() > node.copy().snapshot() {
                actions.push(Action::SaveSnapshot(at));
            }
            let Some(primary) = node.primary() else { continue };
            if left.appends > 0 && primary.phase() == Phase::Serving {
                actions.push(Action::Append(at));
            }
            if left.releases > 0 && primary.phase() < Phase::Releasing {
                actions.push(Action::Release(at));
            }
        }
        if left.wishes > 0 && (state.register.wish as usize) + 1 < self.wishes.len() {
            actions.push(Action::Wish);
        }
        if self.mutant == Mutant::SwapsBeforeAdoption && left.wishes > 0 {
            let pairs = (0..self.nodes).flat_map(|old| (0..self.nodes).map(move |new| (old, new)));
            actions.extend(pairs.map(|(old, new)| Action::Swap(old, new)));
        }
        if left.losses > 0 && self.is_given_up_for_lost(state) {
            actions.extend(self.heirs.iter().map(|heir| Action::AcceptLoss(*heir)));
        }
        for message in &state.net {
            if matches!(message, Message::Ask { .. }) && left.changes == 0 {
                continue;
            }
            actions.push(Action::Deliver(message.clone()));
            if left.late > 0 && matches!(message, Message::Request { .. } | Message::Snapshot { .. }) {
                actions.push(Action::DeliverLate(message.clone()));
            }
        }
    }

    /// Whether the voters may name another primary: the present one surely answers nobody any more.
    pub fn may_promote(&self, state: &State) -> bool {
        let (at, run) = state.register.primary;
        let former = &state.nodes[at as usize];
        former.run != run
            || !former.lease
            || former.released == Some(state.register.record.epoch)
            || self.mutant == Mutant::PromotesOverALease
            || !self.leases
    }

    /// Does one step, or finds that it changes nothing.
    pub fn step(&self, state: &mut State, action: &Action) -> Option<()> {
        match action {
            Action::Deliver(message) => self.deliver(state, message, false)?,
            Action::DeliverLate(message) => {
                let before = state.net.len();
                self.deliver(state, message, true)?;
                (state.net.len() > before).then_some(())?;
                state.left.late -= 1;
            }
            Action::Learn(at) => self.learn(state, *at),
            Action::Lapse(at) => {
                state.left.lapses -= 1;
                state.nodes[*at as usize].lease = false;
            }
            Action::Grant(at) => state.nodes[*at as usize].lease = true,
            Action::Append(at) => {
                let (now, value) = (state.now, Value(state.next_value));
                let Role::Primary(primary) = &mut state.nodes[*at as usize].role else { return None };
                let fence = *primary.fence();
                primary.append(&fence, value).ok()?;
                let effects = primary.handle_appended(now);
                state.next_value += 1;
                state.left.appends -= 1;
                self.run(state, *at, effects);
            }
            Action::Written(at) => self.written(state, *at)?,
            Action::Crash(at) => {
                state.left.crashes -= 1;
                let node = &mut state.nodes[*at as usize];
                let run = node.run + 1;
                let mut new = self.blank(*at, run);
                let life = self.mutant.life(node, run);
                new.role = Role::Replica(Box::new(match node.disk.clone() {
                    Some((saved, contents)) => {
                        new.disk = Some((saved.clone(), contents.clone()));
                        new.snapshot = contents;
                        LocalCopy::restore(saved, self.acks, false, life)
                    }
                    None => LocalCopy::new(partition(), copy_id(*at, life.0), self.acks),
                }));
                *node = new;
            }
            Action::Promote(to) => {
                state.left.promotions -= 1;
                state.register.record = state.register.record.with_next_epoch();
                state.register.primary = (*to, state.nodes[*to as usize].run);
                state.register.version += 1;
            }
            Action::Release(at) => {
                state.left.releases -= 1;
                let now = state.now;
                let Role::Primary(primary) = &mut state.nodes[*at as usize].role else { return None };
                let effects = primary.handle_release_asked(now);
                self.run(state, *at, effects);
            }
            Action::GiveUp(at) => {
                let Role::Primary(primary) = &mut state.nodes[*at as usize].role else { return None };
                let effects = primary.handle_given_up();
                self.run(state, *at, effects);
            }
            Action::Wish => {
                state.left.wishes -= 1;
                state.register.wish += 1;
                let copies = self.wishes[state.register.wish as usize].len() as u32;
                if let Some(lowered) = state.register.record.lowered(copies) {
                    state.register.record = lowered;
                }
                state.register.version += 1;
            }
            Action::Gone(at) => {
                state.left.gone -= 1;
                state.register.gone.insert(*at);
                state.register.version += 1;
            }
            Action::SaveSnapshot(at) => {
                state.left.snapshots -= 1;
                self.save_snapshot(state, *at);
            }
            Action::Wake(at) => {
                state.left.wakes -= 1;
                state.now += self.config().retry_every;
                let now = state.now;
                let Role::Primary(primary) = &mut state.nodes[*at as usize].role else { return None };
                let effects = primary.handle_wake(now);
                self.run(state, *at, effects);
            }
            Action::SnapshotFails(at, to) => {
                let now = state.now;
                let Role::Primary(primary) = &mut state.nodes[*at as usize].role else { return None };
                let effects = primary.handle_snapshot_failed(now, &name(*to));
                (!effects.is_empty()).then_some(())?;
                self.run(state, *at, effects);
            }
            Action::AcceptLoss(heir) => {
                state.left.losses -= 1;
                self.accept_loss(state, *heir)?;
            }
            Action::Swap(old, new) => {
                state.left.wishes -= 1;
                state.register.record = self.mutant.swap(&state.register, &state.nodes, (*old, *new))?;
                state.register.version += 1;
            }
        }
        for at in (0..self.nodes).filter(|at| !self.slow_disks.contains(at)) {
            while !state.nodes[at as usize].writes.is_empty() {
                self.written(state, at);
            }
        }
        self.judge(state);
        Some(())
    }

    fn deliver(&self, state: &mut State, message: &Message, late: bool) -> Option<()> {
        let now = state.now;
        match message.clone() {
            Message::Request { to, from, request } => {
                let node = &mut state.nodes[to as usize];
                let request = self.mutant.bend_request(node, request);
                let (answer, effects) = match &mut node.role {
                    Role::Replica(copy) => (copy.handle_request(now, &self.config(), request), Vec::new()),
                    Role::Primary(primary) => primary.handle_request(now, request),
                };
                self.run(state, to, effects);
                self.answer(state, to, from, answer, late);
            }
            Message::Reply { to, reply } => self.hear(state, to, reply)?,
            Message::Snapshot { to, from, header, contents } => {
                let node = &mut state.nodes[to as usize];
                let (installed, effects, answer) = match &mut node.role {
                    Role::Replica(copy) => {
                        let (installed, answer) = copy.handle_snapshot(header);
                        (installed, Vec::new(), Some(answer))
                    }
                    Role::Primary(primary) => {
                        let (installed, effects) = primary.handle_snapshot(now, header);
                        (installed, effects, None)
                    }
                };
                if installed {
                    node.snapshot = contents;
                }
                self.run(state, to, effects);
                if let Some(answer) = answer {
                    self.answer(state, to, from, answer, late);
                }
            }
            Message::Ask { epoch, revision, change } => {
                let record = &state.register.record;
                ((record.epoch, record.revision) == (epoch, revision)).then_some(())?;
                state.register.record = record.changed(&change).ok()?;
                state.register.version += 1;
                state.left.changes -= 1;
            }
        }
        Some(())
    }

    fn hear(&self, state: &mut State, at: u8, reply: Reply<Value>) -> Option<()> {
        let now = state.now;
        let Role::Primary(primary) = &mut state.nodes[at as usize].role else { return None };
        let reply = self.mutant.bend_reply(primary, reply);
        let effects = primary.handle_reply(now, reply);
        self.run(state, at, effects);
        Some(())
    }

    /// Whether the present primary says that the partition is lost.
    fn is_given_up_for_lost(&self, state: &State) -> bool {
        let Register { record, primary: (at, _), gone, .. } = &state.register;
        let primary = state.nodes[*at as usize].primary();
        primary.filter(|primary| primary.fence().epoch == record.epoch).is_some_and(|primary| {
            primary.phase() == Phase::Sealing
                && primary.standing().check_lost(|node| !gone.contains(&place(node))).is_ok()
        })
    }

    /// The primary gives its epoch back and says what is left; the voters agree that nothing else counts.
    fn accept_loss(&self, state: &mut State, heir: u8) -> Option<()> {
        let Register { primary: (at, _), gone, .. } = state.register.clone();
        let Role::Primary(primary) = &mut state.nodes[at as usize].role else { return None };
        let accepted = primary.handle_loss_accepted(|node| !gone.contains(&place(node)));
        let (standing, effects) = accepted.ok()?;
        self.run(state, at, effects);
        let heirs = standing.heirs();
        // Of what was promised that is left which the best of the survivors has.
        let best = heirs.first().map(|copy| state.nodes[place(&copy.node) as usize].clone());
        let end = best.as_ref().map_or(0, |node| node.copy().last().sequence);
        let left = |sequence: &u64, entry: &Entry<Value>| {
            *sequence <= end && best.as_ref().and_then(|node| node.entry(*sequence)) == Some(entry)
        };
        state.given_up.extend(state.promised.extract_if(.., |sequence, entry| !left(sequence, entry)));
        state.accepted += 1;
        state.register.record = state.register.record.with_loss_accepted(heirs).unwrap();
        state.register.primary = (heir, state.nodes[heir as usize].run);
        state.register.version += 1;
        Some(())
    }

    /// What a partition manager does with a plan.
    fn learn(&self, state: &mut State, at: u8) {
        let (now, register) = (state.now, state.register.clone());
        let gone = || register.gone.iter().map(|at| name(*at)).collect::<Vec<_>>();
        let wanted = self.wanted(&register);
        let epoch = register.record.epoch;
        let record = self.mutant.bend_record(&register, &state.nodes, &self.wishes[register.wish as usize]);
        let node = &mut state.nodes[at as usize];
        (node.known, node.known_epoch, node.lease) = (register.version, epoch, true);
        if let Role::Primary(primary) = &mut node.role {
            let mut effects = primary.handle_record(now, register.record.clone());
            effects.extend(primary.handle_plan(now, wanted.clone(), gone()));
            self.run(state, at, effects);
        }
        let node = &mut state.nodes[at as usize];
        let any_run = self.mutant == Mutant::ServesUnderItsOldEpoch;
        let named = register.primary == (at, node.run) || (any_run && register.primary.0 == at);
        if named && node.named < epoch {
            node.named = epoch;
            let Role::Replica(copy) = node.role.clone() else { return };
            let (primary, effects) =
                Primary::new(now, self.config(), fence(epoch), *copy, record, wanted, gone());
            node.role = Role::Primary(Box::new(primary));
            self.run(state, at, effects);
        }
    }

    /// Carries out what a primary decided, and sends what it has to send.
    fn run(&self, state: &mut State, at: u8, effects: Vec<Effect<Value>>) {
        for effect in effects {
            match effect {
                Effect::Send { to, request } => {
                    let to = place(&to);
                    state.net.insert(Message::Request { to, from: at, request });
                }
                Effect::SendSnapshot { to, header } => self.send_snapshot(state, at, place(&to), header),
                Effect::SaveSnapshot => self.save_snapshot(state, at),
                Effect::Ask { epoch, revision, change } => {
                    if self.mutant == Mutant::TakesTheChangeForGranted {
                        let now = state.now;
                        let Role::Primary(primary) = &mut state.nodes[at as usize].role else { continue };
                        let next = primary.record().changed(&change).unwrap();
                        let effects = primary.handle_record(now, next);
                        self.run(state, at, effects);
                    }
                    if state.left.changes > 0 {
                        state.net.insert(Message::Ask { epoch, revision, change });
                    }
                }
                Effect::Released { .. } => {
                    let node = &mut state.nodes[at as usize];
                    node.released = Some(node.named);
                    self.demote(node);
                }
                Effect::Deposed => self.demote(&mut state.nodes[at as usize]),
                // What was not on disk anywhere may be gone: that is told, and nobody promises otherwise.
                Effect::Renewing { .. } => state.renewed = true,
                // The copy begins anew: here by a new process, without the disk.
                Effect::Discard => {
                    let run = state.nodes[at as usize].run + 1;
                    state.nodes[at as usize] = self.blank(at, run);
                    return;
                }
                Effect::Opened { .. } => {}
            }
        }
        self.flush(state, at);
    }

    fn demote(&self, node: &mut Node) {
        if let Role::Primary(primary) = &node.role {
            node.role = Role::Replica(Box::new(Primary::clone(primary).into_copy()));
        }
    }

    /// Sends what is ready, and gives the disk what it has to keep.
    fn flush(&self, state: &mut State, at: u8) {
        let now = state.now;
        let node = &mut state.nodes[at as usize];
        let mut requests: Vec<(u8, Request<Value>)> = Vec::new();
        if let Role::Primary(primary) = &mut node.role {
            for to in (0..self.nodes).filter(|to| *to != at) {
                while let Some(request) = primary.take_batch(now, &name(to), 2, 64) {
                    requests.push((to, request));
                }
                if self.marks {
                    requests.extend(primary.take_mark(now, &name(to)).map(|request| (to, request)));
                }
            }
        }
        self.keep(node);
        let requests = requests.into_iter();
        state.net.extend(requests.map(|(to, request)| Message::Request { to, from: at, request }));
    }

    fn keep(&self, node: &mut Node) {
        let write = match &mut node.role {
            Role::Replica(copy) => copy.take_write(),
            Role::Primary(primary) => primary.take_write(),
        };
        node.writes.extend(write.map(|write| (write, node.snapshot.clone())));
    }

    fn answer(&self, state: &mut State, at: u8, to: u8, answer: Answer<Value>, late: bool) {
        let node = &mut state.nodes[at as usize];
        self.keep(node);
        if answer.after.is_some() && self.mutant != Mutant::AnswersBeforeTheDisk {
            // The same answer twice says no more than once.
            if !node.waiting.iter().any(|waiting| *waiting == (to, answer.clone())) {
                node.waiting.push((to, answer));
            }
        } else {
            self.reply(state, at, to, answer.reply, late);
        }
    }

    fn reply(&self, state: &mut State, at: u8, to: u8, reply: Reply<Value>, late: bool) {
        match reply {
            Reply::Snapshot { header, .. } => self.send_snapshot(state, at, to, header),
            reply if late => {
                state.net.insert(Message::Reply { to, reply });
            }
            reply => {
                self.hear(state, to, reply);
            }
        }
    }

    fn send_snapshot(&self, state: &mut State, at: u8, to: u8, header: SnapshotHeader) {
        let node = &state.nodes[at as usize];
        let header = SnapshotHeader { position: node.copy().snapshot(), ..header };
        let contents = node.snapshot.clone();
        assert_eq!(contents.len() as u64, header.position.sequence, "a snapshot is whole");
        state.net.insert(Message::Snapshot { to, from: at, header, contents });
    }

    fn save_snapshot(&self, state: &mut State, at: u8) {
        let now = state.now;
        let node = &mut state.nodes[at as usize];
        let position = node.copy().mark_position();
        let contents: Contents = (1..=position.sequence)
            .map(|sequence| (sequence, node.entry(sequence).expect("what holds is here").clone()))
            .collect();
        let taken = match &mut node.role {
            Role::Replica(copy) => copy.handle_snapshot_saved(position, 0).then(Vec::new),
            Role::Primary(primary) => primary.handle_snapshot_saved(now, position).ok(),
        };
        if let Some(effects) = taken {
            node.snapshot = contents;
            self.run(state, at, effects);
        }
    }

    /// The oldest write is on disk: all of it.
    fn written(&self, state: &mut State, at: u8) -> Option<()> {
        let now = state.now;
        let node = &mut state.nodes[at as usize];
        let (write, contents) = node.writes.pop_front()?;
        let (mut entries, start) = match node.disk.take() {
            Some((saved, _)) => (saved.entries, saved.start.sequence),
            None => (Vec::new(), 0),
        };
        // By sequence: the old log up to where it was cut, the new entries behind.
        let cut = usize::try_from(write.truncate_after.saturating_sub(start)).unwrap();
        entries.truncate(cut);
        let trimmed = usize::try_from(write.start.sequence.saturating_sub(start)).unwrap();
        let mut entries: Vec<_> = entries.into_iter().skip(trimmed).collect();
        assert_eq!(
            write.truncate_after,
            write.start.sequence + entries.len() as u64,
            "a write follows what is on disk"
        );
        entries.extend(write.entries);
        let saved = Saved {
            id: write.id,
            former: write.former,
            sealed: write.sealed,
            mark: write.mark,
            snapshot: write.snapshot,
            start: write.start,
            entries,
        };
        node.disk = Some((saved, contents));
        let effects = match &mut node.role {
            Role::Replica(copy) => {
                copy.handle_written(write.ticket);
                Vec::new()
            }
            Role::Primary(primary) => primary.handle_written(now, write.ticket),
        };
        let (leave, wait) = node
            .waiting
            .drain(..)
            .partition(|(_, answer)| answer.after.is_none_or(|after| after <= write.ticket));
        node.waiting = wait;
        self.run(state, at, effects);
        let leave: Vec<(u8, Answer<Value>)> = leave;
        for (to, answer) in leave {
            self.reply(state, at, to, answer.reply, false);
        }
        Some(())
    }

    pub fn has_disk(&self) -> bool {
        self.acks != Acks::WithoutDisk
    }
}
