//! What membership makes of the packets that come over its sessions.

use std::collections::BTreeSet;
use std::time::Duration;

use foca::Member;

use super::identity::Identity;
use super::packet::{self, Gossip, Hello, PacketError, Raw, Update};
use super::{Cause, Effect, Membership, Source, State, Timer};
use crate::ids::{Boot, NodeBoot, NodeName};
use crate::time::Moment;

impl Membership {
    /// Only so many packets a second are taken from one node.
    pub(super) fn admit(&mut self, now: Moment, from: &NodeName) -> Result<(), PacketError> {
        let max = self.config.packets_per_second_max;
        let session = self.sessions.get_mut(from).ok_or_else(|| PacketError::NoSession(from.clone()))?;
        let busy_until = session.busy_until.max(now) + Duration::from_secs(1) / max;
        if busy_until.since(now) > Duration::from_secs(1) {
            return Err(PacketError::TooOften { from: from.clone(), max });
        }
        session.busy_until = busy_until;
        Ok(())
    }

    /// A node speaks for itself only.
    fn authentic(&self, from: &NodeName, claimed: &Raw<'_>) -> Result<(), PacketError> {
        let boot = self.sessions.get(from).map_or(Boot::ZERO, |session| session.boot);
        let from = NodeBoot::new(from.clone(), boot);
        if claimed.is(&from) { Ok(()) } else { Err(PacketError::Impostor { from }) }
    }

    pub(super) fn take_hello(
        &mut self,
        now: Moment,
        from: &NodeName,
        hello: &Hello<'_>,
    ) -> Result<(), PacketError> {
        self.authentic(from, &hello.identity)?;
        let stranger = self.known.get(from).is_none_or(|known| {
            let newer_run = known.identity.boot() < hello.identity.boot;
            newer_run || known.identity.revival() < hello.identity.revival && hello.known <= 1
        });
        let said = Update::alive(hello.identity, hello.incarnation);
        if self.is_news(&said) {
            let identity = hello.identity.decode()?;
            if !self.known.contains_key(from) {
                self.make_room(1)?;
            }
            self.swim.apply(vec![Member::new(identity, said.incarnation, said.state)], true)?;
            self.follow_swim(now, Cause::Packet { from: from.as_str() });
        }
        let held = self.known.get(from);
        if held
            .is_some_and(|known| known.state != State::Alive && known.identity.boot() == hello.identity.boot)
        {
            // It does not know how it is held here, and it alone can put that right.
            self.send_members(from, false, std::slice::from_ref(from));
            return Ok(());
        }
        // Whoever is asked first by a newcomer tells it everything, and everybody of it. A newcomer that knows
        // as much as others do has been introduced by somebody else, who tells.
        if stranger && hello.known <= 1 {
            self.spread(now, from.clone());
        }
        if hello.known <= 1 && hello.digest != self.digest.0 {
            self.hand_list(now, from, false);
        }
        // Two clusters met, or the newcomer was introduced a moment ago and will have heard the rest by then.
        let behind = u64::from(hello.known) * 2 < u64::from(self.digest.1);
        if hello.known > 1 && hello.digest != self.digest.0 && (stranger || behind) && !self.comparing {
            self.comparing = true;
            self.schedule(now + self.config.gossip_interval, Timer::Compare { with: from.clone() });
        }
        Ok(())
    }

    pub(super) fn take_gossip(
        &mut self,
        now: Moment,
        from: &NodeName,
        gossip: &Gossip<'_>,
    ) -> Result<(), PacketError> {
        self.authentic(from, &gossip.src)?;
        if gossip.third.is_some_and(|third| third.name == self.name().as_str()) {
            return Err(PacketError::Malformed("an indirect probe of the one who is asked"));
        }
        let speaker = Update::alive(gossip.src, gossip.src_incarnation);
        let news = self.pick_news(&gossip.updates, Some(&speaker))?;
        let touched = news.iter().chain(Some(&speaker).filter(|speaker| self.is_news(speaker)));
        let touched =
            touched.filter_map(|update| NodeName::new(update.identity.name).ok()).collect::<Vec<_>>();
        let accused = news.iter().any(|update| update.identity.name == self.name().as_str());
        self.swim.handle_data(&packet::filtered(gossip, &news))?;
        self.swim.wishes.touched.extend(touched);
        self.follow_swim(now, Cause::Packet { from: from.as_str() });
        self.warn_the_suspected(&news);
        if accused {
            self.say_hello(from.clone());
        }
        Ok(())
    }

