//! A flood of Logins on frps's own port: who sends it is stopped before any signature is checked, and
//! another's frpc logs in meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use totoro_api::Reason;

use super::client::{Way, ample, file};
use super::handmade::HandMade;
use super::{client, world};
use crate::lab::{CLIENT_V4_B, NODE_CLIENT_V4, Place};
use crate::net::user;
use crate::story::frpc::{self, Proxy};
use crate::story::{FRPS_PORT, World};

/// What one source may try at once, and per second (`plugin/limit.rs`).
const BURST: f64 = 60.0;
const RATE: f64 = 5.0;
/// At least so many are sent.
const LOGINS: u64 = 300;

/// Plays it for some time.
///
/// # Errors
/// More was looked at than the rate allows, or the other frpc was kept out.
pub fn play(time: Duration) -> Result<()> {
    let world = world("logins", &[])?;
    let (stop, begun) = (AtomicBool::new(false), Instant::now());
    let (answers, connections, logged_in) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| flood(&world, &stop));
        std::thread::sleep(Duration::from_secs(1));
        let logged_in = other(&world);
        std::thread::sleep(time.saturating_sub(begun.elapsed()));
        stop.store(true, Ordering::SeqCst);
        let (answers, connections) = flood.join().ok().context("the flood panicked")??;
        anyhow::Ok((answers, connections, logged_in))
    })?;
    let took = begun.elapsed().as_secs_f64();
    let all: u64 = answers.values().sum();
    let held_back = answers
        .get(Reason::RateLimited.code())
        .copied()
        .unwrap_or(0);
    println!("{all} logins over {connections} connections in {took:.1} s: {answers:?}");
    println!("meanwhile another frpc logged in after {:.0?}", logged_in?);
    ensure!(all >= LOGINS, "that is no flood");
    let looked_at = (all - held_back) as f64;
    ensure!(
        looked_at <= BURST + RATE * took + 5.0,
        "{looked_at} were looked at"
    );
    ensure!(connections > 1, "20 failures end a connection");
    Ok(())
}

/// Logins with a ticket that nobody signed, one connection after the other; how each was answered.
fn flood(world: &World, stop: &AtomicBool) -> Result<(BTreeMap<String, u64>, usize)> {
    let frps = user::at(NODE_CLIENT_V4, FRPS_PORT)?;
    let mut answers = BTreeMap::<String, u64>::new();
    let mut connections = 0;
    while !stop.load(Ordering::SeqCst) {
        let Ok(hostile) = HandMade::connect(world.lab.ns(Place::Client), frps) else {
            // The node takes no more connections of this source for the moment.
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        connections += 1;
        while !stop.load(Ordering::SeqCst) && !hostile.is_over() {
            let body = json!({
                "version": "0.70.1", "user": "nobody", "privilege_key": "v4.public.forged",
                "timestamp": 1, "pool_count": 1,
            });
            // The last answer of a connection is lost with it.
            let Ok(answer) = hostile.login(&body) else {
                break;
            };
            let text = answer["error"].as_str().unwrap_or_default();
            let code = text.split(['[', ']']).nth(1).unwrap_or("none");
            *answers.entry(code.to_owned()).or_default() += 1;
        }
    }
    Ok((answers, connections))
}

/// A tenant who comes from another address of the same machine.
fn other(world: &World) -> Result<Duration> {
    let proxies = [Proxy::new("web", "tcp", world.backend.tcp, 20_030)];
    let (_, text) = file(world, "other", ample(), Way::PLAIN, &proxies)?;
    let text = format!("transport.connectServerLocalIP = \"{CLIENT_V4_B}\"\n{text}");
    let begun = Instant::now();
    let frpc = frpc::up(world, "other", &text, &proxies)?;
    let took = begun.elapsed();
    user::fetch(
        world.lab.ns(Place::User),
        user::at(client::USERS_DOOR, 20_030)?,
    )?;
    frpc.stop();
    Ok(took)
}
