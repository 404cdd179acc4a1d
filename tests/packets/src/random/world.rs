//! Random worlds: what a node may hold, and what it should not.

use std::collections::HashSet;
use std::net::Ipv6Addr;

use fastrand::Rng;
use totoro_api::Reason;
use totoro_ebpf::abi::{
    self, ACTIVE, Addr, CANARY, CUT, FLOW_ANSWERED, FLOW_CONFIRMED, FLOW_NEW, FLOW_RECYCLED, HELD,
    NODE, SOURCE_CONNS, SOURCE_FLOWS, SOURCE_SITES, TCP, UDP, UNLIMITED, v4_mapped,
};
use totoro_model::{Span, Timed, World};

use super::times::{Clock, H, S};
use super::{once_in, one_of};
use crate::node::{cells, notes};

/// A world, and the addresses and ports that its packets use.
#[derive(Clone)]
pub struct Scene {
    /// What the maps hold.
    pub world: World,
    /// Senders.
    pub hosts: Vec<Addr>,
    /// Receivers: the node's addresses first, `locals` of them.
    pub receivers: Vec<Addr>,
    /// How many receivers are the node itself.
    pub locals: usize,
    /// Ports on the node.
    pub ports: Vec<u16>,
    /// Ports of senders.
    pub far_ports: Vec<u16>,
    /// frps's own port.
    pub frps: u16,
    /// Who has a connection to it.
    pub greeters: Vec<(Addr, u16)>,
}

/// A random IPv4 address, of few networks, so that prefixes mean something.
fn v4(dice: &mut Rng) -> Addr {
    let [a, b, c, d] = dice.u32(..).to_be_bytes();
    v4_mapped(match dice.u8(..8) {
        0 => [a, b, c, d],
        1 => [127, 0, 0, 1 + d % 4],
        2 => [169, 254, 169, d % 8],
        3 => [224 + a % 16, 0, 0, d % 4],
        _ => [198, 51 - b % 2, 100 + c % 2, d],
    })
}

/// The same for IPv6, where some are of one /64, some v4-mapped or v4-compatible.
fn v6(dice: &mut Rng) -> Addr {
    let low = dice.u16(..);
    let high = dice.u16(..4);
    match dice.u8(..10) {
        0 => dice.u128(..).to_be_bytes(),
        1 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, low).octets(),
        2 => Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0xc633, low).octets(),
        3 => v4(dice),
        4 => Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, low % 2).octets(),
        _ => Ipv6Addr::new(0x2001, 0xdb8, high, low % 2, 0, 0, 0, low).octets(),
    }
}

fn address(dice: &mut Rng) -> Addr {
    if dice.bool() { v4(dice) } else { v6(dice) }
}

impl Scene {
    /// A random one.
    #[must_use]
    pub fn new(dice: &mut Rng, clock: Clock) -> Scene {
        let frps = dice.u16(..);
        let config = abi::Config {
            abi: if once_in(dice, 50) {
                dice.u32(..3)
            } else {
                abi::VERSION
            },
            bind_port: frps.into(),
            hold: if once_in(dice, 20) {
                Reason::Internal.number()
            } else {
                0
            },
            control_per_source: dice.u32(..4),
            max_conns_total: if once_in(dice, 4) { dice.u32(..40) } else { 0 },
            flow_idle_ns: one_of(dice, &[0, S, 60 * S, 120 * S]),
            sketch_seed: dice.u64(..),
            ..abi::Config::default()
        };
        let mut world = World::new(config, cells);
        (
            world.config.source_interval_ns,
            world.config.source_burst_ns,
        ) = clock.rate(dice);
        let locals = 1 + dice.usize(..4);
        let mut receivers: Vec<Addr> = (0..locals + 2).map(|_| address(dice)).collect();
        receivers[0] = v4(dice);
        receivers.push(v4_mapped([255; 4]));
        world.locals.extend(&receivers[..locals]);
        let mut scene = Scene {
            hosts: (0..24).map(|_| address(dice)).collect(),
            receivers,
            locals,
            ports: vec![frps, frps, frps, 22, 0, u16::MAX],
            far_ports: (0..6).map(|_| dice.u16(..)).chain([53, frps]).collect(),
            frps,
            greeters: Vec::new(),
            world,
        };
        // A node may send to itself.
        let own = scene.receivers[0];
        scene.hosts.push(own);
        scene.pool(dice);
        scene.bans(dice, clock);
        scene.tenants(dice, clock);
        scene.leases(dice, clock);
        scene.counts(dice, clock);
        scene.flows(dice, clock);
        scene.greeters(dice, clock);
        scene.sketch(dice, clock);
        scene
    }

    fn host(&self, dice: &mut Rng) -> Addr {
        one_of(dice, &self.hosts)
    }

