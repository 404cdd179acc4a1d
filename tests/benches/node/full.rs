//! Policy on its way to the kernel; and a node with all the tenants and leases that it may have.

use std::time::{Duration, Instant};

use totoro_node::kernel::Inspector;
use totoro_report::{Better, Figure, Goal, Run};

use crate::daemons::{Daemons, Tenant};
use crate::frps::Admin;
use crate::seen::{busy, delivered, forget_peak, mib, resident_mib, scrape};
use crate::series::Series;
use crate::{Args, Progress};

/// How often a scrape comes in practice, seconds.
const SCRAPED_S: f64 = 15.0;

/// Changes of a limit: from the request, and from its answer, until the kernel's map has it.
pub(crate) fn changes(
    daemons: &Daemons,
    tenants: &[Tenant],
    count: usize,
    part: &str,
    run: &mut Run,
) {
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
    let mut add = |what: &str, took: Vec<Duration>, most: Option<Goal>| {
        let ms = |name: &str, samples| Figure::new(part, name, "ms", Better::Less, samples);
        let each = took.iter().map(|one| one.as_secs_f64() * 1e3);
        run.add(ms(what, each.collect()));
        let p99 = Series::new(took, Duration::from_secs(1)).p99;
        let p99 = ms(&format!("{what}, p99"), vec![p99]);
        run.add(match most {
            Some(most) => p99.goal(most),
            None => p99,
        });
    };
    let most = Goal::at_most(20.0);
    add(
        "policy change sent, until the kernel's map has it",
        sent,
        Some(most),
    );
    add("its answer, until the kernel's map has it", answered, None);
}

/// Start-up, memory and idle cost with all of them.
pub(crate) fn measure(
    daemons: &mut Daemons,
    args: &Args,
    tenants: &[Tenant],
    frps: &Admin,
    run: &mut Run,
    progress: &Progress,
) {
    let inspector = Inspector::open(&daemons.pins).unwrap();
    let leases = args.leases;
    assert_eq!(
        inspector.ports().unwrap().len(),
        leases,
        "the kernel's leases"
    );
    delivered(daemons);
    progress.says("their events are delivered");
    let part = format!("A node with {} tenants and {leases} leases", tenants.len());
    let single = |what: &str, is, unit| Figure::new(&part, what, unit, Better::Less, vec![is]);
    let peak = mib(daemons, "VmHWM:");
    run.add(single("resident at most while they are made", peak, "MiB"));
    // What the making needed goes back within this time.
    std::thread::sleep(GOES_BACK);
    let what = format!("resident {} s later", GOES_BACK.as_secs());
    let made = single(&what, resident_mib(daemons), "MiB");
    run.add(made.goal(Goal::at_most(64.0)));
    changes(daemons, tenants, args.changes, &part, run);
    progress.says("changes of policy");
    let started = daemons.restart_node().as_secs_f64();
    let started = single("start after SIGKILL, until it serves", started, "s");
    run.add(started.goal(Goal::at_most(2.0)));
    assert_eq!(
        inspector.ports().unwrap().len(),
        leases,
        "the kernel's leases"
    );
    progress.says("started again");
    delivered(daemons);
    // What a start leaves behind is freed by and by.
    std::thread::sleep(Duration::from_secs(3));
    let resident = single("resident after that start", resident_mib(daemons), "MiB");
    run.add(resident.goal(Goal::at_most(64.0)));
    let most = single("resident at most until then", mib(daemons, "VmHWM:"), "MiB");
    run.add(most.goal(Goal::at_most(64.0)));
    progress.says("watching it");
    let (before, looks) = (busy(daemons), frps.looks());
    forget_peak(daemons);
    std::thread::sleep(Duration::from_secs(args.watched));
    let idle = (busy(daemons) - before) / args.watched as f64 * 100.0;
    let what = "processor when nobody asks, with frps, heartbeats and every tick";
    run.add(single(what, idle, "% of a core"));
    let most = single("resident at most meanwhile", mib(daemons, "VmHWM:"), "MiB");
    run.add(most.goal(Goal::at_most(64.0)));
    let looks = (frps.looks() - looks) as f64;
    let name = "looks at all of frps's proxies meanwhile";
    run.add(Figure::new(&part, name, "", Better::Neither, vec![looks]));
    assert_eq!(
        inspector.ports().unwrap().len(),
        leases,
        "the kernel's leases"
    );
    let before = busy(daemons);
    const SCRAPES: usize = 50;
    let mut length = 0;
    for _ in 0..SCRAPES {
        length = scrape(daemons).len();
    }
    let each = (busy(daemons) - before) / SCRAPES as f64;
    let what = format!("processor of a scrape of /metrics every {SCRAPED_S} s");
    let scraped = each / SCRAPED_S * 100.0;
    run.add(single(&what, scraped, "% of a core"));
    let both = single("both together", idle + scraped, "% of a core");
    run.add(both.goal(Goal::at_most(1.0)));
    let length = length as f64 / 1024.0;
    run.add(single("a scrape's length", length, "KiB"));
    for line in daemons
        .log()
        .iter()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"))
    {
        eprintln!("the node says: {line}");
    }
}

/// Within which time the daemon gives back what it has freed: its own ten seconds, and some.
const GOES_BACK: Duration = Duration::from_secs(12);
