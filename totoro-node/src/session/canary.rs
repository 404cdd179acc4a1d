//! A real connection through a lease of our own, every minute: whether the kernel refuses, admits,
//! counts and limits is tried, not inferred from what is attached.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use totoro_api::ports::Protocol;
use totoro_api::{Reason, Refusal};
use totoro_ebpf::abi::{self, CANARY};

use super::desk::{Desk, Inner};
use super::ports::{PortId, port_key};
use crate::clock::boot_ms;
use crate::kernel::KernelError;

/// The canary's lease.
const LEASE: u64 = u64::MAX;
/// A connection on this machine is answered at once, or it is lost.
const PATIENCE: Duration = Duration::from_millis(500);
/// Ports that are looked at, where something else listens on the first.
const TRIES: usize = 4;
/// So many failures in a row are believed.
const BELIEVED: u32 = 2;

/// What the tries have found.
#[derive(Debug, Default)]
pub(super) struct Canary {
    failures: u32,
    /// What the kernel does not hold; believed.
    pub(super) problem: Option<String>,
    /// When it last came through, ms since boot.
    held_ms: Option<i64>,
}

/// Why a try did not come through.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// The kernel does not hold what it should.
    Broken(String),
    /// Something else was in the way, which says nothing of that.
    Untried(String),
}

impl From<String> for Failure {
    fn from(problem: String) -> Self {
        Failure::Broken(problem)
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        match error.is_full() {
            true => Failure::Untried(error.whole()),
            false => Failure::Broken(error.whole()),
        }
    }
}

impl Canary {
    /// Takes note of a try; whether what is believed changed.
    fn note(&mut self, tried: Result<(), String>) -> bool {
        let before = self.problem.is_some();
        match tried {
            Ok(()) => {
                *self = Canary {
                    held_ms: Some(boot_ms()),
                    ..Canary::default()
                }
            }
            Err(problem) => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= BELIEVED {
                    self.problem = Some(problem);
                }
            }
        }
        before != self.problem.is_some()
    }
}

impl Desk {
    /// Tries it; whether all is well as far as is known. Where it cannot be tried now (the pool is full,
    /// the node disabled, this machine banned, a table full, or another's connection came first), what is believed
    /// stays so. From the second failure in a row on nothing new is admitted.
    pub fn try_canary(&self) -> bool {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if inner.policy.node.disabled {
            return true;
        }
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        let banned = inner.is_banned(here, self.clock.now_ms() / 1000);
        let free = self.free_port(inner).filter(|_| !banned);
        let Some((port, listener)) = free else {
            return inner.canary.problem.is_none();
        };
        let tried = self.fly(port, &listener);
        let key = port_key(port);
        for cleaned in [
            self.kernel.remove_lease(key).map(drop),
            self.kernel.forget_lease(CANARY, key),
            self.kernel.remove_canary(),
        ] {
            if let Err(error) = cleaned {
                // The next alignment closes what nobody knows of.
                inner.untidy = Some(error.whole());
            }
        }
        let tried = match tried {
            Ok(()) => Ok(()),
            Err(Failure::Untried(why)) => {
                tracing::warn!(why, "the canary could not be tried");
                return inner.canary.problem.is_none();
            }
            Err(Failure::Broken(problem)) => Err(problem),
        };
        if let Err(problem) = &tried {
            tracing::error!(problem, "the canary did not come through");
        }
        let well = tried.is_ok();
        if inner.canary.note(tried) {
            if well {
                tracing::info!("the kernel was found to hold limits again: new users are admitted");
            } else {
                tracing::error!("the kernel was found not to hold limits: nothing new is admitted");
            }
        }
        if let Err(error) = self.kernel.set_hold(inner.hold()) {
            inner.untidy = Some(error.whole());
        }
        well
    }

    /// What it says that a connection within the canary's limits was refused: nothing, where it was for want of a
    /// place in a table, or where another's connection to its port has the one that it may have.
    fn was_refused(&self, error: &std::io::Error) -> Failure {
        let refused = self.kernel.refused().unwrap_or_default();
        let was = |reason| {
            let mut its = refused.iter().filter(|one| one.tenant == CANARY);
            its.any(|one| one.reason == reason && one.count > 0)
        };
        let admitted = || {
            self.kernel
                .counts(CANARY)
                .is_ok_and(|counts| counts.usage.admitted > 0)
        };
        if was(Reason::NodeFull) {
            Failure::Untried(
                "a table of the kernel's is full (totoro-node doctor says which)".to_owned(),
            )
        } else if was(Reason::MaxConns) && admitted() {
            Failure::Untried("somebody else connected to its port".to_owned())
        } else {
            Failure::Broken(format!(
                "a connection within its limits was refused: {error}"
            ))
        }
    }

