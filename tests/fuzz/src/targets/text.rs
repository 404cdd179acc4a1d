//! Short texts that people and programs write: codes, revisions, ports, times, addresses.

use totoro_api::code::InviteCode;
use totoro_api::frpc::host_port;
use totoro_api::ports::{PortRange, PortSet};
use totoro_api::ticket::{Revision, rfc3339, unix};

use crate::Target;

/// Every reader gets the same text.
pub(crate) const TARGET: Target = Target {
    name: "text",
    run,
    seeds,
};

fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(code) = text.parse::<InviteCode>() {
        assert_eq!(code.normalised().len(), 25);
        for written in [
            code.to_string(),
            code.normalised(),
            code.qr(),
            code.qr().to_lowercase(),
        ] {
            assert_eq!(written.parse().as_ref(), Ok(&code), "{written}");
        }
    }
    if let Ok(revision) = text.parse::<Revision>() {
        assert_eq!(revision.to_string().parse(), Ok(revision));
    }
    if let Ok(range) = text.parse::<PortRange>() {
        assert!(range.first() >= 1 && range.first() <= range.last());
        assert_eq!(range.to_string().parse().as_ref(), Ok(&range));
    }
    ports(text);
    if let Some(at) = unix(text) {
        let shown = rfc3339(at);
        assert_eq!(unix(&shown), Some(at), "{text} is shown as {shown:?}");
    }
    if let Some((host, port)) = host_port(text) {
        assert!(port > 0 && !host.is_empty() && text.contains(host));
        let plain = |symbol: char| !symbol.is_control() && symbol != '"' && !symbol.is_whitespace();
        assert!(host.chars().all(plain), "{host:?}");
    }
    if let Ok(span) = text.parse::<totoro_node::config::Span>() {
        assert_eq!(span.to_string().parse(), Ok(span));
        assert!((0..=30 * 86_400_000).contains(&span.ms));
    }
    if let Ok(span) = text.parse::<totoro_control::duration::Span>() {
        assert_eq!(span.to_string().parse().as_ref(), Ok(&span), "{text}");
    }
    if let Some(position) = totoro_control::audit::read_id(text) {
        assert_eq!(
            totoro_control::audit::write_id(position),
            text.to_lowercase()
        );
    }
}

fn ports(text: &str) {
    let Ok(set) = text.parse::<PortSet>() else {
        return;
    };
    assert_eq!(set.to_string().parse().as_ref(), Ok(&set));
    let mut before = None::<u16>;
    for range in set.ranges() {
        let apart = before.is_none_or(|last| u32::from(range.first()) > u32::from(last) + 1);
        assert!(apart, "{set}: ranges are sorted, apart and do not touch");
        assert!(set.contains(range.first()) && set.contains(range.last()));
        before = Some(range.last());
    }
    let sum: usize = set
        .ranges()
        .iter()
        .map(|range| usize::from(range.last() - range.first()) + 1)
        .sum();
    assert!(set.len() == sum && sum <= 65_535 && set.is_subset(&set));
    assert_eq!(set.is_empty(), sum == 0);
    let json = serde_json::to_string(&set).expect("a set is text");
    assert_eq!(
        serde_json::from_str::<PortSet>(&json).expect("what was written"),
        set
    );
}

fn seeds() -> Vec<Vec<u8>> {
    let code = InviteCode::from_entropy([7; 16]);
    let texts = [
        code.to_string(),
        code.normalised(),
        code.qr(),
        "7-42".to_owned(),
        "20000-20099,20200".to_owned(),
        "2030-01-31T12:00:00.5+02:00".to_owned(),
        rfc3339(1_700_000_000),
        "[2001:db8::1]:7000".to_owned(),
        "n1.example.org:7000".to_owned(),
        "500ms".to_owned(),
        "10m".to_owned(),
        totoro_control::audit::write_id(totoro_control::store::Position {
            day: 20_000,
            revision: 300,
            index: 7,
        }),
    ];
    texts.map(String::into_bytes).into()
}
