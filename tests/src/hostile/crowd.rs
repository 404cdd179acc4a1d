//! Two thousand connections to the plugin endpoint at once, with the secret: many more than it serves
//! at once. The others wait for their turn, each is answered in the end, and a real frpc logs in meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::client::{Client, USERS_DOOR, Way, ample};
use super::quantiles;
use super::said::PLUGIN;
use crate::lab::Place;
use crate::net::user;
use crate::story::frpc::Proxy;
use crate::story::{World, within};

/// Connections at once.
const CROWD: usize = 2_000;
/// Half of them say half of their request, and the rest after so long: many are there at once, and none gives
/// way to another for being slow.
const DRAWN_OUT: Duration = Duration::from_millis(100);
/// The longest that anybody may wait for the last byte of their answer.
const BOUND: Duration = Duration::from_secs(30);
/// Requests that the endpoint serves at once (`plugin/server.rs`).
const PLACES: usize = 256;

const PORTS: [u16; 2] = [20_057, 20_058];

/// How one of them fared: connected, and answered, after so long; with the answer's code.
struct Answered {
    connected: Duration,
    whole: Duration,
    code: String,
}

/// Plays it in a lab that runs.
///
/// # Errors
/// Somebody was not answered, or frpc could not log in.
pub(super) fn play(world: &World) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = soft.max(2 * CROWD as u64).min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    let secret = std::fs::read_to_string(world.lab.file("node/plugin.secret"))?;
    let requests: Vec<Vec<u8>> = (0..CROWD).map(|n| request(n, secret.trim())).collect();
    let held = Arc::new(AtomicUsize::new(0));
    let (told, there, during) = std::thread::scope(|scope| {
        let crowd = scope.spawn(|| world.lab.ns(Place::Node).run(|| crowd(requests, &held)));
        // They are there when frpc comes.
        let there = within(BOUND, || {
            let there = held.load(Ordering::SeqCst);
            Ok((there >= PLACES).then_some(there))
        });
        let during = login(world, "meanwhile", PORTS[0]);
        (crowd.join(), there, during)
    });
    let outcomes = told.ok().context("the crowd panicked")??;
    let there = there.context("never so many at once as there are places")?;
    let during = during.context("frpc beside the crowd")?;
    let after = login(world, "afterwards", PORTS[1]).context("frpc after the crowd")?;

    let mut codes = BTreeMap::<String, usize>::new();
    let mut failed = BTreeMap::<String, usize>::new();
    let (mut connected, mut whole) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        match outcome {
            Ok(answered) => {
                *codes.entry(answered.code).or_default() += 1;
                connected.push(answered.connected);
                whole.push(answered.whole);
            }
            Err(what) => *failed.entry(what).or_default() += 1,
        }
    }
    let longest = whole.iter().max().copied().unwrap_or_default();
    println!(
        "{CROWD} connections at once, {} answered: {codes:?}; failed: {failed:?}",
        whole.len()
    );
    println!(
        "connected after {} ms, answered after {} ms (p50 / p99), the last after {:.1} s",
        quantiles(&mut connected),
        quantiles(&mut whole),
        longest.as_secs_f64()
    );
    println!(
        "frpc logged in after {during:.0?} with {there} there, and after {after:.0?} afterwards"
    );
    ensure!(failed.is_empty(), "not answered: {failed:?}");
    ensure!(
        codes.keys().all(|code| code.starts_with("totoro[")),
        "refused without a reason: {codes:?}"
    );
    ensure!(
        !codes.contains_key("totoro[internal]"),
        "more than was borne: {codes:?}"
    );
    Ok(())
}

/// How somebody says what they ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// In one segment, as frps does.
    AtOnce,
    /// In two, with some time in between.
    InHalves,
}

impl Manner {
    fn of(number: usize) -> Manner {
        match number / 2 % 2 {
            0 => Manner::AtOnce,
            _ => Manner::InHalves,
        }
    }
}

