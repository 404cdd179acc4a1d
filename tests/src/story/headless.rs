//! A node whose daemon is killed under load, the control plane with it: the kernel goes on admitting,
//! limiting and ending by itself, and the daemon that returns goes on from there.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::frpc::{self, PATIENCE, Proxy};
use super::kernel::{figure, leases, links};
use super::users::Users;
use super::world::{Tenant, World, ms, within};
use super::{bring_up, public};
use crate::lab::{Lab, NODE_USER_V4, Place, Process};
use crate::net::user::{self, Denied};
use crate::report::Report;

/// Ports of the tenants: the busy one's two, the small one's, the brief one's, a visitor's, and the
/// one that comes too late.
const BUSY: u16 = 20_000;
const BUSY_UDP: u16 = 20_005;
const SMALL: u16 = 20_010;
const BRIEF: u16 = 20_020;
const VISITOR: u16 = 20_070;
const LATE: u16 = 20_030;

/// What the small tenant may have at once.
const ROOM: usize = 3;
/// How long the invite and the session live that are to end while nobody is there.
const BRIEF_S: u64 = 12;
/// The shortest outage in which they do.
const SHORTEST: Duration = Duration::from_secs(BRIEF_S + 6);
/// UDP flows that the busy tenant may have at once. Of the users who come, two in each round of at least
/// half a second, those of the last five seconds are live: three until a flow is idle, and two until
/// the kernel looks. Ten times as many come in an outage.
const FLOWS: u64 = 24;
const FLOW_IDLE: &str = "\"3s\"";
const CALLERS: u64 = 2;
/// How long a login waits for the daemon. frpc gives up after ten seconds, and tries again.
const WAIT: Duration = Duration::from_secs(3);

/// Who is on when the daemon is killed.
struct Scene {
    /// The plugin's socket, held as systemd holds it.
    socket: TcpListener,
    frpcs: Vec<Process>,
    held: Vec<TcpStream>,
    /// A UDP flow that goes on.
    flow: UdpSocket,
    /// UDP users so far, each from a port of its own.
    callers: u64,
    users: Users,
    /// Live connections of what ends in the meantime, by port.
    brief: Vec<(u16, TcpStream)>,
    late: String,
    leases: Vec<Value>,
    links: Vec<Value>,
    killed: Instant,
}

/// Plays it in a raised lab, with an outage of that length (at least 18 s); the world, to be dropped.
///
/// # Errors
/// The services behind frpc can't be started.
pub fn play(lab: Lab, report: &mut Report, lasts: Duration) -> Result<World> {
    let mut world = World::new(lab, super::world::TICKET_TTL_S)?;
    world.settings.push(("flow_idle", FLOW_IDLE));
    report.item("A node whose plugin socket is held by systemd");
    bring_up::play(&mut world, report);
    let mut scene = None;
    let up = world.is_up()
        && report.check("the daemon takes the socket that is held for it", || {
            scene = Some(prepare(&mut world)?);
            Ok("LISTEN_FDS".to_owned())
        });
    let Some(mut scene) = scene.filter(|_| up) else {
        return Ok(world);
    };
    report.item("SIGKILL of daemon and control plane, with users on");
    let lasts = lasts.max(SHORTEST);
    let name = format!("for {} s: {WITHOUT}", lasts.as_secs());
    report.check(&name, || outage(&mut world, &mut scene, lasts));
    report.check("no lease opens, and a login waits", || {
        login_waits(&mut world, &mut scene)
    });
    report.check(
        "the daemon returns: the login that waited is answered",
        || returns(&mut world, &mut scene),
    );
    report.check(
        "killed again wherever it starts: users notice nothing",
        || kills(&mut world, &mut scene),
    );
    report.check("links are the same, counts are exact", || {
        reconciled(&world, &mut scene)
    });
    Ok(world)
}

const WITHOUT: &str = "what flows goes on, new users are admitted, limits hold, an invite expires, \
                       a session ends";

