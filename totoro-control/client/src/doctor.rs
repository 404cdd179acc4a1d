//! What stands between here and a tunnel, looked at one by one.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use totoro_api::limits::Effective;

use crate::access::Source;
use crate::control::Control;
use crate::error::Error;
use crate::frpc::Frpc;
use crate::lang::{Lang, say};
use crate::nodes::latency;

/// A clock this far off makes certificates and tickets fail (the node allows 60 s).
const SKEW: Duration = Duration::from_secs(30);

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Well.
    Ok,
    /// Not as it should be, and no reason to fail.
    Warn,
    /// It keeps a tunnel from working.
    Bad,
    /// Not looked at, for what is above.
    Skipped,
}

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What, e.g. `frpc`.
    pub what: &'static str,
    /// How it is.
    pub health: Health,
    /// What was seen.
    pub detail: String,
    /// What to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
    /// The exit code where it is bad.
    #[serde(skip)]
    pub exit_code: u8,
}

impl Check {
    fn ok(what: &'static str, detail: String) -> Self {
        Check {
            what,
            health: Health::Ok,
            detail,
            next: String::new(),
            exit_code: 0,
        }
    }

    fn bad(what: &'static str, error: &Error, lang: Lang) -> Self {
        Check {
            what,
            health: Health::Bad,
            detail: match error {
                Error::Refused(told) => format!("{}: {}", told.code, error.what(lang)),
                _ => error.what(lang),
            },
            next: error.next(lang),
            exit_code: error.exit_code(),
        }
    }

    fn skipped(what: &'static str, detail: String) -> Self {
        Check {
            health: Health::Skipped,
            ..Check::ok(what, detail)
        }
    }
}

/// Looks at frpc.
pub async fn frpc(given: Option<&Path>, lang: Lang) -> Check {
    match Frpc::find(given).await {
        Ok(frpc) => Check::ok("frpc", format!("{} {}", frpc.path.display(), frpc.version)),
        Err(error) => Check::bad("frpc", &error, lang),
    }
}

/// Looks at all that the control plane can tell. `Err` is why there is no control plane or no way in.
pub async fn beyond(
    control: Result<Control, Error>,
    source: Result<Source, Error>,
    lang: Lang,
) -> Vec<Check> {
    let before = || say!(lang, "not looked at, for what is above", "因上述问题未检查");
    let control = match control {
        Ok(control) => control,
        Err(error) => {
            return vec![
                Check::bad("control", &error, lang),
                Check::skipped("invite", before()),
                Check::skipped("node", before()),
            ];
        }
    };
    let mut checks = match control.clock().await {
        Ok((time, took)) => vec![
            Check::ok(
                "control",
                format!("{}, {:.0} ms", control.url(), took.as_secs_f64() * 1000.0),
            ),
            clock(time, SystemTime::now(), lang),
        ],
        Err(error) => {
            return vec![
                Check::bad("control", &error, lang),
                Check::skipped("invite", before()),
                Check::skipped("node", before()),
            ];
        }
    };
    match source {
        Err(Error::NoCode) => {
            let detail = say!(lang, "no code was given", "未提供邀请码");
            checks.push(Check::skipped("invite", detail));
        }
        Err(error) => checks.push(Check::bad("invite", &error, lang)),
        Ok(source) => checks.extend(way_in(&control, &source, lang).await),
    }
    checks
}

fn clock(theirs: SystemTime, ours: SystemTime, lang: Lang) -> Check {
    let off = match ours.duration_since(theirs) {
        Ok(ahead) => ahead,
        Err(behind) => behind.duration(),
    };
    let seconds = off.as_secs();
    if off <= SKEW {
        return Check::ok("clock", say!(lang, "{seconds} s off", "相差 {seconds} 秒"));
    }
    Check {
        health: Health::Warn,
        next: say!(
            lang,
            "set this machine's clock (timedatectl set-ntp true)",
            "请校准本机时间（timedatectl set-ntp true）"
        ),
        ..Check::ok(
            "clock",
            say!(
                lang,
                "{seconds} s off the control plane's",
                "与控制面相差 {seconds} 秒"
            ),
        )
    }
}

async fn way_in(control: &Control, source: &Source, lang: Lang) -> Vec<Check> {
    let what = if source.is_public() {
        "public node"
    } else {
        "invite"
    };
    let access = match source.access(control).await {
        Ok(access) => access,
        Err(error) => return vec![Check::bad(what, &error, lang)],
    };
    let node = &access.node_name;
    let Effective {
        max_clients,
        max_proxies,
        ..
    } = access.limits;
    let detail = say!(
        lang,
        "good for node {node}: {max_clients} clients, {max_proxies} proxies",
        "可用于节点 {node}：{max_clients} 个客户端，{max_proxies} 个代理"
    );
    let mut checks = vec![Check::ok(what, detail)];
    let list = access.server_addr.join(", ");
    checks.push(match latency(&access.server_addr).await {
        Some(ms) => Check::ok("node", format!("{list}, {ms:.0} ms")),
        None => Check {
            health: Health::Bad,
            exit_code: 3,
            next: say!(
                lang,
                "check the network, and whether a firewall here keeps outgoing connections to that port",
                "请检查网络，以及本地防火墙是否拦截到该端口的出站连接"
            ),
            ..Check::ok("node", say!(lang, "{list} does not answer", "{list} 无应答"))
        },
    });
    if access.tls_ca.is_empty() {
        checks.push(Check {
            health: Health::Warn,
            next: say!(
                lang,
                "ask the node's operator to give frps a certificate (totoro-node frps-config)",
                "请节点管理员为 frps 配置证书（totoro-node frps-config）"
            ),
            ..Check::ok(
                "certificate",
                say!(lang, "the node has published none", "节点未公布证书"),
            )
        });
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_either_way() {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        for theirs in [now - hour, now + hour] {
            let check = clock(theirs, now, Lang::En);
            assert_eq!(check.health, Health::Warn);
            assert!(check.detail.starts_with("3600 s off"), "{check:?}");
        }
        assert_eq!(clock(now, now, Lang::Zh).health, Health::Ok);
    }

    #[tokio::test]
    async fn without_a_control_plane_the_rest_is_skipped() {
        let checks = beyond(Err(Error::NoControl), Err(Error::NoCode), Lang::En).await;
        let of = |what: &str| checks.iter().find(|check| check.what == what).unwrap();
        assert_eq!(
            (of("control").health, of("control").exit_code),
            (Health::Bad, 2)
        );
        assert_eq!(of("node").health, Health::Skipped);
    }
}
