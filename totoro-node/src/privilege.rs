//! Giving up what the daemon does not need, before it takes a single request.

use anyhow::{Context, Result};
use caps::{CapSet, Capability, CapsHashSet};

/// What is kept: BPF and PERFMON load programs and open maps, NET_ADMIN attaches them and ends
/// sockets.
pub const KEPT: [Capability; 3] = [
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_NET_ADMIN,
];

/// Gives up every other capability of this thread, and of those that it starts; and whatever a
/// program could gain by being executed. Call it while there is one thread.
///
/// # Errors
/// The system refuses, which it has no reason to.
pub fn shed() -> Result<()> {
    let kept: CapsHashSet = KEPT.into_iter().collect();
    let has = |set| caps::read(None, set).context("read this process's capabilities");
    // Only who may set them may give these up; whoever may not can gain nothing either, as no
    // program that is executed gets new privileges.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false) {
        for other in has(CapSet::Bounding)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *other)
                .with_context(|| format!("give {other} up for good"))?;
        }
    }
    caps::clear(None, CapSet::Ambient).context("give up ambient capabilities")?;
    let permitted: CapsHashSet = has(CapSet::Permitted)?
        .intersection(&kept)
        .copied()
        .collect();
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        let keep = match set {
            CapSet::Inheritable => CapsHashSet::new(),
            _ => permitted.clone(),
        };
        caps::set(None, set, &keep).with_context(|| format!("give up {set:?} capabilities"))?;
    }
    nix::sys::prctl::set_no_new_privs().context("give up new privileges")
}

/// Whether this thread may do what the kernel side takes.
///
/// # Errors
/// Names what it lacks, and how it gets it.
pub fn require() -> std::result::Result<(), String> {
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    let lacking: Vec<String> = KEPT
        .iter()
        // Older than the other two, and stands for them.
        .filter(|one| {
            !held.contains(one)
                && (**one == Capability::CAP_NET_ADMIN
                    || !held.contains(&Capability::CAP_SYS_ADMIN))
        })
        .map(ToString::to_string)
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(format!(
        "this process lacks {}; start it as root, or by its systemd unit, and give a container \
         these capabilities",
        lacking.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_else_is_left_to_the_thread_and_its_children() {
        // A thread of its own: capabilities are a thread's.
        let left = std::thread::spawn(|| {
            let before = caps::read(None, CapSet::Permitted).unwrap();
            shed().unwrap();
            shed().expect("again, without CAP_SETPCAP");
            let child = std::thread::spawn(|| caps::read(None, CapSet::Effective).unwrap());
            let own = caps::read(None, CapSet::Permitted).unwrap();
            assert_eq!(own, child.join().unwrap());
            (before, own)
        });
        let (before, left) = left.join().unwrap();
        let kept: CapsHashSet = KEPT.into_iter().collect();
        assert_eq!(left, before.intersection(&kept).copied().collect());
    }
}
