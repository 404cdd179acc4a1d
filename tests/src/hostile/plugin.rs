//! Hostile input where frps asks the node: what clients make frps say, and what a local user who got
//! hold of the secret says by himself. Whatever comes is refused with a reason; frps, the daemon and
//! the tenants who were there go on.

use std::io::Write;
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use totoro_api::decide::LOGIN_META;

use super::client::{Client, USERS_DOOR, Way, ample};
use super::handmade::HandMade;
use super::said::{Said, ask, connect};
use super::world;
use crate::lab::{NODE_CLIENT_V4, Place};
use crate::net::user;
use crate::story::frpc::Proxy;
use crate::story::{FRPS_PORT, World};

const PORT: u16 = 20_055;
/// Requests at once, and each one's repetitions.
const AT_ONCE: usize = 64;
const EACH: usize = 40;

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

/// What only somebody with the secret can say, on the node itself: of a session of their own, whose secret
/// they have been told, and of the victim's, whose they have not.
fn forged(world: &World, victim: &Client) -> Result<()> {
    let forger = world.invite("forger", ample())?;
    let frps = user::at(NODE_CLIENT_V4, FRPS_PORT)?;
    let hand = HandMade::connect(world.lab.ns(Place::Client), frps)?;
    let said = Said::login(world, &hand, &forger, "")?;
    let proxy = |more: Value| {
        let body =
            json!({ "proxy_name": format!("{}.new", forger.invite.id), "proxy_type": "tcp" });
        let port = json!({ "remote_port": 20_056 });
        said.about("NewProxy", &[body, port, more])
    };
    let theirs = |run_id: &str, nonce: &str| {
        let metas = json!({ LOGIN_META: nonce });
        proxy(json!({ "user": { "user": victim.invite, "run_id": run_id, "metas": metas } }))
    };
    let deep = format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000));
    let raw =
        |content: &str| format!(r#"{{"version":"0.1.0","op":"NewProxy","content":{content}}}"#);
    let (over, malformed) = ("session_expired", "request_malformed");
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (theirs(&"00".repeat(16), ""), over),
        (theirs(&victim.run_id, "forged"), over),
        (theirs(&victim.run_id, ""), over),
        (theirs(&victim.run_id, said.nonce()), over),
        (
            proxy(json!({ "user": { "user": forger.invite.id, "run_id": said.run_id() } })),
            over,
        ),
        (proxy(json!({ "remote_port": -1 })), malformed),
        (proxy(json!({ "remote_port": 65_536 })), malformed),
        (proxy(json!({ "remote_port": i64::MIN })), malformed),
        (proxy(json!({ "remote_port": 1e300 })), malformed),
        (proxy(json!({ "remote_port": 19_999 })), "port_outside_pool"),
        (
            proxy(json!({ "proxy_name": "x".repeat(50_000) })),
            "proxy_name_denied",
        ),
        (
            proxy(json!({ "proxy_name": format!("{}.web", victim.invite) })),
            "proxy_name_denied",
        ),
        (proxy(json!({ "user": null })), malformed),
        (proxy(json!({ "proxy_type": ["tcp"] })), malformed),
        (proxy(json!({ "proxy_type": "xtcp" })), "proxy_type_denied"),
        (raw(&deep).into(), malformed),
        (
            [raw("{\"proxy_name\":\"").as_bytes(), b"\xff\xfe\"}}"].concat(),
            malformed,
        ),
        (vec![0xff; 2_000], malformed),
        (Vec::new(), malformed),
    ];
    for (body, code) in &cases {
        let answer = ask(world, "NewProxy", body)?;
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        let reason = answer["reject_reason"].as_str().unwrap_or_default();
        ensure!(
            answer["reject"] == true
                && answer["unchange"] == true
                && reason.starts_with(&format!("totoro[{code}]")),
            "{shown}: {answer}"
        );
    }
    // None of them was refused for something else: the same without what is odd about it is let through.
    let answer = ask(world, "NewProxy", &proxy(json!({})))?;
    ensure!(answer["reject"] == false, "{answer}");
    println!(
        "{} forged requests: each refused for what it was",
        cases.len()
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
