//! Names, children and singletons through the facade, on one node: what users write, and what they are told.
//!
//! A process has one node, so all of it is one story.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use tumen::names::{Choice, NameFailure, Placement, Reason, Refused, Restart};
use tumen::prelude::*;
use tumen::ractor::{self, Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tumen::{ChildSpec, NameEvent, Subscription};

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct Charge {
    cents: u64,
}

impl Message for Charge {
    type Reply = (u64, u64);
}

/// Ends the child as it is told.
#[derive(Serialize, Deserialize)]
enum End {
    Stop,
    Fail,
    Panic,
}

impl Message for End {
    type Reply = ();
}

/// One account's total.
struct Billing {
    currency: String,
    total: u64,
}

impl Child for Billing {
    const KIND: &'static str = "billing";
    type Args = String;

    async fn start(currency: String, cx: &mut ChildContext<Self>) -> Result<Self> {
        match &*currency {
            "" => Err(Error::ignore()),
            "XXX" => Err(Error::rejected("there is no such currency")),
            // Longer than a call is waited for.
            "SLOW" => {
                tokio::time::sleep(Duration::from_secs(4)).await;
                Ok(Self { currency, total: 0 })
            }
            _ => {
                assert_eq!(cx.node().as_str(), "node-1");
                Ok(Self { currency, total: 0 })
            }
        }
    }
}

impl Receive<Charge> for Billing {
    async fn receive(&mut self, charge: Charge, cx: &mut ChildContext<Self>) -> Result<(u64, u64)> {
        let total = self.total.checked_add(charge.cents);
        self.total = total.ok_or_else(|| Error::rejected(format!("too many cents of {}", self.currency)))?;
        Ok((cx.fence().0, self.total))
    }
}

impl Receive<End> for Billing {
    async fn receive(&mut self, how: End, cx: &mut ChildContext<Self>) -> Result<()> {
        match how {
            End::Stop => cx.stop(),
            End::Fail => cx.fail("told to"),
            End::Panic => panic!("told to"),
        }
        Ok(())
    }
}

/// An actor that knows nothing of tumen.
struct Adder;

enum AdderMsg {
    Add(u64, RpcReplyPort<(u64, u64)>),
    Fail(End, ActorRef<AdderMsg>),
}

impl ractor::Message for AdderMsg {}

impl Actor for Adder {
    type Msg = AdderMsg;
    type State = u64;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<AdderMsg>, (): ()) -> Result<u64, ActorProcessingErr> {
        Ok(0)
    }

    async fn handle(
        &self,
        _: ActorRef<AdderMsg>,
        message: AdderMsg,
        total: &mut u64,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            AdderMsg::Add(n, reply) => {
                *total += n;
                // Whoever asked may wait no more.
                drop(reply.send((0, *total)));
                Ok(())
            }
            AdderMsg::Fail(End::Fail, _) => Err("it had to".into()),
            AdderMsg::Fail(End::Panic, _) => panic!("it could not"),
            AdderMsg::Fail(End::Stop, myself) => {
                myself.stop(Some("enough".into()));
                Ok(())
            }
        }
    }
}

async fn next(news: &mut Subscription<NameEvent>) -> NameEvent {
    tokio::time::timeout(PATIENCE, news.next()).await.expect("there is news").expect("the node runs")
}

/// Waits until a name is given back, and tells why.
async fn given_back(news: &mut Subscription<NameEvent>, of: &str) -> (Reason, bool) {
    loop {
        if let NameEvent::Unregistered { name, reason, goes_on, .. } = next(news).await
            && name.as_bytes() == of.as_bytes()
        {
            return (reason, goes_on);
        }
    }
}

/// Chooses the first of the nodes, of which there is one here, for names that begin with a; and nobody who is there for others.
struct First;

impl Placement for First {
    fn pick(&self, choice: &Choice<'_>) -> Option<usize> {
        if choice.name.as_bytes().starts_with(b"a") { Some(0) } else { Some(choice.candidates.len()) }
    }
}

