//! Short forms of what `cargo xtask soak` plays for long: real frps and frpc, and people who do not
//! play fair.

use std::time::Duration;

use totoro_tests::hostile::{
    aim, clock, flood, forgotten, logins, multipath, plugin, readers, replays, revoke,
};
use totoro_tests::lab;

#[test]
fn a_revocation_reaches_every_way_that_frpc_may_take() {
    if lab::skip("a_revocation_reaches_every_way").is_some() {
        revoke::play(2, "").expect("nothing outlives its invite");
    }
}

#[test]
fn what_cannot_be_tied_to_a_tcp_connection_cannot_log_in() {
    if lab::skip("what_cannot_be_tied").is_some() {
        revoke::untold().expect("refused with a reason");
    }
}

#[test]
fn who_asks_for_mptcp_has_plain_tcp_or_nothing() {
    if lab::skip("who_asks_for_mptcp").is_some() {
        multipath::play().expect("no MPTCP");
    }
}

#[test]
fn a_client_cannot_aim_the_node_at_anyone() {
    if lab::skip("a_client_cannot_aim").is_some() {
        aim::play().expect("nothing leaves the node");
    }
}

#[test]
fn a_flood_of_logins_is_held_back_and_another_client_gets_in() {
    if lab::skip("a_flood_of_logins").is_some() {
        logins::play(Duration::from_secs(3)).expect("only the flood is held back");
    }
}

#[test]
fn a_flood_of_syns_counts_nothing_and_a_neighbour_is_served() {
    if lab::skip("a_flood_of_syns").is_some() {
        flood::brief(5_000, 10).expect("only the flooded port suffers");
    }
}

#[test]
fn readers_that_read_nothing_are_held_to_their_limit_and_a_neighbour_is_served() {
    if lab::skip("readers_that_read_nothing").is_some() {
        let played = readers::Played {
            readers: 60,
            allowed: 30,
            rounds: 1,
            mib: 8,
        };
        readers::brief(played).expect("frps stays up");
    }
}

#[test]
fn hostile_input_is_refused_for_what_it_is_and_hurts_nobody() {
    if lab::skip("hostile_input").is_some() {
        plugin::play().expect("refused, each with its reason");
    }
}

#[test]
fn a_client_that_the_node_has_forgotten_is_made_to_come_again() {
    if lab::skip("a_client_that_the_node_has_forgotten").is_some() {
        forgotten::play().expect("it comes again");
    }
}

#[test]
fn what_was_said_before_gives_nothing_twice() {
    if lab::skip("what_was_said_before").is_some() {
        replays::play().expect("nothing twice, and nobody is hurt");
    }
}

#[test]
fn a_wall_clock_that_is_set_changes_no_verdict() {
    if lab::skip("a_wall_clock_that_is_set").is_some() {
        clock::play().expect("by the control plane's clock");
    }
}