    pub(super) fn take_members(
        &mut self,
        now: Moment,
        from: &NodeName,
        members: &[Update<'_>],
    ) -> Result<(), PacketError> {
        let news = self.pick_news(members, None)?;
        if news.is_empty() {
            return Ok(());
        }
        let accused = news.iter().any(|update| update.identity.name == self.name().as_str());
        let members = news
            .iter()
            .map(|update| Ok(Member::new(update.identity.decode()?, update.incarnation, update.state)))
            .collect::<Result<Vec<_>, PacketError>>()?;
        // Who hands a list over tells everybody: that a node lives needs no gossip on top. All else does.
        let quiet =
            |member: &Member<Identity>| member.state() == foca::State::Alive && member.incarnation() == 0;
        let (quiet, loud) = members.into_iter().partition(quiet);
        self.swim.apply(quiet, false)?;
        self.swim.apply(loud, true)?;
        self.follow_swim(now, Cause::Packet { from: from.as_str() });
        self.warn_the_suspected(&news);
        if accused {
            self.say_hello(from.clone());
        }
        Ok(())
    }

    pub(super) fn take_leave(
        &mut self,
        now: Moment,
        from: &NodeName,
        raw: Raw<'_>,
    ) -> Result<(), PacketError> {
        self.authentic(from, &raw)?;
        let Some(known) = self.known.get(from) else { return Ok(()) };
        let gone = Member::new(known.identity.clone(), known.incarnation, foca::State::Down);
        self.swim.apply(vec![gone], true)?;
        self.follow_swim(now, Cause::Packet { from: from.as_str() });
        if let Some(known) = self.known.get_mut(from) {
            (known.state, known.source) = (State::Left, Source::Itself);
            known.dialled = false;
            self.effects.push(Effect::Forget { node: from.clone() });
        }
        self.show(from);
        Ok(())
    }

    /// The updates that tell something new, each readable. Others would cost foca a search each.
    fn pick_news<'a>(
        &mut self,
        updates: &[Update<'a>],
        speaker: Option<&Update<'a>>,
    ) -> Result<Vec<Update<'a>>, PacketError> {
        let mut news = Vec::new();
        let mut strangers = BTreeSet::new();
        for update in speaker.into_iter().chain(updates) {
            if update.identity.name == self.name().as_str() {
                self.hear_of_itself(update)?;
            }
            if self.is_news(update) {
                update.identity.decode()?;
                if !self.known.contains_key(update.identity.name)
                    && update.identity.name != self.name().as_str()
                {
                    strangers.insert(update.identity.name);
                }
                news.push(*update);
            }
        }
        if !strangers.is_empty() {
            self.make_room(strangers.len())?;
        }
        // The speaker stands in foca's header.
        let said = usize::from(speaker.is_some_and(|speaker| self.is_news(speaker)));
        Ok(news.split_off(said))
    }

    /// Whether an update can change anything here: the order of SWIM's section 4.2.
    fn is_news(&self, update: &Update<'_>) -> bool {
        use foca::State::{Alive, Down, Suspect};
        if update.identity.name == self.name().as_str() {
            let this = self.swim.identity();
            let this_life = (update.identity.boot, update.identity.revival) == (this.boot(), this.revival());
            return this_life && update.state != Alive;
        }
        // That a stranger died is no news, and would keep the dead in memory for ever, told around and around.
        let Some(known) = self.known.get(update.identity.name) else { return update.state != Down };
        let lives = (known.identity.boot(), known.identity.revival());
        if (update.identity.boot, update.identity.revival) != lives {
            return (update.identity.boot, update.identity.revival) > lives;
        }
        match (known.state, update.state) {
            (State::Down | State::Left, _) => false,
            (_, Down) => true,
            (State::Alive, Suspect) => update.incarnation >= known.incarnation,
            (State::Alive | State::Suspected, Alive | Suspect) => update.incarnation > known.incarnation,
        }
    }

    /// Somebody tells of another life of this very node.
    fn hear_of_itself(&mut self, update: &Update<'_>) -> Result<(), PacketError> {
        let (boot, revival) = (self.swim.identity().boot(), self.swim.identity().revival());
        if update.identity.boot > boot {
            let other = update.identity.decode()?.id().clone();
            if self.superseded_by.as_ref().is_none_or(|known| *known < other) {
                self.superseded_by = Some(other);
                self.changed = true;
            }
        } else if update.identity.boot == boot && update.identity.revival > revival {
            self.swim.revive_after(update.identity.revival)?;
        }
        Ok(())
    }

    /// A suspected node is told at once, if it can be: only it can refute.
    fn warn_the_suspected(&mut self, news: &[Update<'_>]) {
        for update in news.iter().filter(|update| update.state == foca::State::Suspect) {
            let connected = self.sessions.get_key_value(update.identity.name).map(|(name, _)| name.clone());
            if let Some(name) = connected {
                self.send_members(&name, false, std::slice::from_ref(&name));
            }
        }
    }

    /// Room for so many more nodes, by forgetting those that are down for longest.
    fn make_room(&mut self, strangers: usize) -> Result<(), PacketError> {
        let max = self.config.nodes_max;
        while self.known.len() + 1 + strangers > max {
            let oldest = self.known.iter().filter(|(_, known)| !known.state.is_alive());
            let Some((name, _)) = oldest.min_by_key(|(_, known)| known.since) else {
                return Err(PacketError::TooManyNodes { max });
            };
            self.forget(&name.clone());
        }
        Ok(())
    }
}
