//! An outage of the control plane, with real frps and frpc: what a node decides by itself, and what
//! waits until the control plane is back.

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use totoro_api::Reason;
use totoro_api::ticket::rfc3339;
use totoro_api::wire::event::kind;
use totoro_api::wire::node::Node;

use super::frpc::{self, PATIENCE, Proxy};
use super::world::{Tenant, World, within};
use super::{audit, bring_up, operator};
use crate::lab::{Lab, NODE_USER_V4, Place};
use crate::net::user::{self, Denied};
use crate::report::Report;

/// Tickets as they are by default: they outlive the outage.
const TICKET_TTL_S: u64 = 3600;
const PORT: u16 = 20_000;
const SHORT_PORT: u16 = 20_001;
const LATE_PORT: u16 = 20_002;
/// How long the short invite lives from the moment it is made.
const SHORT: Duration = Duration::from_secs(9);

/// What is there when the control plane goes.
struct Cast {
    /// Its frpc runs through all of it.
    stays: Tenant,
    /// Its invite expires during the outage.
    _short: Tenant,
    /// Revoked before the outage, with a ticket from before that.
    revoked: (Tenant, String),
    /// Has a ticket, and no session yet.
    late: (Tenant, String),
    /// Comes from another address, has a ticket, and no session yet.
    guest: operator::Guest,
    held: TcpStream,
    session: String,
}

/// Plays it in a raised lab. What fails is a ✘ in the report.
///
/// # Errors
/// What is there before the outage can't be brought up.
pub fn play(lab: Lab, report: &mut Report) -> Result<()> {
    let mut world = World::new(lab, TICKET_TTL_S)?;
    bring_up::control(&mut world)?;
    bring_up::enrol(&mut world)?;
    bring_up::configure(&world, &[("session_grace", "\"10s\"")])?;
    let run = world.node_command(&["run"]);
    bring_up::run_node(&mut world, run)?;
    bring_up::frps(&mut world)?;
    let mut cast = begin(&world)?;
    world.control.take().context("no control plane")?.kill();

    report.item("The control plane is away");
    report.check("what flows goes on, and new users come", || {
        goes_on(&world, &mut cast)
    });
    report.check("a revocation that had arrived holds", || {
        let (tenant, ticket) = &cast.revoked;
        let text = frpc::with_ticket(&tenant.invite.id, ticket, "", &[]);
        frpc::login_refused(&world, "revoked", &text, Reason::InviteRevoked)
    });
    report.check("an invite that expires is cut", || expiry(&world));
    report.check("a login with a valid ticket", || {
        let (late, ticket) = &mut cast.late;
        let proxies = [Proxy::new("late", "tcp", world.backend.tcp, LATE_PORT)];
        let text = frpc::with_ticket(&late.invite.id, ticket, "", &proxies);
        late.frpc = Some(frpc::up(&world, "late", &text, &proxies)?);
        page(&world, LATE_PORT)
    });
    report.check("every frpc reconnects, with the ticket it has", || {
        reconnect(&world, &cast)
    });
    report.check("the daemon is killed and comes back", || {
        world.node.take().context("no daemon")?.kill();
        let run = world.node_command(&["run"]);
        bring_up::run_node(&mut world, run)?;
        ensure!(sessions(&world)?.contains(&cast.session), "another session");
        page(&world, PORT)
    });
    operator::play(&world, &mut cast.guest, report, || page(&world, PORT));
    report.check("doctor says what does not work", || doctor(&world));
    report.check("a frpc that is started anew can't log in", || {
        cast.stays.frpc.take().context("no frpc")?.kill();
        anew(&world)
    });

    report.item("The control plane is back");
    report.check("the same frpc logs in again", || {
        bring_up::serve(&mut world)?;
        let text = std::fs::read_to_string(world.lab.file("other/stays.toml"))?;
        let frpc = frpc::up(&world, "stays", &text, &[web(&world)])?;
        cast.stays.frpc = Some(frpc);
        page(&world, PORT)
    });
    report.check("all that happened is in the trail, once, in order", || {
        trail(&world)
    });
    report.check(
        "a policy that can't hold is told, the last good one does",
        || bad_policy(&world),
    );
    Ok(())
}