async fn placed(node: &Node) {
    let spec = || ChildSpec::new().placed_by("first");
    let placed = node.start_child_with::<Billing>("a/placed", "EUR".into(), spec()).await.unwrap();
    assert_eq!(placed.call(node, Charge { cents: 1 }).await.unwrap().1, 1);
    node.terminate_child("a/placed").await.unwrap();
    for (name, placement, says) in [
        ("far", "first", "the placement first chose number 1, counted from 0, of 1 nodes"),
        ("a", "near-data", "has no placement named near-data (it has first)"),
        ("a", "", "the child's placement"),
    ] {
        let spec = ChildSpec::new().placed_by(placement);
        let why = node.start_child_with::<Billing>(name, "EUR".into(), spec).await.unwrap_err();
        assert!(why.to_string().contains(says) && why.changed() == Some(false), "{why}");
        assert!(node.which_children(name, 1).is_empty(), "nothing is tracked");
    }
}

async fn told(node: &Node) {
    assert_eq!(node.get_meta::<String>("billing").unwrap(), None);
    let first = node.put_meta("billing", "a word").await.unwrap();
    assert_eq!(node.get_meta::<String>("billing").unwrap().as_deref(), Some("a word"));
    let second = node.put_meta("billing", &vec![(1, "one")]).await.unwrap();
    assert!(second > first);
    assert_eq!(node.get_meta::<Vec<(u8, String)>>("billing").unwrap(), Some(vec![(1, "one".to_owned())]));
    assert!(node.get_meta::<u32>("billing").is_err(), "it is something else");
    node.await_visible("billing").await.unwrap();
    assert_eq!(
        node.lookup("billing").unwrap().kind.unwrap().as_str(),
        "billing",
        "the name is another thing"
    );
    let long = node.put_meta("long", &"a".repeat(20_000)).await.unwrap_err();
    assert_eq!((long.code(), long.changed()), ("too_large", Some(false)));
    assert!(node.delete_meta("billing").await.unwrap() && !node.delete_meta("billing").await.unwrap());
    assert_eq!(node.get_meta::<String>("billing").unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placement_that_cannot_be_told_from_another_one_starts_no_node() {
    for (names, says) in [
        (["random", "a"], "random is one of tumen's own"),
        (["a", "a"], "a is given twice"),
        (["a", "no name"], "\"no name\" has a name that cannot be taken"),
    ] {
        let builder = Node::builder("shop", "node-1").listen("127.0.0.1:0");
        let refused =
            builder.placement(names[0], First).placement(names[1], First).start().await.unwrap_err();
        assert!(refused.to_string().contains(says), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn children_and_actors_are_found_by_their_names() {
    let node = Node::builder("shop", "node-1")
        .listen("127.0.0.1:0")
        .partitions(4)
        .call_deadline(Duration::from_secs(3))
        .child::<Billing>(|c| c.receives::<Charge>().receives::<End>())
        .singleton::<Billing>("billing", "EUR".into())
        .placement("first", First)
        .start()
        .await
        .unwrap();
    let mut news = node.subscribe::<NameEvent>();
    tokio::time::timeout(PATIENCE, node.ready()).await.unwrap().unwrap();

    // The singleton of the builder comes by itself.
    let NameEvent::Registered { name, fence, .. } = next(&mut news).await else {
        panic!("something else came first")
    };
    assert_eq!(name.as_bytes(), b"billing");
    let billing = node.singleton::<Billing>("billing").unwrap();
    assert_eq!(billing.call(&node, Charge { cents: 2 }).await.unwrap(), (fence.0, 2));
    assert_eq!(node.call_name("billing", Charge { cents: 3 }).await.unwrap(), (fence.0, 5));
    let refused = billing.call(&node, Charge { cents: u64::MAX }).await.unwrap_err();
    assert_eq!(refused.to_string(), "refused: too many cents of EUR");
    let found = node.lookup("billing").unwrap();
    assert_eq!((found.fence, found.kind.unwrap().as_str()), (fence, "billing"));
    let again = node.start_singleton::<Billing>("billing", "EUR".into()).await.unwrap();
    assert_eq!((again, node.count_children().running), (billing.clone(), 1));

    // What is cast arrives before what is asked after it.
    for _ in 0..100 {
        billing.cast(&node, Charge { cents: 1 }).unwrap();
        node.cast_name("billing", Charge { cents: 1 }).unwrap();
    }
    assert_eq!(billing.call(&node, Charge { cents: 0 }).await.unwrap().1, 205);
    assert!(matches!(node.cast_name("nobody", Charge { cents: 1 }), Err(Error::NotFound(_))));
    assert!(matches!(node.cast_name("", Charge { cents: 1 }), Err(Error::BadName(_))));

    // It fails, and is there again: what it held is gone.
    for how in [End::Panic, End::Fail, End::Stop] {
        let before = node.lookup("billing").unwrap().fence;
        drop(billing.call(&node, how).await);
        assert!(given_back(&mut news, "billing").await.1, "it goes on");
        let (now, total) = billing.call(&node, Charge { cents: 1 }).await.unwrap();
        assert!(now > before.0 && total == 1, "{now} {total}");
    }

    // Others are refused, or end as they were told to.
    let taken = node.start_child::<Billing>("billing", "USD".into()).await.unwrap_err();
    assert!(matches!(taken, Error::Name(NameFailure::Refused(Refused::AlreadyRegistered { .. }))), "{taken}");
    for (currency, says, code) in
        [("", "not to run", "ignored"), ("XXX", "there is no such currency", "start_failed")]
    {
        let why = node.start_child::<Billing>("other", currency.into()).await.unwrap_err();
        assert!(why.to_string().contains(says) && why.changed() == Some(false), "{why}");
        assert_eq!((why.code(), why.is_safe_to_retry()), (code, false));
        assert!(node.which_children("other", 1).is_empty(), "nothing is tracked");
        match given_back(&mut news, "other").await {
            (Reason::Ignored, false) if currency.is_empty() => {}
            (Reason::StartFailed(_), false) if !currency.is_empty() => {}
            other => panic!("{currency:?}: {other:?}"),
        }
    }
    let slow = node.start_child::<Billing>("slow", "SLOW".into()).await.unwrap();
    assert_eq!(slow.call(&node, Charge { cents: 1 }).await.unwrap().1, 1);
    node.terminate_child("slow").await.unwrap();
    assert!(matches!(node.start_child::<Billing>("", "EUR".into()).await, Err(Error::BadName(_))));
    let spec = ChildSpec::new().restart(Restart::Transient).value("what people see");
    let other = node.start_child_with::<Billing>("other", "USD".into(), spec).await.unwrap();
    assert_eq!(&*node.lookup("other").unwrap().value, b"what people see");
    let names: Vec<_> = node.registered("", 10).into_iter().map(|found| found.name.to_string()).collect();
    assert_eq!(names, ["billing", "other"]);
    other.call(&node, End::Stop).await.unwrap();
    assert_eq!(given_back(&mut news, "other").await, (Reason::Normal, false));
    assert!(matches!(other.call(&node, Charge { cents: 1 }).await, Err(Error::NotFound(_))));

    // An actor of another kind of life, under a name, and without one.
    let (adder, running) = Actor::spawn(None, Adder, ()).await.unwrap();
    let hosted = node.host(&adder, |Charge { cents }, reply| AdderMsg::Add(cents, reply));
    let first = hosted.register("adder", "v1").await.unwrap();
    assert_eq!(hosted.register("adder", "v2").await.unwrap(), first, "twice is the same as once");
    assert_eq!(&*node.lookup("adder").unwrap().value, b"v2");
    assert_eq!(node.call_name("adder", Charge { cents: 4 }).await.unwrap(), (0, 4));
    let remote = hosted.remote();
    assert_eq!(remote.call(&node, Charge { cents: 5 }).await.unwrap(), (0, 9));
    assert!(matches!(node.call_name("adder", End::Stop).await, Err(Error::Call(Failure::Rejected(_)))));
    let taken = hosted.register("billing", "").await.unwrap_err();
    assert_eq!((taken.code(), hosted.names().len()), ("already_registered", 1));
    node.await_visible("adder").await.unwrap();
    hosted.unregister("adder").await.unwrap();
    assert!(node.lookup("adder").is_none());
    hosted.register("adder", "").await.unwrap();
    for _ in 0..10 {
        remote.cast(&node, Charge { cents: 1 }).unwrap();
    }
    assert_eq!(remote.call(&node, Charge { cents: 0 }).await.unwrap().1, 19);
    adder.stop(None);
    running.await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, remote.monitor(&node)).await.unwrap();
    assert_eq!(ended, Reason::Normal);
    loop {
        if given_back(&mut news, "adder").await.0 == Reason::Normal && node.lookup("adder").is_none() {
            break;
        }
    }
    assert!(matches!(
        remote.call(&node, Charge { cents: 1 }).await,
        Err(Error::Call(Failure::Fenced { changed: false }))
    ));
    assert!(matches!(remote.cast(&node, Charge { cents: 1 }), Err(Error::Call(Failure::Fenced { .. }))));

    // How such an actor ended those hear who monitor it, before and after, and those who listen to its name.
    for (how, said) in [
        (Some(End::Fail), Reason::Crashed("it had to".into())),
        (Some(End::Panic), Reason::Crashed("it could not".into())),
        (Some(End::Stop), Reason::Normal),
        (None, Reason::Crashed("it was killed".into())),
    ] {
        let (adder, running) = Actor::spawn(None, Adder, ()).await.unwrap();
        let hosted = node.host(&adder, |Charge { cents }, reply| AdderMsg::Add(cents, reply));
        hosted.register("ends", "").await.unwrap();
        let remote = hosted.remote();
        let mut lost = hosted.lost_names().unwrap();
        let before = tokio::spawn({
            let (node, remote) = (node.clone(), remote.clone());
            async move { remote.monitor(&node).await }
        });
        match how {
            Some(how) => adder.cast(AdderMsg::Fail(how, adder.clone())).unwrap(),
            None => adder.kill(),
        }
        running.await.unwrap();
        let heard = tokio::time::timeout(PATIENCE, before).await.unwrap().unwrap();
        let after = tokio::time::timeout(PATIENCE, remote.monitor(&node)).await.unwrap();
        let (listened, goes_on) = given_back(&mut news, "ends").await;
        for reason in [&heard, &after, &listened] {
            match (reason, &said) {
                (Reason::Crashed(why), Reason::Crashed(said)) => assert!(why.contains(said), "{why} {said}"),
                (reason, said) => assert_eq!(reason, said),
            }
        }
        assert!(!goes_on);
        // Nobody else has its name, and who has ended loses none any more.
        assert_eq!(lost.try_recv(), Err(tokio::sync::broadcast::error::TryRecvError::Closed));
        assert!(matches!(hosted.lost_names(), Err(why) if why.code() == "no_such_actor"));
    }

    told(&node).await;
    placed(&node).await;

    // Given up, for it failed too often, the builder's singleton is asked for again.
    let gave_up = async {
        loop {
            drop(billing.call(&node, End::Panic).await);
            if matches!(given_back(&mut news, "billing").await, (Reason::GivenUp(_), false)) {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, gave_up).await.unwrap();
    let comes_back = async {
        while billing.call(&node, Charge { cents: 1 }).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, comes_back).await.unwrap();

    // To be terminated is the last word: the builder's singleton does not come back.
    node.terminate_child("billing").await.unwrap();
    assert_eq!(given_back(&mut news, "billing").await, (Reason::Normal, false));
    assert!(matches!(node.terminate_child("billing").await, Err(why) if why.code() == "not_found"));
    assert_eq!(node.count_children().children, 0);
    node.stop().await;
    assert_eq!(tokio::time::timeout(PATIENCE, async { while news.next().await.is_some() {} }).await, Ok(()));
}
