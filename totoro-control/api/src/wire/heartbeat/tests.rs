//! What is kept of what a node says.

use super::*;
use serde_json::json;

#[test]
fn whatever_a_node_says_is_kept_short() {
    let said = json!({
        "frps_version": "v".repeat(500_000),
        "agent_version": "a\u{1b}[2J",
        "cpu_percent": 1e300,
        "load1": -1.0,
        "features": vec!["f".repeat(300); 5000],
        "free_ports": { "tcp": 3, "sctp": 4, "x".repeat(1000): 1 },
        "refused": { "max_conns": 1, "x".repeat(41): 2 },
        "tls_ca": "c".repeat(MAX_CA + 1),
        "tenants": [{ "tenant": "t".repeat(999), "leases": [{ "proxy": "p".repeat(999) }] }],
    });
    let heartbeat: Heartbeat = serde_json::from_value(said).unwrap();
    let bounded = heartbeat.bounded();
    assert_eq!(bounded.frps_version.len(), MAX_TEXT);
    assert_eq!(bounded.agent_version, "a[2J");
    assert_eq!((bounded.cpu_percent, bounded.load1), (0.0, 0.0));
    assert_eq!(
        (bounded.features.len(), bounded.features[0].len()),
        (100, 120)
    );
    assert_eq!(bounded.free_ports, BTreeMap::from([("tcp".to_owned(), 3)]));
    assert_eq!(bounded.refused.len(), 1);
    assert_eq!(bounded.tls_ca, "");
    assert_eq!(bounded.tenants[0].tenant.len(), MAX_TEXT);
    assert_eq!(bounded.tenants[0].leases[0].proxy.len(), MAX_TEXT);
}

/// The room that a list and its texts take.
fn memory<T>(list: &Vec<T>, texts: impl Fn(&T) -> usize) -> usize {
    list.capacity() * size_of::<T>() + list.iter().map(texts).sum::<usize>()
}

fn kept(heartbeat: &Heartbeat) -> usize {
    let session = |of: &SessionUsage| {
        [&of.id, &of.client, &of.since, &of.frpc_version]
            .map(String::capacity)
            .iter()
            .sum()
    };
    let lease = |of: &LeaseUsage| {
        [&of.proxy, &of.protocol, &of.address, &of.since]
            .map(String::capacity)
            .iter()
            .sum()
    };
    memory(&heartbeat.tenants, |tenant| {
        tenant.tenant.capacity() + memory(&tenant.sessions, session) + memory(&tenant.leases, lease)
    }) + memory(&heartbeat.features, String::capacity)
        + heartbeat.frps_version.capacity()
        + heartbeat.tls_ca.capacity()
}

#[test]
fn a_megabyte_does_not_become_many() {
    let many = |one: &str, count: usize| vec![one; count].join(",");
    let nothing = many("{}", 4096);
    let tenant = format!(r#"{{"leases":[{nothing}],"sessions":[{nothing}]}}"#);
    let single = r#"{"leases":[{}],"sessions":[{}]}"#;
    for said in [
        format!(r#"{{"tenants":[{}]}}"#, many(&tenant, 42)),
        format!(r#"{{"tenants":[{}]}}"#, many(single, 32_000)),
        format!(r#"{{"tenants":[{}]}}"#, many("{}", 340_000)),
        format!(r#"{{"features":[{}]}}"#, many("\"\"", 340_000)),
        format!(r#"{{"frps_version":"{}"}}"#, "v".repeat(1_000_000)),
        format!(r#"{{"tls_ca":"{}"}}"#, "c".repeat(1_000_000)),
    ] {
        assert!(said.len() <= 1 << 20, "{}", said.len());
        let heartbeat: Heartbeat = serde_json::from_str(&said).unwrap();
        let kept = kept(&heartbeat.bounded());
        assert!(kept < 5 << 20, "{kept} of {:.50}", said);
    }
}

#[test]
fn all_that_a_node_can_say_is_kept() {
    // The shortest that a node writes.
    let since = "2030-01-31T12:00:00Z".to_owned();
    let session = SessionUsage {
        id: format!("ses_{}", "0".repeat(16)),
        client: "1.1.1.1:1".to_owned(),
        since: since.clone(),
        frpc_version: String::new(),
    };
    let lease = LeaseUsage {
        proxy: "a".to_owned(),
        protocol: "tcp".to_owned(),
        address: "1.1.1.1".to_owned(),
        port: 1,
        since,
    };
    let fit = |json: String| (1 << 20) / (json.len() + 1);
    let most = fit(serde_json::to_string(&session).unwrap());
    assert!(most <= MAX_ALL.sessions, "{most} sessions");
    let most = fit(serde_json::to_string(&lease).unwrap());
    assert!(most <= MAX_ALL.leases, "{most} leases");
    let tenant = |sessions: usize, leases: usize| TenantUsage {
        sessions: vec![session.clone(); sessions],
        leases: vec![lease.clone(); leases],
        ..TenantUsage::default()
    };
    let heartbeat = Heartbeat {
        tenants: vec![tenant(4096, 0), tenant(0, 4096), tenant(4096, 4096)],
        ..Heartbeat::default()
    };
    assert_eq!(heartbeat.clone().bounded(), heartbeat);
}

#[test]
fn a_newer_node_can_be_read() {
    let said = json!({
        "grade": "quantum",
        "tenants": [{ "tenant": "inv-1", "refused": { "max_conns": 2, "max_moons": 3 } }],
    });
    let heartbeat: Heartbeat = serde_json::from_value(said).unwrap();
    assert_eq!(heartbeat.grade, Grade::Callback);
    let refused = &heartbeat.tenants[0].refused;
    assert_eq!(*refused, BTreeMap::from([(Reason::MaxConns, 2)]));
}
