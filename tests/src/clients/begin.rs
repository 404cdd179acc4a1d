//! From the first paste to a tunnel with bytes in it; what it shows; and what it is refused.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Totoro, run};
use crate::hostile::world;
use crate::lab::{NODE_USER_V4, Place};
use crate::net::user;
use crate::report::Report;
use crate::story::World;
use crate::story::world::Tenant;

/// Plays it.
///
/// # Errors
/// The lab does not come up, or a check failed.
pub fn play() -> Result<()> {
    let world = world("cl-begin", &[])?;
    let mut report = Report::new(false);
    report.item("A code, a command, a tunnel");
    report.check(
        "TCP by a code: bytes pass; shown; no secret; Ctrl-C",
        || first(&world),
    );
    report.check("at a terminal: asked unseen, remembered if wanted", || {
        asked(&world)
    });
    report.check("UDP by a public node, without a code", || {
        public_udp(&world)
    });
    report.check("several at once, from a file, at chosen ports", || {
        file(&world)
    });
    report.check(
        "the frpc.toml that came with the invite is taken as it is",
        || pasted(&world),
    );
    report.check("every release of frpc that is promised", || {
        releases(&world)
    });
    report.check("nodes, usage, doctor, test", || looked_at(&world));
    report.item("What is refused");
    report.check("a code that nobody has", || unknown(&world));
    report.check("a typing error, before anything is asked", || typo(&world));
    report.check("more proxies than the invite allows", || exhausted(&world));
    report.check("revoked in use: it ends, and says why", || revoked(&world));
    report.check("expired in use: the same", || expired(&world));
    ensure!(report.finish(), "see above");
    Ok(())
}

/// An invite to any port but those that others ask for by number.
fn invite(world: &World, label: &str) -> Result<Tenant> {
    invite_to(world, label, &["20000-20032", "20035-20099"])
}

fn invite_to(world: &World, label: &str, ports: &[&str]) -> Result<Tenant> {
    world.invite(
        label,
        json!({ "max_conns": 5, "max_proxies": 2, "max_clients": 1, "ports": ports }),
    )
}

fn fetch(world: &World, port: u16) -> Result<()> {
    user::fetch(world.lab.ns(Place::User), user::at(NODE_USER_V4, port)?).map(drop)
}

fn first(world: &World) -> Result<String> {
    let tenant = invite(world, "first")?;
    let service = world.backend.tcp.to_string();
    let mut totoro = Totoro::start(
        world,
        "cl-first",
        &["tcp", &service],
        Some(&tenant.code),
        None,
    )?;
    let event = totoro.event("running")?;
    ensure!(event["limits"]["max_conns"] == 5, "{event}");
    ensure!(
        event["left"]["proxies"] == 1 && event["left"]["clients"] == 0,
        "{event}"
    );
    let address = event["address"].as_str().context("no address")?;
    let port: u16 = address.rsplit(':').next().unwrap_or_default().parse()?;
    fetch(world, port)?;

    let shown = run(world, &["status", "--json"], None)?.ok()?;
    let shown: Value = serde_json::from_str(&shown)?;
    ensure!(
        shown[0]["phase"] == "running" && shown[0]["verified"] == true,
        "{shown}"
    );
    ensure!(shown[0]["proxies"][0]["address"] == address, "{shown}");

    no_secret(
        &tenant.code,
        &totoro.process.log_after(0),
        &shown.to_string(),
    )?;
    private_files(world, &tenant.code)?;
    totoro.interrupt()?;
    let left = std::fs::read_dir(world.lab.run_dir().join("totoro"))?.count();
    ensure!(left == 0, "{left} files are left behind");
    Ok(address.to_owned())
}

/// What a person types at a terminal that `script` makes, slowly; and Ctrl-C once there is a file $4.
const PERSON: &str = r#"
(while read -r line; do sleep 1; echo "$line"; done < "$1"
 left=600; while [ ! -e "$4" ] && [ "$left" -gt 0 ]; do sleep 0.1; left=$((left - 1)); done
 printf '\003'; sleep 1) | script -qefc "$2" "$3""#;

