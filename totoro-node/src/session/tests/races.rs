//! Which word counts, when words overtake each other.

use totoro_api::ports::Pool;
use totoro_api::ticket::Revision;
use totoro_api::wire::event::kind;
use totoro_api::wire::push::DesiredState;
use totoro_api::wire::push::InviteState::{Active, Expired, Revoked};

use super::world::{World, world};

const HOUR_MS: i64 = 3_600_000;

fn tenants(world: &World) -> Vec<String> {
    let mut tenants: Vec<_> = world.desk.sessions();
    tenants.sort_by(|a, b| a.tenant.cmp(&b.tenant));
    tenants.into_iter().map(|line| line.tenant).collect()
}

/// Why the sessions ended, in order.
fn ends(world: &World) -> Vec<String> {
    let closed = world.told_of(kind::SESSION_CLOSED);
    let why = |detail: &serde_json::Value| detail["why"].as_str().unwrap().to_owned();
    closed
        .iter()
        .map(|event| why(&event.subject.detail))
        .collect()
}

#[test]
fn the_push_comes_before_the_ticket() {
    let mut world = world();
    world.push(&[("a", Active), ("b", Active)]);
    let (a, b) = (world.ticket("a"), world.ticket("b"));
    world.login("a", &a, "", ("192.0.2.1:1", 1)).unwrap();
    // The node is past both tickets: what it has applied decides.
    let mut change = world.change();
    change.gone = vec!["a".to_owned(), "b".to_owned()];
    world.desk.apply(change).unwrap();
    assert_eq!(ends(&world), ["removed"]);
    let late = world.login("b", &b, "", ("192.0.2.2:2", 2));
    assert_eq!(late.unwrap_err(), "invite_unknown");
}

#[test]
fn the_ticket_comes_before_the_push() {
    let mut world = world();
    world.push(&[]);
    let known = world.revision();
    // Two revisions on: the invite was made, and its ticket issued.
    let newer = |claims: &mut totoro_api::ticket::Claims| claims.revision.rev += 2;
    let ticket = world.ticket_with("a", newer);
    world.login("a", &ticket, "", ("192.0.2.1:1", 1)).unwrap();
    // Neither what is applied nor a snapshot that is older than the ticket cuts it.
    let again = DesiredState {
        revision: known,
        ..world.snapshot(&[])
    };
    world.desk.apply(again).unwrap();
    world.desk.tick();
    assert_eq!(tenants(&world), ["a"]);
    // The push that is as new as the ticket has the last word.
    world.push(&[("a", Active)]);
    assert_eq!(tenants(&world), ["a"]);
    world.push(&[]);
    assert_eq!(ends(&world), ["removed"]);
}

#[test]
fn a_session_that_no_push_confirms_ends_with_its_tickets_word() {
    let mut world = world();
    world.push(&[]);
    let ticket = world.ticket_with("a", |claims| claims.revision.rev += 2);
    world.login("a", &ticket, "", ("192.0.2.1:1", 1)).unwrap();
    world.pass(23 * HOUR_MS);
    world.desk.tick();
    assert_eq!(tenants(&world), ["a"]);
    world.pass(HOUR_MS);
    world.desk.tick();
    assert_eq!(ends(&world), ["session_expired"]);
}

#[test]
fn a_control_plane_restored_from_a_backup() {
    let mut world = world();
    for _ in 0..5 {
        world.push(&[("a", Active), ("b", Active), ("new", Active)]);
    }
    for (invite, from, cookie) in [("a", "192.0.2.1:1", 1), ("new", "192.0.2.3:3", 3)] {
        world.on(invite, (from, cookie));
    }
    let before = world.ticket("b");
    world.push(&[("a", Active), ("b", Revoked), ("new", Active)]);

    // Older in its revision, and without what was made or revoked since: another generation.
    let restored = Revision {
        generation: 2,
        rev: 1,
    };
    let change = DesiredState {
        revision: restored,
        ..world.change()
    };
    let error = world.desk.apply(change).unwrap_err().to_string();
    assert!(error.contains("snapshot"), "{error}");
    assert_eq!(tenants(&world), ["a", "new"], "the last good state");
    let snapshot = DesiredState {
        revision: restored,
        ..world.snapshot(&[("a", Active), ("b", Active)])
    };
    world.desk.apply(snapshot).unwrap();
    assert_eq!(tenants(&world), ["a"], "what it does not know is over");
    // The node remembers what the restored store has forgotten.
    let again = world.ticket_with("b", |claims| claims.revision = restored);
    for ticket in [before, again] {
        let back = world.login("b", &ticket, "", ("192.0.2.2:2", 2));
        assert_eq!(back.unwrap_err(), "invite_revoked");
    }
    let world = world.restart();
    assert_eq!(world.desk.revision(), restored);
}

