//! Whether there is room for one more session or lease.

use std::collections::BTreeSet;

use super::leases::{PortId, Ports, most_kept};
use super::{PUBLIC, site};
use crate::wire::push::PublicMax;
use crate::{Reason, Refusal};

/// Room for one more connected session of `tenant`, which may have `most`; `others` are the tenants
/// of the sessions that are connected, each as often as it has one.
///
/// # Errors
/// `max_clients` or `public_full`.
pub fn session_room(
    tenant: &str,
    most: u32,
    max: &PublicMax,
    others: &[&str],
) -> Result<(), Refusal> {
    let most = most as usize;
    if others.iter().filter(|of| **of == tenant).count() >= most {
        let whose = if tenant.starts_with(PUBLIC) {
            "a visitor of this node"
        } else {
            "this invite"
        };
        let detail = match most {
            1 => format!("{whose} may have one session, and it is in use"),
            many => format!("{whose} may have {many} sessions, and all are in use"),
        };
        return Err(Refusal::with(Reason::MaxClients, detail));
    }
    if !tenant.starts_with(PUBLIC) {
        return Ok(());
    }
    // Public limits also hold per IPv6 /48, and for all anonymous tenants together.
    if let Some(ours) = site(tenant)
        && of_site(others, &ours) >= most
    {
        let detail = format!("{ours} has all its sessions");
        return Err(Refusal::with(Reason::PublicFull, detail));
    }
    let public = || others.iter().filter(|of| of.starts_with(PUBLIC));
    let tenants: BTreeSet<&str> = public().filter(|of| **of != tenant).copied().collect();
    if public().count() >= max.sessions as usize || tenants.len() >= max.tenants as usize {
        return Err(Reason::PublicFull.into());
    }
    Ok(())
}

/// Anonymous tenants that are remembered for each that may be here at once: who leaves stays in the tables for
/// a while.
const REMEMBERED: usize = 20;

/// Room for one more anonymous tenant among those that are remembered, with which `known` begins: per IPv6 /48, whose
/// visitors may have `max_clients` sessions, and all together. Whoever moves on and on from one address to the next, in one
/// session, would fill the tables of all.
///
/// # Errors
/// `public_full`.
pub fn tenant_room<'a>(
    tenant: &str,
    max_clients: u32,
    max: &PublicMax,
    known: impl Iterator<Item = &'a str>,
) -> Result<(), Refusal> {
    if !tenant.starts_with(PUBLIC) {
        return Ok(());
    }
    let known: Vec<&str> = known.take_while(|of| of.starts_with(PUBLIC)).collect();
    if known.contains(&tenant) {
        return Ok(());
    }
    if known.len() >= (max.tenants as usize).saturating_mul(REMEMBERED) {
        return Err(Reason::PublicFull.into());
    }
    if let Some(ours) = site(tenant)
        && of_site(&known, &ours) >= most_kept(max_clients)
    {
        let detail = format!("{ours} has come from too many networks lately");
        return Err(Refusal::with(Reason::PublicFull, detail));
    }
    Ok(())
}

/// Room for one more lease of an anonymous tenant, on a port: per IPv6 /48, and all together; `instead_of` is closed
/// for it. How many an invite may have is [`Ports::plan`]'s to say.
///
/// # Errors
/// `public_full`.
pub fn lease_room(
    tenant: &str,
    max_proxies: u32,
    max: &PublicMax,
    ports: &Ports,
    (on, instead_of): (PortId, Option<PortId>),
    now_ms: i64,
) -> Result<(), Refusal> {
    if !tenant.starts_with(PUBLIC) {
        return Ok(());
    }
    let leases = ports.leases().iter();
    let others = leases.filter(|(port, _)| Some(**port) != instead_of);
    let others: Vec<&str> = others.map(|(_, lease)| &*lease.tenant).collect();
    let cooling = ports.cooling(now_ms).filter(|(port, _)| *port != on);
    let cooling: Vec<&str> = cooling.map(|(_, of)| of).collect();
    room_beside(tenant, max_proxies, max, &others, &cooling)
}

