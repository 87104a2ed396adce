//! The stories of the laboratory, and what only a simulated network can show.

#![allow(missing_docs, unreachable_pub, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

#[path = "transport_lab/lab.rs"]
mod lab;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lab::{Lab, Start, TestNode, greeting, name};
use tumen_actors::transport::simulated::{Weather, World};
use tumen_actors::transport::{Cookie, Settings};

struct Simulated {
    world: World,
    nodes: BTreeMap<String, TestNode>,
    boots: u64,
}

impl Simulated {
    fn new(seed: u64) -> Self {
        Self { world: World::new(seed, Weather::default()), nodes: BTreeMap::new(), boots: 0 }
    }
}

impl Lab for Simulated {
    async fn start_as(&mut self, label: &str, start: Start) -> String {
        self.boots += 1;
        let address = format!("{label}:1");
        let hello = greeting(&start.cluster, &start.node, self.boots, &address, start.protocol);
        let greet = Arc::new(move || hello.clone());
        let transport = self.world.node(greet, Cookie::new(start.cookie.as_bytes()), Settings::default());
        self.nodes.insert(label.to_owned(), TestNode::new(transport));
        address
    }

    async fn order(&mut self, node: &str, order: &str) -> String {
        self.nodes[node].order(order).await
    }

    async fn kill(&mut self, node: &str) {
        // Two may have the same name; the world ends the run that was started last.
        self.world.crash(self.nodes[node].local());
    }

    async fn freeze(&mut self, node: &str) {
        self.world.freeze(&name(node));
    }

    async fn thaw(&mut self, node: &str) {
        self.world.thaw(&name(node));
    }
}

macro_rules! stories {
    ($($story:ident),* $(,)?) => { $(
        #[tokio::test(start_paused = true)]
        async fn $story() {
            lab::$story(&mut Simulated::new(1)).await;
        }
    )* };
}

stories! {
    two_nodes_meet_talk_and_keep_order,
    every_request_ends,
    a_copy_arrives_whole,
    what_is_said_and_asked_never_waits_behind_a_copy,
    nodes_that_dial_each_other_at_once_share_one_session,
    a_killed_node_is_noticed_and_its_address_refuses,
    a_node_restarted_ten_times_is_found_each_time,
    a_frozen_node_is_suspected_bounds_what_waits_and_comes_back,
    strangers_are_refused_with_the_reason_on_both_sides,
    a_living_node_keeps_its_name,
    a_session_that_was_ended_is_followed_by_a_new_one,
    who_stops_is_heard_to_the_last_word,
}

async fn pair(world: &mut Simulated) {
    let a = world.start(Start::new("a")).await;
    let b = world.start(Start::new("b")).await;
    world.order("a", &format!("remember b {b}")).await;
    world.order("b", &format!("remember a {a}")).await;
    world.connected("a", &["b"]).await;
    world.connected("b", &["a"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_short_cut_delays_and_a_long_one_ends_the_session() {
    let mut lab = Simulated::new(2);
    pair(&mut lab).await;
    lab.world.cut(&[name("a")], &[name("b")]);
    lab.order("a", "cast b early").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!lab.order("b", "log").await.contains("heard"));
    lab.world.heal(&[name("a")], &[name("b")]);
    lab.until("b", "log", |log| log.ends_with("heard a early")).await;

    lab.world.cut(&[name("a")], &[name("b")]);
    lab.order("a", "cast b lost").await;
    lab.until("a", "log", |log| log.contains("down b 1 Silence")).await;
    lab.until("b", "log", |log| log.contains("down a 1 Silence")).await;
    lab.world.heal_all();
    lab.connected("a", &["b"]).await;
    lab.connected("b", &["a"]).await;
    assert_eq!(lab.order("a", "call b hello").await, "hello");
    assert!(!lab.order("b", "log").await.contains("lost"), "a session that ended never comes back");
}

#[tokio::test(start_paused = true)]
async fn who_hears_nothing_ends_the_session_for_both() {
    let mut lab = Simulated::new(3);
    pair(&mut lab).await;
    lab.world.cut_one_way(&[name("a")], &[name("b")]);
    lab.until("b", "log", |log| log.contains("down a 1 Silence")).await;
    lab.until("a", "log", |log| log.contains("down b 1 Closed")).await;
    lab.until("a", "log", |log| log.contains("failed Silent")).await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_link_loses_nothing_silently() {
    let mut lab = Simulated::new(4);
    pair(&mut lab).await;
    let late = lab.nodes["a"].order("call b late");
    let breaking = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        lab.world.break_session(&name("a"), &name("b"));
    };
    assert_eq!(tokio::join!(late, breaking).0, "Lost { maybe_delivered: true }");
    lab.until("a", "log", |log| log.contains("down b 1 Closed, up b 2")).await;
}

#[tokio::test(start_paused = true)]
async fn a_run_is_the_same_each_time() {
    let mut logs = Vec::new();
    for _ in 0..2 {
        let mut lab = Simulated::new(7);
        lab.world.set_weather(Weather { breaks_per_million: 20_000, ..Weather::default() });
        pair(&mut lab).await;
        for number in 0..300 {
            lab.order("a", &format!("cast b {number}")).await;
            lab.order("b", &format!("cast a {number}")).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        logs.push((lab.order("a", "log").await, lab.order("b", "log").await));
    }
    assert!(logs[0].0.contains("down b 1 Closed"), "the weather broke nothing");
    assert_eq!(logs[0], logs[1]);
}
