//! Hostile input where frps asks the node: what clients make frps say, and what a local user who got
//! hold of the secret says by himself. Whatever comes is refused with a reason; frps, the daemon and
//! the tenants who were there go on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::client::{Client, USERS_DOOR, Way, ample};
use super::handmade::HandMade;
use super::world;
use crate::lab::{NODE_CLIENT_V4, Place};
use crate::net::user;
use crate::story::frpc::Proxy;
use crate::story::{FRPS_PORT, World};

const PORT: u16 = 20_055;
/// Requests at once, and each one's repetitions.
const AT_ONCE: usize = 64;
const EACH: usize = 40;
/// Where frps reaches the node.
pub(super) const PLUGIN: &str = "127.0.0.1:988";

/// Plays all of it beside a tenant in good standing.
///
/// # Errors
/// Something was let through, had no reason, or hurt somebody.
pub fn play() -> Result<()> {
    let mut world = world("plugin", &[])?;
    let proxies = [Proxy::new("web", "tcp", world.backend.tcp, PORT)];
    let mut victim = Client::start(&world, "victim", ample(), Way::PLAIN, &proxies)?;
    let mut session = user::connect(world.lab.ns(Place::User), user::at(USERS_DOOR, PORT)?)?;
    user::exchange(&mut session, b"before")?;
    logins(&mut world, &victim)?;
    forged(&world, &victim)?;
    many(&world)?;
    super::crowd::play(&world)?;
    user::exchange(&mut session, b"after").context("the victim's user")?;
    ensure!(victim.frpc.lives(), "the victim's frpc ended");
    let lives = |process: &mut Option<crate::lab::Process>| {
        process.as_mut().is_some_and(crate::lab::Process::lives)
    };
    ensure!(lives(&mut world.frps) && lives(&mut world.node));
    Ok(())
}

/// Logins through the real frps, each over a connection of its own.
fn logins(world: &mut World, victim: &Client) -> Result<()> {
    let thief = world.invite("thief", ample())?;
    let ticket = world.resolve(&thief.code)?.ticket;
    let good = |more: Value| {
        let mut body = json!({
            "version": "0.70.1", "user": thief.invite.id, "privilege_key": ticket, "timestamp": 1,
            "pool_count": 1,
        });
        if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        body
    };
    let long = "x".repeat(5_000);
    let cases = [
        (
            "a pool of -1",
            json!({ "pool_count": -1 }),
            "request_malformed",
        ),
        (
            "a pool of i64::MIN",
            json!({ "pool_count": i64::MIN }),
            "request_malformed",
        ),
        (
            "a pool of i64::MAX",
            json!({ "pool_count": i64::MAX }),
            "request_malformed",
        ),
        (
            "a long hostname",
            json!({ "hostname": long }),
            "request_malformed",
        ),
        (
            "a long version",
            json!({ "version": long }),
            "request_malformed",
        ),
        (
            "a long run_id",
            json!({ "run_id": long }),
            "request_malformed",
        ),
        ("a long user", json!({ "user": long }), "request_malformed"),
        (
            "another's user",
            json!({ "user": victim.invite }),
            "proxy_name_denied",
        ),
        (
            "another's run_id",
            json!({ "run_id": victim.run_id }),
            "ticket_in_use",
        ),
        (
            "no ticket",
            json!({ "privilege_key": "" }),
            "ticket_missing",
        ),
        (
            "a broken ticket",
            json!({ "privilege_key": "v4.public.x" }),
            "ticket_malformed",
        ),
        (
            "no text",
            json!({ "privilege_key": "\u{fffd}\u{fffd}" }),
            "ticket_malformed",
        ),
    ];
    let frps = user::at(NODE_CLIENT_V4, FRPS_PORT)?;
    for (what, more, code) in cases {
        let hostile = HandMade::connect(world.lab.ns(Place::Client), frps)?;
        let answer = hostile.login(&good(more)).with_context(|| what)?;
        let text = answer["error"].as_str().unwrap_or_default();
        ensure!(
            text.contains(&format!("totoro[{code}]")),
            "{what}: {answer}"
        );
    }
    // frps itself can't read these: it ends the connection and lives.
    for (what, more) in [
        ("a number that is text", json!({ "pool_count": "many" })),
        (
            "a number that is too large",
            json!({ "timestamp": u64::MAX }),
        ),
        ("text that is a list", json!({ "run_id": [[[[[]]]]] })),
        (
            "more than frps takes",
            json!({ "hostname": "x".repeat(20_000) }),
        ),
    ] {
        let hostile = HandMade::connect(world.lab.ns(Place::Client), frps)?;
        ensure!(hostile.login(&good(more)).is_err(), "{what} was answered");
    }
    let lives = world.frps.as_mut().is_some_and(crate::lab::Process::lives);
    ensure!(lives, "frps ended");
    println!("16 hostile logins through frps: each refused for what it was, frps lives");
    Ok(())
}

