//! Whether there is room for one more session or lease. The caller names the tenants of all others.

use std::collections::BTreeSet;

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

/// Room for one more lease of an anonymous tenant: per IPv6 /48, and all together. How many an
/// invite may have is [`super::Ports::plan`]'s to say. `others` are the tenants of all other leases.
///
/// # Errors
/// `public_full`.
pub fn lease_room(
    tenant: &str,
    max_proxies: u32,
    max: &PublicMax,
    others: &[&str],
) -> Result<(), Refusal> {
    if !tenant.starts_with(PUBLIC) {
        return Ok(());
    }
    let public = others.iter().filter(|of| of.starts_with(PUBLIC)).count();
    if public >= max.leases as usize {
        return Err(Reason::PublicFull.into());
    }
    if let Some(ours) = site(tenant)
        && of_site(others, &ours) >= max_proxies as usize
    {
        let detail = format!("{ours} has all its proxies");
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
    fn leases() {
        let max = PublicMax {
            leases: 2,
            ..PublicMax::default()
        };
        let ask = |tenant: &str, most, others: &[&str]| {
            lease_room(tenant, most, &max, others).map_err(|refusal| refusal.reason)
        };
        assert_eq!(ask("inv", 1, &[V4, V4, V4, "inv"]), Ok(()));
        assert_eq!(ask(V4, 9, &["inv", V6]), Ok(()));
        assert_eq!(ask(V4, 9, &[V6, V6]), Err(Reason::PublicFull));
        assert_eq!(ask(V6, 1, &[V6_NEXT]), Err(Reason::PublicFull));
    }
}
