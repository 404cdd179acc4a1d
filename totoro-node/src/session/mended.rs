//! How often truth and records differed, and were brought in line.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::kernel::Swept;

/// What differed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct What {
    what: &'static str,
}

/// Counts since the daemon's start, by what differed. A clone counts the same.
#[derive(Clone, Debug, Default)]
pub struct Mended(Family<What, Counter>);

impl Mended {
    /// All that can differ, and what was done about it.
    pub const ALL: &'static [(&'static str, &'static str)] = &[
        (
            "surplus",
            "a surplus connection whose event was lost: destroyed",
        ),
        ("orphan", "a connection that outlived its lease: destroyed"),
        (
            "lost_close",
            "a connection whose end was not heard of: its count taken back",
        ),
        (
            "untracked",
            "a connection that nothing counted: destroyed, so that it comes again",
        ),
        (
            "drift",
            "a count that was not that of what it counts: put right",
        ),
        ("dead_link", "a link that was dead or gone: attached afresh"),
        (
            "interface",
            "an interface that came, or came back: filtered anew",
        ),
        ("address", "an address of the node's, new or gone: noted"),
        (
            "lease_without_proxy",
            "a lease whose proxy frps does not have: closed",
        ),
        (
            "proxy_elsewhere",
            "a proxy that frps has on another port: its client disconnected",
        ),
        (
            "proxy_without_lease",
            "a proxy of frps's that no lease covers: its client disconnected",
        ),
        (
            "idle_connection",
            "a connection to frps without a session: destroyed",
        ),
        (
            "lost_session",
            "a session whose connection had ended unheard: ended",
        ),
    ];

    /// Counts one kind.
    pub fn add(&self, what: &'static str, count: usize) {
        if count > 0 {
            debug_assert!(Mended::ALL.iter().any(|(known, _)| *known == what));
            self.0
                .get_or_create(&What { what })
                .inc_by(u64::try_from(count).unwrap_or(u64::MAX));
        }
    }

    /// Counts what a sweep did.
    pub fn swept(&self, swept: &Swept) {
        self.add("surplus", swept.surplus);
        self.add("orphan", swept.orphans);
        self.add("lost_close", swept.mended);
        self.add("untracked", swept.untracked);
        self.add("drift", swept.drifted);
        self.add("dead_link", swept.links);
        self.add("interface", swept.interfaces);
        self.add("address", swept.addresses);
    }

    /// The counts so far, of each kind.
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let count = |what| self.0.get_or_create(&What { what }).get();
        Mended::ALL
            .iter()
            .map(|(what, _)| (*what, count(what)))
            .collect()
    }

    /// For a registry.
    #[must_use]
    pub fn family(&self) -> Family<What, Counter> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_all() {
        let page = include_str!("../../../docs/node.md");
        for (what, _) in Mended::ALL {
            assert!(page.contains(&format!("| `{what}` |")), "{what}");
        }
        let mended = Mended::default();
        mended.swept(&Swept {
            orphans: 2,
            ..Swept::default()
        });
        mended.add("lost_session", 0);
        let found: Vec<_> = mended
            .counts()
            .into_iter()
            .filter(|(_, n)| *n > 0)
            .collect();
        assert_eq!(found, [("orphan", 2)]);
    }
}
