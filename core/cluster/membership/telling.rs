//! What membership tells others, and how it keeps in step with foca.

use std::sync::Arc;

use super::{Cause, Effect, Known, Membership, Moment, NodeName, Seen, Source, State, Timer, View, packet};
use crate::cluster::membership::identity::Identity;
use crate::wire::stable_hash;
use foca::Member;

impl Membership {
    /// Takes over what was known before this law was made. Which revival the others are in is not known any more: the
    /// lowest one stands in until they tell.
    pub(super) fn take_over(&mut self, now: Moment, former: &View) {
        // What an operator said holds on: the law before this one knew these nodes, and so must this one.
        let told_down = |seen: &&Seen| seen.source == Source::Operator;
        self.told_down = former
            .nodes
            .iter()
            .filter(told_down)
            .map(|seen| (seen.name().clone(), seen.info.boot()))
            .collect();
        let others = former.nodes.iter().filter(|seen| seen.state.is_alive() || told_down(seen));
        let others = others.filter(|seen| seen.name() != self.name());
        let members = others.map(|seen| Member::alive(Identity::new(seen.info.clone(), 0))).collect();
        let mut view = (*self.view).clone();
        view.number = former.number;
        self.view = Arc::new(view);
        // Encoding is all that could fail, and these were encoded before.
        let _ = self.swim.apply(members, false);
        self.follow_swim(now, Cause::Session);
    }

    /// This node was frozen or starved if its timers come much too late. Nobody could answer it meanwhile, so
    /// everything that it waits for gets the lost time back.
    pub(super) fn thaw(&mut self, now: Moment) {
        let Some(((due, _), _)) = self.timers.first_key_value() else { return };
        let late = now.since(*due);
        if late > self.config.frozen_after() {
            let timers = std::mem::take(&mut self.timers);
            self.timers =
                timers.into_iter().map(|((at, number), timer)| ((at + late, number), timer)).collect();
        }
    }

    /// A session ended a while ago. If nobody has vouched for the node since, it is down.
    pub(super) fn end_wait(&mut self, now: Moment, identity: Identity, incarnation: u16) {
        let Some(known) = self.known.get(identity.name()) else { return };
        let unchanged = known.identity == identity && known.incarnation == incarnation;
        if unchanged && known.state == State::Suspected && !self.sessions.contains_key(identity.name()) {
            let name = identity.name().clone();
            let _ = self.swim.apply(vec![Member::new(identity, incarnation, foca::State::Down)], true);
            self.follow_swim(now, Cause::Session);
            self.spread(now, name);
        }
    }

    /// All others are to hear of `name`, within a moment.
    pub(super) fn spread(&mut self, now: Moment, name: NodeName) {
        if self.news.is_empty() {
            self.schedule(now + self.config.news_window, Timer::News);
        }
        self.news.insert(name);
    }

    pub(super) fn tell_news(&mut self) {
        let news = std::mem::take(&mut self.news);
        let members = || news.iter().filter_map(|name| self.known.get(name)).map(Known::told);
        let packets = packet::members(false, members());
        for (to, session) in &self.sessions {
            // A newcomer needs not hear that it has come. An older run of it does.
            let same_run = |known: &Known| known.identity.boot() == session.boot;
            if news.len() == 1 && news.contains(to) && self.known.get(to).is_some_and(same_run) {
                continue;
            }
            let to_it = packets.iter().map(|packet| Effect::Send { to: to.clone(), packet: packet.clone() });
            self.effects.extend(to_it);
        }
    }

    pub(super) fn compare_lists(&mut self, with: NodeName) {
        if self.sessions.contains_key(&with) {
            self.effects.push(Effect::Send { to: with, packet: packet::sync(self.digest.0) });
        }
    }

    /// Hands the whole list over, this node first. A list is large, and soon sent again only if it is asked
    /// for by nobody hostile: not twice within a probe's interval.
    pub(super) fn hand_list(&mut self, now: Moment, to: &NodeName, answer: bool) {
        let interval = self.config.probe_interval;
        let Some(session) = self.sessions.get_mut(to) else { return };
        if session.listed_at.is_some_and(|at| now.since(at) < interval) {
            return;
        }
        session.listed_at = Some(now);
        let names: Vec<_> = self.known.keys().cloned().collect();
        self.send_members(to, answer, &names);
    }