fn web(world: &World) -> Proxy {
    Proxy::new("web", "tcp", world.backend.tcp, PORT)
}

fn page(world: &World, port: u16) -> Result<String> {
    let at = user::at(NODE_USER_V4, port)?;
    let took = user::fetch(world.lab.ns(Place::User), at)?;
    Ok(super::world::ms(took))
}

/// Ids of the sessions whose frpc is there.
fn sessions(world: &World) -> Result<Vec<String>> {
    let told = world.node_cli(&["sessions", "--json"])?.ok()?;
    let all: Vec<Value> = serde_json::from_str(&told).context("read the sessions")?;
    let live = all.iter().filter(|line| line["connected"] == true);
    Ok(live
        .filter_map(|line| Some(line["id"].as_str()?.to_owned()))
        .collect())
}

fn begin(world: &World) -> Result<Cast> {
    let up = |tenant: &mut Tenant, name: &str, proxy: Proxy| -> Result<()> {
        let generated = world.resolve(&tenant.code)?.frpc_toml;
        let proxies = [proxy];
        let text = frpc::with_proxies(&generated, &proxies);
        tenant.frpc = Some(frpc::up(world, name, &text, &proxies)?);
        Ok(())
    };
    let mut stays = world.invite("stays", json!({ "max_conns": 2 }))?;
    up(&mut stays, "stays", web(world))?;
    let session = sessions(world)?.pop().context("no session")?;
    let with_ticket = |label: &str| -> Result<(Tenant, String)> {
        let tenant = world.invite(label, json!({}))?;
        let ticket = world.resolve(&tenant.code)?.ticket;
        Ok((tenant, ticket))
    };
    let (late, revoked) = (with_ticket("late")?, with_ticket("revoked")?);
    let (tenant, ticket) = with_ticket("guest")?;
    let guest = operator::Guest::new(tenant, ticket);
    let lender = world.lender()?;
    lender.delete(&format!("/nodes/invites/{}", revoked.0.invite.id))?;

    let mut short = world.invite("short", json!({}))?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let end = rfc3339(i64::try_from((now + SHORT).as_secs())?);
    let path = format!("/nodes/invites/{}", short.invite.id);
    let _: Value = lender.patch(&path, &json!({ "expires_at": end }))?;
    let proxy = Proxy::new("short", "tcp", world.backend.tcp, SHORT_PORT);
    up(&mut short, "short", proxy)?;
    // The last of it has arrived when the node stands where its policy does.
    within(PATIENCE, || {
        let view = node(world)?;
        Ok((view.policy == view.applied.revision).then_some(()))
    })?;
    let held = user::connect(world.lab.ns(Place::User), user::at(NODE_USER_V4, PORT)?)?;
    Ok(Cast {
        stays,
        _short: short,
        revoked,
        late,
        guest,
        held,
        session,
    })
}

fn node(world: &World) -> Result<Node> {
    world
        .admin()?
        .get(&format!("/admin/nodes/{}", world.node_id))
}

fn goes_on(world: &World, cast: &mut Cast) -> Result<String> {
    let (ns, at) = (world.lab.ns(Place::User), user::at(NODE_USER_V4, PORT)?);
    user::exchange(&mut cast.held, b"still there")?;
    let mut second = user::connect(ns, at)?;
    user::exchange(&mut second, b"new")?;
    match user::denied(ns, at, Duration::from_secs(2))? {
        Denied::Refused(_) => Ok("the third is refused by max_conns".to_owned()),
        Denied::Dropped => anyhow::bail!("the third was dropped"),
    }
}

