//! The client, with real control plane, node, frps and frpc.

use totoro_tests::{clients, lab};

#[test]
fn from_a_code_to_a_tunnel_and_every_refusal_is_told() {
    if lab::skip("from_a_code_to_a_tunnel").is_some() {
        clients::begin().expect("a person gets a tunnel");
    }
}

#[test]
fn what_breaks_is_told_and_comes_back() {
    if lab::skip("what_breaks_is_told").is_some() {
        clients::breaks().expect("the tunnel comes back");
    }
}

#[test]
#[ignore = "needs a browser: stage `pages` of `cargo xtask test`"]
fn the_page_leads_a_person_to_a_tunnel() {
    if lab::skip("the_page_leads_a_person").is_some() {
        clients::page().expect("a person gets a tunnel by the page");
    }
}