    /// Sends what is known of some nodes, this node first.
    pub(super) fn send_members(&mut self, to: &NodeName, answer: bool, names: &[NodeName]) {
        let this = (self.swim.identity(), self.swim.incarnation(), foca::State::Alive);
        let others = names.iter().filter_map(|name| self.known.get(name)).map(Known::told);
        let packets = packet::members(answer, std::iter::once(this).chain(others));
        self.effects.extend(packets.into_iter().map(|packet| Effect::Send { to: to.clone(), packet }));
    }

    pub(super) fn say_hello(&mut self, to: NodeName) {
        let (digest, known) = self.digest;
        let packet = packet::hello(self.swim.identity(), self.swim.incarnation(), digest, known);
        self.effects.push(Effect::Send { to, packet });
    }

    pub(super) fn forget_old(&mut self, now: Moment) {
        let old =
            |known: &Known| !known.state.is_alive() && now.since(known.since) >= self.config.forget_after;
        let names: Vec<_> =
            self.known.iter().filter(|(_, known)| old(known)).map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.forget(name));
    }

    pub(super) fn forget(&mut self, name: &NodeName) {
        if let Some(known) = self.known.remove(name) {
            self.swim.forget(known.identity);
            self.told_down.remove(name);
            self.effects.push(Effect::Forget { node: name.clone() });
            self.show(name);
        }
    }

    pub(super) fn schedule_sync(&mut self, now: Moment) {
        let interval = self.config.sync_interval;
        let half = u64::try_from(interval.as_nanos() / 2).unwrap_or(u64::MAX);
        // Spread over time, so that a cluster started at once does not compare at once for ever.
        let jitter = std::time::Duration::from_nanos(self.chance.below(half));
        self.schedule(now + interval - interval / 4 + jitter, Timer::Sync);
    }

    pub(super) fn schedule(&mut self, at: Moment, timer: Timer) {
        self.timers_made += 1;
        self.timers.insert((at, self.timers_made), timer);
    }

    /// Takes over what foca holds of others by now, and what it wants done.
    pub(super) fn follow_swim(&mut self, now: Moment, cause: Cause<'_>) {
        if std::mem::take(&mut self.swim.wishes.renewed) {
            // To be heard, the new identity must be known: others drop what is not for theirs.
            let _ = self.swim.apply(Vec::new(), false);
            let others =
                self.known.values().map(Known::counts).fold(0_u64, |sum, (hash, _)| sum.wrapping_add(hash));
            self.digest.0 = others.wrapping_add(self.swim.identity().hash());
            self.sessions.keys().cloned().collect::<Vec<_>>().into_iter().for_each(|to| self.say_hello(to));
        }
        let touched = std::mem::take(&mut self.swim.wishes.touched);
        if touched.is_empty() {
            return;
        }
        let places: Vec<_> = touched.iter().map(|name| stable_hash(name.as_str().as_bytes())).collect();
        let touched = |member: &&Member<Identity>| {
            places.contains(&member.id().place()) && touched.contains(member.id().name())
        };
        let members: Vec<_> = if places.len() <= 8 {
            self.swim.members().filter(touched).cloned().collect()
        } else {
            // What has not changed is told again, and changes nothing.
            self.swim.members().cloned().collect()
        };
        for member in members {
            let name = member.id().name();
            let source = match cause {
                Cause::Packet { from } if from == name.as_str() => Source::Itself,
                Cause::Packet { .. } => Source::Gossip,
                Cause::Timer => Source::Probe,
                Cause::Session => Source::Session,
            };
            self.follow_member(now, &member, source);
        }
    }

    fn follow_member(&mut self, now: Moment, member: &Member<Identity>, source: Source) {
        let (identity, incarnation) = (member.id().clone(), member.incarnation());
        let name = identity.name().clone();
        let state = match member.state() {
            foca::State::Alive => State::Alive,
            foca::State::Suspect => State::Suspected,
            foca::State::Down => State::Down,
        };
        let before = self.known.get(&name).cloned();
        let known = match &before {
            Some(before) if before.identity == identity => {
                // Who said goodbye is down for foca.
                let same = before.state == state || before.state == State::Left && state == State::Down;
                let news = Known { state, since: now, source, ..before.clone() };
                Known { incarnation, ..if same { before.clone() } else { news } }
            }
            before => {
                let same_place = |before: &Known| before.identity.info().address == identity.info().address;
                let dialled = before.as_ref().is_some_and(|before| before.dialled && same_place(before));
                Known { identity, incarnation, state, since: now, source, dialled }
            }
        };
        if self.told_down.get(&name).is_some_and(|boot| *boot != known.identity.boot()) {
            self.told_down.remove(&name);
        }
        if self.sessions.get(&name).is_some_and(|session| session.boot < known.identity.boot()) {
            self.spread(now, name.clone());
        }
        let (lost, won) = (before.as_ref().map_or((0, 0), Known::counts), known.counts());
        self.digest.0 = self.digest.0.wrapping_sub(lost.0).wrapping_add(won.0);
        self.digest.1 = self.digest.1 - lost.1 + won.1;
        self.known.insert(name.clone(), known);
        self.show(&name);
        if let Some(known) = self.known.get_mut(&name)
            && known.state.is_alive()
            && !known.dialled
            && !self.told_down.contains_key(&name)
        {
            known.dialled = true;
            let address = known.identity.info().address.clone();
            self.effects.push(Effect::Dial { node: name, address });
        }
    }

    /// Takes into the next view what is known of `name` now.
    pub(super) fn show(&mut self, name: &NodeName) {
        let seen = self.known.get(name).map(|known| self.seen(name, known));
        let place = self.nodes.binary_search_by(|seen| seen.name().cmp(name));
        match (place, seen) {
            (Ok(at), _) if self.nodes[at].id() == self.swim.identity().id() => return,
            (Ok(at), Some(seen)) if self.nodes[at] == seen => return,
            (Ok(at), Some(seen)) => self.nodes[at] = seen,
            (Ok(at), None) => drop(self.nodes.remove(at)),
            (Err(at), Some(seen)) => self.nodes.insert(at, seen),
            (Err(_), None) => return,
        }
        self.changed = true;
    }

    fn seen(&self, name: &NodeName, known: &Known) -> Seen {
        let info = known.identity.info().clone();
        let told_down = self.told_down.contains_key(name);
        let (state, source) =
            if told_down { (State::Down, Source::Operator) } else { (known.state, known.source) };
        Seen { info, state, since: known.since, source }
    }

    fn publish(&mut self) {
        self.swim.fit(&self.config, usize::try_from(self.digest.1).unwrap_or(usize::MAX));
        let view = View {
            this: self.view.this.clone(),
            number: self.view.number + 1,
            nodes: self.nodes.clone(),
            superseded_by: self.superseded_by.clone(),
        };
        self.view = Arc::new(view);
        self.effects.push(Effect::ViewChanged(self.view.clone()));
    }

    /// Hands out what has gathered: foca's wishes, then our own effects, and when to wake.
    pub(super) fn finish(&mut self, now: Moment) -> Vec<Effect> {
        for (after, timer) in std::mem::take(&mut self.swim.wishes.timers) {
            self.schedule(now + after, Timer::Swim(timer));
        }
        for (to, packet) in std::mem::take(&mut self.swim.wishes.sends) {
            // A node without a session is asked after through others.
            if self.sessions.get(to.name()).is_some_and(|session| session.boot == to.boot()) {
                self.effects.push(Effect::Send { to: to.name().clone(), packet });
            }
        }
        if std::mem::take(&mut self.changed) {
            self.publish();
        }
        let next = self.timers.first_key_value().map(|((at, _), _)| *at);
        if next != self.wake
            && let Some(at) = next
        {
            self.wake = next;
            self.effects.push(Effect::WakeAt(at));
        }
        std::mem::take(&mut self.effects)
    }
}

impl Known {
    /// Its part of the hash over the living, and of their number.
    fn counts(&self) -> (u64, u32) {
        if self.state.is_alive() { (self.identity.hash(), 1) } else { (0, 0) }
    }

    /// What others are told of it.
    fn told(&self) -> (&Identity, u16, foca::State) {
        let state = match self.state {
            State::Alive => foca::State::Alive,
            State::Suspected => foca::State::Suspect,
            State::Down | State::Left => foca::State::Down,
        };
        (&self.identity, self.incarnation, state)
    }
}
