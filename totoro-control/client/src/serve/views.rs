//! What the page's templates are given.

use askama::Template;
use totoro_api::limits::{Effective, Limits};
use totoro_web::Frame;

use super::connections::Connection;
use super::listeners::Listener;
use super::saved::Asked;
use crate::access::Access;
use crate::lang::Lang;
use crate::nodes::Ranked;
use crate::tunnel::{Left, Phase, ProxyState, Stats};

/// The shared script and the page's own.
pub(super) const SCRIPT: &str = concat!(
    include_str!("../../../web/templates/page.js"),
    include_str!("../../templates/serve.js")
);

/// The page.
#[derive(Template)]
#[template(path = "serve.html")]
pub(super) struct Home {
    pub(super) page: Frame,
    pub(super) token: String,
    pub(super) refused: Option<Refusal>,
    pub(super) chosen: Option<Chosen>,
    pub(super) tunnels: Vec<Tunnel>,
    pub(super) before: Vec<Asked>,
    /// The control plane that it was told of.
    pub(super) control: String,
}

/// The running tunnels alone, which the script puts in place of those that are there.
#[derive(Template)]
#[template(path = "tunnels.html")]
pub(super) struct Tunnels {
    pub(super) page: Frame,
    pub(super) token: String,
    pub(super) tunnels: Vec<Tunnel>,
}

/// The public nodes.
#[derive(Template)]
#[template(path = "nodes.html")]
pub(super) struct Nodes {
    pub(super) page: Frame,
    pub(super) token: String,
    pub(super) refused: Option<Refusal>,
    pub(super) regions: Vec<Choice>,
    pub(super) isps: Vec<Choice>,
    pub(super) nodes: Vec<Node>,
    pub(super) more: usize,
}

/// Where who comes from elsewhere says the token.
#[derive(Template)]
#[template(path = "login.html")]
pub(super) struct Login {
    pub(super) page: Frame,
    pub(super) wrong: bool,
}

/// A public address as a code to point a telephone at.
#[derive(Template)]
#[template(path = "qr.html")]
pub(super) struct Qr {
    pub(super) page: Frame,
    pub(super) address: String,
    pub(super) svg: String,
}

/// Why something was not done, and what to do.
pub(super) struct Refusal {
    pub(super) code: String,
    pub(super) what: String,
    pub(super) next: String,
}

/// A way in that was looked up, to be used.
pub(super) struct Chosen {
    pub(super) id: String,
    pub(super) access: Access,
    pub(super) listeners: Vec<Listener>,
}

/// One of several.
pub(super) struct Choice {
    pub(super) value: String,
    pub(super) chosen: bool,
}

/// A public node.
pub(super) struct Node {
    pub(super) ranked: Ranked,
    pub(super) usable: bool,
    pub(super) why: String,
    pub(super) class: &'static str,
    pub(super) state: &'static str,
    pub(super) latency: String,
    pub(super) limits: Effective,
    pub(super) tcp: u32,
    pub(super) udp: u32,
}

/// A tunnel.
pub(super) struct Tunnel {
    pub(super) it: Connection,
    pub(super) class: &'static str,
    pub(super) phase: &'static str,
    pub(super) why: Option<String>,
    pub(super) ended: Option<Refusal>,
    pub(super) proxies: Vec<Proxy>,
    pub(super) bars: Vec<Bar>,
    pub(super) rates: Option<(String, String)>,
    pub(super) refusals: Vec<Refusal>,
}

/// One of its proxies.
pub(super) struct Proxy {
    pub(super) it: ProxyState,
    /// With its type in front, for a person to copy.
    pub(super) url: Option<String>,
    pub(super) refused: Option<Refusal>,
}

/// How much of a limit is in use.
pub(super) struct Bar {
    pub(super) name: &'static str,
    pub(super) used: u32,
    pub(super) most: u32,
}