#[test]
fn a_revoked_invite_leaves_the_desired_state() {
    let mut world = world();
    world.push(&[("a", Active)]);
    let ticket = world.ticket_with("a", |claims| claims.exp += 172_800);
    world.push(&[("a", Revoked)]);
    let mut gone = world.change();
    gone.gone = vec!["a".to_owned()];
    world.desk.apply(gone).unwrap();
    let back = |world: &World| {
        world
            .login("a", &ticket, "", ("192.0.2.1:1", 1))
            .unwrap_err()
    };
    assert_eq!(back(&world), "invite_revoked");
    // By a ticket that claims to be newer than all that is applied, too.
    let newer = world.ticket_with("a", |claims| claims.revision.rev += 9);
    let refused = world.login("a", &newer, "", ("192.0.2.1:2", 2));
    assert_eq!(refused.unwrap_err(), "invite_revoked");
    // As long as any session under it could have lived; then nobody knows it.
    world.pass(25 * HOUR_MS);
    let change = world.change();
    world.desk.apply(change).unwrap();
    assert_eq!(back(&world), "invite_unknown");
}

#[test]
fn ticket_keys_are_rotated_in_mid_session() {
    let mut world = world();
    world.push(&[("a", Active)]);
    let (used, unused) = (world.ticket("a"), world.ticket("a"));
    let on = world.login("a", &used, "", ("192.0.2.1:1", 1)).unwrap();
    world.rotate_key();
    world.push(&[("a", Active)]);
    assert_eq!(tenants(&world), ["a"]);
    // What was seen is known by its hash, what was not has nobody to vouch for it.
    world.hang_up(1);
    world
        .login("a", &used, &on.run_id, ("192.0.2.1:2", 2))
        .unwrap();
    let old = world.login("a", &unused, "", ("192.0.2.1:3", 3));
    assert_eq!(old.unwrap_err(), "ticket_key_unknown");
    let new = world.ticket("a");
    let extended = world
        .login("a", &new, &on.run_id, ("192.0.2.1:4", 4))
        .unwrap();
    assert_eq!(extended.run_id, on.run_id);
}

#[test]
fn a_code_is_rotated_while_its_ticket_is_on_the_way() {
    let mut world = world();
    world.push(&[("a", Active)]);
    let (used, unused) = (world.ticket("a"), world.ticket("a"));
    world.login("a", &used, "", ("192.0.2.1:1", 1)).unwrap();
    let mut rotated = world.snapshot(&[("a", Active)]);
    rotated.invites[0].epoch = 2;
    world.desk.apply(rotated).unwrap();
    assert_eq!(ends(&world), ["rotated"]);
    let late = world.login("a", &unused, "", ("192.0.2.1:2", 2));
    assert_eq!(late.unwrap_err(), "ticket_expired");
    let new = world.ticket_with("a", |claims| claims.epoch = 2);
    world.login("a", &new, "", ("192.0.2.1:3", 3)).unwrap();
}

#[test]
fn an_expired_invite_that_is_extended_begins_anew() {
    let mut world = world();
    world.push(&[("a", Active)]);
    let old = world.ticket("a");
    world.login("a", &old, "", ("192.0.2.1:1", 1)).unwrap();
    world.push(&[("a", Expired)]);
    assert_eq!(ends(&world), ["expired"]);
    let mut extended = world.snapshot(&[("a", Active)]);
    extended.invites[0].epoch = 2;
    world.desk.apply(extended).unwrap();
    let back = world.login("a", &old, "", ("192.0.2.1:2", 2));
    assert_eq!(back.unwrap_err(), "ticket_expired", "of its former life");
    let new = world.ticket_with("a", |claims| claims.epoch = 2);
    world.login("a", &new, "", ("192.0.2.1:3", 3)).unwrap();
}

#[test]
fn a_limit_below_what_is_in_use_refuses_the_next_and_cuts_none() {
    let mut world = world();
    world.push(&[("a", Active)]);
    let a = world.on("a", ("192.0.2.1:1", 1));
    world.on("a", ("192.0.2.1:2", 2));
    for port in [20_000, 20_001] {
        world.new_proxy(&a, &port.to_string(), port).unwrap();
    }
    let mut lower = world.snapshot(&[("a", Active)]);
    lower.invites[0].limits.max_clients = Some(1);
    lower.invites[0].limits.max_proxies = Some(1);
    world.desk.apply(lower).unwrap();
    assert_eq!(tenants(&world), ["a", "a"]);
    assert_eq!(world.leased(), [20_000, 20_001]);
    assert_eq!(world.new_proxy(&a, "c", 0).unwrap_err(), "max_proxies");
    let more = world.login("a", &world.ticket("a"), "", ("192.0.2.1:3", 3));
    assert_eq!(more.unwrap_err(), "max_clients");
}

