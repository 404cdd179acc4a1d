//! A modified frpc aims the node: frps sends a datagram wherever its client says. The kernel lets
//! nothing out but answers. That it is the kernel is shown in the end: without Totoro all are hit.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use totoro_api::Reason;

use super::client::{Client, Way, ample, file};
use super::handmade::{HandMade, Work};
use super::world;
use crate::lab::{NODE_CLIENT_V4, NODE_USER_V4, Netns, Place, USER_V4};
use crate::net::user;
use crate::story::frpc::{self, PATIENCE, Proxy};
use crate::story::{FRPS_PORT, World, within};

/// The UDP proxy's port.
const PORT: u16 = 20_010;
/// Where every victim listens.
const VICTIM: u16 = 4_053;
/// The address at which clouds tell a machine its secrets, here a neighbour's.
const METADATA: &str = "169.254.169.254";
/// What they are hit with (`Work::Aim`).
const SHOT: &[u8] = b"aimed";
/// Nobody may be hit within this; a round of shots takes a tenth of it.
const WATCH: Duration = Duration::from_secs(1);

/// Aims at the node's loopback, its own addresses, the metadata service and a user who said nothing:
/// none is hit. When the user writes first, it is answered. Once Totoro is uninstalled, the same shots hit
/// every one of them.
///
/// # Errors
/// One was hit, or nothing was shot.
pub fn play() -> Result<()> {
    let mut world = world("aim", &[])?;
    let (node, users) = (world.lab.ns(Place::Node), world.lab.ns(Place::User));
    users.ip(&["addr", "add", &format!("{METADATA}/32"), "dev", "eth0"])?;
    node.ip(&["route", "add", METADATA, "dev", "us0"])?;
    let victims = [
        (node, "127.0.0.1"),
        (node, "::1"),
        (node, NODE_USER_V4),
        (node, "fd77:2::1"),
        (users, USER_V4),
        (users, "fd77:2::2"),
        (users, METADATA),
    ];
    let sockets = victims
        .iter()
        .map(|(ns, ip)| listen(ns, ip))
        .collect::<Result<Vec<UdpSocket>>>()?;
    let targets = victims
        .iter()
        .map(|(_, ip)| user::at(ip, VICTIM))
        .collect::<Result<Vec<SocketAddr>>>()?;
    let (mut client, second) = take_over(&world, &targets)?;
    within(PATIENCE, || {
        let refused = world.refused(Reason::ReplyOnly)?;
        Ok((refused >= 3 * targets.len() as u64).then_some(()))
    })
    .context("nothing was shot")?;
    std::thread::sleep(WATCH);
    for (socket, (_, ip)) in sockets.iter().zip(&victims) {
        ensure!(!hears(socket, Duration::from_millis(1))?, "{ip} was hit");
    }
    println!(
        "{} shots at {} targets, none left the node",
        world.refused(Reason::ReplyOnly)?,
        targets.len()
    );
    // Who writes first is answered.
    sockets[4].send_to(b"hello", user::at(NODE_USER_V4, PORT)?)?;
    ensure!(
        hears(&sockets[4], PATIENCE)?,
        "a user who wrote is not answered"
    );
    ensure!(!hears(&sockets[0], WATCH)?, "the loopback was hit");
    ensure!(client.frpc.lives() && !second.is_over(), "it was cut off");
    // The same client, the same frps, the same shots: nothing else than Totoro was in the way.
    world.node.take().context("the daemon runs")?.stop();
    world.node_cli(&["uninstall"])?.ok()?;
    for (socket, (_, ip)) in sockets.iter().zip(&victims) {
        ensure!(hears(socket, PATIENCE)?, "{ip} can't be hit anyway");
    }
    println!("without Totoro all {} are hit", victims.len());
    Ok(())
}

/// A frpc whose UDP proxy is carried by a hand-made work connection.
fn take_over(world: &World, targets: &[SocketAddr]) -> Result<(Client, HandMade)> {
    let tcp = Proxy::new("web", "tcp", world.backend.tcp, PORT);
    let udp = Proxy::new("dns", "udp", world.backend.udp, PORT);
    let (invite, text) = file(world, "aim", ample(), Way::PLAIN, &[])?;
    // An admin API, by which proxies are added to a running frpc.
    let admin = "webServer.addr = \"127.0.0.1\"\nwebServer.port = 7400\n";
    let head = format!(
        "{admin}{}",
        text.replace("log.disablePrintColor = true\n", "")
    );
    let first = std::slice::from_ref(&tcp);
    let mut frpc = frpc::up(world, "aim", &frpc::with_proxies(&head, first), first)?;
    let line = frpc.wait_line("get run id [", PATIENCE)?;
    let client = Client {
        invite,
        run_id: super::handmade::run_id(&line)?,
        frpc,
    };
    let second = HandMade::connect(
        world.lab.ns(Place::Client),
        user::at(NODE_CLIENT_V4, FRPS_PORT)?,
    )?;
    second.offer(&client.run_id, Work::Aim(targets.to_vec()))?;
    // frps holds one of frpc's own ready, and takes it first: a user's connection uses it up.
    std::thread::sleep(Duration::from_millis(200));
    let ns = world.lab.ns(Place::User);
    let mut stream = user::connect(ns, user::at(NODE_USER_V4, PORT)?)?;
    user::exchange(&mut stream, b"first")?;
    let path = world.write_secret("aim.toml", &frpc::with_proxies(&head, &[tcp, udp]))?;
    let mut reload = world.lab.command(&world.lab.tools.frpc);
    reload.arg("reload").arg("-c").arg(path);
    world.lab.run(Place::Client, reload)?.ok()?;
    within(PATIENCE, || Ok((second.started() > 0).then_some(())))
        .context("frps did not take the work connection")?;
    Ok((client, second))
}

fn listen(ns: &Netns, ip: &str) -> Result<UdpSocket> {
    let at = user::at(ip, VICTIM)?;
    ns.run(|| UdpSocket::bind(at).with_context(|| format!("bind {at}")))
}

fn hears(socket: &UdpSocket, patience: Duration) -> Result<bool> {
    socket.set_read_timeout(Some(patience))?;
    let mut datagram = [0; 64];
    Ok(socket
        .recv(&mut datagram)
        .is_ok_and(|length| &datagram[..length] == SHOT))
}
