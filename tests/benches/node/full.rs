//! Policy on its way to the kernel; and a node with all the tenants and leases that it may have.

use std::time::{Duration, Instant};

use totoro_node::kernel::Inspector;

use crate::daemons::{Daemons, Tenant};
use crate::seen::{busy, delivered, mib, resident_mib, scrape};
use crate::series::Series;
use crate::{Args, Figure, Progress};

/// For how long the daemon's processor time is watched.
const WATCHED: Duration = Duration::from_secs(30);
/// How often a scrape comes in practice, seconds.
const SCRAPED_S: f64 = 15.0;

/// Changes of a limit: from the request, and from its answer, until the kernel's map has it.
pub(crate) fn changes(
    daemons: &Daemons,
    tenants: &[Tenant],
    count: usize,
    of: &str,
) -> Vec<Figure> {
    let work = || {
        let client = reqwest::blocking::Client::builder()
            .no_proxy()
            .build()
            .unwrap();
        let inspector = Inspector::open(&daemons.pins).unwrap();
        let invite = &tenants[0].invite;
        // Found by a limit that no other has.
        daemons.change(&client, invite, 54_321);
        let begun = Instant::now();
        let number = loop {
            let all = inspector.tenants().unwrap();
            if let Some((number, ..)) = all.iter().find(|(_, one, _)| one.max_conns == 54_321) {
                break *number;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "it never comes");
        };
        let (mut sent, mut answered) = (Vec::new(), Vec::new());
        for round in 0..count {
            let most = 1 + u32::try_from(round).unwrap();
            let [at, answer] = daemons.change(&client, invite, most);
            while inspector.tenant(number).unwrap().map(|one| one.max_conns) != Some(most) {
                assert!(at.elapsed() < Duration::from_secs(20), "it never comes");
                std::thread::sleep(Duration::from_micros(100));
            }
            sent.push(at.elapsed());
            answered.push(answer.elapsed());
        }
        (sent, answered)
    };
    // A thread without a runtime: the client blocks.
    let (sent, answered) = std::thread::scope(|scope| scope.spawn(work).join().unwrap());
    let series = |took: Vec<Duration>| Series::new(took, Duration::from_secs(1));
    let (sent, answered) = (series(sent), series(answered));
    let figure = |what: &str, is, most| Figure(format!("{of}{what}"), is, "ms", most);
    vec![
        figure(
            "policy change sent, until the kernel's map has it, p50",
            sent.p50,
            None,
        ),
        figure(
            "policy change sent, until the kernel's map has it, p99",
            sent.p99,
            Some(20.0),
        ),
        figure(
            "its answer, until the kernel's map has it, p99",
            answered.p99,
            None,
        ),
    ]
}

/// Start-up, memory and idle cost with all of them.
pub(crate) fn measure(
    daemons: &mut Daemons,
    args: &Args,
    tenants: &[Tenant],
    progress: &Progress,
) -> Vec<Figure> {
    let inspector = Inspector::open(&daemons.pins).unwrap();
    let leases = args.leases;
    assert_eq!(
        inspector.ports().unwrap().len(),
        leases,
        "the kernel's leases"
    );
    delivered(daemons);
    progress.says("their events are delivered");
    let figure = |what: String, is, unit, most| Figure(what, is, unit, most);
    let peak = figure(
        "resident at most while they are made".to_owned(),
        mib(daemons, "VmHWM:"),
        "MiB",
        None,
    );
    // What the making needed goes back within this time.
    std::thread::sleep(GOES_BACK);
    let made = figure(
        format!("resident {} s later", GOES_BACK.as_secs()),
        resident_mib(daemons),
        "MiB",
        Some(64.0),
    );
    let mut figures = vec![peak, made];
    figures.extend(changes(daemons, tenants, args.changes, "full node: "));
    progress.says("changes of policy");
    let started = daemons.restart_node().as_secs_f64();
    figures.push(figure(
        "start after SIGKILL, until it serves".to_owned(),
        started,
        "s",
        Some(2.0),
    ));
    assert_eq!(
        inspector.ports().unwrap().len(),
        leases,
        "the kernel's leases"
    );
    progress.says("started again");
    delivered(daemons);
    // What a start leaves behind is freed by and by.
    std::thread::sleep(Duration::from_secs(3));
    let resident = resident_mib(daemons);
    figures.push(figure(
        "resident after that start".to_owned(),
        resident,
        "MiB",
        Some(64.0),
    ));
    progress.says("watching it");
    let before = busy(daemons);
    std::thread::sleep(WATCHED);
    let idle = (busy(daemons) - before) / WATCHED.as_secs_f64() * 100.0;
    let what = "processor when nobody asks, with heartbeats and every tick";
    figures.push(figure(what.to_owned(), idle, "% of a core", Some(1.0)));
    let before = busy(daemons);
    const SCRAPES: usize = 50;
    let mut length = 0;
    for _ in 0..SCRAPES {
        length = scrape(daemons).len();
    }
    let each = (busy(daemons) - before) / SCRAPES as f64;
    let what = format!("processor of a scrape of /metrics every {SCRAPED_S} s ({length} bytes)");
    figures.push(figure(
        what,
        each / SCRAPED_S * 100.0,
        "% of a core",
        Some(1.0),
    ));
    for line in daemons
        .log()
        .iter()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"))
    {
        eprintln!("the node says: {line}");
    }
    figures
}

/// Within which time the daemon gives back what it has freed: its own ten seconds, and some.
const GOES_BACK: Duration = Duration::from_secs(12);
