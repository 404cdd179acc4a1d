//! A tunnel in one line: what holds, what is left, how it stands.

use totoro_api::limits::Effective;
use totoro_api::ports::Protocol;

use super::output::{bytes, span};
use crate::lang::{Lang, say};
use crate::tunnel::{Left, Phase, Snapshot};

/// Other nodes that would do.
pub(super) fn offer(others: &[String], lang: Lang) -> String {
    let list = others.join(", ");
    say!(
        lang,
        "  other public nodes, best first (--node NAME): {list}",
        "  其他公共节点，优者在前（--node 名称）：{list}"
    )
}

/// Limits, for people.
pub(super) fn limits_text(limits: &Effective, protocol: Protocol, lang: Lang) -> String {
    let Effective {
        max_conns,
        max_flows,
        max_conns_per_source,
        conn_rate,
        max_clients,
        max_proxies,
        ..
    } = limits;
    let session = span(limits.session_max, lang);
    let most = match protocol {
        Protocol::Tcp => max_conns,
        Protocol::Udp => max_flows,
    };
    let max_conns_per_source = max_conns_per_source.min(most);
    match protocol {
        Protocol::Tcp => say!(
            lang,
            "{max_conns} connections ({max_conns_per_source} from one source), {conn_rate} new a second, {max_clients} clients, {max_proxies} proxies, {session} a session",
            "{max_conns} 个连接（每来源 {max_conns_per_source}），每秒新建 {conn_rate}，{max_clients} 个客户端，{max_proxies} 个代理，每次会话 {session}"
        ),
        Protocol::Udp => say!(
            lang,
            "{max_flows} flows ({max_conns_per_source} from one source), {max_clients} clients, {max_proxies} proxies, {session} a session",
            "{max_flows} 个流（每来源 {max_conns_per_source}），{max_clients} 个客户端，{max_proxies} 个代理，每次会话 {session}"
        ),
    }
}

/// What is left, for people.
pub(super) fn left_text(left: Left, protocol: Protocol, lang: Lang) -> String {
    let Left {
        clients,
        proxies,
        conns,
        flows,
    } = left;
    match protocol {
        Protocol::Tcp => say!(
            lang,
            "{conns} connections, {clients} more clients, {proxies} more proxies",
            "{conns} 个连接，还可有 {clients} 个客户端、{proxies} 个代理"
        ),
        Protocol::Udp => say!(
            lang,
            "{flows} flows, {clients} more clients, {proxies} more proxies",
            "{flows} 个流，还可有 {clients} 个客户端、{proxies} 个代理"
        ),
    }
}

/// The living line.
pub(super) fn status_line(state: &Snapshot, lang: Lang) -> String {
    let since = span(crate::running::age(state.since), lang);
    let head = match state.phase {
        Phase::Connecting => say!(lang, "connecting, {since}", "连接中，{since}"),
        Phase::Reconnecting => say!(lang, "reconnecting, {since}", "重连中，{since}"),
        Phase::Stopped => say!(lang, "stopped", "已停止"),
        Phase::Running => say!(lang, "up {since}", "已运行 {since}"),
    };
    let Some(stats) = state
        .stats
        .as_ref()
        .filter(|_| state.phase == Phase::Running)
    else {
        return head;
    };
    let (conns, flows) = (stats.conns, stats.flows);
    let (up, down) = (bytes(stats.rate_in), bytes(stats.rate_out));
    let refused: u64 = stats.refused.values().sum();
    say!(
        lang,
        "{head} · {conns} connections, {flows} flows · ↓ {up}/s ↑ {down}/s · {refused} refused",
        "{head} · 连接 {conns}，流 {flows} · ↓ {up}/s ↑ {down}/s · 已拒绝 {refused}"
    )
}

/// As much as fits into a terminal of the usual width.
pub(super) fn fit(line: &str) -> String {
    use unicode_width::UnicodeWidthChar as _;
    let mut width = 0;
    let fits = |symbol: &char| {
        width += symbol.width().unwrap_or(0);
        width < 80
    };
    line.chars().take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::tests::snapshot;

    #[test]
    fn the_living_line_fits() {
        let mut state = snapshot();
        state.phase = Phase::Running;
        state.stats = Some(crate::tunnel::Stats {
            conns: u64::MAX,
            rate_in: u64::MAX,
            ..crate::tunnel::Stats::default()
        });
        for lang in [Lang::En, Lang::Zh] {
            use unicode_width::UnicodeWidthStr as _;
            assert!(fit(&status_line(&state, lang)).width() < 80);
        }
    }
}
