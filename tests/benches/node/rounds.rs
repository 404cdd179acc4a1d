//! The rounds: each measures all in turn, so that what else the machine does hits all alike.

use std::time::Duration;

use crate::bare::Bare;
use crate::client::Request;
use crate::daemons::{Daemons, PLUGIN};
use crate::logins::Logins;
use crate::seen::{busy, delivered};
use crate::series::{Series, median};
use crate::{Figure, Progress};

/// The most that a call may take, over the bare handler.
const GOAL: f64 = 1.5;
/// More logins in a second than a node may come to: twice what was measured. Each is a ticket made ahead: with
/// the usual rounds 125,000, which take 0.6 GB here (a body, and the requests to node and bare handler, 5 kB
/// together), and twice as long to make as they did for 12,000. A round that comes to more fails.
const FASTEST: usize = 30_000;
/// How often is asked in a second where what counts is how long one answer takes: the logins that a
/// node must bear. As fast as it goes, an answer takes as long as the processor has to do for all.
const PACE: f64 = 1_000.0;
/// How many times as long is asked at that pace: one answer of a hundred is what counts, and when the
/// machine holds still for some milliseconds, all wait that come meanwhile.
const LONGER: u32 = 8;
/// How long the control plane has to take what the node tells of a round.
const TAKES: Duration = Duration::from_millis(500);

/// How the rounds are made.
pub(crate) struct Rounds {
    pub(crate) count: usize,
    pub(crate) clients: usize,
    pub(crate) length: Duration,
}

impl Rounds {
    /// Measures; the first round warms up and does not count.
    pub(crate) async fn run(
        &self,
        daemons: &Daemons,
        logins: &Logins,
        progress: &Progress,
    ) -> Vec<Figure> {
        let bare = Bare::start(&daemons.keys().await);
        let millis = usize::try_from(self.length.as_millis()).unwrap() * (self.count + 1);
        let paced = (PACE * f64::from(LONGER)) as usize;
        let bodies = logins
            .bodies(daemons, (FASTEST + paced) * millis / 1000)
            .await;
        progress.says(&format!("{} tickets", bodies.len()));
        let (proxies, own) = logins.proxies(PLUGIN, self.clients);
        let (bare_proxies, _) = logins.proxies(&bare.address, self.clients);
        let asked: [(&str, Request); 4] = [
            ("Login", logins.once(PLUGIN, &bodies)),
            ("bare Login", logins.again(&bare.address, &bodies)),
            ("NewProxy, CloseProxy", Request::own(PLUGIN, proxies, own)),
            (
                "bare NewProxy, CloseProxy",
                Request::own(&bare.address, bare_proxies, own),
            ),
        ];
        let mut figures = Vec::new();
        let modes = [
            ("", self.length, None),
            (" at 1,000/s", self.length * LONGER, Some(PACE)),
        ];
        let mut measured: [[Vec<Round>; 4]; 2] = Default::default();
        let mut left = bodies.len();
        for round in 0..=self.count {
            progress.says(&format!("round {round} of {}", self.count));
            for ((mode, length, pace), measured) in modes.iter().zip(&mut measured) {
                for (nth, ((name, request), series)) in asked.iter().zip(measured).enumerate() {
                    let one = self.one(daemons, request, *length, *pace).await;
                    // The node's Logins alone take a ticket each. With none left the measurement has ended before
                    // its time, by as much as nobody knows.
                    if nth == 0 {
                        left = left.saturating_sub(one.series.count);
                        assert!(
                            left > 0,
                            "{name}{mode}: all {} tickets are used in round {round} of {}, at {:.0}/s: \
                             FASTEST, {FASTEST}/s, is too low",
                            bodies.len(),
                            self.count,
                            one.series.rate
                        );
                    }
                    if round > 0 {
                        series.push(one);
                    }
                }
            }
        }
        for ((mode, ..), measured) in modes.iter().zip(&measured) {
            for (pair, names) in measured.chunks(2).zip(asked.chunks(2)) {
                figures.extend(shown(
                    pair,
                    [0, 1].map(|at| format!("{}{mode}", names[at].0)),
                ));
            }
        }
        figures
    }

    /// One measurement. In life the control plane has processors of its own: here it is stopped meanwhile, and
    /// takes afterwards what the node tells of it, whose processor time for that is counted.
    async fn one(
        &self,
        daemons: &Daemons,
        request: &Request,
        length: Duration,
        pace: Option<f64>,
    ) -> Round {
        let away = daemons.away();
        let before = busy(daemons);
        let series = request.measure(self.clients, length, pace).await;
        let decided = busy(daemons);
        drop(away);
        tokio::time::sleep(TAKES).await;
        let told = busy(daemons);
        delivered(daemons);
        let each = |seconds: f64| seconds / series.count as f64 * 1e6;
        Round {
            series,
            decides: each(decided - before),
            tells: each(told - decided),
        }
    }
}

/// One measurement of one call, and what the node's processors did for each, microseconds.
struct Round {
    series: Series,
    decides: f64,
    tells: f64,
}

/// What a call took, what it took the bare handler, and the ratios.
fn shown(pair: &[Vec<Round>], names: [String; 2]) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (name, series) in names.iter().zip(pair) {
        let of = |part: fn(&Series) -> f64| median(series.iter().map(|one| part(&one.series)));
        let figure = |what, is, unit| Figure(format!("{name}, {what}"), is, unit, None);
        figures.push(figure("answered", of(|one| one.rate), "/s"));
        figures.push(figure("p50", of(|one| one.p50), "ms"));
        figures.push(figure("p99", of(|one| one.p99), "ms"));
    }
    let of = |part: fn(&Round) -> f64| median(pair[0].iter().map(part));
    for (what, is) in [
        ("the node's processor for each", of(|one| one.decides)),
        ("and to deliver what it tells of each", of(|one| one.tells)),
    ] {
        figures.push(Figure(format!("{}, {what}", names[0]), is, "µs", None));
    }
    let ratio = |part: fn(&Series) -> f64| {
        let rounds = pair[0].iter().zip(&pair[1]);
        median(rounds.map(|(ours, bare)| part(&ours.series) / part(&bare.series)))
    };
    for (what, is) in [("p50", ratio(|one| one.p50)), ("p99", ratio(|one| one.p99))] {
        let what = format!("**{}, {what} over the bare handler's**", names[0]);
        figures.push(Figure(what, is, "×", Some(GOAL)));
    }
    figures
}
