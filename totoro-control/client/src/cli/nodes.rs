//! `totoro nodes`: the public nodes, best first, and why.

use clap::Args;
use serde::Serialize;
use totoro_api::limits::Limits;
use totoro_api::ports::Protocol;
use totoro_cli::Table;

use super::Common;
use super::output::Output;
use super::words::limits_text;
use crate::error::Error;
use crate::lang::say;
use crate::nodes::{Ranked, measured};

/// Which nodes.
#[derive(Args)]
pub(super) struct Nodes {
    /// Only those in this region.
    #[arg(long)]
    region: Option<String>,
    /// Only those in this network.
    #[arg(long)]
    isp: Option<String>,
    /// Only the best so many.
    #[arg(long, value_name = "COUNT")]
    top: Option<usize>,
}

/// One for programs.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    ranked: &'a Ranked,
    usable: bool,
    why: String,
}

impl Nodes {
    pub(super) async fn run(self, common: &Common, output: Output) -> Result<u8, Error> {
        let lang = output.lang;
        let control = common.control(output)?;
        let nodes = measured(&control).await?;
        let is = |asked: &Option<String>, has: &str| {
            asked
                .as_ref()
                .is_none_or(|asked| asked.eq_ignore_ascii_case(has))
        };
        let mine =
            |one: &&Ranked| is(&self.region, &one.node.region) && is(&self.isp, &one.node.isp);
        let nodes: Vec<&Ranked> = nodes
            .iter()
            .filter(mine)
            .take(self.top.unwrap_or(usize::MAX))
            .collect();
        if output.json {
            let shown = nodes.iter().map(|ranked| Shown {
                ranked,
                usable: ranked.usable(),
                why: ranked.why(lang),
            });
            output.json(&shown.collect::<Vec<_>>());
            return Ok(0);
        }
        if nodes.is_empty() {
            output.line(&say!(
                lang,
                "there is no public node here: ask somebody for an invite",
                "这里没有公共节点：请向他人索取邀请码"
            ));
            return Ok(0);
        }
        let mut table = Table::new([
            say!(lang, "NAME", "名称"),
            say!(lang, "REGION", "地区"),
            say!(lang, "NETWORK", "网络"),
            say!(lang, "LATENCY", "延迟"),
            say!(lang, "LOAD", "负载"),
            say!(lang, "FREE PORTS", "空闲端口"),
            say!(lang, "WHY HERE", "排序原因"),
        ]);
        for one in &nodes {
            let latency = one.latency_ms.map(|ms| format!("{ms:.0} ms"));
            let free = one.node.free_ports.iter();
            let free: Vec<String> = free
                .map(|(kind, count)| format!("{kind} {count}"))
                .collect();
            table.row([
                one.node.name.clone(),
                or_dash(&one.node.region),
                or_dash(&one.node.isp),
                or_dash(&latency.unwrap_or_default()),
                format!("{:.0} %", one.node.cpu_percent),
                or_dash(&free.join(", ")),
                one.why(lang),
            ]);
        }
        output.table(&table);
        if let Some(best) = nodes.iter().find(|one| one.usable()) {
            let limits = best.node.public_limits.over(&Limits::default());
            let limits = limits_text(&limits, Protocol::Tcp, lang);
            let name = &best.node.name;
            output.line(&say!(
                lang,
                "\nthe best is {name}: {limits}\n  use it: totoro tcp 22 --node {name}",
                "\n最佳为 {name}：{limits}\n  使用：totoro tcp 22 --node {name}"
            ));
        }
        Ok(0)
    }
}

fn or_dash(text: &str) -> String {
    match text {
        "" => "–".to_owned(),
        text => text.to_owned(),
    }
}