fn asked(world: &World) -> Result<String> {
    let tenant = invite(world, "asked")?;
    let typed = world.write_secret("typed", &format!("{}\ny\n", tenant.code))?;
    let (seen, go) = (
        world.lab.file("cl-asked.seen"),
        world.lab.file("cl-asked.go"),
    );
    let client = world.lab.tools.client.display();
    let line = format!("exec {client} tcp {} --lang zh", world.backend.tcp);
    let mut shell = world.lab.command("sh");
    shell
        .args(["-c", PERSON, "sh"])
        .arg(typed)
        .arg(line)
        .arg(&seen)
        .arg(&go);
    shell.envs(super::environment(world, None));
    let mut person = world.lab.start(Place::Client, "cl-asked", shell)?;
    person.wait_new("停止：Ctrl-C", super::PATIENCE)?;
    // The one line that lives.
    person.wait_new("已运行", super::PATIENCE)?;
    std::fs::write(go, "")?;
    let status = person.wait_exit(super::PATIENCE)?;
    let seen = std::fs::read_to_string(seen)?;
    ensure!(
        status.success() && seen.contains("已停止"),
        "{status}: {seen}"
    );
    ensure!(
        seen.contains("邀请码（不回显）") && seen.contains("已记住"),
        "{seen}"
    );
    ensure!(!seen.contains(&tenant.code), "the code was shown: {seen}");
    let kept = world.lab.file("config/totoro/remembered.toml");
    let mode = std::os::unix::fs::PermissionsExt::mode(&kept.metadata()?.permissions()) & 0o777;
    ensure!(mode == 0o600, "mode {mode:o}");
    // From now on nobody is asked.
    let usage = run(world, &["usage", "--json"], None)?.ok()?;
    ensure!(usage.contains(&tenant.invite.id), "{usage}");
    std::fs::remove_file(kept)?;
    Ok("unseen; remembered 0600; not asked again".to_owned())
}

/// The code is in nobody's arguments, and in nothing that was printed.
fn no_secret(code: &str, log: &str, shown: &str) -> Result<()> {
    for process in std::fs::read_dir("/proc")?.flatten() {
        let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        ensure!(!arguments.contains(code), "in the arguments {arguments:?}");
    }
    ensure!(
        !log.contains(code) && !shown.contains(code),
        "the code was printed"
    );
    Ok(())
}

/// frpc's file has the code, and is its owner's alone.
fn private_files(world: &World, code: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut found = 0;
    for run in std::fs::read_dir(world.lab.run_dir().join("totoro"))?.flatten() {
        let file = run.path().join("frpc.toml");
        let Ok(text) = std::fs::read_to_string(&file) else {
            continue;
        };
        let mode =
            |path: &std::path::Path| anyhow::Ok(path.metadata()?.permissions().mode() & 0o777);
        let modes = (mode(&run.path())?, mode(&file)?);
        ensure!(modes == (0o700, 0o600), "{} is open", file.display());
        found += usize::from(text.contains(code));
    }
    ensure!(found == 1, "{found} files with the code");
    Ok(())
}

fn public_udp(world: &World) -> Result<String> {
    let service = world.backend.udp.to_string();
    let words = ["udp", &service, "--node", "lab"];
    let mut totoro = Totoro::start(world, "cl-udp", &words, None, None)?;
    let port = totoro.port()?;
    let took = user::echo(
        world.lab.ns(Place::User),
        user::at(NODE_USER_V4, port)?,
        b"hello",
    )?;
    totoro.interrupt()?;
    Ok(format!("port {port}, {took:.1?}"))
}

fn file(world: &World) -> Result<String> {
    let tenant = invite_to(world, "file", &["20033", "20050-20099"])?;
    let code = world.write_secret("code", &tenant.code)?;
    let text = format!(
        "invite_file = {code:?}\n[[proxies]]\ntype = \"tcp\"\nlocal = {}\nremote_port = 20033\n\
         [[proxies]]\nname = \"dns\"\ntype = \"udp\"\nlocal = \"localhost:{}\"\n",
        world.backend.tcp, world.backend.udp
    );
    let path = world.write_secret("tunnels.toml", &text)?;
    let path = path.to_str().context("its path")?;
    let mut totoro = Totoro::start(world, "cl-file", &["connect", path], None, None)?;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let event = totoro.event("running")?;
        seen.push(format!("{} {}", event["proxy"], event["address"]));
    }
    fetch(world, 20_033)?;
    totoro.interrupt()?;
    Ok(seen.join(", "))
}

fn pasted(world: &World) -> Result<String> {
    let tenant = invite_to(world, "pasted", &["20034"])?;
    let generated = world.resolve(&tenant.code)?.frpc_toml;
    let more = format!(
        "\n[[proxies]]\nname = \"web\"\ntype = \"tcp\"\nlocalIP = \"127.0.0.1\"\nlocalPort = {}\nremotePort = 20034\n",
        world.backend.tcp
    );
    let path = world.write_secret("frpc-pasted.toml", &format!("{generated}{more}"))?;
    let path = path.to_str().context("its path")?;
    let mut totoro = Totoro::start(world, "cl-pasted", &["connect", path], None, None)?;
    totoro.event("running")?;
    fetch(world, 20_034)?;
    totoro.interrupt()?;
    Ok("web at 20034".to_owned())
}

fn releases(world: &World) -> Result<String> {
    let tenant = invite(world, "releases")?;
    let service = world.backend.tcp.to_string();
    let mut ports = Vec::new();
    for (version, frpc) in &world.lab.tools.older_frpc {
        let name = format!("cl-{version}");
        let words = ["tcp", &service];
        let mut totoro = Totoro::start(world, &name, &words, Some(&tenant.code), Some(frpc))?;
        let port = totoro.port()?;
        fetch(world, port)?;
        totoro.interrupt()?;
        ports.push(format!("{version} at {port}"));
    }
    Ok(ports.join(", "))
}