impl Refusal {
    /// As it was told.
    pub(super) fn of(told: &crate::told::Told, lang: Lang) -> Self {
        Refusal {
            code: told.code.clone(),
            what: told.what(lang),
            next: told.next(lang),
        }
    }

    /// An error's.
    pub(super) fn of_error(error: &crate::Error, lang: Lang) -> Self {
        Refusal {
            code: match error {
                crate::Error::Refused(told) => told.code.clone(),
                _ => String::new(),
            },
            what: error.what(lang),
            next: error.next(lang),
        }
    }
}

impl Tunnel {
    pub(super) fn new(it: Connection, lang: Lang) -> Self {
        let say = |en, zh| totoro_web::say(lang, en, zh);
        let state = &it.tunnel;
        let (class, phase) = match state.phase {
            Phase::Running if state.draining => (
                "draining",
                say("running, the node drains", "运行中，节点正在排空"),
            ),
            Phase::Running => ("online", say("running", "运行中")),
            Phase::Connecting => ("degraded", say("connecting", "连接中")),
            Phase::Reconnecting => ("degraded", say("reconnecting", "重新连接中")),
            Phase::Stopped => ("offline", say("ended", "已结束")),
        };
        let rates = state.stats.as_ref().map(|stats: &Stats| {
            (
                totoro_web::rate(stats.rate_in),
                totoro_web::rate(stats.rate_out),
            )
        });
        let refused = state.stats.iter().flat_map(|stats| &stats.refused);
        let refusals = refused.filter_map(|(code, count)| {
            let reason = totoro_api::Reason::from_code(code)?;
            Some(Refusal {
                code: format!("{count} × {code}"),
                what: reason.what(lang).to_owned(),
                next: reason.next(lang).to_owned(),
            })
        });
        Tunnel {
            why: state.why.as_ref().map(|why| why.text(lang)),
            ended: it.tunnel.ended.as_ref().map(|told| Refusal::of(told, lang)),
            proxies: state
                .proxies
                .iter()
                .map(|proxy| Proxy::new(proxy, lang))
                .collect(),
            bars: bars(&state.limits, state.left, lang),
            refusals: refusals.collect(),
            class,
            phase,
            rates,
            it,
        }
    }

    /// Whether it goes on by itself.
    pub(super) fn lives(&self) -> bool {
        self.it.tunnel.phase != Phase::Stopped
    }
}

impl Proxy {
    fn new(proxy: &ProxyState, lang: Lang) -> Self {
        Proxy {
            url: proxy
                .address
                .as_ref()
                .map(|address| format!("{}://{address}", proxy.protocol)),
            refused: proxy.refused.as_ref().map(|told| Refusal::of(told, lang)),
            it: proxy.clone(),
        }
    }
}

fn bars(limits: &Effective, left: Left, lang: Lang) -> Vec<Bar> {
    let say = |en, zh| totoro_web::say(lang, en, zh);
    [
        (
            say("TCP connections", "TCP 连接"),
            limits.max_conns,
            left.conns,
        ),
        (say("UDP flows", "UDP 流"), limits.max_flows, left.flows),
        (say("tunnels", "隧道"), limits.max_proxies, left.proxies),
        (say("clients", "客户端"), limits.max_clients, left.clients),
    ]
    .map(|(name, most, left)| Bar {
        name,
        used: most.saturating_sub(left),
        most,
    })
    .into()
}

impl Node {
    pub(super) fn new(ranked: &Ranked, lang: Lang) -> Self {
        Node {
            usable: ranked.usable(),
            why: ranked.why(lang),
            class: totoro_web::class(ranked.node.state),
            state: totoro_web::state(lang, ranked.node.state),
            latency: ranked
                .latency_ms
                .map_or("–".to_owned(), |ms| format!("{ms:.0} ms")),
            limits: ranked.node.public_limits.over(&Limits::default()),
            tcp: ranked.node.free_of("tcp"),
            udp: ranked.node.free_of("udp"),
            ranked: ranked.clone(),
        }
    }
}