/// All of them, each on a task of one thread.
fn crowd(requests: Vec<Vec<u8>>, held: &Arc<AtomicUsize>) -> Result<Vec<Result<Answered, String>>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(async {
        let begun = Instant::now();
        let tasks: Vec<_> = requests
            .into_iter()
            .enumerate()
            .map(|(number, request)| {
                tokio::spawn(one(request, Manner::of(number), begun, Arc::clone(held)))
            })
            .collect();
        let mut outcomes = Vec::new();
        for task in tasks {
            outcomes.push(task.await.unwrap_or_else(|error| Err(error.to_string())));
        }
        outcomes
    }))
}

/// One of them: what it got, or what went wrong, in words that can be counted.
async fn one(
    request: Vec<u8>,
    manner: Manner,
    begun: Instant,
    held: Arc<AtomicUsize>,
) -> Result<Answered, String> {
    let asked = async {
        let mut stream = TcpStream::connect(PLUGIN).await.context("connect")?;
        let connected = begun.elapsed();
        let here = Here::new(&held);
        let mut rest = request.as_slice();
        if manner == Manner::InHalves {
            let (first, second) = rest.split_at(rest.len() / 2);
            stream.write_all(first).await.context("write")?;
            tokio::time::sleep(DRAWN_OUT).await;
            rest = second;
        }
        stream.write_all(rest).await.context("write")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.context("read")?;
        drop(here);
        let code = code(&answer)?;
        Ok(Answered {
            connected,
            whole: begun.elapsed(),
            code,
        })
    };
    match tokio::time::timeout(BOUND, asked).await {
        Ok(answered) => answered.map_err(|error: anyhow::Error| format!("{error:#}")),
        Err(_) => Err(format!("nothing within {BOUND:?}")),
    }
}

/// One who is connected, and has no answer yet.
struct Here<'a>(&'a AtomicUsize);

impl<'a> Here<'a> {
    fn new(held: &'a AtomicUsize) -> Here<'a> {
        held.fetch_add(1, Ordering::SeqCst);
        Here(held)
    }
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The reason of a refusal, `totoro[…]`, or what came in its place.
fn code(answer: &[u8]) -> Result<String> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head:.40}");
    let body: Value = serde_json::from_str(body).context("read the answer")?;
    ensure!(body["reject"] == true, "it was let through");
    let reason = body["reject_reason"].as_str().unwrap_or_default();
    let (code, _) = reason.split_once(']').context("no reason")?;
    Ok(format!("{code}]"))
}

/// A request that frps might make: Logins with a ticket that nobody signed, from a source of their own
/// each, and proxies of nobody's.
fn request(number: usize, secret: &str) -> Vec<u8> {
    let source = format!("198.18.{}.{}:40000", number / 256, number % 256);
    let (op, content) = match number % 2 {
        0 => (
            "Login",
            json!({
                "version": "0.70.1", "user": "nobody", "privilege_key": "v4.public.forged",
                "timestamp": 1, "pool_count": 1, "client_address": source,
            }),
        ),
        _ => (
            "NewProxy",
            json!({
                "user": { "user": "nobody", "run_id": format!("{number:032x}"), "metas": {} },
                "proxy_name": "nobody.web", "proxy_type": "tcp", "remote_port": 20_059,
            }),
        ),
    };
    let body = json!({ "version": "0.1.0", "op": op, "content": content }).to_string();
    let auth = STANDARD.encode(format!("totoro:{secret}"));
    format!(
        "POST /frps?op={op}&version=0.1.0 HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {auth}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A tenant's frpc comes, serves and goes; how long until its proxy ran.
fn login(world: &World, name: &str, port: u16) -> Result<Duration> {
    let proxies = [Proxy::new("web", "tcp", world.backend.tcp, port)];
    let tenant = world.invite(name, ample())?;
    let begun = Instant::now();
    let client = Client::of(world, name, &tenant, Way::PLAIN, &proxies)?;
    let took = begun.elapsed();
    user::fetch(world.lab.ns(Place::User), user::at(USERS_DOOR, port)?)?;
    client.frpc.stop();
    Ok(took)
}
