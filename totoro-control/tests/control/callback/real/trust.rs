//! Whom frps and frpc believe: only who has a certificate of an authority that they trust.

use serde_json::json;

use super::program::Program;
use super::{FRPC, World, missing, pasted, service, tcp};
use crate::support::ca::Authority;

#[tokio::test(flavor = "multi_thread")]
async fn frps_asks_nobody_whom_it_cannot_verify_and_lets_nobody_in() {
    if missing(&["frps", FRPC]) {
        return;
    }
    let mut world = World::new().await;
    let invite = world.invite(json!({})).await;
    let file = pasted(&invite.file, &[tcp("web", service(), 20_000)]);

    // frps trusts another authority: it asks nothing, so no login gets in.
    let stranger = world.dir().join("stranger.pem");
    std::fs::write(&stranger, Authority::new().pem()).unwrap();
    let config = std::fs::read_to_string(world.dir().join("frps.toml")).unwrap();
    world.frps.signal(nix::sys::signal::Signal::SIGKILL);
    world.frps.ended();
    let distrusting = Program::start(world.dir(), "frps", "distrusting", &config, &stranger);
    distrusting.wait_for("frps started successfully");
    let mut frpc = world.frpc("frpc", &file);
    distrusting.wait_for("certificate signed by unknown authority");
    frpc.wait_for("login to the server failed");
    frpc.ended();
    assert!(!frpc.said().contains("start proxy success"));
    assert_eq!(
        world.control.kinds("&kind=session.").await,
        Vec::<String>::new()
    );
    // And with the right one everything works: nothing else was wrong.
    distrusting.stop();
    world.frps = Program::start(world.dir(), "frps", "frps", &config, &world.ca);
    world.frps.wait_for("frps started successfully");
    let frpc = world.frpc("frpc", &file);
    frpc.wait_for("web] start proxy success");
    assert_eq!(world.visit(20_000), "hello\n");

    // frpc does not give the code to whom it cannot verify.
    let distrusting = Program::start(world.dir(), FRPC, "fearful", &file, &stranger);
    distrusting.wait_for("certificate signed by unknown authority");
}
