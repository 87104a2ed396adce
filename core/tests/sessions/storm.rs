//! Clients, a network that loses, doubles and reorders, and a partition whose primary crashes; and an oracle that
//! counts how often each job took effect.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tumen_core::Moment;
use tumen_core::ids::Epoch;
use tumen_core::partitions::identity::{Identity, Keyed, SessionId};
use tumen_core::partitions::request::{Failure, MessageId, Reply};
use tumen_core::partitions::session::client::{Attempt, Effect, SessionClient, Ticket, TryEnd};
use tumen_core::partitions::session::{Limits, Verdict};

use crate::partition::{Flaw, Job, Primary, Replica, Try, Work};

/// What the storms have been through: a storm in which nothing happens shows nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) answered: usize,
    pub(crate) answered_again: usize,
    pub(crate) crashes: usize,
    pub(crate) expired: usize,
    pub(crate) in_doubt: usize,
    pub(crate) forgotten: usize,
    pub(crate) joined: usize,
    pub(crate) overloaded: usize,
}

impl Seen {
    pub(crate) fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.answered_again += other.answered_again;
        self.crashes += other.crashes;
        self.expired += other.expired;
        self.in_doubt += other.in_doubt;
        self.forgotten += other.forgotten;
        self.joined += other.joined;
        self.overloaded += other.overloaded;
    }

    fn note(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Answered { .. } => self.answered_again += 1,
            Verdict::Running => self.joined += 1,
            Verdict::InDoubt => self.in_doubt += 1,
            Verdict::Expired => self.expired += 1,
            Verdict::Forgotten => self.forgotten += 1,
            Verdict::Overloaded => self.overloaded += 1,
            Verdict::Run | Verdict::Dropped | Verdict::Reused => {}
        }
    }
}

enum Message {
    Try(Try),
    Reply(Try, Reply),
    Open { from: usize, nonce: u128 },
    Opened { to: usize, nonce: u128, session: Option<SessionId> },
    Acknowledge { session: SessionId, lowest: u64 },
    End(SessionId),
}

struct KeyedJob {
    job: Job,
    identity: Identity,
    since: Moment,
    done: bool,
}

pub(crate) struct Storm {
    rng: SmallRng,
    limits: Limits,
    now: Moment,
    primary: Option<Primary>,
    clients: Vec<SessionClient>,
    /// Which epoch each client believes in.
    epochs: Vec<Epoch>,
    jobs: BTreeMap<u64, Job>,
    open_tickets: Vec<BTreeSet<u64>>,
    keyed: Vec<KeyedJob>,
    network: Vec<(Moment, Message)>,
    unsafe_opens: Vec<(usize, u128, SessionId)>,
    /// What each job's caller was told.
    told: BTreeMap<u64, Vec<Reply>>,
    answers: BTreeMap<u64, Reply>,
    contradicted: Option<String>,
    register: u64,
    seen: Seen,
}

impl Storm {
    pub(crate) fn new(seed: u64, flaw: Flaw) -> Self {
        let limits = Limits {
            sessions_max: 16,
            window: 8,
            session_bytes_max: 600,
            bytes_max: 8000,
            keys_max: 64,
            idle: Duration::from_secs(10),
            key_age: Duration::from_secs(40),
        };
        let primary = Primary::adopt(flaw, limits.clone(), Epoch(1), Replica::default(), Vec::new());
        let client = |at: u128| SessionClient::new(limits.clone(), at << 64);
        Self {
            rng: SmallRng::seed_from_u64(seed),
            now: Moment::from_millis(1_000_000),
            primary: Some(primary),
            clients: (1..=3).map(client).collect(),
            epochs: vec![Epoch(1); 3],
            jobs: BTreeMap::new(),
            open_tickets: vec![BTreeSet::new(); 3],
            keyed: Vec::new(),
            network: Vec::new(),
            unsafe_opens: Vec::new(),
            told: BTreeMap::new(),
            answers: BTreeMap::new(),
            contradicted: None,
            register: 0,
            seen: Seen::default(),
            limits,
        }
    }

    fn primary(&mut self) -> &mut Primary {
        self.primary.as_mut().unwrap()
    }

