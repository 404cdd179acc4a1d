//! The rounds: each measures all in turn, so that what else the machine does hits all alike.

use std::time::Duration;

use totoro_report::{Better, Figure, Relative, Run, locked};

use crate::Progress;
use crate::bare::Bare;
use crate::client::Request;
use crate::daemons::{Daemons, PLUGIN, Tenant};
use crate::logins::Logins;
use crate::seen::{busy, delivered};
use crate::series::Series;

/// The most that a call may take, over the bare handler.
const GOAL: f64 = 1.5;
const BARE: &str = "bare handler";
/// The same of a Login. A NewProxy is held against it too: one yardstick for all that a node decides.
const VERIFIES: &str = "bare handler that verifies a ticket";
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
/// First Logins in a round, at most.
const FIRST: usize = 600;
/// How long the control plane has to take what the node tells of a round.
const TAKES: Duration = Duration::from_millis(500);

/// How the rounds are made.
pub(crate) struct Rounds {
    pub(crate) count: usize,
    pub(crate) clients: usize,
    pub(crate) length: Duration,
}

impl Rounds {
    /// Measures, and adds the figures; the first round warms up and does not count.
    pub(crate) async fn run(
        &self,
        daemons: &Daemons,
        logins: &Logins,
        others: &[Tenant],
        run: &mut Run,
        progress: &Progress,
    ) {
        // Who has no session yet, some in each round.
        let first_ones = (others.len() / (self.count + 1)).min(FIRST);
        assert!(
            first_ones > 0,
            "{} tenants without a session are too few for {} rounds: --tenants",
            others.len(),
            self.count
        );
        self.how(run, first_ones);
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
        let modes = [
            (", as fast as it goes", self.length, None),
            (" at 1,000/s", self.length * LONGER, Some(PACE)),
        ];
        let mut measured: [[Vec<Round>; 4]; 2] = Default::default();
        let mut left = bodies.len();
        let mut first: [Vec<Round>; 2] = Default::default();
        // Kept to the end: that hundreds lose their sessions together would fall into what is measured next.
        let mut connections = Vec::new();
        let mut others = others.chunks_exact(first_ones);
        for round in 0..=self.count {
            progress.says(&format!("round {round} of {}", self.count));
            for ((mode, length, pace), measured) in modes.iter().zip(&mut measured) {
                // Another is first in each round.
                for nth in (0..asked.len()).map(|nth| (nth + round) % asked.len()) {
                    let (name, request) = &asked[nth];
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
                        measured[nth].push(one);
                    }
                }
            }
            let tenants = others.next().expect("some tenants for each round");
            let mut new = logins.first(daemons, tenants, connections.len()).await;
            connections.append(&mut new.connections);
            let both = [PLUGIN, &bare.address].map(|server| logins.once(server, &new.bodies));
            let both = self.first(daemons, &both, tenants.len(), round).await;
            for (series, one) in first.iter_mut().zip(both) {
                if round > 0 {
                    series.push(one);
                }
            }
        }
        let [opens, bare] = &first;
        add(run, "first Login at 1,000/s", opens, &[(BARE, bare)]);
        for ((mode, ..), measured) in modes.iter().zip(&measured) {
            let [login, bare_login, proxy, bare_proxy] = measured;
            let call = |nth: usize| format!("{}{mode}", asked[nth].0);
            add(run, &call(0), login, &[(BARE, bare_login)]);
            let bare = [(BARE, bare_proxy), (VERIFIES, bare_login)];
            add(run, &call(2), proxy, &bare);
        }
    }

    /// Logins of tenants that have no session, each over its own connection, at the pace that a node must bear; and
    /// the bare handler's.
    async fn first(
        &self,
        daemons: &Daemons,
        both: &[Request; 2],
        count: usize,
        round: usize,
    ) -> [Round; 2] {
        let length = Duration::from_secs_f64(count as f64 / PACE);
        let mut took = [None, None];
        for nth in [round % 2, (round + 1) % 2] {
            took[nth] = Some(self.one(daemons, &both[nth], length, Some(PACE)).await);
        }
        took.map(|one| one.expect("both had their turn"))
    }

    /// Says how it is measured, and beside what.
    fn how(&self, run: &mut Run, first_ones: usize) {
        run.baseline(
            BARE,
            &format!(
                "hyper {}, in a process of its own: parses the body, verifies a Login's ticket, waits for a \
                 group commit of 300 bytes, and answers; no policy, no limits, no maps, no events",
                locked("hyper")
            ),
        );
        run.baseline(VERIFIES, "the same, answering Logins");
        run.note(format!(
            "Calls: {} requests at once, each on its own connection; {} rounds of {} ms, {LONGER} times as long \
             at {PACE}/s, node and bare handler in turns, another first in each round. A Login goes on with a session \
             on the connection that that has; a first Login opens one, for a tenant that has none, over a new \
             connection from a new address: {first_ones} of them a round. The control plane is stopped meanwhile, and \
             takes afterwards what the node tells.",
            self.clients,
            self.count,
            self.length.as_millis()
        ));
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

/// A part of a round.
type Part = fn(&Round) -> f64;

/// Adds what a call took, beside what it took these bare handlers.
fn add(run: &mut Run, call: &str, ours: &[Round], bare: &[(&str, &Vec<Round>)]) {
    let of = |rounds: &[Round], part: Part| -> Vec<f64> { rounds.iter().map(part).collect() };
    let mut beside = |name, unit, better, part: Part, goal: Option<f64>| {
        let mut figure = Figure::new(call, name, unit, better, of(ours, part));
        for (handler, theirs) in bare {
            figure = figure.against(handler, &of(theirs, part), goal.map(Relative::at_most));
        }
        run.add(figure);
    };
    beside("answered", "/s", Better::More, |one| one.series.rate, None);
    // It is in the figures below: where both sides are alike in it, their ratios are a little nearer to 1.
    let waited = |rounds: &[Round]| rounds.iter().all(|one| one.series.woke_p50.is_finite());
    if waited(ours) && bare.iter().all(|(_, theirs)| waited(theirs)) {
        let [half, most]: [Part; 2] = [|one| one.series.woke_p50, |one| one.series.woke_p99];
        for (name, part) in [
            ("clients woke so late, p50", half),
            ("clients woke so late, p99", most),
        ] {
            beside(name, "ms", Better::Neither, part, None);
        }
    }
    let goal = Some(GOAL);
    beside("p50", "ms", Better::Less, |one| one.series.p50, goal);
    beside("p99", "ms", Better::Less, |one| one.series.p99, goal);
    let mut alone = |name, part| {
        run.add(Figure::new(call, name, "µs", Better::Less, of(ours, part)));
    };
    alone("the node's processor for each", |one| one.decides);
    alone("its processor to deliver what it tells of each", |one| {
        one.tells
    });
}
