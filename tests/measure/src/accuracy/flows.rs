//! UDP flows: as many as may be, each counted once, and none left when all are idle. Users who write once are all
//! answered, one in the place of another; as many as may be have a conversation.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use totoro_node::kernel::Inspector;
use totoro_report::{Better, Figure, Goal, Run};
use totoro_tests::hostile::client::USERS_DOOR;
use totoro_tests::hostile::quiet_world;
use totoro_tests::lab::{NODE_USER_V6, Place};
use totoro_tests::net::user;
use totoro_tests::story::within;

use super::Args;
use super::stage::{PORT, Stage};
use crate::Progress;

/// What the invite may have of flows, and how many users come.
const MOST: usize = 50;
const USERS: usize = 200;
const PATIENCE: Duration = Duration::from_secs(20);
/// How often each user writes at least: whose place is taken finds none when those who have one have written
/// again. And at most, until no more are answered than live: on a busy machine answers come after all have written,
/// who take each other's place then with every word.
const WORDS: std::ops::RangeInclusive<u8> = 5..=20;
/// How long an answer may take to come: the next word comes before a flow is idle.
const ANSWER: Duration = Duration::from_millis(150);

/// Measures.
///
/// # Errors
/// The lab can't be had, or flows do not end.
pub(super) fn measure(args: &Args, run: &mut Run, progress: &Progress) -> Result<()> {
    let world = quiet_world("acc-flows", &[("xdp", "\"auto\""), ("flow_idle", "\"1s\"")])?;
    let limits = json!({ "max_flows": MOST, "max_conns_per_source": MOST, "max_proxies": 2 });
    let stage = Stage::raise(world, limits)?;
    let mut over = Vec::new();
    let mut unused = Vec::new();
    let mut leaked = Vec::new();
    let mut otherwise = Vec::new();
    for round in 1..=args.rounds {
        let Talk {
            answered,
            otherwise: differ,
            most,
        } = stage.watched()?;
        over.push(most.max(answered).saturating_sub(MOST as u64) as f64);
        unused.push((MOST as u64).saturating_sub(answered) as f64);
        otherwise.push(differ as f64);
        let left = within(PATIENCE, || {
            let left = stage.left()?;
            Ok((left == 0).then_some(left))
        });
        leaked.push(left.or_else(|_| stage.left())? as f64);
        progress.says(&format!("flows, round {round} of {}", args.rounds));
    }
    let name = |what: &str| format!("max_flows {MOST}, {USERS} users: {what}");
    for (what, samples) in [
        ("overshoot", over),
        ("places left free", unused),
        ("flows counted otherwise than answered", otherwise),
        ("leaked when all were idle", leaked),
    ] {
        let figure = Figure::new("flows", &name(what), "", Better::Less, samples);
        run.add(figure.goal(Goal::at_most(0.0).each()));
    }
    stage.end();
    Ok(())
}

/// How users fared.
struct Talk {
    /// Who was answered to the last word.
    answered: u64,
    /// By how many what lived then differs, as counted and as listed.
    otherwise: u64,
    /// The most that lived at any moment, as counted.
    most: u64,
}

impl Stage {
    /// Live flows, as counted.
    fn flows(&self) -> Result<u64> {
        Ok(self.kernel.counts(self.tenant)?.flows)
    }

    /// The same as listed.
    fn rows(&self) -> Result<u64> {
        let all = self.kernel.flows()?;
        let ours = all.iter().filter(|(_, flow)| flow.tenant == self.tenant);
        Ok(ours.count() as u64)
    }

    /// What is left where nothing should be: flows that began and did not end, or ended and did not begin, and any that
    /// are listed.
    fn left(&self) -> Result<u64> {
        let counts = self.kernel.counts(self.tenant)?;
        let differ = counts.usage.flows_opened.abs_diff(counts.flows_closed);
        Ok(differ + self.rows()?)
    }

    /// Users write, while another thread looks at how many flows live. (What began is read first: what takes another's
    /// place between both looks makes them fewer, and never more.)
    fn watched(&self) -> Result<Talk> {
        let (kernel, stop) = (
            Inspector::open(&self.world.lab.pin_root())?,
            AtomicBool::new(false),
        );
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut most = 0;
                while !stop.load(Ordering::SeqCst) {
                    most = most.max(kernel.counts(self.tenant)?.flows);
                    std::thread::sleep(Duration::from_millis(1));
                }
                anyhow::Ok(most)
            });
            let talk = self.come();
            stop.store(true, Ordering::SeqCst);
            let most = watch.join().ok().context("the watcher panicked")??;
            let talk = talk?;
            Ok(Talk {
                most: talk.most.max(most),
                ..talk
            })
        })
    }

    /// Users write all at once, ever again.
    fn come(&self) -> Result<Talk> {
        let ns = self.world.lab.ns(Place::User);
        let sockets = (0..USERS).map(|nth| {
            let door = [USERS_DOOR, NODE_USER_V6][usize::from(nth % 4 == 0)];
            let socket = user::datagrams(ns, user::at(door, PORT)?)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        let sockets: Vec<UdpSocket> = sockets.collect::<Result<_>>()?;
        let mut talk = Talk {
            answered: 0,
            otherwise: 0,
            most: 0,
        };
        for nth in 1..=*WORDS.end() {
            // Its answer is told from a late one to the word before, whose place may be another's by now.
            let word = [nth; 4];
            for socket in &sockets {
                // What is refused by ICMP is an error of some later call.
                let _ = socket.send(&word);
            }
            let begun = Instant::now();
            let mut heard = vec![false; sockets.len()];
            while begun.elapsed() < ANSWER {
                for (socket, heard) in sockets.iter().zip(&mut heard) {
                    let mut buffer = [0; 16];
                    while let Ok(read) = socket.recv(&mut buffer) {
                        *heard |= buffer[..read] == word;
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            // All is still by now: what is listed is of one moment.
            talk.most = talk.most.max(self.flows()?).max(self.rows()?);
            talk.answered = heard.iter().filter(|heard| **heard).count() as u64;
            if WORDS.contains(&nth) && talk.answered > 0 && talk.answered == self.flows()? {
                break;
            }
        }
        ensure!(talk.answered > 0, "nobody was answered");
        let live = [self.flows()?, self.rows()?];
        talk.otherwise = live.map(|live| live.abs_diff(talk.answered)).iter().sum();
        Ok(talk)
    }
}
