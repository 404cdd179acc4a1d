//! What is seen of the node's daemon from outside.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::daemons::Daemons;

/// Waits until the control plane has every event.
pub(crate) fn delivered(daemons: &Daemons) {
    let begun = Instant::now();
    while !scrape(daemons).contains("\ntotoro_node_spool_events 0\n") {
        assert!(begun.elapsed() < Duration::from_secs(120), "they stay");
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// Of it what is in memory now, MiB.
pub(crate) fn resident_mib(daemons: &Daemons) -> f64 {
    mib(daemons, "VmRSS:")
}

/// A line of the node's status in the kernel, in MiB.
pub(crate) fn mib(daemons: &Daemons, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemons.node.0.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with(name));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<f64>().unwrap() / 1024.0
}

/// Processor seconds so far: from the scheduler's own sums, which are exact where ticks are not.
pub(crate) fn busy(daemons: &Daemons) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemons.node.0.id())).unwrap();
    let of = |task: std::io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    };
    tasks.filter_map(of).sum::<f64>() / 1e9
}

/// Its `/metrics`.
pub(crate) fn scrape(daemons: &Daemons) -> String {
    let mut stream = UnixStream::connect(daemons.metrics_socket()).unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}
