//! What a person was given: a code, or the `frpc.toml` that has it in it, with the control plane's
//! address and perhaps proxies.

use serde::Deserialize;
use totoro_api::code::InviteCode;
use totoro_api::ports::Protocol;

use crate::error::Error;
use crate::lang::{Lang, say};
use crate::target::{Local, Target, Wanted};

/// An invite, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The code, or a public node's name.
    pub source: crate::Source,
    /// The control plane, where it is named.
    pub control: Option<String>,
    /// What is exposed, where it is named.
    pub wanted: Vec<Wanted>,
}

/// The parts of an frpc.toml that matter here. Everything else in it is frpc's own business.
#[derive(Deserialize)]
struct FrpcFile {
    auth: Auth,
    #[serde(default)]
    proxies: Vec<FrpcProxy>,
}

#[derive(Deserialize)]
struct Auth {
    oidc: Oidc,
}

#[derive(Deserialize)]
struct Oidc {
    #[serde(rename = "clientSecret")]
    client_secret: String,
    #[serde(rename = "tokenEndpointURL")]
    token_endpoint_url: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FrpcProxy {
    name: String,
    #[serde(rename = "type")]
    protocol: Protocol,
    #[serde(rename = "localIP", default)]
    local_ip: Option<String>,
    local_port: u16,
    #[serde(default)]
    remote_port: u16,
}

/// Reads a code, or a whole frpc.toml. Never quotes the text.
///
/// # Errors
/// It is neither.
pub fn read(text: &str, lang: Lang) -> Result<Given, Error> {
    if looks_like_frpc(text) {
        return read_frpc(text, lang);
    }
    let code = text.parse::<InviteCode>().map_err(Error::BadCode)?;
    Ok(Given {
        source: crate::Source::Invite(code),
        control: None,
        wanted: Vec::new(),
    })
}

/// Whether a text is an frpc.toml that fetches tickets by itself.
#[must_use]
pub fn looks_like_frpc(text: &str) -> bool {
    text.contains("tokenEndpointURL")
}

/// Reads an frpc.toml as `invites/resolve` returns it.
///
/// # Errors
/// It is none.
pub fn read_frpc(text: &str, lang: Lang) -> Result<Given, Error> {
    let file: FrpcFile = toml::from_str(text).map_err(|error| {
        // Its own text would quote the line, which may have the code in it.
        let line = line_of(text, error.span());
        let problem = error.message();
        Error::Usage(say!(
            lang,
            "the frpc.toml, line {line}: {problem}",
            "frpc.toml 第 {line} 行：{problem}"
        ))
    })?;
    let Oidc {
        client_secret,
        token_endpoint_url,
    } = file.auth.oidc;
    let source = match client_secret.strip_prefix("public:") {
        Some(node) => crate::Source::Public(node.to_owned()),
        None => crate::Source::Invite(client_secret.parse().map_err(Error::BadCode)?),
    };
    let control = token_endpoint_url.strip_suffix("/api/v1/oauth/token");
    let wanted = file.proxies.into_iter().map(|proxy| {
        let host = proxy.local_ip.unwrap_or_else(|| "127.0.0.1".to_owned());
        let target = Target {
            host,
            port: proxy.local_port,
        };
        Wanted {
            name: Some(proxy.name),
            protocol: proxy.protocol,
            local: Local::Text(target.to_string()),
            remote_port: proxy.remote_port,
        }
    });
    Ok(Given {
        source,
        control: control.map(str::to_owned),
        wanted: wanted.collect(),
    })
}

/// The number of the line in which a span begins.
pub(crate) fn line_of(text: &str, span: Option<std::ops::Range<usize>>) -> usize {
    let end = span.map_or(0, |span| span.start).min(text.len());
    text.as_bytes()[..end]
        .iter()
        .filter(|&&byte| byte == b'\n')
        .count()
        + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Source;

    fn code() -> InviteCode {
        InviteCode::from_entropy([7; 16])
    }

    #[test]
    fn a_code_or_a_file_with_it() {
        let given = read(&format!(" {}\n", code()), Lang::En).unwrap();
        assert_eq!(given.source, Source::Invite(code()));
        let file = format!(
            "serverAddr = \"n\"\nserverPort = 7000\nuser = \"i\"\n[auth]\nmethod = \"oidc\"\n\
             [auth.oidc]\nclientID = \"totoro\"\nclientSecret = \"{}\"\n\
             tokenEndpointURL = \"https://c.example.org/api/v1/oauth/token\"\n\
             [[proxies]]\nname = \"web\"\ntype = \"tcp\"\nlocalIP = \"::1\"\nlocalPort = 80\n",
            code()
        );
        let given = read(&file, Lang::En).unwrap();
        assert_eq!(given.control.as_deref(), Some("https://c.example.org"));
        assert_eq!(given.source, Source::Invite(code()));
        assert_eq!(given.wanted[0].local, Local::Text("[::1]:80".to_owned()));
    }

    #[test]
    fn what_is_wrong_is_told_without_the_text() {
        let wrong = format!("{}X", code());
        let error = read(&wrong, Lang::En).unwrap_err();
        assert!(!error.to_string().contains(&wrong), "{error}");
        let file = format!(
            "[auth.oidc]\nclientSecret = \"{}\ntokenEndpointURL = 5",
            code()
        );
        let error = read(&file, Lang::En).unwrap_err().to_string();
        assert!(
            error.contains("line 2") && !error.contains(&code().to_string()),
            "{error}"
        );
        assert!(read(&"x".repeat(10 << 20), Lang::Zh).is_err());
    }
}
