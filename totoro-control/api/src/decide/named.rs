//! Which ports invites name: whoever asks for any port is to get none that is named by another, and thousands of
//! invites are not asked for each port that might do.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::ports::PortSet;
use crate::wire::push::InviteState;

/// The ports that some invites name, by invite.
#[derive(Clone, Debug, Default)]
pub struct Named {
    by_invite: HashMap<String, PortSet>,
    /// Where how many name a port changes, in rising order, and how many it is from there on. Made when it is
    /// first asked for after a change.
    steps: OnceLock<Vec<(u32, i32)>>,
}

impl Named {
    /// An invite is in this state now and has this limit on ports: as long as it is active or paused it names those.
    pub fn set(&mut self, invite: &str, state: InviteState, ports: Option<&PortSet>) {
        let holds = matches!(state, InviteState::Active | InviteState::Paused);
        self.names(invite, ports.filter(|_| holds));
    }

    /// There is no such invite any more.
    pub fn remove(&mut self, invite: &str) {
        self.names(invite, None);
    }

    fn names(&mut self, invite: &str, ports: Option<&PortSet>) {
        let before = match ports {
            Some(ports) => self.by_invite.insert(invite.to_owned(), ports.clone()),
            None => self.by_invite.remove(invite),
        };
        if before.as_ref() != ports {
            self.steps = OnceLock::new();
        }
    }

    /// Whether a port is named by some other invite than this tenant's.
    #[must_use]
    pub fn by_another(&self, tenant: &str, port: u16) -> bool {
        let own = self.by_invite.get(tenant);
        let by_own = own.is_some_and(|ports| ports.contains(port));
        self.count(port) > i32::from(by_own)
    }

    fn count(&self, port: u16) -> i32 {
        let steps = self.steps.get_or_init(|| self.steps());
        // Of those at one port the last has them all.
        let after = steps.partition_point(|(from, _)| *from <= u32::from(port));
        after.checked_sub(1).map_or(0, |at| steps[at].1)
    }

    fn steps(&self) -> Vec<(u32, i32)> {
        let ranges = self.by_invite.values().flat_map(PortSet::ranges);
        let ends = ranges.flat_map(|range| {
            let (first, last) = (u32::from(range.first()), u32::from(range.last()));
            [(first, 1), (last + 1, -1)]
        });
        let mut steps: Vec<(u32, i32)> = ends.collect();
        steps.sort_unstable();
        let mut count = 0;
        for (_, by) in &mut steps {
            count += *by;
            *by = count;
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::ports::PortRange;

    fn some_ports() -> impl Strategy<Value = PortSet> {
        // Few, so that ranges meet, and the last of all.
        let port = prop_oneof![1..40_u16, Just(1), Just(u16::MAX)];
        let ranges = prop::collection::vec((port.clone(), port), 0..4);
        ranges.prop_map(|ranges| {
            let range = |(a, b): (u16, u16)| PortRange::new(a.min(b), a.max(b));
            ranges.into_iter().filter_map(range).collect()
        })
    }

    /// `None`: it is gone.
    fn some_state() -> impl Strategy<Value = Option<InviteState>> {
        prop::sample::select(vec![
            Some(InviteState::Active),
            Some(InviteState::Paused),
            Some(InviteState::Revoked),
            Some(InviteState::Expired),
            None,
        ])
    }

    proptest! {
        /// Whatever comes and goes, the sums say what a look at all invites says.
        #[test]
        fn a_port_is_named_by_those_that_name_it(
            changes in prop::collection::vec(
                (0..6_u8, some_state(), prop::option::of(some_ports())),
                0..24,
            ),
        ) {
            let (mut named, mut model) = (Named::default(), BTreeMap::new());
            for (invite, state, ports) in changes {
                match state {
                    Some(state) => named.set(&invite.to_string(), state, ports.as_ref()),
                    None => named.remove(&invite.to_string()),
                }
                model.remove(&invite);
                let holds = [Some(InviteState::Active), Some(InviteState::Paused)].contains(&state);
                let ports = ports.filter(|_| holds);
                model.extend(ports.map(|ports| (invite, ports)));
                for port in (1..42).chain([u16::MAX - 1, u16::MAX]) {
                    for tenant in 0..7_u8 {
                        let another = |(of, ports): (&u8, &PortSet)| *of != tenant && ports.contains(port);
                        let looked = model.iter().any(another);
                        let told = named.by_another(&tenant.to_string(), port);
                        prop_assert_eq!(told, looked, "{} {}", tenant, port);
                    }
                }
            }
        }
    }
}
