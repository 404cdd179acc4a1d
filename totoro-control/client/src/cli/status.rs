//! `totoro status`: the tunnels that run, of all this user's programs.

use clap::Args;
use totoro_cli::Table;

use super::output::{Output, span};
use crate::error::Error;
use crate::lang::say;
use crate::running::{age, list};
use crate::tunnel::Phase;

/// Nothing to choose.
#[derive(Args)]
pub(super) struct Status {}

impl Status {
    pub(super) fn run(self, output: Output) -> Result<u8, Error> {
        let lang = output.lang;
        let entries = list()?;
        if output.json {
            output.json(&entries);
            return Ok(0);
        }
        if entries.is_empty() {
            output.line(&say!(lang, "no tunnel runs", "没有运行中的隧道"));
            return Ok(0);
        }
        let mut table = Table::new([
            say!(lang, "PID", "进程"),
            say!(lang, "NODE", "节点"),
            say!(lang, "ADDRESS", "地址"),
            say!(lang, "SERVICE", "服务"),
            say!(lang, "STATE", "状态"),
            say!(lang, "SINCE", "时长"),
        ]);
        for entry in &entries {
            let tunnel = &entry.tunnel;
            for proxy in &tunnel.proxies {
                let state = match (tunnel.phase, &proxy.refused) {
                    (Phase::Running, Some(told)) => told.code.clone(),
                    (Phase::Running, None) if proxy.up => say!(lang, "up", "运行中"),
                    (Phase::Running | Phase::Connecting, _) => say!(lang, "connecting", "连接中"),
                    (Phase::Reconnecting, _) => say!(lang, "reconnecting", "重连中"),
                    (Phase::Stopped, _) => say!(lang, "stopped", "已停止"),
                };
                let address = proxy.address.clone().unwrap_or_else(|| "–".to_owned());
                table.row([
                    entry.pid.to_string(),
                    tunnel.node_name.clone(),
                    format!("{}://{address}", proxy.protocol),
                    proxy.local.clone(),
                    state,
                    span(age(tunnel.since), lang),
                ]);
            }
        }
        output.table(&table);
        for entry in &entries {
            if let Some(why) = &entry.tunnel.why {
                output.line(&format!("{}: {}", entry.pid, why.text(lang)));
            }
        }
        Ok(0)
    }
}
