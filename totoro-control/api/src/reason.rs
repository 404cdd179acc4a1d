//! Why something was refused: one stable code and one stable number each, the same in frpc's log,
//! the REST error, the audit event, the metric label and the kernel's counter.
//!
//! The table only grows. Numbers are ABI (the kernel's counters are keyed by them); a retired
//! number stays reserved as a tombstone comment. `docs/reasons.md` is generated from this table
//! and checked by a test.

/// The language of a text for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lang {
    /// English, the default.
    #[default]
    En,
    /// Simplified Chinese.
    Zh,
}

macro_rules! reasons {
    ($($(#[$group:meta])* $number:literal $variant:ident $code:literal
        en: $en:literal / $en_next:literal
        zh: $zh:literal / $zh_next:literal;)+) => {
        /// A refusal's cause. The discriminant is the stable number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        #[non_exhaustive]
        pub enum Reason {
            $(#[doc = concat!("`", $code, "`: ", $en, ".")] $variant = $number,)+
        }

        impl Reason {
            /// Every reason, in the order of the numbers.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant),+];

            /// The stable code, e.g. `max_conns`.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Reason::$variant => $code,)+ }
            }

            /// What happened, in one line for people, without a final stop.
            #[must_use]
            pub const fn what(self, lang: Lang) -> &'static str {
                match (self, lang) {
                    $((Reason::$variant, Lang::En) => $en, (Reason::$variant, Lang::Zh) => $zh,)+
                }
            }

            /// What to do next, in one line for people, without a final stop.
            #[must_use]
            pub const fn next(self, lang: Lang) -> &'static str {
                match (self, lang) {
                    $((Reason::$variant, Lang::En) => $en_next, (Reason::$variant, Lang::Zh) => $zh_next,)+
                }
            }

            /// The reason with this number, if there is one.
            #[must_use]
            pub const fn from_number(number: u32) -> Option<Reason> {
                match number { $($number => Some(Reason::$variant),)+ _ => None }
            }
        }
    };
}

impl Reason {
    /// The stable number, as the kernel's counters use it.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The reason with this code, if there is one.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Reason> {
        Reason::ALL
            .iter()
            .copied()
            .find(|reason| reason.code() == code)
    }
}

impl core::fmt::Display for Reason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(feature = "std")]
impl serde::Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

#[cfg(feature = "std")]
impl<'de> serde::Deserialize<'de> for Reason {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Reason::from_code(&code)
            .ok_or_else(|| serde::de::Error::custom(format_args!("unknown reason code {code:?}")))
    }
}

