//! The stories of the laboratory on the real network: every node is a process of its own, on loopback.

#![allow(missing_docs, unreachable_pub, reason = "a test")]

#[path = "transport_lab/lab.rs"]
mod lab;
#[path = "transport_lab/processes.rs"]
mod processes;

use processes::Processes;

/// No test: what the other processes run. Without its orders in the environment it does nothing.
#[test]
fn node_process() {
    processes::run_if_asked();
}

macro_rules! stories {
    ($($story:ident),* $(,)?) => { $(
        #[tokio::test]
        async fn $story() {
            lab::$story(&mut Processes::default()).await;
        }
    )* };
}

stories! {
    two_nodes_meet_talk_and_keep_order,
    every_request_ends,
    a_copy_arrives_whole,
    nodes_that_dial_each_other_at_once_share_one_session,
    a_killed_node_is_noticed_and_its_address_refuses,
    a_node_restarted_ten_times_is_found_each_time,
    a_frozen_node_is_suspected_bounds_what_waits_and_comes_back,
    strangers_are_refused_with_the_reason_on_both_sides,
    a_living_node_keeps_its_name,
    a_session_that_was_ended_is_followed_by_a_new_one,
}