/// What only somebody with the secret can say, on the node itself.
fn forged(world: &World, victim: &Client) -> Result<()> {
    let who = |run_id: &str, nonce: &str| {
        json!({
            "user": victim.invite, "run_id": run_id, "metas": { "totoro_nonce": nonce },
        })
    };
    let proxy = |who: Value, more: Value| {
        let mut body = json!({
            "user": who, "proxy_name": format!("{}.new", victim.invite), "proxy_type": "tcp",
            "remote_port": 20_056,
        });
        if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        json!({ "version": "0.1.0", "op": "NewProxy", "content": body }).to_string()
    };
    let (known, nobody) = (victim.run_id.as_str(), "00".repeat(16));
    let deep = format!(
        r#"{{"version":"0.1.0","op":"NewProxy","content":{}1{}}}"#,
        "[".repeat(5_000),
        "]".repeat(5_000)
    );
    let bodies: Vec<Vec<u8>> = vec![
        proxy(who(&nobody, ""), json!({})).into(),
        proxy(who(known, "forged"), json!({})).into(),
        proxy(who(known, ""), json!({ "remote_port": -1 })).into(),
        proxy(who(known, ""), json!({ "remote_port": 65_536 })).into(),
        proxy(who(known, ""), json!({ "remote_port": i64::MIN })).into(),
        proxy(who(known, ""), json!({ "remote_port": 1e300 })).into(),
        proxy(who(known, ""), json!({ "remote_port": null })).into(),
        proxy(who(known, ""), json!({ "proxy_name": "x".repeat(50_000) })).into(),
        proxy(who(known, ""), json!({ "proxy_name": "inv-another.web" })).into(),
        proxy(json!(null), json!({})).into(),
        proxy(json!({}), json!({ "proxy_type": ["tcp"] })).into(),
        deep.into(),
        b"{\"version\":\"0.1.0\",\"op\":\"NewProxy\",\"content\":{\"proxy_name\":\"\xff\xfe\"}}"
            .to_vec(),
        vec![0xff; 2_000],
        Vec::new(),
    ];
    for body in &bodies {
        let answer = ask(world, "NewProxy", body)?;
        let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
        let reason = answer["reject_reason"].as_str().unwrap_or_default();
        ensure!(
            answer["reject"] == true && reason.starts_with("totoro[") && answer["unchange"] == true,
            "{shown}: {answer}"
        );
        ensure!(!reason.starts_with("totoro[internal]"), "{shown}: {answer}");
    }
    println!(
        "{} forged requests: each refused with a reason",
        bodies.len()
    );
    Ok(())
}

/// Thousands at once, and as many that say half of it.
fn many(world: &World) -> Result<()> {
    let body = json!({ "version": "0.1.0", "op": "Login", "content": { "client_address": "?" } });
    let body = body.to_string();
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = connect(world)?;
            stream.write_all(b"POST /frps?op=Login HTTP/1.1\r\nHost: x\r\nContent-Le")?;
            Ok(stream)
        })
        .collect::<Result<_>>()?;
    let answered = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    let asked = (0..EACH).map(|_| ask(world, "Login", body.as_bytes()));
                    asked.filter(is_refusal).count()
                })
            })
            .collect();
        let counts = threads.into_iter().map(|thread| thread.join().unwrap_or(0));
        counts.sum::<usize>()
    });
    drop(slow);
    ensure!(
        answered == AT_ONCE * EACH,
        "{answered} of {}",
        AT_ONCE * EACH
    );
    println!("{answered} requests, {AT_ONCE} at once beside 100 slow ones: all answered");
    Ok(())
}

fn is_refusal(answer: &Result<Value>) -> bool {
    answer.as_ref().is_ok_and(|answer| answer["reject"] == true)
}

fn connect(world: &World) -> Result<TcpStream> {
    world.lab.ns(Place::Node).run(|| {
        let stream = TcpStream::connect(PLUGIN).context("connect to the plugin")?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(stream)
    })
}

/// One request with frps's own secret.
fn ask(world: &World, op: &str, body: &[u8]) -> Result<Value> {
    let secret = std::fs::read_to_string(world.lab.file("node/plugin.secret"))?;
    let auth = STANDARD.encode(format!("totoro:{}", secret.trim()));
    let mut stream = connect(world)?;
    let head = format!(
        "POST /frps?op={op}&version=0.1.0 HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {auth}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    serde_json::from_str(body).with_context(|| format!("read {body:.100}"))
}