#[test]
fn a_close_arrives_after_its_successors_login() {
    let mut world = world();
    world.push(&[("a", Active)]);
    let ticket = world.ticket("a");
    let old = world.login("a", &ticket, "", ("192.0.2.1:1", 1)).unwrap();
    world.new_proxy(&old, "web", 20_000).unwrap();
    let new = world
        .login("a", &ticket, &old.run_id, ("192.0.2.1:2", 2))
        .unwrap();
    assert_eq!(world.new_proxy(&new, "web", 20_000), Ok(20_000));
    world.close_proxy(&old, "web");
    assert_eq!(world.leased(), [20_000], "the successor's");
    assert_eq!(
        world.new_proxy(&old, "x", 0).unwrap_err(),
        "session_expired"
    );
    world.close_proxy(&new, "web");
    assert_eq!(world.leased(), Vec::<u16>::new());
}

#[test]
fn what_can_not_hold_leaves_the_last_good_state_and_is_told() {
    let mut world = world();
    world.push(&[("a", Active)]);
    world.on("a", ("192.0.2.1:1", 1));
    let good = world.revision();
    let mut bad = world.snapshot(&[]);
    if let Some(node) = &mut bad.node {
        node.pool = Pool {
            tcp: "6990-7010".parse().unwrap(),
            ..Pool::default()
        };
    }
    let error = world.desk.apply(bad).unwrap_err().to_string();
    assert!(error.contains("7000"), "{error}");
    assert_eq!(world.desk.applied().revision, good);
    assert_eq!(tenants(&world), ["a"], "nothing of it took effect");
    let mut world = world.restart();
    assert_eq!(
        world.desk.applied().revision,
        good,
        "nor did a restart take it up"
    );
    assert_eq!(world.push(&[("a", Active)]).error, None);
}

#[test]
fn a_change_that_passes_a_ticket_by_judges_it_though_it_does_not_name_it() {
    let mut world = world();
    world.push(&[("b", Active)]);
    let b = world.ticket("b");
    world.login("b", &b, "", ("192.0.2.2:2", 2)).unwrap();
    let newer = |claims: &mut totoro_api::ticket::Claims| claims.revision.rev += 1;
    let ticket = world.ticket_with("a", newer);
    world.login("a", &ticket, "", ("192.0.2.1:1", 1)).unwrap();
    // The node stands at the ticket's revision now, and has no such invite.
    let change = world.change();
    world.desk.apply(change).unwrap();
    assert_eq!(ends(&world), ["removed"]);
    assert_eq!(tenants(&world), ["b"]);
}

#[test]
fn a_ban_while_a_login_is_judged_holds() {
    let mut world = world();
    world.push(&[("a", Active)]);
    for n in 1..=100_u8 {
        let ticket = world.ticket("a");
        let (client, prefix) = (format!("203.0.113.{n}:1"), format!("203.0.113.{n}/32"));
        std::thread::scope(|scope| {
            scope.spawn(|| world.login("a", &ticket, "", (&client, u64::from(n))));
            scope.spawn(|| world.desk.ban(prefix.parse().unwrap(), None).unwrap());
        });
        world.desk.tick();
        let lines = world.desk.sessions();
        assert!(lines.iter().all(|line| !line.connected), "{n}: {lines:?}");
    }
}

#[test]
fn a_ban_that_is_over_is_listed_no_more() {
    let world = world();
    let listed = || world.desk.bans().len();
    world
        .desk
        .ban("192.0.2.1/32".parse().unwrap(), Some(10))
        .unwrap();
    world
        .desk
        .ban("192.0.2.2/32".parse().unwrap(), None)
        .unwrap();
    assert_eq!(listed(), 2);
    world.pass(11_000);
    assert_eq!(listed(), 1, "the one without an end");
}

#[test]
fn a_ban_of_mapped_addresses_is_one_of_ipv4() {
    let world = world();
    let mapped = "::ffff:203.0.113.9/120".parse().unwrap();
    world.desk.ban(mapped, None).unwrap();
    let bans = world.desk.bans();
    assert_eq!(bans[0].prefix.to_string(), "203.0.113.0/24");
    world.desk.unban(mapped).unwrap();
    assert!(world.desk.bans().is_empty());
    assert!(world.desk.ban("::/0".parse().unwrap(), None).is_err());
}
