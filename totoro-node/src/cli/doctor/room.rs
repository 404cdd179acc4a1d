//! What has room in the kernel, and what found none.

use super::super::check::{Line, Status};
use crate::config::Config;
use crate::kernel::{Fill, Full, Inspector, Lost};

/// From here on a table is soon full, percent.
const NEARLY_FULL: u64 = 80;
/// So long lost events are worth a warning, seconds: who was away from the screen sees it all the same.
const RECENT_S: u64 = 600;

/// Events that were lost on their way to the daemon.
pub(super) fn events(lost: &Lost) -> Line {
    let Some(last_s) = lost.last_s else {
        return Line::new("events", "none lost", Status::Ok, "room for all");
    };
    let target = format!("{} lost", lost.total());
    let where_lost = format!(
        "in the kernel's ring {}, in the daemon's queue {}, since the start, the last {last_s} s ago",
        lost.kernel, lost.daemon
    );
    if last_s >= RECENT_S {
        return Line::new("events", target, Status::Ok, where_lost);
    }
    let detail = format!(
        "{where_lost}: more came than is read. They are hints, so limits and counts hold, and a connection \
         over a limit passes nothing and is ended within two seconds; the end of a session is seen within \
         ten, and sums of connections may lack the longest. Look for a flood (inspect reasons), and whether \
         the machine has a processor to spare"
    );
    Line::new("events", target, Status::Warn, detail)
}

/// How full the tables are; nothing where no programs are there, which has a line of its own.
pub(super) fn tables(config: &Config, are_loaded: bool) -> Vec<Line> {
    let fill = Inspector::open(&config.pin_root).and_then(|inspector| inspector.fill());
    match fill {
        Ok(fill) => of(&fill),
        Err(_) if !are_loaded => Vec::new(),
        Err(error) => {
            let detail = format!(
                "{}: somebody removed or changed it, and the daemon's next start will refuse the rest; when a \
                 short while without limits does: systemctl stop totoro-frps totoro-node, totoro-node \
                 uninstall, and start both again",
                error.whole()
            );
            vec![Line::new("tables", "", Status::Fail, detail)]
        }
    }
}

fn of(fill: &[Fill]) -> Vec<Line> {
    // Of those that may be full no matter.
    let matters = |one: &&Fill| !matches!(one.full, Full::Recycled | Full::Unbounded);
    let filled = fill.iter().filter(matters);
    let mut filled: Vec<(&Fill, u64)> = filled
        .filter_map(|one| Some((one, one.percent()?)))
        .collect();
    filled.sort_by_key(|(_, percent)| std::cmp::Reverse(*percent));
    let nearly: Vec<Line> = filled
        .iter()
        .filter(|(_, percent)| *percent >= NEARLY_FULL)
        .map(|(one, percent)| {
            let (entries, max) = (one.entries.unwrap_or(0), one.max.unwrap_or(0));
            let detail = format!(
                "{entries} of {max} entries are taken; when all are, {}",
                then(one.full)
            );
            let target = format!("{} {percent} %", one.table);
            Line::new("tables", target, Status::Warn, detail)
        })
        .collect();
    if !nearly.is_empty() {
        return nearly;
    }
    let fullest = filled.first().map(|(one, percent)| (one.table, *percent));
    let target = fullest.map_or_else(String::new, |(table, percent)| {
        format!("{table} {percent} %")
    });
    let detail = "room in all; this one is the fullest (inspect tables)";
    vec![Line::new("tables", target, Status::Ok, detail)]
}

/// What happens when a table is full, and what makes room in it.
const fn then(full: Full) -> &'static str {
    match full {
        Full::Leases => {
            "new proxies are refused (node_full); end sessions, or lower invites' max_proxies"
        }
        Full::Tenants => {
            "whoever has no session here is refused (node_full); drain the node, or revoke what is not used"
        }
        Full::Conns => {
            "new TCP connections of users are refused (node_full); lower max_conns_total or invites' \
             max_conns (inspect tenants)"
        }
        Full::Sources => {
            "new connections and flows of users are refused (node_full); inspect sources says where they \
             come from: ban those that do no good"
        }
        Full::Flows => {
            "new UDP flows of users are refused (node_full); lower flow_idle or invites' max_flows (inspect \
             tenants)"
        }
        Full::Controls => {
            "new connections of frpc are refused (node_full); lower control_per_source, or ban who opens so \
             many"
        }
        Full::Bans => {
            "further bans do not take effect; ban wider prefixes in place of single addresses"
        }
        Full::Locals => {
            "the filter does not guard further addresses of the node's (the socket lookup does); take some \
             away"
        }
        Full::Counts => {
            "refusals of tenants without a row are refused as ever and not counted; rows of tenants that \
             leave are freed"
        }
        Full::Surplus => {
            "what a connection over a limit sends may pass until it is ended, within two seconds; look for \
             who opens so many (inspect sources)"
        }
        Full::Recycled => "the oldest give way",
        Full::Unbounded => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_events_are_a_warning_for_a_while() {
        let lost = |last_s| Lost {
            kernel: 5,
            daemon: 2,
            last_s,
        };
        assert_eq!(events(&Lost::default()).status, Status::Ok);
        let line = events(&lost(Some(RECENT_S - 1)));
        assert_eq!(
            (line.status, line.target.as_str()),
            (Status::Warn, "7 lost")
        );
        for part in ["ring 5", "queue 2", "599 s ago", "limits and counts hold"] {
            assert!(line.detail.contains(part), "{part}: {}", line.detail);
        }
        let line = events(&lost(Some(RECENT_S)));
        assert_eq!((line.status, line.target.as_str()), (Status::Ok, "7 lost"));
    }

    #[test]
    fn a_table_that_is_nearly_full_is_named_with_what_is_refused_then() {
        let fill = |table, entries, full| Fill {
            table,
            entries: Some(entries),
            max: Some(1_000),
            memory: None,
            full,
        };
        let well = of(&[
            fill("PORTS", 12, Full::Leases),
            fill("CONNS", 799, Full::Conns),
            fill("CANDIDATES", 1_000, Full::Recycled),
        ]);
        let shown: Vec<_> = well
            .iter()
            .map(|line| (line.status, &*line.target))
            .collect();
        assert_eq!(shown, [(Status::Ok, "CONNS 79 %")]);
        let bad = of(&[
            fill("PORTS", 12, Full::Leases),
            fill("CONNS", 800, Full::Conns),
            fill("FLOWS", 1_000, Full::Flows),
        ]);
        let shown: Vec<_> = bad
            .iter()
            .map(|line| (line.status, &*line.target))
            .collect();
        assert_eq!(
            shown,
            [(Status::Warn, "FLOWS 100 %"), (Status::Warn, "CONNS 80 %")]
        );
        assert!(
            bad[0].detail.starts_with("1000 of 1000"),
            "{}",
            bad[0].detail
        );
        assert!(bad[0].detail.contains("UDP flows of users are refused"));
        assert!(bad[1].detail.contains("max_conns_total"));
    }
}
