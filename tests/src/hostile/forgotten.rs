//! A proxy whose client the node has forgotten: its state was lost while frps ran on, without tcpMux, and
//! other clients come from the same address. That frpc is made to log in anew, and nobody gets its port until
//! then.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use totoro_api::Reason;

use super::client::{Client, USERS_DOOR, Way, ample, file};
use super::world;
use crate::lab::Place;
use crate::net::user;
use crate::story::frpc::{self, PATIENCE, Proxy};
use crate::story::frps::live_proxies;
use crate::story::{World, bring_up, within};

/// The forgotten proxy's port.
const PORT: u16 = 20_050;
/// The node gives a client that may be told half a minute.
const CONVERGES: Duration = Duration::from_secs(90);

/// Has the node forget a client, and waits until all is well again.
///
/// # Errors
/// The forgotten client stays, its port is lent to another, or a neighbour suffers.
pub fn play() -> Result<()> {
    let mut world = world("forgotten", &[("frps_tcp_mux", "false")])?;
    let way = Way {
        mux: false,
        ..Way::PLAIN
    };
    let web = |port| [Proxy::new("web", "tcp", world.backend.tcp, port)];
    let [lost, home, late, neighbour] = [PORT, PORT + 1, PORT, PORT + 2].map(web);
    let mut forgotten = Client::start(&world, "lost", ample(), way, &lost)?;
    let users = |world: &World, port| {
        let ns = world.lab.ns(Place::User);
        user::fetch(ns, user::at(USERS_DOOR, port)?)
    };
    users(&world, PORT).context("before")?;
    let told = live_proxies(&world, "tcp")?;
    ensure!(
        told.iter().any(|one| one["clientID"] == *forgotten.run_id),
        "frps does not say whose it is: {told:?}"
    );

    world.node.take().context("the daemon runs")?.kill();
    std::fs::remove_dir_all(world.lab.file("node/state")).context("lose the node's state")?;
    let command = world.node_command(&["run"]);
    bring_up::run_node(&mut world, command)?;
    ensure!(
        users(&world, PORT).is_err(),
        "nobody gets in without a lease"
    );
    let before = forgotten.frpc.mark();
    // What carries no session may be of this one: it has the same address.
    let _home = Client::start(&world, "home", ample(), way, &home)?;
    let (_, text) = file(&world, "late", ample(), way, &late)?;
    let said = within(PATIENCE, || {
        let mut late = frpc::start(&world, "late", &text)?;
        let begun = late.mark();
        let said = frpc::proxy_refused(&mut late, begun, "web", Reason::PortInUse);
        late.kill();
        said.map(Some)
    })
    .context("the port is nobody's while frps listens there")?;
    let _neighbour = Client::start(&world, "neighbour", ample(), way, &neighbour)?;
    let to = user::at(USERS_DOOR, PORT + 2)?;
    let mut held = user::connect(world.lab.ns(Place::User), to)?;
    user::exchange(&mut held, b"before")?;

    let node = world.node.as_mut().context("the daemon runs")?;
    node.wait_new("of clients that can't be told", CONVERGES)?;
    forgotten
        .frpc
        .wait_after(before, "web] start proxy success", CONVERGES)
        .context("it logs in anew, and has its port back")?;
    within(PATIENCE, || users(&world, PORT).map(Some)).context("after")?;
    user::exchange(&mut held, b"after").context("a neighbour that came later")?;
    println!("forgotten, found and back; meanwhile: {said}");
    Ok(())
}
