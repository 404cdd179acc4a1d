//! What an invite does not allow, what closing frees, and UDP.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Instant;

use serde_json::json;

use super::program::tools;
use super::{FRPC, Proxy, World, echo, missing, pasted, service, tcp};
use crate::support::PATIENCE;

#[tokio::test(flavor = "multi_thread")]
async fn max_proxies_is_told_and_a_closed_proxy_makes_room() {
    if missing(&["frps", FRPC]) {
        return;
    }
    let world = World::new().await;
    let limits = json!({ "limits": { "max_proxies": 1, "types": ["tcp"] } });
    let invite = world.invite(limits).await;
    let local = service();
    // `frpc reload` closes and opens proxies of a running session.
    let head = format!(
        "{}\n[webServer]\naddr = \"{}\"\nport = 7400\n",
        invite.file, world.address
    );
    let (web, more) = (tcp("web", local, 20_000), tcp("more", local, 20_001));
    let frpc = world.frpc("frpc", &pasted(&head, &[web]));
    frpc.wait_for("web] start proxy success");
    let reload = |proxies: &[Proxy]| {
        let file = world.dir().join("frpc.toml");
        std::fs::write(&file, pasted(&head, proxies)).unwrap();
        let mut reload = Command::new(tools().join(FRPC));
        reload.arg("reload").arg("-c").arg(file);
        let done = reload.env("no_proxy", "*").output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    reload(&[web, more]);
    frpc.wait_for("more] start error: totoro[max_proxies]: ");
    frpc.refusal("max_proxies");
    assert_eq!(world.visit(20_001), "");

    // CloseProxy frees the place, and the port for its own tenant.
    reload(&[]);
    world.leases(&invite, 0).await;
    reload(&[more]);
    frpc.wait_for("more] start proxy success");
    assert_eq!(world.visit(20_001), "hello\n");
    let leases = world.leases(&invite, 1).await;
    assert_eq!(leases[0]["proxy"], "more");
    assert_eq!(world.usage(&invite).await["refused"]["max_proxies"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn conn_rate_holds_and_udp_works() {
    if missing(&["frps", FRPC]) {
        return;
    }
    let world = World::new().await;
    let limits = json!({ "limits": { "conn_rate": 2, "max_proxies": 2 } });
    let invite = world.invite(limits).await;
    let udp = Proxy {
        kind: "udp",
        ..tcp("dns", echo(), 20_000)
    };
    let proxies = [tcp("web", service(), 20_000), udp];
    let frpc = world.frpc("frpc", &pasted(&invite.file, &proxies));
    for proxy in ["web", "dns"] {
        frpc.wait_for(&format!("{proxy}] start proxy success"));
    }

    // frp tells the client nothing of a user who was refused: the reason stands in frps's log, and
    // in what the holder of the code sees.
    let visits: Vec<String> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| world.visit(20_000)))
            .collect();
        all.into_iter().map(|visit| visit.join().unwrap()).collect()
    });
    let served = visits.iter().filter(|visit| *visit == "hello\n").count();
    let refused = visits.iter().filter(|visit| visit.is_empty()).count();
    assert!(served >= 2 && refused > 0, "{visits:?}");
    assert_eq!(served + refused, 20);
    world.frps.wait_for("totoro[conn_rate]: ");
    assert_eq!(world.usage(&invite).await["refused"]["conn_rate"], refused);

    // Nobody asks about UDP: it works, and its count is among what is not enforced.
    let socket = UdpSocket::bind((world.address, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE / 20)).unwrap();
    let (began, mut buffer) = (Instant::now(), [0; 16]);
    loop {
        socket.send_to(b"anyone", (world.address, 20_000)).unwrap();
        if socket
            .recv(&mut buffer)
            .is_ok_and(|length| &buffer[..length] == b"anyone")
        {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "no datagram comes back");
    }
    let unenforced = world.usage(&invite).await["unenforced"].clone();
    assert!(unenforced.as_array().unwrap().contains(&json!("max_flows")));
}
