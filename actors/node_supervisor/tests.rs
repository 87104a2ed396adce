use std::sync::Mutex;

use ractor::ActorStatus;

use super::*;

/// What happened, in order: `+name` started, `-name` stopped in good order.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<String>>>, Arc<Mutex<BTreeMap<String, ActorRef<Order>>>>);

impl Diary {
    fn write(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn actor(&self, name: &str) -> ActorRef<Order> {
        self.1.lock().unwrap()[name].clone()
    }

    fn all_stopped(&self) -> bool {
        self.1.lock().unwrap().values().all(|actor| actor.get_status() == ActorStatus::Stopped)
    }

    /// Waits until so many lines are written, and takes them.
    async fn lines(&self, count: usize) -> Vec<String> {
        let enough = async {
            while self.0.lock().unwrap().len() < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), enough).await.expect("it is written in time");
        self.take()
    }

    fn child(&self, name: &'static str) -> Child {
        let diary = self.clone();
        Child::new(name, move |supervisor| {
            let actor = Obedient { name, diary: diary.clone() };
            async move { Ok(Actor::spawn_linked(None, actor, (), supervisor).await?.0.get_cell()) }
        })
    }
}

/// An actor that does as it is told.
struct Obedient {
    name: &'static str,
    diary: Diary,
}

enum Order {
    Panic,
    Fail,
    Stop,
    /// Take for ever to stop.
    Linger,
}

impl ractor::Message for Order {}

impl Actor for Obedient {
    type Msg = Order;
    type State = bool;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Order>, (): ()) -> Result<bool, ActorProcessingErr> {
        self.diary.write(format!("+{}", self.name));
        self.diary.1.lock().unwrap().insert(self.name.to_owned(), myself);
        Ok(false)
    }

    async fn handle(
        &self,
        myself: ActorRef<Order>,
        order: Order,
        lingers: &mut bool,
    ) -> Result<(), ActorProcessingErr> {
        match order {
            Order::Panic => panic!("as ordered"),
            Order::Fail => return Err("as ordered".into()),
            Order::Stop => myself.stop(None),
            Order::Linger => *lingers = true,
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Order>, lingers: &mut bool) -> Result<(), ActorProcessingErr> {
        if *lingers {
            std::future::pending::<()>().await;
        }
        self.diary.write(format!("-{}", self.name));
        Ok(())
    }
}

fn spec(children: Vec<Child>) -> Spec {
    Spec::new(Clock::tokio(), children)
}