    fn pool(&mut self, dice: &mut Rng) {
        if !once_in(dice, 20) {
            self.world.pool.insert((TCP, self.frps));
        }
        for proto in [TCP, UDP] {
            // Ranges that may touch the ends, and words of the bitmap.
            let from = one_of(dice, &[0, 1_000, 20_000, 20_032, 65_520]);
            let to = from + dice.u16(..16);
            self.world
                .pool
                .extend((from..=to).map(|port| (proto, port)));
            let around = [from.wrapping_sub(1), from, from + 1, to, to.wrapping_add(1)];
            self.ports.extend(around);
            self.ports.extend((0..4).map(|_| dice.u16(from..=to)));
        }
    }

    fn bans(&mut self, dice: &mut Rng, clock: Clock) {
        for _ in 0..dice.usize(..8) {
            let length = match dice.u8(..8) {
                0 => dice.u32(..=128),
                1..4 => 128,
                _ => one_of(dice, &[96 + 24, 96 + 30, 64, 56, 48, 127]),
            };
            let bits = u128::from_be_bytes(self.host(dice));
            let masked = if length == 0 {
                0
            } else {
                bits & u128::MAX << (128 - length)
            };
            let until_ns = clock.moment(dice);
            let ban = abi::Ban { until_ns };
            self.world.bans.insert((length, masked.to_be_bytes()), ban);
        }
    }

    fn tenants(&mut self, dice: &mut Rng, clock: Clock) {
        for number in (1..7).chain([CANARY]) {
            if once_in(dice, 12) {
                continue;
            }
            let state = one_of(dice, &[ACTIVE, ACTIVE, ACTIVE, ACTIVE, HELD, CUT]);
            let reasons = [
                Reason::InvitePaused,
                Reason::InviteRevoked,
                Reason::InviteUnknown,
            ];
            let because = one_of(dice, &reasons).number();
            let mut limit = || one_of(dice, &[UNLIMITED, UNLIMITED, 5, 1, 0]);
            let (max_conns, max_flows, max_conns_per_source) = (limit(), limit(), limit());
            let (conn_interval_ns, conn_burst_ns) = clock.rate(dice);
            let tenant = abi::Tenant {
                state,
                reason: if state == ACTIVE { 0 } else { because },
                max_conns,
                max_flows,
                max_conns_per_source,
                parent: if (2..7).contains(&number) && once_in(dice, 3) {
                    1
                } else {
                    0
                },
                conn_interval_ns,
                conn_burst_ns,
                expires_ns: if once_in(dice, 3) {
                    clock.moment(dice)
                } else {
                    0
                },
                ..abi::Tenant::default()
            };
            self.world.tenants.insert(number, tenant);
        }
    }

    fn leases(&mut self, dice: &mut Rng, clock: Clock) {
        let ports: Vec<(u8, u16)> = {
            // A policy that lends frps's own port is refused by the daemon.
            let lent = |port: &&(u8, u16)| **port != (TCP, self.frps);
            let mut pool: Vec<_> = self.world.pool.iter().filter(lent).copied().collect();
            pool.sort_unstable();
            pool
        };
        for number in 0..dice.u64(2..12) {
            let Some(&(proto, port)) = dice.choice(&ports) else {
                return;
            };
            let budget = clock.rate(dice);
            let key = abi::PortKey {
                port,
                proto,
                pad: 0,
            };
            let lease = abi::Lease {
                tenant: if once_in(dice, 12) {
                    CANARY
                } else {
                    dice.u32(1..8)
                },
                hold: if once_in(dice, 12) {
                    Reason::PublicFull.number()
                } else {
                    0
                },
                lease: 100 + number,
                expires_ns: if once_in(dice, 3) {
                    clock.moment(dice)
                } else {
                    0
                },
                syn_interval_ns: budget.0,
                syn_burst_ns: budget.1,
            };
            self.world.ports.insert(key, lease);
            self.ports.push(port);
            if !once_in(dice, 10) {
                let usage = Timed {
                    is: abi::PortUsage {
                        conns: number,
                        ..abi::PortUsage::default()
                    },
                    at: Span::exactly(clock.arrival(dice, budget)),
                };
                self.world.port_usage.insert(key, usage);
            }
        }
    }

