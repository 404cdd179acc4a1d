//! The machine, in every order of frpc's words that matters.

use totoro_api::ports::Protocol;
use totoro_api::wire::heartbeat::{LeaseUsage, SessionUsage, TenantUsage};

use super::event::{Event, Why};
use super::machine::Machine;
use super::state::{Phase, Snapshot};
use crate::access::tests::access;
use crate::frpc::admin::Status;
use crate::frpc::log::Line;
use crate::lang::Lang;
use crate::target::{Wanted, proxies};

pub(crate) fn snapshot() -> Snapshot {
    let wanted = [
        Wanted::new(Protocol::Tcp, "22", 0),
        Wanted::new(Protocol::Udp, "53", 0),
    ];
    let proxies = proxies(&wanted, "box", Lang::En).unwrap();
    Snapshot::new("https://c.example.org", &access(), &proxies, 1)
}

fn machine() -> Machine {
    let mut snapshot = snapshot();
    snapshot.server = "n1.example.org:7000".to_owned();
    Machine::new(snapshot, "inv-1")
}

fn up(name: &str) -> Line {
    Line::ProxyUp(format!("inv-1.{name}"))
}

fn refused(name: &str, code: &str) -> Line {
    Line::ProxyFailed(name.to_owned(), format!("totoro[{code}]: no; next"))
}

fn login_refused(code: &str) -> Line {
    Line::LoginFailed(format!("totoro[{code}]: no; next"))
}

fn running(name: &str, port: u16) -> Status {
    Status {
        name: format!("inv-1.{name}"),
        status: "running".to_owned(),
        err: String::new(),
        remote_addr: format!("n1.example.org:{port}"),
    }
}

#[test]
fn an_address_is_told_once_per_login() {
    let mut machine = machine();
    assert!(machine.line(Line::Connecting, 2).is_empty());
    machine.line(Line::LoggedIn, 3);
    assert!(!machine.wants_address());
    machine.line(up("box-tcp-22"), 3);
    assert!(machine.wants_address());
    let listed = [running("box-tcp-22", 20_005), running("stranger", 20_006)];
    let told = machine.status(&listed);
    assert!(
        matches!(&told[..], [Event::Running { address, .. }] if address == "n1.example.org:20005"),
        "{told:?}"
    );
    assert!(machine.status(&listed).is_empty() && !machine.wants_address());

    let lost = machine.line(Line::Connecting, 9);
    assert!(matches!(
        lost[..],
        [Event::Reconnecting { why: Why::Lost, .. }]
    ));
    assert_eq!(machine.snapshot.phase, Phase::Reconnecting);
    assert!(machine.status(&listed).is_empty(), "of the session before");
    machine.line(Line::LoggedIn, 10);
    machine.line(up("box-tcp-22"), 10);
    assert_eq!(machine.status(&listed).len(), 1);
    assert_eq!(
        (machine.snapshot.reconnects, machine.snapshot.since),
        (1, 10)
    );
}

#[test]
fn what_ends_a_new_tunnel_may_not_end_an_old_one() {
    for (code, new, old) in [
        ("invite_revoked", true, true),
        ("client_banned", true, true),
        ("max_clients", true, false),
        ("invite_paused", true, false),
        ("node_draining", true, false),
        ("rate_limited", false, false),
        ("max_moons", true, false),
    ] {
        let mut fresh = machine();
        let events = fresh.line(login_refused(code), 2);
        assert_eq!(fresh.fate.is_some(), new, "{code}: {events:?}");
        let mut ran = machine();
        ran.line(Line::LoggedIn, 2);
        ran.line(up("box-tcp-22"), 2);
        ran.line(Line::Connecting, 3);
        ran.line(login_refused(code), 3);
        assert_eq!(ran.fate.is_some(), old, "{code}");
        // Whoever looks at the state alone sees why, too.
        ran.stopped(4);
        assert_eq!(ran.snapshot.ended.is_some(), old, "{code}");
    }
}

#[test]
fn a_session_that_was_ended_is_begun_anew_by_another_frpc() {
    let mut machine = machine();
    machine.line(Line::LoggedIn, 2);
    machine.line(up("box-tcp-22"), 2);
    machine.line(Line::Connecting, 3);
    assert!(!machine.session_is_over(), "frpc tries again");
    machine.line(login_refused("max_clients"), 3);
    assert!(!machine.session_is_over(), "and may get in");
    machine.line(login_refused("session_expired"), 4);
    assert!(machine.session_is_over() && machine.fate.is_none());
}

#[test]
fn it_ends_when_no_proxy_is_left_to_hope_for() {
    let mut one = machine();
    one.line(Line::LoggedIn, 2);
    let told = one.line(refused("box-tcp-22", "port_denied"), 2);
    assert!(
        matches!(told[..], [Event::Refused { last: false, .. }]),
        "{told:?}"
    );
    assert!(one.fate.is_none(), "the other may yet run");
    let told = one.line(refused("box-udp-53", "max_proxies"), 2);
    assert!(matches!(told[..], [Event::Refused { last: true, .. }]));
    assert_eq!(one.fate.unwrap().code, "max_proxies");

    let mut other = machine();
    other.line(Line::LoggedIn, 2);
    other.line(up("box-udp-53"), 2);
    other.line(refused("box-tcp-22", "port_denied"), 2);
    assert!(other.fate.is_none());
    assert_eq!(other.line(refused("stranger", "port_denied"), 2), []);
}

#[test]
fn frpc_away_is_told_and_no_end() {
    let mut machine = machine();
    let text = "dial tcp 10.0.0.1:7000: connect: connection refused".to_owned();
    let told = machine.line(Line::LoginFailed(text), 2);
    assert!(matches!(
        told[..],
        [Event::Reconnecting {
            why: Why::NodeUnreachable { .. },
            within_s: 10
        }]
    ));
    assert_eq!(machine.snapshot.phase, Phase::Connecting);
    assert!(machine.fate.is_none());
    let stopped = machine.stopped(5);
    assert_eq!(stopped, Event::Stopped { why: None });
}

#[test]
fn what_is_left_counts_this_tunnel_once() {
    let snapshot = snapshot();
    let of = |usage: &TenantUsage| {
        let left = snapshot.left_of(Some(usage));
        (left.clients, left.proxies, left.conns)
    };
    // The fallback: 2 sessions, 5 proxies, 100 connections; two proxies are this tunnel's.
    assert_eq!(of(&TenantUsage::default()), (1, 3, 100));
    let lease = |proxy: &str| LeaseUsage {
        proxy: proxy.to_owned(),
        ..LeaseUsage::default()
    };
    let mine = TenantUsage {
        conns: 7,
        sessions: vec![SessionUsage::default()],
        leases: vec![lease("box-tcp-22"), lease("box-udp-53")],
        ..TenantUsage::default()
    };
    assert_eq!(of(&mine), (1, 3, 93));
    let full = TenantUsage {
        conns: 1000,
        sessions: vec![SessionUsage::default(); 9],
        leases: vec![lease("x"); 9],
        ..TenantUsage::default()
    };
    assert_eq!(of(&full), (0, 0, 0));
}
