//! A tunnel's life, from the invite's code to its end.

use std::time::Duration;

use serde_json::json;

use super::super::commands::{run, text};
use super::{FRPC, Proxy, World, missing, pasted, service, tcp};

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_through_stock_frps_and_frpc() {
    if missing(&["frps", FRPC]) {
        return;
    }
    let world = World::new().await;
    let limits = json!({ "types": ["tcp"], "max_clients": 1 });
    let invite = world.invite(json!({ "limits": limits })).await;

    // A working tunnel; what is refused stands in frpc's own log.
    let (local, port) = (service(), 20_000);
    let bad = Proxy {
        kind: "udp",
        ..tcp("bad", local, 0)
    };
    let proxies = [tcp("web", local, port), bad];
    let frpc = world.frpc("frpc", &pasted(&invite.file, &proxies));
    frpc.wait_for("web] start proxy success");
    frpc.wait_for("bad] start error: totoro[proxy_type_denied]: ");
    assert_eq!(world.visit(port), "hello\n");
    let used = world.usage(&invite).await;
    assert_eq!(used["leases"].as_array().unwrap().len(), 1);
    assert_eq!(used["leases"][0]["port"], port);
    assert_eq!(used["grade"], "callback");
    assert_eq!(used["unenforced"][0], "max_conns");
    let shown = text(&run(&world.control, &["node", "show", "n1"]));
    assert!(
        shown.contains("unenforced") && shown.contains("live_revocation"),
        "{shown}"
    );
    // It pings once a second, and lives beyond three of them.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.visit(port), "hello\n");

    // Another client of the invite is told why not.
    let second = world.frpc("second", &pasted(&invite.file, &[]));
    second.refusal("max_clients");
    second.stop();

    // Paused: the session lives, users are refused; active again, they are not.
    world.set_state(&invite, "paused").await;
    assert_eq!(world.visit(port), "");
    world.frps.wait_for("totoro[invite_paused]");
    world.set_state(&invite, "active").await;
    assert_eq!(world.visit(port), "hello\n");

    // Gone, its lease is free at once, and its place too.
    frpc.stop();
    world.leases(&invite, 0).await;
    let back = world.frpc("back", &pasted(&invite.file, &[tcp("web", local, 0)]));
    back.wait_for("web] start proxy success");
    assert_eq!(world.visit(port), "hello\n", "the same port again");

    // Revoked, its next ping ends it, and it is told why.
    let control = &world.control;
    let path = format!("/admin/invites/{}", invite.id);
    control.delete(&path, &control.admin).await;
    back.refusal("invite_revoked");
    assert_eq!(world.visit(port), "");
    let query = format!("&invite={}&kind=session.", invite.id);
    // A work connection may have been refused before the ping; the ping ends it within a second.
    let mut events = Vec::new();
    for _ in 0..100 {
        events = control.kinds(&query).await;
        events.retain(|kind| kind != "session.refused");
        if events.len() >= 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(events.len(), 4, "two, opened and closed: {events:?}");
    let key = std::fs::read_to_string(world.dir().join("n1.key")).unwrap();
    for secret in [invite.code.as_str(), key.trim()] {
        assert!(!control.log().contains(secret), "a secret in the log");
    }
}