    /// What the canary found broken.
    #[must_use]
    pub fn canary_problem(&self) -> Option<String> {
        self.lock().canary.problem.clone()
    }

    /// Seconds since the canary last came through; `None` = not since the start.
    #[must_use]
    pub fn canary_s(&self) -> Option<u64> {
        let held_ms = self.lock().canary.held_ms?;
        Some(u64::try_from((boot_ms() - held_ms) / 1000).unwrap_or(0))
    }

    /// A port of the pool that is nobody's, with a listener on it that only this machine reaches.
    fn free_port(&self, inner: &Inner) -> Option<(PortId, TcpListener)> {
        let now_ms = self.clock.now_ms();
        let ports = inner.policy.node.pool.of(Protocol::Tcp);
        // Anywhere: who knew where could be there first.
        let first = fastrand::usize(..ports.len().max(1));
        let ports = ports.iter().skip(first).chain(ports.iter().take(first));
        let nobodys = ports.map(|port| (Protocol::Tcp, port)).filter(|id| {
            let waiting = inner.ports.waiting().get(id);
            !inner.ports.leases().contains_key(id)
                && waiting.is_none_or(|waiting| waiting.cooling_ms < now_ms)
        });
        nobodys.take(TRIES).find_map(|id| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, id.1)).ok()?;
            listener.set_nonblocking(true).ok()?;
            Some((id, listener))
        })
    }

    /// Refused while held, admitted and counted, refused beyond the limit.
    fn fly(&self, port: PortId, listener: &TcpListener) -> Result<(), Failure> {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port.1));
        let policy = |state| abi::Tenant {
            state,
            reason: Reason::InvitePaused.number(),
            max_conns: 1,
            max_flows: 0,
            max_conns_per_source: abi::UNLIMITED,
            ..abi::Tenant::default()
        };
        let lease = abi::Lease {
            tenant: CANARY,
            lease: LEASE,
            ..abi::Lease::default()
        };
        self.kernel.put_tenant(CANARY, &policy(abi::HELD))?;
        self.kernel.put_lease(port_key(port), &lease)?;
        refused(&at, "of a paused tenant")?;
        self.kernel.put_tenant(CANARY, &policy(abi::ACTIVE))?;
        let user =
            TcpStream::connect_timeout(&at, PATIENCE).map_err(|error| self.was_refused(&error))?;
        let served = accepted(listener)?;
        if !self.rules.counts_own {
            return Ok(());
        }
        let counted = self.kernel.counts(CANARY)?.usage;
        if counted.conns == 0 && counted.surplus > 0 {
            // One too many of no limit of its own.
            return Err(self.was_refused(&ErrorKind::ConnectionReset.into()));
        }
        if counted.conns != 1 {
            let problem = format!("one connection lives, and {} are counted", counted.conns);
            return Err(Failure::Broken(problem));
        }
        refused(&at, "beyond its limit")?;
        drop((user, served));
        Ok(())
    }
}

/// A connection that the socket lookup must refuse. One that was reset was established first: only what
/// comes behind the lookup has ended it.
fn refused(at: &SocketAddr, whose: &str) -> Result<(), String> {
    match TcpStream::connect_timeout(at, PATIENCE) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(format!("a connection {whose} was not refused: {error}")),
        Ok(_) => Err(format!("a connection {whose} was admitted")),
    }
}

fn accepted(listener: &TcpListener) -> Result<TcpStream, String> {
    let began = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) if error.kind() != ErrorKind::WouldBlock || began.elapsed() > PATIENCE => {
                return Err(format!("an admitted connection did not arrive: {error}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

impl Inner {
    /// Why the whole pool refuses what is new, if it does.
    pub(super) fn hold(&self) -> Option<Reason> {
        if self.policy.node.disabled {
            return Some(Reason::NodeDisabled);
        }
        self.canary.problem.is_some().then_some(Reason::Internal)
    }

    /// Refuses what is new while the kernel was found not to hold the limits.
    pub(super) fn enforces(&self) -> Result<(), Refusal> {
        match &self.canary.problem {
            None => Ok(()),
            Some(_) => Err(Refusal::with(
                Reason::Internal,
                "this node's kernel does not hold limits right now; its operator sees why \
                 (totoro-node doctor)",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_is_tried_again_and_two_are_believed() {
        let mut canary = Canary::default();
        let bad = || Err("x".to_owned());
        assert!(!canary.note(bad()) && canary.problem.is_none());
        assert!(!canary.note(Ok(())));
        assert!(!canary.note(bad()));
        assert!(canary.note(bad()) && canary.problem.is_some());
        assert!(!canary.note(bad()), "no news");
        assert!(canary.note(Ok(())) && canary.problem.is_none());
    }
}
