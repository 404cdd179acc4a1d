//! What is seen of the node's daemon from outside.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

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

/// Has the kernel forget what was resident at most: from now on `VmHWM` is of what comes.
pub(crate) fn forget_peak(daemons: &Daemons) {
    fs::write(format!("/proc/{}/clear_refs", daemons.node.0.id()), "5").unwrap();
}

/// Processor seconds so far, of threads that have ended too: by the process's clock, which is exact where
/// ticks are not.
pub(crate) fn busy(daemons: &Daemons) -> f64 {
    let pid = Pid::from_raw(daemons.node.0.id().try_into().unwrap());
    let clock = clock_getcpuclockid(pid).unwrap();
    Duration::from(clock_gettime(clock).unwrap()).as_secs_f64()
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
