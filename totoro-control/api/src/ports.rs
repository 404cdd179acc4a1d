//! Port ranges, as people write them (`"20000-20099"`), and the pool a node lends.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The transport that a proxy's public port uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP (IP protocol 6).
    Tcp,
    /// UDP (IP protocol 17).
    Udp,
}

impl Protocol {
    /// Both, in the order of their IP protocol numbers.
    pub const ALL: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

    /// frp's name of the proxy type, which is also the name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }

    /// The IP protocol number (IANA): 6 or 17.
    #[must_use]
    pub const fn ip_number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An inclusive range of ports; never contains port 0, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The range `first..=last`; `None` when it is empty or contains port 0.
    #[must_use]
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || last < first {
            None
        } else {
            Some(Self { first, last })
        }
    }

    /// The first port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }
}

/// Text that is no port range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no port range: write \"20000\" or \"20000-20099\", ports 1 to 65535")]
pub struct BadRange(String);

impl FromStr for PortRange {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        let bad = || BadRange(text.chars().take(32).collect());
        let port = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            if digits {
                part.parse::<u16>().map_err(|_| bad())
            } else {
                Err(bad())
            }
        };
        let (first, last) = text
            .trim()
            .split_once('-')
            .unwrap_or((text.trim(), text.trim()));
        PortRange::new(port(first.trim())?, port(last.trim())?).ok_or_else(bad)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A set of ports: sorted, disjoint, non-adjacent ranges. On the wire a list of range texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortSet {
    ranges: Vec<PortRange>,
}

impl PortSet {
    /// Whether the set has this port.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        let after = self.ranges.partition_point(|range| range.first <= port);
        after > 0 && port <= self.ranges[after - 1].last
    }

    /// Whether there is no port in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many ports the set has (at most 65,535).
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges
            .iter()
            .map(|range| usize::from(range.last - range.first) + 1)
            .sum()
    }

    /// The ports in rising order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.ranges
            .iter()
            .flat_map(|range| range.first..=range.last)
    }

    /// The ranges in rising order.
    #[must_use]
    pub fn ranges(&self) -> &[PortRange] {
        &self.ranges
    }

    /// Whether every port of `self` is in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &PortSet) -> bool {
        // Ranges are maximal, so each of ours must lie within one of theirs.
        self.ranges.iter().all(|range| {
            let after = other
                .ranges
                .partition_point(|theirs| theirs.first <= range.first);
            after > 0 && range.last <= other.ranges[after - 1].last
        })
    }
}

impl FromIterator<PortRange> for PortSet {
    fn from_iter<I: IntoIterator<Item = PortRange>>(ranges: I) -> Self {
        let mut sorted: Vec<PortRange> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                    last.last = last.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        PortSet { ranges: merged }
    }
}

impl FromStr for PortSet {
    type Err = BadRange;

    /// Reads comma-separated ranges: `20000-20099,20200`. Empty text is the empty set.
    fn from_str(text: &str) -> Result<Self, BadRange> {
        text.split(',')
            .filter(|part| !part.trim().is_empty())
            .map(str::parse)
            .collect()
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.ranges.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{range}")?;
        }
        Ok(())
    }
}

impl Serialize for PortSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.ranges)
    }
}

impl<'de> Deserialize<'de> for PortSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<PortRange>::deserialize(deserializer)?
            .into_iter()
            .collect())
    }
}

/// The ports that a node lends, per protocol. Ports outside are never touched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Ports lent for TCP.
    #[serde(default)]
    pub tcp: PortSet,
    /// Ports lent for UDP.
    #[serde(default)]
    pub udp: PortSet,
}

impl Pool {
    /// The pool's ports for one protocol.
    #[must_use]
    pub const fn of(&self, protocol: Protocol) -> &PortSet {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_as_people_write_them() {
        for (text, read) in [
            ("20000-20099", Some((20000, 20099))),
            (" 80 ", Some((80, 80))),
            ("1 - 2", Some((1, 2))),
            ("0", None),
            ("5-4", None),
            ("70000", None),
            ("+5", None),
            ("1-2-3", None),
            ("", None),
        ] {
            let range = text
                .parse::<PortRange>()
                .ok()
                .map(|range| (range.first, range.last));
            assert_eq!(range, read, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_set_is_its_ranges(pairs in proptest::collection::vec((1u16..500, 0u16..40), 0..12)) {
            let ranges: Vec<PortRange> = pairs.iter()
                .filter_map(|&(first, more)| PortRange::new(first, first + more)).collect();
            let set: PortSet = ranges.iter().copied().collect();
            let model: std::collections::BTreeSet<u16> =
                ranges.iter().flat_map(|range| range.first..=range.last).collect();
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.len(), model.len());
            for port in 0..600 {
                prop_assert_eq!(set.contains(port), model.contains(&port));
            }
            prop_assert_eq!(&set.to_string().parse::<PortSet>().unwrap(), &set);
            prop_assert!(set.is_subset(&set));
        }
    }
}
