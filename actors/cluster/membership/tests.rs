use std::sync::Mutex;

use tokio::time::Instant;
use tumen_core::cluster::membership::{Source, State};

use super::lab::{Lab, address, name, until};
use super::*;

fn seed(node: &str) -> Seeds {
    Seeds::fixed([address(node)])
}

#[tokio::test(start_paused = true)]
async fn nodes_find_each_other_by_one_seed_and_notice_who_is_gone() {
    let mut lab = Lab::new(1);
    lab.start("a", 1, Seeds::default()).await;
    for node in ["b", "c", "d"] {
        lab.start(node, 1, seed("a")).await;
    }
    let start = Instant::now();
    lab.agree(&["a", "b", "c", "d"]).await;
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());

    tokio::time::sleep(Duration::from_secs(2)).await;
    let start = Instant::now();
    lab.kill("c").await;
    lab.agree(&["a", "b", "d"]).await;
    assert!(start.elapsed() < Duration::from_millis(600), "{:?}", start.elapsed());
    let view = lab.members("a").view();
    assert_eq!(view.node(&name("c")).unwrap().state, State::Down);

    lab.start("c", 2, seed("b")).await;
    lab.agree(&["a", "b", "c", "d"]).await;
    assert_eq!(lab.members("a").view().node(&name("c")).unwrap().info.boot().0, 2);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_node_is_noticed_and_comes_back() {
    let mut lab = Lab::new(2);
    for node in ["a", "b", "c"] {
        lab.start(node, 1, seed("a")).await;
    }
    lab.agree(&["a", "b", "c"]).await;
    let start = Instant::now();
    lab.world.freeze(&name("c"));
    lab.sees("a", &["a", "b"]).await;
    lab.sees("b", &["a", "b"]).await;
    assert!(start.elapsed() < Config::default().detection_max(3), "{:?}", start.elapsed());
    tokio::time::sleep(Duration::from_secs(12)).await;
    lab.world.thaw(&name("c"));
    lab.agree(&["a", "b", "c"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_split_leaves_each_side_with_itself_and_heals() {
    let mut lab = Lab::new(3);
    for node in ["a", "b", "c"] {
        lab.start(node, 1, seed("a")).await;
    }
    lab.agree(&["a", "b", "c"]).await;
    lab.world.cut(&[name("c")], &[name("a"), name("b")]);
    lab.sees("c", &["c"]).await;
    lab.sees("a", &["a", "b"]).await;
    lab.world.heal_all();
    lab.agree(&["a", "b", "c"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_membership_that_crashed_comes_back_to_its_view() {
    let mut lab = Lab::new(4);
    for node in ["a", "b", "c"] {
        lab.start(node, 1, seed("a")).await;
    }
    lab.agree(&["a", "b", "c"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (mut views, written) = (lab.members("b").subscribe(), Arc::clone(&seen));
    let watching = tokio::spawn(async move {
        while views.changed().await.is_ok() {
            written.lock().unwrap().push(views.borrow_and_update().live_nodes().len());
        }
    });
    for _ in 0..3 {
        lab.restart_actor("b").await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        lab.agree(&["a", "b", "c"]).await;
    }
    watching.abort();
    assert!(seen.lock().unwrap().iter().all(|alive| *alive == 3), "{seen:?}");
    lab.kill("c").await;
    lab.agree(&["a", "b"]).await;
}

#[tokio::test(start_paused = true)]
async fn who_leaves_has_left_at_once() {
    let mut lab = Lab::new(5);
    for node in ["a", "b"] {
        lab.start(node, 1, seed("a")).await;
    }
    lab.agree(&["a", "b"]).await;
    lab.members("b").leave().await;
    let start = Instant::now();
    lab.sees("a", &["a"]).await;
    assert!(start.elapsed() < Duration::from_millis(10));
    let view = lab.members("a").view();
    let left = view.node(&name("b")).unwrap();
    assert_eq!((left.state, left.source), (State::Left, Source::Itself));
}

#[tokio::test(start_paused = true)]
async fn an_operator_takes_nodes_out_and_in() {
    let mut lab = Lab::new(6);
    for node in ["a", "b"] {
        lab.start(node, 1, Seeds::default()).await;
    }
    lab.members("a").node_down(&name("a"));
    lab.members("a").node_up(&name("b"), Some(address("b")));
    lab.agree(&["a", "b"]).await;
    lab.members("a").node_down(&name("b"));
    lab.sees("a", &["a"]).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((lab.live("a"), lab.live("b")), (vec!["a".to_owned()], vec!["a".to_owned(), "b".to_owned()]));
    for _ in 0..2 {
        lab.restart_actor("a").await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(lab.live("a"), ["a"], "what an operator said outlives the actor");
    }
    lab.members("a").node_up(&name("b"), None);
    lab.agree(&["a", "b"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_seed_that_is_silent_is_tried_for_ever() {
    let mut lab = Lab::new(7);
    lab.start("a", 1, Seeds::fixed([address("b"), address("c")])).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(lab.live("a"), ["a"], "an unreachable peer is not added");
    let start = Instant::now();
    lab.start("b", 1, Seeds::default()).await;
    lab.agree(&["a", "b"]).await;
    assert!(start.elapsed() <= Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_seed_that_was_removed_is_dialled_no_more() {
    let mut lab = Lab::new(10);
    lab.start("a", 1, Seeds::fixed([address("b"), address("c")])).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    lab.members("a").set_seeds(seed("c"));
    tokio::time::sleep(Duration::from_secs(10)).await;
    lab.start("b", 1, Seeds::default()).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((lab.live("a"), lab.live("b")), (vec!["a".to_owned()], vec!["b".to_owned()]));
    lab.start("c", 1, Seeds::default()).await;
    lab.agree(&["a", "c"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_knows_others_who_look_too_goes_on_looking() {
    let mut lab = Lab::new(11);
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let discover: Discover = Arc::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { vec![address("b")] })
    });
    let still_alone: Arc<std::sync::atomic::AtomicBool> = Arc::new(true.into());
    let shown = Arc::clone(&still_alone);
    let seeds = Seeds {
        still_alone: Some(Arc::new(move || shown.load(Ordering::Relaxed))),
        ..Seeds::discovered(discover)
    };
    lab.start("b", 1, Seeds::default()).await;
    lab.start("a", 1, seeds).await;
    lab.agree(&["a", "b"]).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(
        (10..=20).contains(&asked.load(Ordering::Relaxed)),
        "{asked:?}: quickly at first, then every 2 s"
    );
    still_alone.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = asked.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(asked.load(Ordering::Relaxed) - before, 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_function_finds_is_met_and_it_is_asked_again_and_again() {
    let mut lab = Lab::new(8);
    let found = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::new(AtomicUsize::new(0));
    let (shown, counted) = (Arc::clone(&found), Arc::clone(&asked));
    let discover: Discover = Arc::new(move || {
        let (found, times) = (shown.lock().unwrap().clone(), counted.fetch_add(1, Ordering::Relaxed));
        assert!(times != 1, "users' code may panic once");
        Box::pin(async move { found })
    });
    lab.start("a", 1, Seeds::discovered(discover).and_fixed([address("a")])).await;
    lab.start("b", 1, Seeds::default()).await;
    lab.start("c", 1, Seeds::default()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(lab.live("a"), ["a"]);
    found.lock().unwrap().push(address("b"));
    lab.agree(&["a", "b"]).await;
    assert!(asked.load(Ordering::Relaxed) >= 3);

    // Not alone any more: asked as often as was said.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = asked.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(91)).await;
    assert_eq!(asked.load(Ordering::Relaxed) - before, 3);
    found.lock().unwrap().push(address("c"));
    tokio::time::sleep(Duration::from_secs(31)).await;
    lab.agree(&["a", "b", "c"]).await;
}

#[tokio::test(start_paused = true)]
async fn seeds_change_while_a_node_runs() {
    let mut lab = Lab::new(9);
    for node in ["a", "b", "c"] {
        lab.start(node, 1, Seeds::default()).await;
    }
    lab.members("a").set_seeds(seed("b"));
    lab.agree(&["a", "b"]).await;
    lab.members("a").set_seeds(seed("c"));
    lab.agree(&["a", "b", "c"]).await;
    lab.restart_actor("a").await;
    assert_eq!(lab.members("a").seeds().fixed, [address("c")], "they outlive the actor");
}

#[tokio::test(start_paused = true)]
async fn all_listeners_hear_of_each_session_and_who_comes_late_hears_of_those_that_are_up() {
    let mut lab = Lab::new(10);
    for node in ["a", "b"] {
        lab.start(node, 1, seed("a")).await;
    }
    lab.agree(&["a", "b"]).await;
    let diary = Arc::new(Mutex::new(Vec::new()));
    for listener in ["x", "y"] {
        let diary = Arc::clone(&diary);
        let write = move |event: Event| {
            let line = match event {
                Event::SessionUp { peer, .. } => format!("{listener}+{}", peer.info.id.node),
                Event::SessionDown { peer, .. } => format!("{listener}-{}", peer.node),
                Event::Refused { .. } | Event::DialFailed { .. } => return,
            };
            diary.lock().unwrap().push(line);
        };
        lab.members("a").sessions().subscribe(listener, Arc::new(write));
    }
    lab.kill("b").await;
    until("both hear of it", || diary.lock().unwrap().len() == 4).await;
    assert_eq!(*diary.lock().unwrap(), ["x+b", "y+b", "x-b", "y-b"]);
    assert!(lab.members("a").sessions().up().is_empty());
    lab.members("a").sessions().unsubscribe("x");
    lab.start("b", 2, seed("a")).await;
    lab.agree(&["a", "b"]).await;
    assert_eq!(*diary.lock().unwrap(), ["x+b", "y+b", "x-b", "y-b", "y+b"]);
}

#[tokio::test(start_paused = true)]
async fn start_and_stop_in_a_loop_leave_nothing_behind() {
    let mut lab = Lab::new(11);
    lab.start("a", 1, Seeds::default()).await;
    for boot in 1..=10 {
        lab.start("b", boot, seed("a")).await;
        lab.agree(&["a", "b"]).await;
        lab.kill("b").await;
    }
    lab.sees("a", &["a"]).await;
    assert_eq!(lab.members("a").view().nodes.len(), 2, "one name, however many runs");
}