#[tokio::test(start_paused = true)]
async fn a_panic_restarts_the_child_and_those_after_it_and_not_those_before() {
    let diary = Diary::default();
    let children = ["a", "b", "c", "d"].map(|name| diary.child(name));
    let supervisor = NodeSupervisor::start(spec(children.into())).await.unwrap();
    assert_eq!(diary.take(), ["+a", "+b", "+c", "+d"]);
    let before = supervisor.children().await;

    let start = tokio::time::Instant::now();
    diary.actor("b").cast(Order::Panic).unwrap();
    assert_eq!(diary.lines(5).await, ["-d", "-c", "+b", "+c", "+d"]);
    assert!(start.elapsed() >= Policy::default().backoff_first, "never faster than the back-off");

    let after = supervisor.children().await;
    assert!(before.iter().chain(&after).all(|(_, actor)| actor.is_some()));
    let same: Vec<_> = before.iter().zip(&after).map(|(before, after)| before == after).collect();
    assert_eq!(same, [true, false, false, false]);
    assert_eq!(supervisor.stop().await, Ended::Stopped { killed: vec![] });
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_is_in_reverse_and_leaves_no_actor_running() {
    let diary = Diary::default();
    let children = ["a", "b", "c"].map(|name| diary.child(name));
    let supervisor = NodeSupervisor::start(spec(children.into())).await.unwrap();
    diary.take();
    assert_eq!(supervisor.stop().await, Ended::Stopped { killed: vec![] });
    assert_eq!(diary.take(), ["-c", "-b", "-a"]);
    assert!(diary.all_stopped());
    assert_eq!(supervisor.stop().await, Ended::Stopped { killed: vec![] }, "twice is the same as once");
    supervisor.cell().wait(None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_does_not_stop_in_time_is_killed_and_the_rest_stops_all_the_same() {
    let diary = Diary::default();
    let children = ["a", "b", "c"].map(|name| diary.child(name));
    let supervisor = NodeSupervisor::start(spec(children.into())).await.unwrap();
    diary.take();
    diary.actor("c").cast(Order::Linger).unwrap();
    let start = tokio::time::Instant::now();
    assert_eq!(supervisor.stop().await, Ended::Stopped { killed: vec!["c".into()] });
    assert!(start.elapsed() <= Duration::from_secs(6), "{:?}", start.elapsed());
    assert_eq!(diary.take(), ["-b", "-a"], "it leaves time to the others");
    assert!(diary.all_stopped());

    let supervisor = NodeSupervisor::start(spec(vec![diary.child("a"), diary.child("b")])).await.unwrap();
    diary.actor("a").cast(Order::Linger).unwrap();
    assert_eq!(supervisor.stop().await, Ended::Stopped { killed: vec!["a".into()] });
    assert!(diary.all_stopped());
}

#[tokio::test(start_paused = true)]
async fn too_many_failures_stop_everything_with_the_reason() {
    let diary = Diary::default();
    let mut spec = spec(vec![diary.child("a"), diary.child("b")]);
    spec.policy.restarts_max = 2;
    let supervisor = NodeSupervisor::start(spec).await.unwrap();
    diary.take();
    for order in [Order::Fail, Order::Panic] {
        diary.actor("b").cast(order).unwrap();
        assert_eq!(diary.lines(1).await, ["+b"]);
    }
    diary.actor("b").cast(Order::Fail).unwrap();
    let Ended::GaveUp(why) = supervisor.ended().await else { panic!("it gives up") };
    assert_eq!((&*why.child, why.restarts, why.exit), ("b", 2, Exit::Failed("as ordered".into())));
    assert_eq!(diary.take(), ["-a"]);
    assert!(diary.all_stopped());
    assert!(matches!(supervisor.stop().await, Ended::GaveUp(_)), "it has ended already");
}

#[tokio::test(start_paused = true)]
async fn restart_types_are_honoured() {
    let diary = Diary::default();
    let children = vec![
        diary.child("permanent"),
        diary.child("transient").restart(Restart::Transient),
        diary.child("temporary").restart(Restart::Temporary),
    ];
    let mut spec = spec(children);
    spec.policy.strategy = tumen_core::supervision::Strategy::OneForOne;
    let supervisor = NodeSupervisor::start(spec).await.unwrap();
    diary.take();
    diary.actor("temporary").cast(Order::Panic).unwrap();
    diary.actor("transient").cast(Order::Panic).unwrap();
    assert_eq!(diary.lines(1).await, ["+transient"]);
    diary.actor("permanent").cast(Order::Stop).unwrap();
    assert_eq!(diary.lines(2).await, ["-permanent", "+permanent"]);
    diary.actor("transient").cast(Order::Stop).unwrap();
    assert_eq!(diary.lines(1).await, ["-transient"]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(diary.take().is_empty());
    let running: Vec<_> = supervisor.children().await.into_iter().map(|(_, actor)| actor.is_some()).collect();
    assert_eq!(running, [true, false, false]);
    supervisor.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_stops_what_had_been_started() {
    let diary = Diary::default();
    let broken = Child::new("broken", |_| async { Err("no such port".into()) });
    let error = NodeSupervisor::start(spec(vec![diary.child("a"), broken])).await.unwrap_err();
    assert_eq!(error.to_string(), "broken did not start: no such port");
    assert_eq!(diary.take(), ["+a", "-a"]);
    assert!(diary.all_stopped());

    let hanging = Child::new("hanging", |_| std::future::pending());
    let error = NodeSupervisor::start(spec(vec![hanging])).await.unwrap_err();
    assert_eq!(error.to_string(), "hanging did not start: not within 30s");

    let policy = Policy { window: Duration::from_secs(1), ..Policy::default() };
    let error = NodeSupervisor::start(Spec { policy, ..spec(vec![]) }).await.unwrap_err();
    assert!(matches!(error, StartError::Policy(_)));
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_fails_is_tried_again_after_a_longer_wait() {
    let diary = Diary::default();
    let tries = Arc::new(Mutex::new(0));
    let (written, counted) = (diary.clone(), Arc::clone(&tries));
    let moody = Child::new("moody", move |supervisor| {
        let (diary, tries) = (written.clone(), Arc::clone(&counted));
        async move {
            let mine = {
                let mut tries = tries.lock().unwrap();
                *tries += 1;
                *tries
            };
            if (2..=3).contains(&mine) {
                return Err("not in the mood".into());
            }
            Ok(Actor::spawn_linked(None, Obedient { name: "moody", diary }, (), supervisor)
                .await?
                .0
                .get_cell())
        }
    });
    let supervisor = NodeSupervisor::start(spec(vec![moody, diary.child("b")])).await.unwrap();
    diary.take();
    let start = tokio::time::Instant::now();
    diary.actor("moody").cast(Order::Panic).unwrap();
    assert_eq!(diary.lines(3).await, ["-b", "+moody", "+b"]);
    assert!(start.elapsed() >= Duration::from_millis(50 + 100 + 200), "{:?}", start.elapsed());
    assert_eq!(*tries.lock().unwrap(), 4);
    supervisor.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_gives_up_is_restarted_by_its_own_with_its_children() {
    let diary = Diary::default();
    let inner_children = vec![diary.child("x"), diary.child("y")];
    let inner = Child::new("inner", move |supervisor| {
        let mut spec = spec(inner_children.clone());
        spec.policy.restarts_max = 0;
        async move { Ok(NodeSupervisor::start_under(Some(supervisor), spec).await?.cell()) }
    });
    let outer = NodeSupervisor::start(spec(vec![diary.child("a"), inner, diary.child("z")])).await.unwrap();
    assert_eq!(diary.take(), ["+a", "+x", "+y", "+z"]);
    diary.actor("x").cast(Order::Panic).unwrap();
    assert_eq!(diary.lines(5).await, ["-y", "-z", "+x", "+y", "+z"]);
    assert_eq!(outer.stop().await, Ended::Stopped { killed: vec![] });
    assert_eq!(diary.take(), ["-z", "-y", "-x", "-a"]);
    assert!(diary.all_stopped());
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_is_killed_takes_its_children_with_it() {
    let diary = Diary::default();
    let supervisor = NodeSupervisor::start(spec(vec![diary.child("a"), diary.child("b")])).await.unwrap();
    let actors = [diary.actor("a"), diary.actor("b")];
    supervisor.cell().kill();
    assert_eq!(supervisor.ended().await, Ended::Killed);
    for actor in actors {
        actor.wait(None).await.unwrap();
    }
    assert!(diary.all_stopped());
}
