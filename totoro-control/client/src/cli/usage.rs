//! `totoro usage`: what an invite allows, has used and has left.

use clap::Args;
use totoro_api::Reason;
use totoro_api::ticket::unix;
use totoro_api::wire::invite::Usage;
use totoro_api::wire::push::InviteState;
use totoro_cli::Table;

use super::Common;
use super::output::{Output, bytes, span};
use crate::access::Source;
use crate::error::Error;
use crate::lang::{Lang, say};
use crate::told::clean;

/// Nothing to choose.
#[derive(Args)]
pub(super) struct UsageCommand {}

impl UsageCommand {
    pub(super) async fn run(self, common: &Common, output: Output) -> Result<u8, Error> {
        let lang = output.lang;
        let mut answers = common.answers(None, output).await?;
        let Source::Invite(code) = &answers.source else {
            return Err(Error::NoCode);
        };
        let usage = answers.control.usage(code).await?;
        answers.keep(output)?;
        if output.json {
            output.json(&usage);
            return Ok(0);
        }
        let (invite, state) = (clean(&usage.invite), state_text(usage.state, lang));
        let age = span(usage.age_s, lang);
        output.line(&say!(
            lang,
            "invite {invite}: {state}; the node's figures are {age} old",
            "邀请 {invite}：{state}；节点数据为 {age}前"
        ));
        if let Some(ends) = usage.expires_at.as_deref().and_then(unix) {
            let ends = totoro_web::moment(ends);
            output.line(&say!(lang, "it ends at {ends}", "到期时间：{ends}"));
        }
        output.table(&figures(&usage, lang));
        let (bytes_in, bytes_out) = (bytes(usage.usage.bytes_in), bytes(usage.usage.bytes_out));
        let admitted = usage.usage.admitted;
        output.line(&say!(
            lang,
            "so far: {admitted} connections, {bytes_in} from users, {bytes_out} to users",
            "累计：{admitted} 个连接，来自用户 {bytes_in}，发往用户 {bytes_out}"
        ));
        for lease in &usage.usage.leases {
            let (kind, proxy) = (clean(&lease.protocol), clean(&lease.proxy));
            output.line(&format!(
                "  {kind} {}:{}  {proxy}",
                clean(&lease.address),
                lease.port
            ));
        }
        for (reason, count) in &usage.usage.refused {
            let (code, what, next) = (reason.code(), reason.what(lang), reason.next(lang));
            let next = output.next(next);
            output.line(&say!(
                lang,
                "refused {count} times: {code}: {what}\n  {next}",
                "已拒绝 {count} 次：{code}：{what}\n  {next}"
            ));
        }
        Ok(0)
    }
}

/// What holds, is in use, and is left.
fn figures(usage: &Usage, lang: Lang) -> Table {
    let Usage { limits, usage, .. } = usage;
    let mut table = Table::new([
        String::new(),
        say!(lang, "USED", "已用"),
        say!(lang, "ALLOWED", "上限"),
        say!(lang, "LEFT", "剩余"),
    ]);
    let count = |list: usize| u64::try_from(list).unwrap_or(u64::MAX);
    for (name, used, most) in [
        (
            say!(lang, "connections", "连接"),
            usage.conns,
            limits.max_conns,
        ),
        (
            say!(lang, "UDP flows", "UDP 流"),
            usage.flows,
            limits.max_flows,
        ),
        (
            say!(lang, "clients", "客户端"),
            count(usage.sessions.len()),
            limits.max_clients,
        ),
        (
            say!(lang, "proxies", "代理"),
            count(usage.leases.len()),
            limits.max_proxies,
        ),
    ] {
        let left = u64::from(most).saturating_sub(used);
        table.row([name, used.to_string(), most.to_string(), left.to_string()]);
    }
    table
}

fn state_text(state: InviteState, lang: Lang) -> String {
    match state {
        InviteState::Active => say!(lang, "active", "有效"),
        InviteState::Paused => Reason::InvitePaused.what(lang).to_owned(),
        InviteState::Revoked => Reason::InviteRevoked.what(lang).to_owned(),
        InviteState::Expired => Reason::InviteExpired.what(lang).to_owned(),
        InviteState::Unknown => say!(
            lang,
            "of a kind that this version does not know",
            "此版本不认识的状态"
        ),
    }
}