/// Ends all connections to frps as `ss -K` does.
fn reconnect(world: &World, cast: &Cast) -> Result<String> {
    // The kernel closes a port in the moment that its invite expires in; the session ends with the
    // daemon's next tick.
    let before = within(PATIENCE, || {
        let on = sessions(world)?;
        ensure!(on.len() == 2, "not the two who stay: {on:?}");
        Ok(Some(on))
    })?;
    let ended = world.lab.ns(Place::Node).run(|| {
        let mut ss = Command::new("ss");
        ss.args(["-HK", "state", "established", "sport", "=", ":7000"]);
        ss.output().context("run ss")
    })?;
    let ended = String::from_utf8_lossy(&ended.stdout).lines().count();
    ensure!(ended == before.len(), "{ended} of {before:?} were ended");
    // frpc waits up to 20 s between two tries, and others are busy here.
    within(Duration::from_secs(90), || {
        let after = sessions(world)?;
        ensure!(
            before.iter().all(|id| after.contains(id)),
            "{after:?} of {before:?}"
        );
        page(world, PORT).map(Some)
    })?;
    ensure!(before.contains(&cast.session), "{before:?}");
    Ok(format!("{ended}, each in its session"))
}

fn expiry(world: &World) -> Result<String> {
    let at = user::at(NODE_USER_V4, SHORT_PORT)?;
    let ns = world.lab.ns(Place::User);
    within(SHORT + PATIENCE, || {
        user::denied(ns, at, Duration::from_millis(500)).map(Some)
    })?;
    Ok("its port is closed".to_owned())
}

fn doctor(world: &World) -> Result<String> {
    let line = world.doctor_on("control plane")?;
    let detail = line["detail"].as_str().unwrap_or_default();
    ensure!(
        line["status"] == "warn" && detail.contains("started anew"),
        "{line}"
    );
    Ok(format!("{}: {}", line["target"], detail))
}

/// The frpc whose ticket comes from the control plane.
fn anew(world: &World) -> Result<String> {
    let text = std::fs::read_to_string(world.lab.file("other/stays.toml"))?;
    let mut frpc = frpc::start(world, "stays", &text)?;
    let line = frpc.wait_new("oauth/token", PATIENCE)?;
    let status = frpc.wait_exit(PATIENCE)?;
    ensure!(!status.success(), "it took that for success");
    let said = line.split("login to the server failed").last();
    Ok(said.unwrap_or(&line).trim_matches([':', ' ']).to_owned())
}

fn trail(world: &World) -> Result<String> {
    within(Duration::from_secs(30), || {
        let query = format!("&node={}", world.node_id);
        let events = audit::events(world, &query)?;
        let mut told: Vec<_> = events.iter().filter(|event| event.seq.is_some()).collect();
        told.retain(|event| event.spool.is_some());
        for (event, seq) in told.iter().zip(1..) {
            ensure!(event.seq == Some(seq), "{:?} for {seq}", event.seq);
        }
        let count = |of: &str| told.iter().filter(|event| event.subject.kind == of).count();
        for (of, least) in [
            (kind::SESSION_RESUMED, 2),
            (kind::SESSION_OPENED, 5),
            (kind::SESSION_REFUSED, 1),
            (kind::SESSION_CLOSED, 3),
            (kind::BAN_ADDED, 2),
            (kind::BAN_LIFTED, 2),
        ] {
            ensure!(count(of) >= least, "{} {of}", count(of));
        }
        Ok(Some(format!("{} events of the node", told.len())))
    })
}

fn bad_policy(world: &World) -> Result<String> {
    let path = format!("/admin/nodes/{}", world.node_id);
    let admin = world.admin()?;
    let good = node(world)?.applied.revision;
    let pool = |tcp: &str| json!({ "pool": { "tcp": [tcp], "udp": ["20000-20099"] } });
    // frps's own port.
    let _: Value = admin.patch(&path, &pool("6990-7010"))?;
    let view = within(Duration::from_secs(30), || {
        let view = node(world)?;
        Ok(view.applied.error.is_some().then_some(view))
    })?;
    let error = view.applied.error.clone().unwrap_or_default();
    ensure!(error.contains("7000"), "{error}");
    ensure!(view.applied.revision == good, "{:?}", view.applied);
    page(world, PORT).context("the last good policy")?;
    let _: Value = admin.patch(&path, &pool("20000-20099"))?;
    within(Duration::from_secs(30), || {
        let view = node(world)?;
        let well = view.applied.error.is_none() && view.applied.revision == view.policy;
        Ok(well.then_some(()))
    })?;
    Ok(error)
}