/// The same, beside these: the tenants of all other leases, and those whose ports cool down, each as often as it
/// has one.
fn room_beside(
    tenant: &str,
    max_proxies: u32,
    max: &PublicMax,
    others: &[&str],
    cooling: &[&str],
) -> Result<(), Refusal> {
    let public_of = |tenants: &[&str]| tenants.iter().filter(|of| of.starts_with(PUBLIC)).count();
    let public = public_of(others);
    if public + public_of(cooling) >= most_kept(max.leases) {
        let detail = "the ports that visitors had lately are not free again yet";
        return Err(Refusal::with(Reason::PublicFull, detail));
    }
    if public >= max.leases as usize {
        return Err(Reason::PublicFull.into());
    }
    if let Some(ours) = site(tenant)
        && of_site(others, &ours) >= max_proxies as usize
    {
        let detail = format!("{ours} has all its proxies");
        return Err(Refusal::with(Reason::PublicFull, detail));
    }
    if let Some(ours) = site(tenant)
        && of_site(others, &ours) + of_site(cooling, &ours) >= most_kept(max_proxies)
    {
        let detail = format!("the ports that {ours} had lately are not free again yet");
        return Err(Refusal::with(Reason::PublicFull, detail));
    }
    Ok(())
}

fn of_site(others: &[&str], ours: &str) -> usize {
    others
        .iter()
        .filter(|of| site(of).as_deref() == Some(ours))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "public:192.0.2.7";
    const V6: &str = "public:2001:db8:1:2::/64";
    const V6_NEXT: &str = "public:2001:db8:1:3::/64";

    #[test]
    fn sessions() {
        let max = PublicMax {
            tenants: 2,
            sessions: 3,
            ..PublicMax::default()
        };
        let ask = |tenant: &str, most, others: &[&str]| {
            session_room(tenant, most, &max, others).map_err(|refusal| refusal.reason)
        };
        assert_eq!(ask("inv", 2, &["inv", "other", V4, V4, V4]), Ok(()));
        assert_eq!(ask("inv", 2, &["inv", "inv"]), Err(Reason::MaxClients));
        assert_eq!(ask(V4, 1, &[V4]), Err(Reason::MaxClients));
        assert_eq!(ask(V6, 1, &[V6_NEXT]), Err(Reason::PublicFull), "one /48");
        assert_eq!(ask(V6, 9, &[V4, V4, V4]), Err(Reason::PublicFull));
        assert_eq!(ask(V6, 9, &[V4, V6_NEXT]), Err(Reason::PublicFull));
        assert_eq!(ask(V4, 9, &[V4, V6_NEXT]), Ok(()));
    }

    #[test]
    fn tenants() {
        let max = PublicMax {
            tenants: 1,
            ..PublicMax::default()
        };
        let ask = |tenant: &str, most, known: &[String]| {
            let known = known.iter().map(String::as_str);
            tenant_room(tenant, most, &max, known).map_err(|refusal| refusal.reason)
        };
        let v4 = |count: u8| -> Vec<String> {
            let of = |last| format!("public:198.51.100.{last}");
            (0..count).map(of).collect()
        };
        let v6 = |count: u16| -> Vec<String> {
            let of = |net| format!("public:2001:db8:1:{net:x}::/64");
            (0x100..0x100 + count).map(of).collect()
        };
        assert_eq!(ask("inv", 1, &v4(99)), Ok(()));
        assert_eq!(ask(V4, 1, &v4(19)), Ok(()));
        assert_eq!(ask(V4, 1, &v4(20)), Err(Reason::PublicFull));
        assert_eq!(ask("public:198.51.100.3", 1, &v4(20)), Ok(()), "it is one");
        assert_eq!(ask(V6, 1, &v6(9)), Ok(()));
        assert_eq!(ask(V6, 1, &v6(10)), Err(Reason::PublicFull), "one /48");
        assert_eq!(ask(V4, 1, &v6(10)), Ok(()));
    }

    #[test]
    fn leases() {
        let max = PublicMax {
            leases: 2,
            ..PublicMax::default()
        };
        let ask = |tenant: &str, most, others: &[&str], cooling: &[&str]| {
            room_beside(tenant, most, &max, others, cooling).map_err(|refusal| refusal.reason)
        };
        let full = Err(Reason::PublicFull);
        assert_eq!(ask(V4, 9, &["inv", V6], &["inv"; 99]), Ok(()));
        assert_eq!(ask(V4, 9, &[V6, V6], &[]), full);
        assert_eq!(ask(V6, 1, &[V6_NEXT], &[]), full);
        // What they left behind is nobody else's for a while: it has bounds too.
        assert_eq!(ask(V4, 9, &[V6], &[V6; 10]), Ok(()));
        assert_eq!(ask(V4, 9, &[V6], &[V6; 11]), full);
        assert_eq!(ask(V6, 1, &[], &[V6_NEXT; 9]), Ok(()));
        assert_eq!(ask(V6, 1, &[], &[V6_NEXT; 10]), full, "one /48");
    }
}
