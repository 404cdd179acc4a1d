//! Bans: what is wanted, as the programs can look it up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use totoro_ebpf::abi;

use super::load::Shared;
use super::maps::{ban_key, gone};
use super::sweep::First;
use super::{Context, Kernel, Result, from_addr};

/// When a ban that has no end ends.
const NEVER: u64 = 0;

impl Kernel {
    /// Replaces all bans: prefixes with the boot-time instants, ns, at which they end by themselves
    /// (0 = never). Closes the UDP flows of who is newly banned; live TCP connections go on.
    ///
    /// # Errors
    /// When the map can't be read; else the first ban that can't be written (the map is full), all
    /// others being written.
    pub fn set_bans(&self, wanted: &BTreeMap<IpNet, u64>) -> Result<()> {
        let wanted = effective(wanted);
        // Who may have flows still, though banned: of what was written before this daemon came nobody knows.
        let mut uncut = self.uncut();
        let uncut = uncut.get_or_insert_with(|| wanted.keys().copied().collect());
        uncut.retain(|prefix| wanted.contains_key(prefix));
        let mut maps = self.shared.maps();
        let mut there: BTreeMap<IpNet, u64> = maps.bans()?.into_iter().collect();
        let mut first = First(None);
        let lifted = there.keys().filter(|prefix| !wanted.contains_key(prefix));
        let lifted: Vec<IpNet> = lifted.copied().collect();
        // Before they are entered, the programs must know that they may be.
        if wanted.keys().any(|prefix| !there.contains_key(prefix)) {
            let may_be: BTreeSet<&IpNet> = there.keys().chain(wanted.keys()).collect();
            first.of(self.shared.mark_bans(may_be));
        }
        // What is lifted first makes room in a full table; what narrower bans hid is written with
        // the ends of the wider ones, so that nobody is let in in between.
        for prefix in &lifted {
            match gone(maps.bans.remove(&ban_key(*prefix))).on("write", "BANS") {
                Ok(_) => _ = there.remove(prefix),
                Err(error) => first.add(error),
            }
        }
        for (prefix, until_ns) in &wanted {
            if there.get(prefix) == Some(until_ns) {
                continue;
            }
            let ban = abi::Ban {
                until_ns: *until_ns,
            };
            match maps
                .bans
                .insert(&ban_key(*prefix), ban, 0)
                .on("write", "BANS")
            {
                Ok(()) => _ = there.insert(*prefix, *until_ns),
                Err(error) => first.add(error),
            }
            uncut.insert(*prefix);
        }
        if !lifted.is_empty() {
            first.of(self.shared.mark_bans(there.keys()));
        }
        first.of(self.shared.enter_singles(&there));
        if !uncut.is_empty() {
            let lengths: BTreeSet<u8> = uncut.iter().map(IpNet::prefix_len).collect();
            drop(maps);
            match self.end_flows(|key, _| covered(uncut, &lengths, from_addr(&key.remote))) {
                Ok(_) => uncut.clear(),
                // They are for the next time.
                Err(error) => first.add(error),
            }
        }
        first.0.map_or(Ok(()), Err)
    }

    /// Bans now, with their ends.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn bans(&self) -> Result<Vec<(IpNet, u64)>> {
        self.shared.maps().bans()
    }
}

impl Shared {
    /// Keeps at hand which bans there may be. With the maps locked, so that nobody enters one meanwhile.
    fn mark_bans<'a>(&self, bans: impl IntoIterator<Item = &'a IpNet>) -> Result<()> {
        self.near().mark(bans.into_iter().map(key_of))
    }

    /// Keeps at hand the bans of single addresses.
    fn enter_singles(&self, bans: &BTreeMap<IpNet, u64>) -> Result<()> {
        let bans = bans
            .iter()
            .map(|(prefix, until_ns)| (key_of(prefix), *until_ns));
        self.near().enter_singles(bans)
    }

    /// Removes bans that are over; how many.
    pub(super) fn forget_ended_bans(&self, now: u64) -> Result<usize> {
        let mut maps = self.maps();
        let mut left = BTreeMap::new();
        let mut forgotten = 0;
        for (prefix, until_ns) in maps.bans()? {
            if until_ns == NEVER || until_ns > now {
                left.insert(prefix, until_ns);
            } else if gone(maps.bans.remove(&ban_key(prefix))).on("write", "BANS")? {
                forgotten += 1;
            }
        }
        if forgotten > 0 {
            self.enter_singles(&left)?;
            self.mark_bans(left.keys())?;
        }
        Ok(forgotten)
    }
}