reasons! {
    10 TicketMissing "ticket_missing"
        en: "no ticket came with the login" / "use the frpc.toml that resolving the invite returns"
        zh: "登录未携带票据" / "请使用解析邀请码得到的 frpc.toml";
    11 TicketMalformed "ticket_malformed"
        en: "the ticket cannot be read" / "fetch a new ticket with the invite code"
        zh: "票据无法解析" / "请用邀请码重新获取票据";
    12 TicketForged "ticket_forged"
        en: "the ticket's signature is wrong" / "fetch a new ticket with the invite code"
        zh: "票据签名错误" / "请用邀请码重新获取票据";
    13 TicketExpired "ticket_expired"
        en: "the ticket has expired" / "restart frpc to fetch a new ticket, and check the clock"
        zh: "票据已过期" / "请重启 frpc 以获取新票据，并检查本机时间";
    14 TicketWrongNode "ticket_wrong_node"
        en: "the ticket is for another node" / "connect to the server address in your frpc.toml"
        zh: "票据属于其他节点" / "请连接 frpc.toml 中的服务器地址";
    15 TicketInUse "ticket_in_use"
        en: "the ticket is in use from another address" / "stop the other frpc, or fetch a ticket of your own"
        zh: "票据正被另一地址使用" / "请停止另一个 frpc，或自行获取新票据";
    16 SessionExpired "session_expired"
        en: "the session has reached its longest life" / "restart frpc to begin a new session"
        zh: "会话已达最长时限" / "请重启 frpc 以开始新会话";
    17 TicketKeyUnknown "ticket_key_unknown"
        en: "the ticket was signed with a key this node does not know" / "fetch a new ticket, or try again in a minute"
        zh: "节点不认识票据的签名密钥" / "请重新获取票据，或一分钟后重试";

    20 InviteUnknown "invite_unknown"
        en: "there is no such invite" / "check the code, or ask the lender for a new one"
        zh: "邀请不存在" / "请核对邀请码，或向节点主人索取新的";
    21 InviteRevoked "invite_revoked"
        en: "the invite was revoked" / "ask the lender for a new invite"
        zh: "邀请已被撤销" / "请向节点主人索取新的邀请码";
    22 InviteExpired "invite_expired"
        en: "the invite has expired" / "ask the lender to extend it"
        zh: "邀请已过期" / "请联系节点主人延期";
    23 InvitePaused "invite_paused"
        en: "the invite is paused" / "wait, or ask the lender to resume it"
        zh: "邀请已暂停" / "请稍候，或联系节点主人恢复";

    30 NodeUnknown "node_unknown"
        en: "there is no such node" / "list the nodes and choose one of them"
        zh: "节点不存在" / "请查看节点列表并另选节点";
    31 NodeDisabled "node_disabled"
        en: "the node is disabled" / "choose another node"
        zh: "节点已停用" / "请选择其他节点";
    32 NodeDraining "node_draining"
        en: "the node is draining and takes nothing new" / "choose another node, or try again later"
        zh: "节点正在排空，不接受新的请求" / "请选择其他节点，或稍后重试";
    33 NodeOffline "node_offline"
        en: "the node is offline" / "try again later, or choose another node"
        zh: "节点离线" / "请稍后重试，或选择其他节点";

    40 ClientBanned "client_banned"
        en: "this address is banned" / "ask the operator named in the node's abuse contact"
        zh: "该地址已被封禁" / "请联系节点公示的管理员";
    41 RateLimited "rate_limited"
        en: "too many requests from this address" / "wait a minute and try again"
        zh: "该地址请求过于频繁" / "请一分钟后重试";

    50 MaxClients "max_clients"
        en: "all of this invite's sessions are in use" / "stop another frpc or ask for a larger invite"
        zh: "该邀请的会话数已满" / "请停止其他 frpc，或申请更大的邀请";
    51 MaxProxies "max_proxies"
        en: "all of this invite's proxies are in use" / "close one or ask for a larger invite"
        zh: "该邀请的代理数已满" / "请关闭一个代理，或申请更大的邀请";
    52 MaxConns "max_conns"
        en: "all of this invite's connections are in use" / "close one or ask for a larger invite"
        zh: "该邀请的连接数已满" / "请关闭部分连接，或申请更大的邀请";
    53 MaxFlows "max_flows"
        en: "all of this invite's UDP flows are in use" / "wait for one to go idle or ask for a larger invite"
        zh: "该邀请的 UDP 流已满" / "请等待空闲流过期，或申请更大的邀请";
    54 MaxConnsPerSource "max_conns_per_source"
        en: "this source has all the connections it may have" / "close one of them first"
        zh: "该来源地址的连接数已满" / "请先关闭其中一个连接";
    55 ConnRate "conn_rate"
        en: "new connections come too fast" / "slow down or ask for a larger invite"
        zh: "新建连接过快" / "请降低频率，或申请更大的邀请";
    56 QuotaExceeded "quota_exceeded"
        en: "the invite's traffic quota is used up" / "wait for the next period or ask for a larger invite"
        zh: "该邀请的流量配额已用尽" / "请等待下一周期，或申请更大的邀请";
    57 PublicFull "public_full"
        en: "the node's public share is full" / "choose another node, or use an invite"
        zh: "该节点的公共份额已满" / "请选择其他节点，或使用邀请码";
    58 NodeFull "node_full"
        en: "the node is full" / "choose another node, or try again later"
        zh: "节点已满" / "请选择其他节点，或稍后重试";
    59 MaxInvites "max_invites"
        en: "the node has all invites that it may have" / "wait until ended ones are forgotten, 31 days after their end, or have the control plane's operator raise invites_per_node"
        zh: "该节点的邀请数已达上限" / "已结束的邀请在 31 天后清除；也可请控制面运维者调高 invites_per_node";

    60 ProxyTypeDenied "proxy_type_denied"
        en: "this type of proxy is not allowed" / "use type tcp or udp, as the invite allows"
        zh: "不允许该代理类型" / "请按邀请允许的类型使用 tcp 或 udp";
    61 PortOutsidePool "port_outside_pool"
        en: "the port is outside what this node lends" / "choose a port of the node's pool, or remotePort = 0"
        zh: "端口不在节点的端口池内" / "请选择端口池内的端口，或设 remotePort = 0";
    62 PortDenied "port_denied"
        en: "the port is not one of this invite's" / "choose one of the invite's ports, or remotePort = 0"
        zh: "该邀请无权使用此端口" / "请选择邀请允许的端口，或设 remotePort = 0";
    63 PortInUse "port_in_use"
        en: "the port is in use" / "choose another port, or remotePort = 0"
        zh: "端口已被占用" / "请选择其他端口，或设 remotePort = 0";
    64 PortCooling "port_cooling"
        en: "the port was another tenant's a moment ago" / "choose another port, or try again in some minutes"
        zh: "端口刚被其他租户释放，正在冷却" / "请选择其他端口，或几分钟后重试";
    65 PoolExhausted "pool_exhausted"
        en: "no port is free" / "try again later, or choose another node"
        zh: "没有空闲端口" / "请稍后重试，或选择其他节点";
    66 ProxyNameDenied "proxy_name_denied"
        en: "the proxy's name is not allowed" / "keep the user line of your frpc.toml, and use letters, digits, - and _"
        zh: "代理名称不被允许" / "请保留 frpc.toml 中的 user，并仅使用字母、数字、- 和 _";
    67 ProxyOptionDenied "proxy_option_denied"
        en: "an option of the proxy is not allowed" / "remove the option that is named"
        zh: "代理的某个选项不被允许" / "请移除所指出的选项";

    70 NoLease "no_lease"
        en: "no proxy holds this port" / "check the address; the tunnel may be down"
        zh: "没有代理占用此端口" / "请核对地址，隧道可能未启动";
    71 ReplyOnly "reply_only"
        en: "the node sends UDP only to those who wrote first" / "let the other side send the first datagram"
        zh: "节点只回复先发来数据的 UDP 地址" / "请让对方先发送数据";
    72 Surplus "surplus"
        en: "the connection was one too many of a burst" / "close one or ask for a larger invite"
        zh: "并发突增时超出限额的连接" / "请关闭部分连接，或申请更大的邀请";

    80 RequestMalformed "request_malformed"
        en: "the request cannot be understood" / "correct what is named and send it again"
        zh: "请求无法理解" / "请按提示修正后重试";
    81 RequestTooLarge "request_too_large"
        en: "the request is too large" / "send less at once"
        zh: "请求过大" / "请减少单次请求的内容";
    82 NotAuthorized "not_authorized"
        en: "the key or token is missing, wrong or not allowed to do this" / "check the key or token"
        zh: "密钥或令牌缺失、错误或权限不足" / "请检查密钥或令牌";
    83 NotFound "not_found"
        en: "there is no such thing" / "check the address and the id"
        zh: "对象不存在" / "请核对地址与编号";
    84 Conflict "conflict"
        en: "it has changed, or exists already" / "read it again and repeat the change"
        zh: "对象已变更或已存在" / "请重新读取后再修改";
    85 Unsupported "unsupported"
        en: "this is not supported here" / "see the node's features and versions"
        zh: "此处不支持" / "请查看节点的功能与版本";
    86 Internal "internal"
        en: "something failed inside" / "try again; if it stays, give the operator the request id"
        zh: "内部错误" / "请重试；若仍失败，请将请求编号告知管理员";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_codes_are_unique_and_found_again() {
        for pair in Reason::ALL.windows(2) {
            assert!(
                pair[0].number() < pair[1].number(),
                "{:?} is out of order",
                pair[1]
            );
        }
        for &reason in Reason::ALL {
            assert_eq!(Reason::from_number(reason.number()), Some(reason));
            assert_eq!(Reason::from_code(reason.code()), Some(reason));
            for lang in [Lang::En, Lang::Zh] {
                assert!(!reason.what(lang).is_empty() && !reason.next(lang).is_empty());
                assert!(
                    !reason.what(lang).ends_with('.'),
                    "{reason} ends with a stop"
                );
            }
        }
    }
}