/// Restarts the daemon under the held socket, and brings everybody on.
fn prepare(world: &mut World) -> Result<Scene> {
    world.node.take().context("no daemon runs")?.stop();
    let socket = world.lab.ns(Place::Node).run(|| {
        // As in node.toml by default.
        TcpListener::bind(("127.0.0.1", 988)).context("bind the plugin's port")
    })?;
    start_node(world, &socket)?;

    let lender = world.lender()?;
    let limits = json!({ "max_conns": 3, "max_proxies": 1, "session_max": BRIEF_S });
    lender.patch::<Value>("/nodes/self", &json!({ "public_limits": limits }))?;
    let mut frpcs = Vec::new();
    let limits = json!({ "max_conns": 64, "max_flows": FLOWS });
    let busy = world.invite("busy", limits)?;
    let (tcp, udp) = (world.backend.tcp, world.backend.udp);
    let proxies = [
        Proxy::new("busy", "tcp", tcp, BUSY),
        Proxy::new("dns", "udp", udp, BUSY_UDP),
    ];
    frpcs.push(tunnel(world, "frpc-busy", &busy, &proxies)?);
    let small = world.invite("small", json!({ "max_conns": ROOM }))?;
    let proxies = [Proxy::new("small", "tcp", tcp, SMALL)];
    frpcs.push(tunnel(world, "frpc-small", &small, &proxies)?);
    let late = world.invite("late", json!({}))?;
    let proxies = [Proxy::new("late", "tcp", tcp, LATE)];
    let late = frpc::with_proxies(&world.resolve(&late.code)?.frpc_toml, &proxies);
    let late = format!("loginFailExit = false\n{late}");

    // Last, since they end.
    let brief = world.invite("brief", json!({}))?;
    let proxies = [Proxy::new("brief", "tcp", tcp, BRIEF)];
    frpcs.push(tunnel(world, "frpc-brief", &brief, &proxies)?);
    let until = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs()
        + BRIEF_S;
    let until = totoro_api::ticket::rfc3339(i64::try_from(until)?);
    lender.patch::<Value>(
        &format!("/nodes/invites/{}", brief.invite.id),
        &json!({ "expires_at": until }),
    )?;
    let proxies = [Proxy::new("visitor", "tcp", tcp, VISITOR)];
    let text = public::file(world, public::USER, &proxies);
    frpcs.push(frpc::up(world, "frpc-visitor", &text, &proxies)?);
    within(PATIENCE, || {
        let tenants = world.inspect("tenants")?;
        let dated = tenants.iter().any(|row| !row["expires_in_s"].is_null());
        Ok(dated.then_some(()))
    })
    .context("the expiry did not reach the kernel")?;

    let connect = |port| -> Result<TcpStream> {
        let mut stream = user::connect(world.lab.ns(Place::User), at(port)?)?;
        user::exchange(&mut stream, b"hello")?;
        Ok(stream)
    };
    let held = (0..3).map(|_| connect(BUSY)).collect::<Result<_>>()?;
    let brief = [BRIEF, VISITOR]
        .into_iter()
        .map(|port| Ok((port, connect(port)?)))
        .collect::<Result<_>>()?;
    let flow = user::datagrams(world.lab.ns(Place::User), at(BUSY_UDP)?)?;
    flow.set_read_timeout(Some(Duration::from_secs(1)))?;
    datagram(&flow)?;
    Ok(Scene {
        held,
        flow,
        callers: 0,
        brief,
        late,
        frpcs,
        users: Users::start(world.lab.ns(Place::User), at(BUSY)?)?,
        leases: leases(world)?,
        links: links(world)?,
        socket,
        killed: Instant::now(),
    })
}

fn tunnel(world: &World, name: &str, tenant: &Tenant, proxies: &[Proxy]) -> Result<Process> {
    let text = frpc::with_proxies(&world.resolve(&tenant.code)?.frpc_toml, proxies);
    frpc::up(world, name, &text, proxies)
}

fn at(port: u16) -> Result<SocketAddr> {
    user::at(NODE_USER_V4, port)
}

