//! The last refusals that the kernel told of one by one. It tells of the 1st, 2nd, 4th, 8th, … of each
//! tenant, reason and processor, so they are samples; how many there were, `REASONS` says.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use totoro_api::Reason;
use totoro_ebpf::abi::CANARY;

use super::{Event, from_addr};

/// How many are remembered: with 56 bytes each, 14 KiB.
const REMEMBERED: usize = 256;

/// One refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When, boot-time ns.
    pub at_ns: u64,
    /// Who came. Of what was refused before a handshake, anybody can have written any address there.
    pub source: IpAddr,
    /// From which port.
    pub source_port: u16,
    /// To which port of the node.
    pub port: u16,
    /// IP protocol number.
    pub proto: u8,
    /// The tenant's number; 0 = nobody's.
    pub tenant: u32,
    /// The lease's number; 0 where there was none, or it was not looked for.
    pub lease: u64,
    /// Why.
    pub reason: Reason,
}

impl Sample {
    fn of(event: &Event) -> Sample {
        Sample {
            at_ns: event.at_ns,
            source: from_addr(&event.remote),
            source_port: event.remote_port,
            port: event.port,
            proto: event.proto,
            tenant: event.tenant,
            lease: event.lease,
            reason: Reason::from_number(event.reason).unwrap_or(Reason::Internal),
        }
    }
}

/// What is remembered. Its room is there from the start, and never grows.
pub(super) struct Recent(Mutex<VecDeque<Sample>>);

impl Recent {
    pub(super) fn new() -> Recent {
        Recent(Mutex::new(VecDeque::with_capacity(REMEMBERED)))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers one, in place of the oldest where there is no room.
    pub(super) fn push(&self, event: &Event) {
        // Its refusals are wanted, and one a minute would leave no room for others.
        if event.tenant == CANARY {
            return;
        }
        let mut samples = self.lock();
        if samples.len() == REMEMBERED {
            samples.pop_front();
        }
        samples.push_back(Sample::of(event));
    }

    /// All of them, the newest first.
    pub(super) fn newest_first(&self) -> Vec<Sample> {
        self.lock().iter().rev().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::to_addr;

    fn event(port: u16) -> Event {
        Event {
            at_ns: u64::from(port),
            remote: to_addr("192.0.2.7".parse().unwrap()),
            remote_port: 50_000,
            port,
            reason: Reason::MaxConns.number(),
            tenant: 3,
            lease: 9,
            proto: totoro_ebpf::abi::TCP,
            ..Event::default()
        }
    }

    #[test]
    fn the_last_are_remembered_and_no_more() {
        let recent = Recent::new();
        assert!(recent.newest_first().is_empty());
        let room = recent.lock().capacity();
        for port in 1..=1_000 {
            recent.push(&event(port));
        }
        let ports: Vec<u16> = recent.newest_first().iter().map(|one| one.port).collect();
        let last: Vec<u16> = (1_001 - REMEMBERED as u16..=1_000).rev().collect();
        assert_eq!(ports, last);
        assert_eq!(recent.lock().capacity(), room, "nothing was allocated");
        recent.push(&Event {
            tenant: CANARY,
            ..event(2_000)
        });
        assert_eq!(recent.newest_first()[0].port, 1_000, "one of our own");
    }

    #[test]
    fn one_says_who_came_where_and_why_not() {
        let one = Sample::of(&event(20_000));
        assert_eq!(one.source.to_string(), "192.0.2.7");
        assert_eq!((one.source_port, one.port), (50_000, 20_000));
        assert_eq!((one.tenant, one.lease), (3, 9));
        assert_eq!(one.reason, Reason::MaxConns);
        let unknown = Event {
            reason: u32::MAX,
            ..event(1)
        };
        assert_eq!(Sample::of(&unknown).reason, Reason::Internal);
    }
}
