//! What a test run can't show (it has no sockets): connections and flows that are made, used, cut and ended in random
//! order, under limits that change, beside a model in plain Rust of who gets in, by which reason not, and what is
//! counted. `TOTORO_SEED` and `TOTORO_STEPS` play another one.

mod model;
mod play;

use fastrand::Rng;
use totoro_api::Reason;
use totoro_ebpf::abi::{self, SOURCE_CONNS, SOURCE_FLOWS};

use self::model::{Model, PARENT, SOURCES, TENANTS, TOTAL, address};
use self::play::Play;
use crate::flows::{Flows, Sources};
use crate::sockets::PORT;
use crate::support::{self, Node, asked, eventually};

/// With so many all that ought to be seen was, with every seed that was tried; four times as many are played for it.
const STEPS: u64 = 4_000;
/// What is refused, and for which reasons; and why a flow takes another's place.
const OUGHT: [(&str, Reason); 18] = [
    ("a connection", Reason::NoLease),
    ("a connection", Reason::InvitePaused),
    ("a connection", Reason::InviteRevoked),
    ("a connection", Reason::ClientBanned),
    ("a connection", Reason::MaxConns),
    ("a connection", Reason::MaxConnsPerSource),
    ("a connection", Reason::NodeFull),
    ("a connection", Reason::PublicFull),
    ("a flow", Reason::NoLease),
    ("a flow", Reason::InvitePaused),
    ("a flow", Reason::InviteRevoked),
    ("a flow", Reason::ClientBanned),
    ("a flow", Reason::MaxFlows),
    ("a flow", Reason::MaxConnsPerSource),
    ("a flow", Reason::PublicFull),
    ("a place", Reason::MaxFlows),
    ("a place", Reason::MaxConnsPerSource),
    ("a place", Reason::PublicFull),
];

impl Play {
    /// Everything is counted as it is.
    fn check(&self) {
        eventually("the kernel counts what there is", || {
            self.differs().is_empty()
        });
    }

    fn differs(&self) -> Vec<String> {
        let kernel = self.kernel();
        let mut differs = Vec::new();
        let mut compare = |what: &str, of: u32, is: u64, should: u64| {
            if is != should {
                differs.push(format!("{what} of {of}: {is}, should be {should}"));
            }
        };
        for (nth, tenant) in TENANTS.into_iter().enumerate() {
            let counts = kernel.counts(tenant).expect("counts");
            let [conns, ..] = self.model.conns(nth, 0);
            let [flows, ..] = self.model.talks(nth, 0);
            compare("conns", tenant, counts.usage.conns, conns.into());
            compare("flows", tenant, counts.flows, flows.into());
            let admitted = self.model.admitted[nth];
            compare("admitted", tenant, counts.usage.admitted, admitted);
        }
        let counts = kernel.counts(PARENT).expect("counts");
        let [_, conns, _] = self.model.conns(1, 0);
        let [_, flows, _] = self.model.talks(1, 0);
        compare("conns", PARENT, counts.usage.conns, conns.into());
        compare("flows", PARENT, counts.flows, flows.into());
        let all = kernel.counts(abi::NODE).expect("counts").usage.conns;
        compare("conns", abi::NODE, all, self.model.conns.len() as u64);
        let there = kernel.flows().expect("flows").len() as u64;
        compare("rows", 0, there, self.model.talks.len() as u64);
        // Who waits for an answer does so at a port that somebody leases.
        let root = &self.options.pin_root;
        let waiting: Flows = support::pinned(root, "CANDIDATES")
            .try_into()
            .expect("hash");
        let leased = |port: u16| self.model.leased[usize::from(port - PORT)];
        let lost = waiting
            .keys()
            .flatten()
            .filter(|key| !leased(key.port))
            .count();
        compare("waiting at nobody's port", 0, lost as u64, 0);
        let sources: Sources = support::pinned(root, "SOURCES").try_into().expect("hash");
        let of = |key| sources.get(&key, 0).map_or(0, |source| source.conns);
        for (nth, tenant) in TENANTS.into_iter().enumerate() {
            for source in 0..SOURCES {
                let key = |kind| abi::SourceKey {
                    prefix: abi::v4_mapped(address(source).octets()),
                    tenant,
                    kind,
                };
                let [_, _, conns] = self.model.conns(nth, source);
                let [_, _, flows] = self.model.talks(nth, source);
                compare("a source's", tenant, of(key(SOURCE_CONNS)), conns.into());
                compare(
                    "a source's flows",
                    tenant,
                    of(key(SOURCE_FLOWS)),
                    flows.into(),
                );
            }
        }
        differs
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let last: Vec<&str> = self.story.lines().rev().take(40).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            eprintln!("{}\n{:?}", last.join("\n"), self.differs());
        }
    }
}

#[test]
fn whoever_comes_and_goes_is_judged_and_counted_as_the_model_does() {
    let Some(node) = Node::new("random") else {
        return;
    };
    let node = node.with(|options| {
        options.max_conns_total = TOTAL;
        // Longer than all of it takes.
        options.flow_idle_s = 3_600;
    });
    let options = node.options();
    let seed = asked("TOTORO_SEED").unwrap_or_else(|| getrandom::u64().expect("a seed"));
    let steps = asked("TOTORO_STEPS").unwrap_or(STEPS);
    println!("seed {seed}");
    node.run(move |kernel| {
        let mut play = Play::new(kernel, options, Rng::with_seed(seed));
        let is_missing = |play: &Play| OUGHT.iter().any(|one| !play.seen.contains(one));
        let mut step = 0;
        while step < steps || steps >= STEPS && is_missing(&play) && step < 4 * steps {
            play.step();
            play.check();
            step += 1;
        }
        let Model {
            admitted,
            conns,
            talks,
            ..
        } = &play.model;
        let (live, flows) = (conns.len(), talks.len());
        println!("{step} steps: {admitted:?} admitted, {live} live, {flows} flows");
        if steps >= STEPS {
            let mut missing = OUGHT.iter().filter(|one| !play.seen.contains(one));
            assert_eq!(missing.next(), None, "never came");
        }
        assert_eq!(
            play.kernel().recount().expect("recount"),
            0,
            "nothing drifted"
        );
    });
}