/// Starts the daemon as systemd does: the socket is descriptor 3.
fn start_node(world: &mut World, socket: &TcpListener) -> Result<()> {
    // The log goes on from its last run.
    let mark = world
        .lab
        .file("node.log")
        .metadata()
        .map_or(0, |log| log.len());
    spawn_node(world, socket)?;
    let node = world.node.as_mut().context("the daemon was just started")?;
    node.wait_after(mark, "ready", Duration::from_secs(30))
        .map(drop)
}

fn spawn_node(world: &mut World, socket: &TcpListener) -> Result<()> {
    let daemon = world.node_command(&["run"]);
    let mut command = world.lab.command("sh");
    command
        .args([
            "-c",
            "export LISTEN_PID=$$; exec \"$@\" 3<&0 0</dev/null",
            "sh",
        ])
        .arg(daemon.get_program())
        .args(daemon.get_args())
        .env("LISTEN_FDS", "1");
    let socket = socket.try_clone().context("the plugin's socket")?;
    world.node = Some(world.lab.start_with(Place::Node, "node", command, socket)?);
    Ok(())
}

/// What must be so at any moment: what is held passes bytes, so does UDP, and the small tenant has
/// exactly its room.
fn round(world: &World, scene: &mut Scene) -> Result<()> {
    for stream in &mut scene.held {
        user::exchange(stream, b"still here").context("a connection that was held")?;
    }
    let ns = world.lab.ns(Place::User);
    datagram(&scene.flow)?;
    for _ in 0..CALLERS {
        scene.callers += 1;
        let echo = user::echo(ns, at(BUSY_UDP)?, b"anyone");
        echo.with_context(|| format!("UDP user {}", scene.callers))?;
    }
    within(PATIENCE, || {
        Ok((figure(world, SMALL, "conns")? == 0).then_some(()))
    })
    .context("the small tenant's count did not return to 0")?;
    let mut full = Vec::new();
    for nth in 0..ROOM {
        let mut stream = user::connect(ns, at(SMALL)?)
            .with_context(|| format!("connection {} of {ROOM}", nth + 1))?;
        user::exchange(&mut stream, b"in")?;
        full.push(stream);
    }
    match user::denied(ns, at(SMALL)?, Duration::from_secs(3))? {
        Denied::Refused(_) => {}
        Denied::Dropped => bail!("one too many was dropped instead of refused"),
    }
    scene.users.well()
}

/// A word there and back, tried three times: UDP may lose one.
fn datagram(flow: &UdpSocket) -> Result<()> {
    let mut buffer = [0; 64];
    for _ in 0..3 {
        flow.send(b"still here").context("the UDP flow")?;
        if flow.recv(&mut buffer).is_ok() {
            return Ok(());
        }
    }
    bail!("the UDP flow passes nothing")
}