    /// Runs `steps` steps, then lets everything come to rest, and looks at what happened.
    pub(crate) fn run(mut self, steps: usize) -> Result<Seen, String> {
        for _ in 0..steps {
            self.step();
            if self.rng.random_range(0..20) == 0 {
                self.check_copies()?;
            }
        }
        self.rest();
        self.check_copies()?;
        self.verdict()?;
        Ok(self.seen)
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(self.rng.random_range(0..20));
        match self.rng.random_range(0..1000) {
            0..160 => self.new_job(),
            160..200 => self.new_keyed_job(),
            200..260 => self.retry(),
            260..300 => self.retry_keyed(),
            300..310 => self.give_up(),
            310..600 => self.deliver(),
            600..830 => {
                let now = self.now;
                self.primary().work(now);
            }
            830..960 => {
                let more = self.rng.random_range(1..4);
                self.primary().advance_mark(more);
            }
            960..985 => self.tick(),
            985..990 => self.now += Duration::from_millis(self.rng.random_range(0..8000)),
            _ => self.crash(),
        }
        self.collect();
    }

    fn random_work(&mut self) -> Work {
        match self.rng.random_range(0..10) {
            0..4 => Work::Add,
            4..6 => Work::AddSlowly,
            6 => Work::AddAndRefuse,
            7..9 => {
                let guess = self.register.saturating_sub(self.rng.random_range(0..2));
                self.register += 1;
                Work::Swap { from: guess, to: self.register }
            }
            _ => Work::Read,
        }
    }

    fn next_job(&mut self) -> Job {
        let job = Job { id: self.jobs.len() as u64, work: self.random_work() };
        self.jobs.insert(job.id, job);
        job
    }

    fn new_job(&mut self) {
        let job = self.next_job();
        let client = self.rng.random_range(0..self.clients.len());
        self.open_tickets[client].insert(job.id);
        let effects = self.clients[client].handle_request(self.now, Ticket(job.id));
        self.carry_out(client, effects);
    }

    fn new_keyed_job(&mut self) {
        let job = self.next_job();
        let keyed = Keyed::new(&job.id.to_be_bytes(), MessageId(1), b"body").unwrap();
        self.keyed.push(KeyedJob { job, identity: Identity::Keyed(keyed), since: self.now, done: false });
        let last = self.keyed.len() - 1;
        self.send_keyed(last);
    }

    fn send_keyed(&mut self, at: usize) {
        let from = self.rng.random_range(0..self.clients.len());
        let KeyedJob { job, identity, .. } = self.keyed[at];
        let request =
            Try { job, identity, epoch: self.epochs[from], from, attempt: Attempt(1), doubled: false };
        self.send(Message::Try(request));
    }

    fn retry(&mut self) {
        let client = self.rng.random_range(0..self.clients.len());
        let tickets: Vec<_> = self.open_tickets[client].iter().copied().collect();
        if tickets.is_empty() {
            return;
        }
        let ticket = tickets[self.rng.random_range(0..tickets.len())];
        if let Some((attempt, numbered)) = self.clients[client].retry(self.now, Ticket(ticket)) {
            let (job, identity) = (self.jobs[&ticket], Identity::Numbered(numbered));
            let request =
                Try { job, identity, epoch: self.epochs[client], from: client, attempt, doubled: false };
            self.send(Message::Try(request));
        }
    }

    fn retry_keyed(&mut self) {
        // Whoever uses a key must not use it for longer than keys are remembered.
        let fresh = self.limits.key_age / 2;
        let open = |keyed: &KeyedJob, now: Moment| !keyed.done && now.since(keyed.since) < fresh;
        let open: Vec<_> = (0..self.keyed.len()).filter(|at| open(&self.keyed[*at], self.now)).collect();
        if !open.is_empty() {
            let at = open[self.rng.random_range(0..open.len())];
            self.send_keyed(at);
        }
    }

    fn give_up(&mut self) {
        let client = self.rng.random_range(0..self.clients.len());
        if let Some(ticket) = self.open_tickets[client].first().copied() {
            let effects = self.clients[client].handle_given_up(self.now, Ticket(ticket));
            self.carry_out(client, effects);
        }
    }

    fn tick(&mut self) {
        let now = self.now;
        self.primary().tick(now);
        for client in 0..self.clients.len() {
            let effects = self.clients[client].handle_tick(now);
            self.carry_out(client, effects);
        }
    }

    fn crash(&mut self) {
        self.seen.crashes += 1;
        let primary = self.primary.take().unwrap();
        let kept = self.rng.random_range(0..=primary.unsafe_len());
        self.primary = Some(primary.crash(kept));
        self.unsafe_opens.clear();
    }

