//! A desk beside a model of it, through whatever may happen in whatever order: after each step both
//! have the same sessions and leases, the kernel has the same too, and each opening and end was told
//! once, in its order.
//!
//! `TOTORO_CASES` says how many orders are tried.

mod agree;
mod desk;
mod ends;
mod model;
mod ports;
mod push;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use desk::Pair;
use model::State;

/// A change of the control plane's policy.
#[derive(Clone, Copy, Debug)]
enum Change {
    State(usize, State),
    Most(usize, [u32; 2]),
    /// A new code; an end in so many seconds, or none.
    Anew(usize),
    Ends(usize, Option<i64>),
    Drain(bool),
    Key,
    /// All of it again, as it is.
    Nothing,
}

/// The run_id that a Login names.
#[derive(Clone, Copy, Debug)]
enum Run {
    None,
    Own,
    Other(usize),
}

/// What happens. Whatever is named is taken from what there is, so that each may come at any time.
#[derive(Clone, Copy, Debug)]
enum Step {
    Issue {
        tenant: usize,
        forged: bool,
    },
    Login {
        ticket: usize,
        run: Run,
        ip: u8,
        wrong_user: bool,
    },
    Proxy {
        login: usize,
        name: u8,
        port: u16,
    },
    Close {
        login: usize,
        name: u8,
    },
    HangUp {
        session: usize,
        told: bool,
    },
    Kick {
        session: usize,
    },
    /// The policy changes, and the push arrives or does not.
    Change {
        what: Change,
        lost: bool,
    },
    /// Seconds.
    Pass(i64),
    /// The control plane's clock turns out to be so many seconds ahead of ours, or behind.
    Set(i64),
    /// frps is looked at, and lacks one proxy or none.
    Compare {
        lacks: Option<usize>,
    },
    Tick,
    Look,
    Forget,
    Restart,
    /// Events reach the control plane, whose answer arrives or does not.
    Deliver {
        heard: bool,
    },
}

/// What an invite becomes: revoked for ever, so less often.
const STATES: [State; 5] = [
    State::Active,
    State::Active,
    State::Paused,
    State::Paused,
    State::Revoked,
];
/// How long passes: less and more than a lost session, a port, a ticket and a visitor's session live.
const JUMPS_S: [i64; 8] = [1, 4, 40, 40, 700, 1_300, 4_000, 15_000];
/// How far a clock is off.
const OFF_S: [i64; 6] = [-15_000, -1_300, -40, 40, 1_300, 15_000];

fn change() -> impl Strategy<Value = Change> {
    let invite = 0..2_usize;
    prop_oneof![
        4 => (invite.clone(), prop::sample::select(&STATES[..])).prop_map(|(of, state)| Change::State(of, state)),
        2 => (invite.clone(), [1..4_u32, 1..4]).prop_map(|(of, most)| Change::Most(of, most)),
        1 => invite.clone().prop_map(Change::Anew),
        2 => (invite, prop::option::of(60..9_000_i64)).prop_map(|(of, ends)| Change::Ends(of, ends)),
        2 => any::<bool>().prop_map(Change::Drain),
        1 => Just(Change::Key),
        1 => Just(Change::Nothing),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let run = prop_oneof![3 => Just(Run::None), 4 => Just(Run::Own), 1 => (0..4_usize).prop_map(Run::Other)];
    // Of the newest ones: what is long over is tried less.
    let recent = || prop_oneof![6 => 0..3_usize, 1 => 0..12_usize];
    let port = || prop_oneof![Just(0_u16), 20_000..20_005_u16];
    prop_oneof![
        9 => (0..3_usize, prop::bool::weighted(0.1)).prop_map(|(tenant, forged)| Step::Issue { tenant, forged }),
        12 => (recent(), run, 0..2_u8, prop::bool::weighted(0.05))
            .prop_map(|(ticket, run, ip, wrong_user)| Step::Login { ticket, run, ip, wrong_user }),
        14 => (recent(), 0..3_u8, port()).prop_map(|(login, name, port)| Step::Proxy { login, name, port }),
        6 => (recent(), 0..3_u8).prop_map(|(login, name)| Step::Close { login, name }),
        6 => (0..4_usize, any::<bool>()).prop_map(|(session, told)| Step::HangUp { session, told }),
        1 => (0..4_usize).prop_map(|session| Step::Kick { session }),
        8 => (change(), prop::bool::weighted(0.25)).prop_map(|(what, lost)| Step::Change { what, lost }),
        8 => prop::sample::select(&JUMPS_S[..]).prop_map(Step::Pass),
        2 => prop::sample::select(&OFF_S[..]).prop_map(Step::Set),
        4 => prop::option::of(0..4_usize).prop_map(|lacks| Step::Compare { lacks }),
        6 => Just(Step::Tick),
        2 => Just(Step::Look),
        2 => Just(Step::Forget),
        2 => Just(Step::Restart),
        2 => any::<bool>().prop_map(|heard| Step::Deliver { heard }),
    ]
}

fn config() -> ProptestConfig {
    let cases = std::env::var("TOTORO_CASES").ok();
    ProptestConfig {
        cases: cases.map_or(64, |cases| cases.parse().expect("TOTORO_CASES is a number")),
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn desk_kernel_and_spool_are_as_the_model_has_them(steps in prop::collection::vec(step(), 1..80)) {
        let mut pair = Pair::new();
        for step in steps {
            pair.step(step);
        }
    }
}