fn outage(world: &mut World, scene: &mut Scene, lasts: Duration) -> Result<String> {
    let before = scene.users.served();
    world.node.take().context("no daemon runs")?.kill();
    world
        .control
        .take()
        .context("no control plane runs")?
        .kill();
    scene.killed = Instant::now();
    let (mut rounds, mut said, callers) = (0, Instant::now(), scene.callers);
    while scene.killed.elapsed() + WAIT < lasts || scene.callers - callers <= FLOWS {
        round(world, scene)
            .with_context(|| format!("{:.1} s in", scene.killed.elapsed().as_secs_f64()))?;
        rounds += 1;
        ensure!(leases(world)? == scene.leases, "the leases changed");
        if said.elapsed() > Duration::from_secs(30) {
            said = Instant::now();
            let served = scene.users.served() - before;
            eprintln!(
                "   {:.0} s: {rounds} rounds, {served} users",
                scene.killed.elapsed().as_secs_f64()
            );
        }
        if scene.killed.elapsed() > Duration::from_secs(BRIEF_S + 1) {
            for (port, stream) in scene.brief.iter_mut() {
                over(world, *port, stream)?;
            }
            scene.brief.clear();
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    ensure!(scene.brief.is_empty(), "nothing has ended");
    Ok(format!(
        "{} new users admitted, {} by UDP where {FLOWS} have room, {rounds} times exactly {ROOM} of {} at \
         the limit, 0 failures",
        scene.users.served() - before,
        scene.callers - callers,
        ROOM + 1
    ))
}

/// What has ended admits nobody, and passes nothing of what lived.
fn over(world: &World, port: u16, stream: &mut TcpStream) -> Result<()> {
    match user::denied(world.lab.ns(Place::User), at(port)?, Duration::from_secs(2))
        .with_context(|| format!("port {port} after its end"))?
    {
        Denied::Refused(_) => {}
        Denied::Dropped => bail!("{port}: dropped instead of refused"),
    }
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    ensure!(
        user::exchange(stream, b"still?").is_err(),
        "the connection through {port} lives on"
    );
    Ok(())
}

/// The control plane is back, and gives a ticket; frps asks a daemon that is not there.
fn login_waits(world: &mut World, scene: &mut Scene) -> Result<String> {
    bring_up::serve(world)?;
    let mut frpc = frpc::start(world, "frpc-late", &scene.late)?;
    std::thread::sleep(WAIT);
    let said = frpc.log_after(0);
    ensure!(frpc.lives(), "frpc gave up: {said}");
    ensure!(!said.contains("success"), "somebody answered: {said}");
    ensure!(leases(world)? == scene.leases, "the leases changed");
    user::denied(world.lab.ns(Place::User), at(LATE)?, Duration::from_secs(2))?;
    scene.frpcs.push(frpc);
    Ok(format!("{} and counting", ms(WAIT)))
}

fn returns(world: &mut World, scene: &mut Scene) -> Result<String> {
    let begun = Instant::now();
    let away = scene.killed.elapsed();
    start_node(world, &scene.socket)?;
    let ready = begun.elapsed();
    let frpc = scene.frpcs.last_mut().context("no frpc waits")?;
    frpc.wait_line("late] start proxy success", 3 * PATIENCE)?;
    user::fetch(world.lab.ns(Place::User), at(LATE)?)?;
    round(world, scene)?;
    Ok(format!(
        "ready {} after its start, {:.1} s after the kill; the login answered {} after the start",
        ms(ready),
        away.as_secs_f64(),
        ms(begun.elapsed())
    ))
}

fn kills(world: &mut World, scene: &mut Scene) -> Result<String> {
    let before = scene.users.served();
    // From the start of its work to beyond "ready".
    let moments = [50, 200, 500, 1000, 2000].map(Duration::from_millis);
    for moment in moments {
        if let Some(node) = world.node.take() {
            node.kill();
        }
        spawn_node(world, &scene.socket)?;
        std::thread::sleep(moment);
        world.node.take().context("it was started")?.kill();
        round(world, scene).with_context(|| format!("killed {} after its start", ms(moment)))?;
    }
    start_node(world, &scene.socket)?;
    round(world, scene)?;
    let served = scene.users.served() - before;
    Ok(format!(
        "{} kills, {served} users meanwhile, 0 failures",
        moments.len()
    ))
}

fn reconciled(world: &World, scene: &mut Scene) -> Result<String> {
    ensure!(links(world)? == scene.links, "other links than before");
    let served = scene.users.stop()?;
    let held = scene.held.len() as u64;
    within(PATIENCE, || {
        let conns = figure(world, BUSY, "conns")?;
        ensure!(
            conns == held,
            "{conns} connections are counted, {held} are held"
        );
        Ok(Some(()))
    })?;
    let admitted = figure(world, BUSY, "admitted")?;
    ensure!(
        admitted == served + held,
        "{admitted} were counted, {} were served",
        served + held
    );
    within(PATIENCE, || {
        let tenants = world.inspect("tenants")?;
        let counted: u64 = tenants.iter().filter_map(|row| row["flows"].as_u64()).sum();
        let there = world.inspect("flows")?.len() as u64;
        ensure!(
            counted == there,
            "{counted} flows are counted, {there} are there"
        );
        Ok(Some(()))
    })?;
    let whole = world.inspect("conns")?.len() as u64;
    ensure!(whole == held, "{whole} connections are listed");
    Ok(format!(
        "{} links, {admitted} users since the beginning, each counted once; {held} now",
        scene.links.len()
    ))
}