    fn carry_out(&mut self, client: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Open { nonce } => self.send(Message::Open { from: client, nonce }),
                Effect::Send { ticket, numbered } => {
                    let (job, identity) = (self.jobs[&ticket.0], Identity::Numbered(numbered));
                    let attempt = Attempt(1);
                    let request = Try {
                        job,
                        identity,
                        epoch: self.epochs[client],
                        from: client,
                        attempt,
                        doubled: false,
                    };
                    self.send(Message::Try(request));
                }
                Effect::Fail { ticket, failure } => {
                    assert!(self.open_tickets[client].remove(&ticket.0), "a request ends once");
                    self.told.entry(ticket.0).or_default().push(Err(failure));
                }
                Effect::Acknowledge { session, lowest } => {
                    self.send(Message::Acknowledge { session, lowest });
                }
                Effect::End { session } => self.send(Message::End(session)),
            }
        }
    }

    /// Some messages are lost, some arrive twice.
    fn send(&mut self, mut message: Message) {
        match (self.rng.random_range(0..20), &mut message) {
            (0, Message::Open { from, nonce }) => {
                let (from, nonce) = (*from, *nonce);
                let effects = self.clients[from].handle_open_lost(nonce);
                self.carry_out(from, effects);
                return;
            }
            (0, _) => return,
            (1 | 2, Message::Try(request)) => {
                request.doubled = true;
                self.network.push((self.now, Message::Try(request.clone())));
            }
            (1 | 2, Message::Open { from, nonce }) => {
                self.network.push((self.now, Message::Open { from: *from, nonce: *nonce }));
            }
            _ => {}
        }
        self.network.push((self.now, message));
    }

    fn deliver(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.network.len());
        let (sent, message) = self.network.swap_remove(at);
        let now = self.now;
        match message {
            // No network holds a message for as long as a key is remembered.
            Message::Try(Try { identity: Identity::Keyed(_), .. })
                if now.since(sent) > self.limits.key_age / 4 => {}
            Message::Try(request) => self.primary().enqueue(request),
            Message::Reply(request, reply) => self.replied(&request, reply),
            Message::Open { from, nonce } => match self.primary().open(now, nonce) {
                Some(session) => self.unsafe_opens.push((from, nonce, session)),
                None => self.send(Message::Opened { to: from, nonce, session: None }),
            },
            Message::Opened { to, nonce, session } => {
                let effects = match session {
                    Some(session) => self.clients[to].handle_opened(now, nonce, session),
                    None => self.clients[to].handle_open_refused(nonce, &Failure::Overloaded),
                };
                self.carry_out(to, effects);
            }
            Message::Acknowledge { session, lowest } => self.primary().acknowledge(now, session, lowest),
            Message::End(session) => self.primary().end_session(session),
        }
    }

    /// What the primary let go is on its way.
    fn collect(&mut self) {
        let verdicts = std::mem::take(&mut self.primary().seen);
        verdicts.iter().for_each(|verdict| self.seen.note(verdict));
        for (request, reply) in self.primary().take_replies() {
            self.send(Message::Reply(request, reply));
        }
        let safe = self.primary().safe();
        let told = |(_, _, session): &mut (usize, u128, SessionId)| session.0 <= safe;
        let opened: Vec<_> = self.unsafe_opens.extract_if(.., told).collect();
        for (to, nonce, session) in opened {
            self.send(Message::Opened { to, nonce, session: Some(session) });
        }
    }

    /// Whatever changed something is answered in one way only, also where nobody waits for the answer any more.
    fn check_repetition(&mut self, request: &Try, reply: &Reply) {
        if is_an_answer(reply) && !matches!(request.job.work, Work::Swap { .. } | Work::Read) {
            let first = self.answers.entry(request.job.id).or_insert_with(|| reply.clone());
            if first != reply {
                self.contradicted = Some(format!("{:?} was answered {first:?} and {reply:?}", request.job));
            }
        }
    }

    fn replied(&mut self, request: &Try, reply: Reply) {
        let (job, client) = (request.job.id, request.from);
        self.check_repetition(request, &reply);
        if matches!(reply, Err(Failure::Stale { .. })) {
            self.epochs[client] = self.primary().epoch();
            if let Identity::Numbered(_) = request.identity {
                let end = if request.doubled { TryEnd::Unknown } else { TryEnd::NothingChanged };
                self.clients[client].handle_try_ended(Ticket(job), request.attempt, end);
            }
            return;
        }
        match request.identity {
            Identity::Keyed(_) => {
                let Some(keyed) = self.keyed.iter_mut().find(|keyed| keyed.job.id == job) else { return };
                // Who is told that there is no room asks again.
                keyed.done |= reply != Err(Failure::Overloaded);
                self.told.entry(job).or_default().push(reply);
            }
            Identity::Numbered(numbered) => {
                // An unknown outcome of a session that is gone: the client's law says what becomes of the others.
                let expired = matches!(reply, Err(Failure::Timeout { .. }))
                    && !self.primary().sessions().is_open(numbered.session);
                let effects = if expired {
                    self.clients[client].handle_expired(self.now, numbered.session)
                } else {
                    let ticket = Ticket(job);
                    let accepted = self.clients[client].handle_answered(self.now, ticket, request.attempt);
                    let Some(effects) = accepted else { return };
                    assert!(self.open_tickets[client].remove(&job), "a request is answered once");
                    self.told.entry(job).or_default().push(reply);
                    effects
                };
                self.carry_out(client, effects);
            }
        }
    }

    /// The network calms down, and all who still wait are answered.
    fn rest(&mut self) {
        for _ in 0..60 {
            let now = self.now;
            for _ in 0..20 {
                self.deliver();
                self.primary().work(now);
                self.collect();
            }
            self.primary().advance_mark(usize::MAX);
            self.retry();
            self.tick();
            self.collect();
            self.now += Duration::from_millis(10);
        }
        for client in 0..self.clients.len() {
            let effects = self.clients[client].handle_end();
            self.carry_out(client, effects);
            assert!(self.open_tickets[client].is_empty(), "every request ends");
        }
        self.primary().advance_mark(usize::MAX);
    }

    /// The replica is equal to the primary wherever both have applied the same.
    fn check_copies(&mut self) -> Result<(), String> {
        let primary = self.primary();
        if primary.unsafe_len() > 0 {
            return Ok(());
        }
        let (ours, theirs) = (primary.sessions(), &primary.replica.sessions);
        if ours != theirs || ours.digest() != theirs.digest() {
            return Err("two copies that applied the same entries differ".into());
        }
        Ok(())
    }

    fn verdict(&mut self) -> Result<(), String> {
        let state = self.primary().state().clone();
        if state != self.primary().replica.state {
            return Err("the replica's state differs".into());
        }
        if let Some(why) = self.contradicted.take() {
            return Err(why);
        }
        if let Some(job) = state.torn {
            return Err(format!("the compare-and-set {job} was applied to what it had not compared with"));
        }
        let count = |job: u64, part: u8| state.applied.get(&(job, part)).copied().unwrap_or(0);
        for (id, job) in &self.jobs {
            let parts = (count(*id, 0), count(*id, 1));
            if parts.0 > 1 || parts.1 > 1 || parts.1 > parts.0 {
                return Err(format!("{job:?} was applied {parts:?} times"));
            }
            let told = self.told.get(id).map_or(&[][..], Vec::as_slice);
            for reply in told {
                check_reply(job, parts, reply)?;
            }
            let mut answers = told.iter().filter(|reply| is_an_answer(reply));
            let first = answers.next();
            self.seen.answered += usize::from(first.is_some());
            if answers.any(|other| Some(other) != first) {
                return Err(format!("{job:?} was answered in different ways: {told:?}"));
            }
        }
        Ok(())
    }
}

/// Whether a reply is what a handler returned.
fn is_an_answer(reply: &Reply) -> bool {
    matches!(reply, Ok(_) | Err(Failure::Rejected(_)))
}

/// Whether what happened is what the caller was told.
fn check_reply(job: &Job, parts: (u32, u32), reply: &Reply) -> Result<(), String> {
    let wanted = match (reply, job.work) {
        (Ok(_), Work::Add) | (Err(Failure::Rejected(_)), Work::AddAndRefuse) => Some((1, 0)),
        (Ok(_), Work::AddSlowly) => Some((1, 1)),
        (Ok(reply), Work::Swap { .. }) => Some((u32::from(reply == "yes"), 0)),
        (Ok(_), Work::Read) => Some((0, 0)),
        (Ok(_), Work::AddAndRefuse) | (Err(Failure::Rejected(_)), _) => None,
        (Err(Failure::Timeout { maybe_applied: false }), _) => Some((0, 0)),
        // Of one try; another one of the same request may have been luckier.
        (Err(_), _) => return Ok(()),
    };
    match wanted {
        Some(wanted) if parts == wanted => Ok(()),
        _ => Err(format!("{job:?} was answered {reply:?}, and applied {parts:?} times")),
    }
}
