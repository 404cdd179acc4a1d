//! What `totoro` reads: files that a person was given, and what frpc prints.

use totoro_api::code::InviteCode;
use totoro_api::frpc::{Auth, Config, token_url};
use totoro_client::frpc::log::{self, Line};
use totoro_client::invite::{looks_like_frpc, read, read_frpc};
use totoro_client::target::{Local, Target as Service, proxies};
use totoro_client::told::{MAX_TEXT, Told};
use totoro_client::{Lang, Source, settings};

use crate::Target;

/// A code, an frpc.toml, or a file of `totoro connect`.
pub(crate) const FILE: Target = Target {
    name: "client-file",
    run: file,
    seeds: files,
};

/// A line of frpc's log.
pub(crate) const LOG: Target = Target {
    name: "client-log",
    run: line,
    seeds: lines,
};

fn file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let asked = match read(text, Lang::En) {
        Ok(given) => {
            assert_eq!(looks_like_frpc(text), text.parse::<InviteCode>().is_err());
            given.wanted
        }
        Err(error) => {
            quotes_nothing(text, &error.to_string());
            let other = read(text, Lang::Zh).expect_err("the language is of the words alone");
            quotes_nothing(text, &other.to_string());
            let ours = |lang| settings::read_text(std::path::Path::new("t.toml"), text, lang);
            match (ours(Lang::En), ours(Lang::Zh)) {
                (Ok(asked), Ok(_)) => asked.wanted,
                (Err(_), Err(_)) => return,
                _ => panic!("the language is of the words alone"),
            }
        }
    };
    let Ok(made) = proxies(&asked, "box", Lang::En) else {
        proxies(&asked, "box", Lang::Zh).expect_err("the language is of the words alone");
        return;
    };
    assert_eq!(made.len(), asked.len());
    // A stock frpc gets what was asked for, and what was written is read again.
    let code = InviteCode::from_entropy([7; 16]);
    let (secret, url) = (code.to_string(), token_url("https://c.example/"));
    let config = Config {
        server_addr: "n1.example",
        server_port: 7000,
        user: "inv_1",
        login_fail_exit: None,
        auth: Auth::new(&secret, &url),
        transport: None,
        log: None,
        web_server: None,
        proxies: &made,
    };
    let written = toml::to_string(&config).expect("a checked file is TOML");
    let given = read_frpc(&written, Lang::En).expect("what was written can be read");
    assert_eq!(given.source, Source::Invite(code));
    assert_eq!(given.control.as_deref(), Some("https://c.example"));
    assert_eq!(given.wanted.len(), made.len());
    for (wanted, proxy) in given.wanted.iter().zip(&made) {
        assert_eq!(wanted.name.as_deref(), Some(&*proxy.name));
        assert_eq!(
            (wanted.protocol, wanted.remote_port),
            (proxy.protocol, proxy.remote_port)
        );
        let Local::Text(local) = &wanted.local else {
            panic!("a service of an frpc.toml is a host and a port");
        };
        let service = Service::read(local, Lang::En).expect("what was written can be read");
        assert_eq!(
            (service.host, service.port),
            (proxy.local_ip.clone(), proxy.local_port)
        );
    }
    assert_eq!(
        proxies(&given.wanted, "box", Lang::En).expect("the same again"),
        made
    );
}

/// An error about a file with a secret in it must not show the secret.
fn quotes_nothing(text: &str, error: &str) {
    let secret = toml::from_str::<toml::Table>(text).ok().and_then(|table| {
        let secret = table.get("auth")?.get("oidc")?.get("clientSecret")?;
        Some(secret.as_str()?.to_owned())
    });
    // Shorter ones may be words of the message.
    if let Some(secret) = secret.filter(|secret| secret.len() >= 16) {
        assert!(!error.contains(&secret), "{error}");
    }
}

fn line(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let said = match log::read(text) {
        Line::LoginFailed(why) | Line::LocalFailed(why) => vec![why],
        Line::ProxyUp(name) => vec![name],
        Line::ProxyFailed(name, why) => vec![name, why],
        Line::Connecting | Line::LoggedIn | Line::Other => Vec::new(),
    };
    for part in &said {
        assert!(part.len() <= text.len());
        assert!(part.ends_with(log::bare(part, "inv_1")));
    }
    for told in [Told::in_line(text), Some(Told::by_frps(text))]
        .into_iter()
        .flatten()
    {
        for part in [&told.code, &told.what, &told.next] {
            assert!(part.chars().count() <= MAX_TEXT);
            assert!(!part.chars().any(char::is_control), "{part:?}");
        }
        if let Some(reason) = told.reason() {
            assert_eq!(reason.code(), told.code);
        }
        for lang in [Lang::En, Lang::Zh] {
            for shown in [told.what(lang), told.next(lang)] {
                assert!(!shown.chars().any(char::is_control), "{shown:?}");
            }
        }
    }
}

fn files() -> Vec<Vec<u8>> {
    let code = InviteCode::from_entropy([7; 16]);
    let ours = "control = \"https://c.example\"\nnode = \"n1\"\n[[proxies]]\ntype = \"tcp\"\nlocal = 22\n\
                [[proxies]]\nname = \"dns\"\ntype = \"udp\"\nlocal = \"10.0.0.1:53\"\nremote_port = 20053\n";
    let with_code = "invite_file = \"code\"\n[[proxies]]\ntype = \"tcp\"\nlocal = \"[::1]:80\"\n";
    let frpc = |secret: &str| {
        format!(
            "serverAddr = \"n\"\nserverPort = 7000\nuser = \"i\"\n[auth]\nmethod = \"oidc\"\n[auth.oidc]\n\
             clientID = \"totoro\"\nclientSecret = \"{secret}\"\n\
             tokenEndpointURL = \"https://c.example.org/api/v1/oauth/token\"\n\
             [[proxies]]\nname = \"web\"\ntype = \"tcp\"\nlocalIP = \"::1\"\nlocalPort = 80\nremotePort = 20001\n"
        )
    };
    let texts = [
        code.to_string(),
        ours.to_owned(),
        with_code.to_owned(),
        frpc(&code.to_string()),
        frpc("public:n1"),
    ];
    texts.map(String::into_bytes).into()
}

fn lines() -> Vec<Vec<u8>> {
    let head = "2026-11-28 13:42:13.266 [W] [client/service.go:322] ";
    [
        "try to connect to server...",
        "[abc] login to server success, get run id [abc]",
        "connect to server error: dial tcp 127.0.0.1:1: connect: connection refused",
        "[abc] [inv-1.box-tcp-22] start proxy success",
        "[abc] [x] connect to local service [127.0.0.1:22] error: dial tcp: refused",
        "[abc] [inv_1.web] start error: totoro[max_proxies]: this invite allows 2 proxies; close one or ask",
        "connect to server error: totoro[ticket_expired]: the ticket is old; x. With loginFailExit enabled, no",
        "[abc] [web] start error: port already used",
    ]
    .map(|rest| format!("{head}{rest}").into_bytes())
    .into()
}
