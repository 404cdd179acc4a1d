//! What happens to a tunnel, typed: a terminal, a line of JSON and a page all read the same.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use totoro_api::limits::Effective;
use totoro_api::ports::Protocol;

use crate::lang::{Lang, say};
use crate::told::Told;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// frpc is being started towards this address.
    Connecting {
        /// The node's name.
        node: String,
        /// `host:port` of its frps.
        server: String,
    },
    /// A proxy is reachable.
    Running {
        /// The proxy's name.
        proxy: String,
        /// Its type.
        #[serde(rename = "type")]
        protocol: Protocol,
        /// The service behind it.
        local: String,
        /// Where it is reached, `host:port`.
        address: String,
        /// What holds.
        limits: Effective,
        /// What is left of it.
        left: Left,
    },
    /// A proxy, or the login itself, was refused.
    Refused {
        /// The proxy; absent where it was the login.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        proxy: Option<String>,
        /// Why, and what to do next.
        #[serde(flatten)]
        told: Told,
        /// The tunnel ends by it.
        last: bool,
    },
    /// It is not connected, and will be tried again.
    Reconnecting {
        /// Why.
        #[serde(flatten)]
        why: Why,
        /// The next try comes within so many seconds.
        within_s: u64,
    },
    /// A user came, and nothing answered at the local service.
    LocalFailed {
        /// The service, and why.
        detail: String,
    },
    /// The node takes nothing new: connections that live go on, new ones are refused.
    Draining {
        /// Other public nodes that could be used, best first.
        others: Vec<String>,
    },
    /// Figures.
    Stats(Stats),
    /// It is over.
    Stopped {
        /// Why: absent where it was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<Told>,
    },
}

/// Why a tunnel is not connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Why {
    /// The connection to the node was lost.
    Lost,
    /// It was refused, for now.
    Refused(Told),
    /// The node does not answer.
    NodeUnreachable {
        /// frpc's words.
        detail: String,
    },
    /// The control plane gives no ticket because it can't be reached.
    ControlUnreachable {
        /// frpc's words.
        detail: String,
    },
    /// Whoever answers at the node's address is not the node.
    NotTrusted {
        /// frpc's words.
        detail: String,
    },
    /// Whoever answers at the node's address ends the connection at once. frpc's multiplexer mostly
    /// says no more than this of a certificate that does not fit, too.
    CutOff {
        /// frpc's words.
        detail: String,
    },
    /// frpc ended by itself.
    FrpcEnded {
        /// Its status and last words.
        detail: String,
    },
    /// frpc does not answer any more.
    FrpcHangs,
}

impl Why {
    /// For people, one line.
    #[must_use]
    pub fn text(&self, lang: Lang) -> String {
        match self {
            Why::Lost => say!(
                lang,
                "the connection to the node was lost",
                "与节点的连接已断开"
            ),
            Why::Refused(told) => told.what(lang),
            Why::NodeUnreachable { detail } => say!(
                lang,
                "the node does not answer ({detail})",
                "节点无应答（{detail}）"
            ),
            Why::ControlUnreachable { detail } => say!(
                lang,
                "the control plane does not answer ({detail})",
                "控制面无应答（{detail}）"
            ),
            Why::NotTrusted { detail } => say!(
                lang,
                "whoever answers at the node's address can't prove to be the node ({detail})",
                "在节点地址应答者无法证明自己是该节点（{detail}）"
            ),
            Why::CutOff { detail } => say!(
                lang,
                "whoever answers at the node's address ends the connection at once ({detail}): frps is starting, or it is not the node, whose certificate this one can't show",
                "在节点地址应答者立即断开了连接（{detail}）：frps 正在启动，或对方并非该节点、无法出示其证书"
            ),
            Why::FrpcEnded { detail } => say!(
                lang,
                "frpc ended by itself ({detail})",
                "frpc 自行退出（{detail}）"
            ),
            Why::FrpcHangs => say!(
                lang,
                "frpc does not answer any more and was ended",
                "frpc 失去响应，已被结束"
            ),
        }
    }

    /// What frpc's failed login means.
    #[must_use]
    pub fn of_login(text: &str) -> Self {
        let detail = crate::told::clean(text);
        if let Some(told) = Told::in_line(text) {
            return Why::Refused(told);
        }
        if text.contains("/oauth/token") || text.contains("oauth2: ") {
            // "Post "https://…": dial tcp …": the address is known, the rest says why.
            let detail = detail.rsplit("\": ").next().unwrap_or(&detail).to_owned();
            return Why::ControlUnreachable { detail };
        }
        if text.contains("x509: ") || text.contains("tls: ") {
            return Why::NotTrusted { detail };
        }
        if text.contains("session shutdown") || text.ends_with("EOF") {
            return Why::CutOff { detail };
        }
        Why::NodeUnreachable { detail }
    }
}

/// What is left of the limits, after this tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Sessions.
    pub clients: u32,
    /// Proxies.
    pub proxies: u32,
    /// TCP connections.
    pub conns: u32,
    /// UDP flows.
    pub flows: u32,
}

/// What the node last told of the invite, all its sessions together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// TCP connections now.
    pub conns: u64,
    /// UDP flows now.
    pub flows: u64,
    /// Bytes from users so far.
    pub bytes_in: u64,
    /// Bytes to users so far.
    pub bytes_out: u64,
    /// The same per second, since the figures before.
    pub rate_in: u64,
    /// Bytes to users per second.
    pub rate_out: u64,
    /// Refusals so far, by reason.
    pub refused: BTreeMap<String, u64>,
    /// What is left.
    pub left: Left,
    /// How old the node's figures are, seconds.
    pub age_s: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_login_is_understood() {
        let of = Why::of_login;
        let refused = of("oauth2: \"invalid_client\" \"totoro[invite_revoked]: gone; ask\"");
        assert!(matches!(refused, Why::Refused(told) if told.code == "invite_revoked"));
        assert!(matches!(
            of("totoro[max_clients]: full; stop"),
            Why::Refused(_)
        ));
        let away = of("couldn't generate OIDC token for login: Post \
             \"https://c/api/v1/oauth/token\": dial tcp 1.2.3.4:443: connect: connection refused");
        let Why::ControlUnreachable { detail } = away else {
            panic!("{away:?}")
        };
        assert_eq!(detail, "dial tcp 1.2.3.4:443: connect: connection refused");
        let wrong =
            of("tls: failed to verify certificate: x509: certificate signed by unknown authority");
        assert!(matches!(wrong, Why::NotTrusted { .. }));
        assert!(matches!(of("session shutdown"), Why::CutOff { .. }));
        assert!(matches!(
            of("dial tcp 1.2.3.4:7000: i/o timeout"),
            Why::NodeUnreachable { .. }
        ));
    }

    #[test]
    fn events_are_flat_json() {
        let told = Told::new("max_proxies", "both are in use", "close one");
        let event = Event::Reconnecting {
            why: Why::Refused(told),
            within_s: 20,
        };
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(
            text,
            r#"{"event":"reconnecting","why":"refused","code":"max_proxies","what":"both are in use","next":"close one","within_s":20}"#
        );
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
        for why in [Why::Lost, Why::FrpcHangs] {
            assert_ne!(why.text(Lang::En), why.text(Lang::Zh));
        }
    }
}
