//! Keeps the kernel's ephemeral ports out of the pool: a pool port picked as a source port would
//! have its answers judged as if they opened a flow.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use totoro_api::ports::{Pool, PortRange, PortSet, Protocol};

const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
/// What this node added to the list, and in which boot, so that `uninstall` takes back that and nothing else: what
/// is on the list of a later boot, somebody else has put there.
const ADDED: &str = "reserved-ports";

fn both(pool: &Pool) -> PortSet {
    let ranges = Protocol::ALL
        .iter()
        .flat_map(|protocol| pool.of(*protocol).ranges());
    ranges.copied().collect()
}

fn join(a: &PortSet, b: &PortSet) -> PortSet {
    a.ranges().iter().chain(b.ranges()).copied().collect()
}

fn without(all: &PortSet, less: &PortSet) -> PortSet {
    let less: BTreeSet<u16> = less.iter().collect();
    let left = all.iter().filter(|port| !less.contains(port));
    left.filter_map(|port| PortRange::new(port, port)).collect()
}

/// What is reserved now, by whomever. A list that can't be read is never taken for an empty one:
/// writing it back would drop somebody else's ports.
fn reserved() -> Result<PortSet> {
    let text = std::fs::read_to_string(RESERVED).with_context(|| format!("read {RESERVED}"))?;
    text.trim()
        .parse()
        .with_context(|| format!("understand {RESERVED}"))
}

fn write(ports: &PortSet) -> Result<()> {
    // An empty list is written as a newline: an empty write changes nothing.
    std::fs::write(RESERVED, format!("{ports}\n")).with_context(|| format!("write {RESERVED}"))
}

/// What this node added to the list, and did not take back yet.
///
/// # Errors
/// The note can't be read.
pub fn added(state_dir: &Path) -> Result<PortSet> {
    let path = state_dir.join(ADDED);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let mut words = text.split_whitespace();
            let (ports, boot) = (words.next().unwrap_or_default(), words.next());
            if boot.is_some_and(|boot| boot != crate::machine::boot_id()) {
                return Ok(PortSet::default());
            }
            let ports = ports.parse();
            ports.with_context(|| format!("understand {}", path.display()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(PortSet::default()),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Whether the pool has ports of an ephemeral range as the kernel prints it (`32768 60999`, a tab between).
#[must_use]
pub fn overlaps(pool: &Pool, range: &str) -> bool {
    let mut ends = range
        .split_whitespace()
        .filter_map(|end| end.parse::<u16>().ok());
    let (Some(first), Some(last)) = (ends.next(), ends.next()) else {
        return false;
    };
    both(pool)
        .ranges()
        .iter()
        .any(|range| range.first() <= last && first <= range.last())
}

/// Whether the pool is reserved already.
#[must_use]
pub fn covers(pool: &Pool) -> bool {
    reserved().is_ok_and(|reserved| both(pool).is_subset(&reserved))
}

/// Reserves the pool beside what is reserved already, in this network namespace, and notes under
/// `state_dir` what was added.
///
/// # Errors
/// The sysctl can't be read or written, or the note can't.
pub fn reserve(pool: &Pool, state_dir: &Path) -> Result<()> {
    let before = reserved()?;
    let wanted = both(pool);
    if wanted.is_subset(&before) {
        return Ok(());
    }
    // Noted first: a note too much takes back a port that nobody reserved, which does no harm.
    let ours = join(&added(state_dir)?, &without(&wanted, &before));
    let note = format!("{ours} {}", crate::machine::boot_id());
    crate::secret::write_mode(&state_dir.join(ADDED), &note, 0o644)?;
    let all = join(&before, &wanted);
    write(&all)?;
    tracing::info!(ports = %all, "reserved: the kernel picks none of the pool's ports for itself");
    Ok(())
}

/// Takes back what [`reserve`] added; the ports that were.
///
/// # Errors
/// As [`reserve`].
pub fn release(state_dir: &Path) -> Result<PortSet> {
    let ours = added(state_dir)?;
    if !ours.is_empty() {
        write(&without(&reserved()?, &ours))?;
    }
    let path = state_dir.join(ADDED);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(ours),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_with_the_ephemeral_range() {
        let pool = |tcp: &str, udp: &str| Pool {
            tcp: tcp.parse().unwrap(),
            udp: udp.parse().unwrap(),
        };
        assert!(!overlaps(&pool("20000-20099", ""), "32768\t60999"));
        assert!(overlaps(&pool("20000-20099", "40000"), "32768\t60999"));
        assert!(overlaps(&pool("60999-61000", ""), "32768\t60999"));
        assert!(!overlaps(&pool("61000", ""), "32768\t60999"));
    }

    #[test]
    fn what_is_taken_back_is_what_was_added() {
        let set = |text: &str| text.parse::<PortSet>().unwrap();
        let (before, wanted) = (set("8080,20005"), set("20000-20009"));
        let ours = without(&wanted, &before);
        assert_eq!(ours.to_string(), "20000-20004,20006-20009");
        assert_eq!(without(&join(&before, &wanted), &ours), before);
    }

    /// In a network namespace of its own, whose list is empty at first.
    #[test]
    fn the_kernels_list_gets_the_pool_and_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().to_owned();
        let done = std::thread::spawn(move || {
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
                // The harness captures what `eprintln!` says.
                use std::io::Write as _;
                let _ = writeln!(
                    std::io::stderr().lock(),
                    "skipped: a network namespace needs root"
                );
                return;
            }
            let pool = Pool {
                tcp: "20000-20009".parse().unwrap(),
                udp: "20005-20019".parse().unwrap(),
            };
            write(&"53,20003".parse().unwrap()).unwrap();
            reserve(&pool, &state).unwrap();
            assert_eq!(reserved().unwrap().to_string(), "53,20000-20019");
            reserve(&pool, &state).unwrap();
            assert_eq!(
                release(&state).unwrap().to_string(),
                "20000-20002,20004-20019"
            );
            assert_eq!(reserved().unwrap().to_string(), "53,20003");
            assert!(release(&state).unwrap().is_empty());

            // In another boot the list was somebody else's.
            std::fs::write(state.join(ADDED), "20000-20019 another-boot").unwrap();
            write(&"53,20000-20019".parse().unwrap()).unwrap();
            reserve(&pool, &state).unwrap();
            assert!(release(&state).unwrap().is_empty());
            assert!(!state.join(ADDED).exists(), "and the note goes");
            assert_eq!(reserved().unwrap().to_string(), "53,20000-20019");
        });
        done.join().unwrap();
    }
}