    fn counts(&mut self, dice: &mut Rng, clock: Clock) {
        for number in (0..8).chain([CANARY]) {
            if once_in(dice, 12) {
                continue;
            }
            let tenant = self.world.tenants.get(&number).copied().unwrap_or_default();
            let budget = (tenant.conn_interval_ns, tenant.conn_burst_ns);
            let usage = abi::Usage {
                conns: dice.u64(..7),
                flows_opened: dice.u64(..40),
                conn_tat_ns: clock.arrival(dice, budget),
                ..abi::Usage::default()
            };
            // Of all together: when idle ones were last looked for, mostly a moment ago.
            let looked = if once_in(dice, 4) {
                clock.moment(dice)
            } else {
                clock.now
            };
            let at = Span::exactly(if number == NODE { looked } else { 0 });
            self.world.usage.insert(number, Timed { is: usage, at });
            if !once_in(dice, 12) {
                let closed = usage.flows_opened.saturating_sub(dice.u64(..7));
                self.world.flows_closed.insert(number, closed);
            }
        }
        for _ in 0..dice.usize(..20) {
            let mut prefix = self.host(dice);
            let kind = one_of(dice, &[SOURCE_CONNS, SOURCE_FLOWS, SOURCE_SITES]);
            let of_a_site = kind == SOURCE_SITES;
            if Ipv6Addr::from(prefix).to_ipv4_mapped().is_none() {
                prefix[if of_a_site { 6 } else { 8 }..].fill(0);
            }
            let key = abi::SourceKey {
                prefix,
                tenant: if of_a_site { 0 } else { dice.u32(..8) },
                kind,
            };
            let at = Span::exactly(clock.moment(dice));
            let is = if once_in(dice, 20) {
                1 << 63
            } else {
                dice.u64(..if of_a_site { 40 } else { 6 })
            };
            self.world.sources.insert(key, Timed { is, at });
        }
    }

    fn flows(&mut self, dice: &mut Rng, clock: Clock) {
        for _ in 0..dice.usize(..24) {
            let key = abi::FlowKey {
                remote: self.host(dice),
                remote_port: one_of(dice, &self.far_ports),
                port: one_of(dice, &self.ports),
                pad: 0,
            };
            let flow = abi::Flow {
                tenant: dice.u32(1..8),
                parent: dice.u32(..2),
                last_ns: clock.moment(dice).max(1),
                ..abi::Flow::default()
            };
            if dice.bool() {
                let state = one_of(dice, &[FLOW_ANSWERED, FLOW_RECYCLED, FLOW_CONFIRMED]);
                self.world.flows.insert(key, abi::Flow { state, ..flow });
                if dice.bool() {
                    self.note(key);
                }
            } else {
                let state = FLOW_NEW;
                self.world
                    .candidates
                    .insert(key, abi::Flow { state, ..flow });
            }
        }
        for _ in 0..dice.usize(..8) {
            let key = abi::OutboundKey {
                remote: self.host(dice),
                local: one_of(dice, &self.receivers),
                remote_port: one_of(dice, &self.far_ports),
                local_port: one_of(dice, &self.ports),
                pad: 0,
            };
            let at = match dice.u8(..5) {
                0 | 1 => clock.about(dice, 180 * S),
                _ => clock.ago(one_of(dice, &[0, 60 * S, H])),
            };
            self.world.outbound.insert(key, Span::exactly(at));
        }
    }

    /// Notes a flow where each of its kind has a place of its own, and so few may be that the programs look at them all.
    fn note(&mut self, key: abi::FlowKey) {
        self.world.answered.insert(key);
        let notes = notes(&self.world);
        let places: HashSet<u32> = notes.iter().map(|note| note.place).collect();
        if places.len() < notes.len() || notes.iter().any(|note| note.of > 16) {
            self.world.answered.remove(&key);
        }
    }

    /// Cells that are spent, mostly one of a source's two.
    fn sketch(&mut self, dice: &mut Rng, clock: Clock) {
        let config = &self.world.config;
        let budget = (config.source_interval_ns, config.source_burst_ns);
        if budget.0 == 0 {
            return;
        }
        for _ in 0..dice.usize(..12) {
            let mut source = one_of(dice, &self.hosts);
            if Ipv6Addr::from(source).to_ipv4_mapped().is_none() {
                source[8..].fill(0);
            }
            let port = abi::PortKey {
                port: one_of(dice, &self.ports),
                proto: one_of(dice, &[TCP, UDP]),
                pad: 0,
            };
            let cell = one_of(dice, &cells(&source, port, config.sketch_seed));
            let at = Span::exactly(clock.arrival(dice, budget));
            self.world.sketch.insert(cell, at);
        }
    }

    fn greeters(&mut self, dice: &mut Rng, clock: Clock) {
        for _ in 0..dice.usize(4..24) {
            let key = abi::ControlKey {
                remote: self.host(dice),
                remote_port: one_of(dice, &self.far_ports),
                pad: [0; 3],
            };
            let opened_ns = match dice.u8(..6) {
                0 | 1 => clock.about(dice, 10 * S),
                _ => clock.ago(one_of(dice, &[0, S, S, H])),
            };
            let control = abi::Control {
                cookie: dice.u64(1..),
                looks: one_of(dice, &[0, 0, 0, 1, 7, 8, 9]),
                opened_ns: opened_ns.max(1),
                ..abi::Control::default()
            };
            self.world.control.insert(key, control);
            self.greeters.push((key.remote, key.remote_port));
        }
    }
}