/// Prefix length and address of a ban, as the programs see them.
fn key_of(prefix: &IpNet) -> (u32, abi::Addr) {
    let key = ban_key(*prefix);
    (key.prefix_len(), key.data())
}

/// The ends under which bans are written. The programs find the longest prefix of an address and no
/// other, so a ban that is over would hide a wider one that is not: each lasts as long as the
/// longest that contains it.
fn effective(wanted: &BTreeMap<IpNet, u64>) -> BTreeMap<IpNet, u64> {
    let mut outer: Vec<(IpNet, u64)> = Vec::new();
    let mut all = BTreeMap::new();
    // In order, a prefix comes right before all that it contains.
    for (prefix, until) in wanted {
        while outer.last().is_some_and(|(wide, _)| !wide.contains(prefix)) {
            outer.pop();
        }
        let until = match outer.last() {
            Some((_, NEVER)) => NEVER,
            _ if *until == NEVER => NEVER,
            Some((_, wide)) => *wide.max(until),
            None => *until,
        };
        outer.push((*prefix, until));
        all.insert(*prefix, until);
    }
    all
}

/// Whether one of `prefixes`, which have these `lengths`, contains an address.
fn covered(prefixes: &BTreeSet<IpNet>, lengths: &BTreeSet<u8>, ip: IpAddr) -> bool {
    lengths
        .iter()
        .any(|bits| IpNet::new(ip, *bits).is_ok_and(|prefix| prefixes.contains(&prefix.trunc())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bans(all: &[(&str, u64)]) -> BTreeMap<IpNet, u64> {
        all.iter()
            .map(|(prefix, until)| (prefix.parse().unwrap(), *until))
            .collect()
    }

    #[test]
    fn a_narrow_ban_lasts_as_long_as_the_wider_ones() {
        let wanted = bans(&[
            ("10.0.0.0/8", 50),
            ("10.1.0.0/16", 20),
            ("10.1.2.0/24", 70),
            ("10.1.2.3/32", 60),
            ("10.2.0.0/16", NEVER),
            ("10.2.3.0/24", 10),
            ("11.0.0.0/8", 10),
            ("::/0", NEVER),
            ("fd00::/8", 10),
        ]);
        let expected = bans(&[
            ("10.0.0.0/8", 50),
            ("10.1.0.0/16", 50),
            ("10.1.2.0/24", 70),
            ("10.1.2.3/32", 70),
            ("10.2.0.0/16", NEVER),
            ("10.2.3.0/24", NEVER),
            ("11.0.0.0/8", 10),
            ("::/0", NEVER),
            ("fd00::/8", NEVER),
        ]);
        assert_eq!(effective(&wanted), expected);
    }

    #[test]
    fn who_is_covered() {
        let prefixes: BTreeSet<IpNet> = ["10.1.0.0/16", "fd00::/8"]
            .map(|prefix| prefix.parse().unwrap())
            .into();
        let lengths = prefixes.iter().map(IpNet::prefix_len).collect();
        for (ip, is) in [
            ("10.1.2.3", true),
            ("10.2.2.3", false),
            ("fdff::1", true),
            ("fe00::1", false),
        ] {
            assert_eq!(
                covered(&prefixes, &lengths, ip.parse().unwrap()),
                is,
                "{ip}"
            );
        }
    }
}