fn looked_at(world: &World) -> Result<String> {
    let nodes = run(world, &["nodes", "--lang", "zh"], None)?.ok()?;
    ensure!(
        nodes.contains("lab") && nodes.contains("排序原因"),
        "{nodes}"
    );
    let tenant = invite(world, "looks")?;
    let usage = run(world, &["usage", "--lang", "en"], Some(&tenant.code))?.ok()?;
    ensure!(usage.contains("connections  0     5        5"), "{usage}");
    let doctor = run(world, &["doctor"], Some(&tenant.code))?.ok()?;
    ensure!(doctor.contains("good for node lab"), "{doctor}");
    let test = run(world, &["test", "--json"], Some(&tenant.code))?.ok()?;
    let figures: Value = serde_json::from_str(&test).with_context(|| format!("read {test}"))?;
    let of = |name: &str| figures[name].as_f64().unwrap_or_default();
    ensure!(
        of("round_trip_ms") > 0.0 && of("up") > 0.0 && of("down") > 0.0,
        "{figures}"
    );
    Ok(format!(
        "round trip {:.1} ms, up {:.0} MiB/s, down {:.0} MiB/s",
        of("round_trip_ms"),
        of("up") / f64::from(1 << 20),
        of("down") / f64::from(1 << 20)
    ))
}

fn unknown(world: &World) -> Result<String> {
    let code = totoro_api::code::InviteCode::from_entropy([9; 16]).to_string();
    let said = run(world, &["tcp", "22", "--lang", "zh"], Some(&code))?;
    ensure!(said.code == 4, "exit code {}: {}", said.code, said.err);
    ensure!(
        said.err.contains("invite_unknown: 邀请不存在"),
        "{}",
        said.err
    );
    ensure!(said.err.contains("下一步：请核对邀请码"), "{}", said.err);
    Ok(said.err.trim().to_owned())
}

fn typo(world: &World) -> Result<String> {
    let code = totoro_api::code::InviteCode::from_entropy([0; 16]).normalised();
    let wrong = code.replacen("tn1-0", "tn1-1", 1);
    let said = run(world, &["tcp", "22", "--lang", "en"], Some(&wrong))?;
    ensure!(said.code == 2, "exit code {}: {}", said.code, said.err);
    ensure!(
        said.err.contains("typing error") && !said.err.contains(&wrong),
        "{}",
        said.err
    );
    Ok(said.err.trim().to_owned())
}

fn exhausted(world: &World) -> Result<String> {
    let limits = json!({ "max_proxies": 1, "max_clients": 2 });
    let tenant = world.invite("exhausted", limits)?;
    let two = world.backend.udp.to_string();
    let has = runs(world, "cl-has", &tenant.code)?;
    let wants = Totoro::start(world, "cl-wants", &["tcp", &two], Some(&tenant.code), None)?;
    wants.refused("max_proxies", 1)?;
    fetch_through(world, has)
}

/// The other's refusal is no business of this one's.
fn fetch_through(world: &World, has: Totoro) -> Result<String> {
    let shown = run(world, &["status", "--json"], None)?.ok()?;
    let shown: Value = serde_json::from_str(&shown)?;
    let address = shown[0]["proxies"][0]["address"]
        .as_str()
        .context("no address")?;
    let port = address.rsplit(':').next().unwrap_or_default().parse()?;
    fetch(world, port)?;
    has.interrupt()?;
    Ok("max_proxies, exit 1; the first goes on".to_owned())
}

/// A tunnel that runs.
fn runs(world: &World, name: &str, code: &str) -> Result<Totoro> {
    let service = world.backend.tcp.to_string();
    let mut totoro = Totoro::start(world, name, &["tcp", &service], Some(code), None)?;
    totoro.event("running")?;
    Ok(totoro)
}

fn revoked(world: &World) -> Result<String> {
    let tenant = invite(world, "revoked")?;
    let totoro = runs(world, "cl-revoked", &tenant.code)?;
    world
        .lender()?
        .delete(&format!("/nodes/invites/{}", tenant.invite.id))?;
    totoro.refused("invite_revoked", 4)?;
    Ok("exit 4".to_owned())
}

fn expired(world: &World) -> Result<String> {
    let tenant = invite(world, "expired")?;
    let totoro = runs(world, "cl-expired", &tenant.code)?;
    let soon = std::time::SystemTime::now() + std::time::Duration::from_secs(2);
    let soon = i64::try_from(soon.duration_since(std::time::UNIX_EPOCH)?.as_secs())?;
    let ends = totoro_api::ticket::rfc3339(soon);
    let change = json!({ "expires_at": ends });
    let path = format!("/nodes/invites/{}", tenant.invite.id);
    world.lender()?.patch::<Value>(&path, &change)?;
    let usage = run(world, &["usage", "--json"], Some(&tenant.code))?.ok()?;
    ensure!(usage.contains(&ends), "the end is not told: {usage}");
    totoro.refused("invite_expired", 4)?;
    Ok("exit 4".to_owned())
}
