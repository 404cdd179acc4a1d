//! What frps asks of its plugin: a hostile frpc chooses most of it.

use serde_json::{Value, json};
use totoro_api::Refusal;
use totoro_api::decide::{
    Granted, LOGIN_META, MAX_NAME, check_login, check_text, client_of, read_proxy, rewritten,
    ticket_of, unreadable, user_denied, with_key,
};
use totoro_api::limits::{Effective, MAX_CONNS};
use totoro_api::wire::plugin::{Answer, CloseProxy, Login, NewProxy, NewUserConn, Request, User};

use crate::Target;

/// `{version, op, content}`.
pub(crate) const TARGET: Target = Target {
    name: "plugin",
    run,
    seeds,
};

/// The longest line that frpc is to print.
const LONGEST: usize = 1024;

fn run(data: &[u8]) {
    let request: Request = match serde_json::from_slice(data) {
        Ok(request) => request,
        Err(error) => return refused(&unreadable(&error)),
    };
    let content = request.content;
    match request.op.as_str() {
        "Login" => login(content),
        "NewProxy" => new_proxy(&content),
        "CloseProxy" => asked_by(serde_json::from_value(content).map(|read: CloseProxy| read.user)),
        "NewUserConn" => user_conn(content),
        _ => keyed(&content),
    }
}

/// A refusal is one line that a terminal and a log may show.
fn refused(refusal: &Refusal) {
    let line = refusal.to_string();
    assert!(
        line.len() <= LONGEST && !line.chars().any(char::is_control),
        "{line:?}"
    );
    let answer = Answer::refuse(refusal);
    // frps takes a refusal without a reason for a success.
    assert!(answer.reject && answer.unchange && !answer.reject_reason.is_empty());
    assert!(
        line.starts_with(&format!("totoro[{}]: ", refusal.reason.code())),
        "{line}"
    );
}

fn login(content: Value) {
    let body: Login = match serde_json::from_value(content.clone()) {
        Ok(body) => body,
        Err(error) => return refused(&unreadable(&error)),
    };
    if let Err(refusal) = check_login(&body) {
        return refused(&refusal);
    }
    assert!((0..=1000).contains(&body.pool_count));
    for text in [
        &body.user,
        &body.run_id,
        &body.hostname,
        &body.client_address,
        &body.version,
    ] {
        assert!(check_text("a field", text).is_ok(), "{text:?}");
    }
    if let Some(client) = client_of(&body.client_address) {
        assert_eq!(client.ip(), client.ip().to_canonical());
        assert_eq!(
            client_of(&client.to_string()),
            Some(client),
            "{}",
            body.client_address
        );
    }
    let ticket = ticket_of(&body);
    let brought = [&body.privilege_key]
        .into_iter()
        .chain(body.metas.iter().flat_map(|metas| metas.values()));
    assert!(ticket.is_empty() || brought.into_iter().any(|text| text == ticket));
    match user_denied(&body.user, Some("inv_1"), |_| false) {
        Some(refusal) => refused(&refusal),
        None => assert_eq!(body.user, "inv_1"),
    }
    if let Some(refusal) = user_denied(&body.user, None, |user| user == "inv_1") {
        refused(&refusal);
    } else {
        assert!(
            body.user.len() <= MAX_NAME && body.user.bytes().all(named) && body.user != "inv_1"
        );
    }

    let granted = Granted {
        run_id: "0123".to_owned(),
        nonce: "n".to_owned(),
    };
    let answer = rewritten(content.clone(), &body, &granted);
    assert!(!answer.reject && !answer.unchange);
    let told = answer.content.expect("the whole content");
    for (name, value) in content.as_object().expect("a Login that was read") {
        if !["privilege_key", "run_id", "pool_count", "metas"].contains(&name.as_str()) {
            assert_eq!(told.get(name), Some(value), "{name} is not ours to change");
        }
    }
    let read: Login = serde_json::from_value(told).expect("what frps is told is a Login");
    assert_eq!((&*read.run_id, read.privilege_key.len()), ("0123", 32));
    assert!((0..=5).contains(&read.pool_count) && read.pool_count <= body.pool_count);
    let metas = read.metas.expect("ours is among them");
    assert_eq!(metas[LOGIN_META], "n");
    assert!(
        !metas.contains_key("totoro_ticket"),
        "a ticket is not told on"
    );
}

const fn named(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

fn new_proxy(content: &Value) {
    let body: NewProxy = match serde_json::from_value(content.clone()) {
        Ok(body) => body,
        Err(error) => return refused(&unreadable(&error)),
    };
    let limits = Effective::fallback();
    assert!(limits.max_conns <= MAX_CONNS);
    match read_proxy(&body, &body.user.user, &limits) {
        Err(refusal) => refused(&refusal),
        Ok(asked) => {
            assert!((1..=MAX_NAME).contains(&asked.name.len()) && asked.name.bytes().all(named));
            let user = &body.user.user;
            let wire = if user.is_empty() {
                asked.name.clone()
            } else {
                format!("{user}.{}", asked.name)
            };
            assert_eq!(wire, body.proxy_name);
            assert_eq!(asked.protocol.as_str(), body.proxy_type);
            assert_eq!(i64::from(asked.port.unwrap_or(0)), body.remote_port);
            assert!(body.group.is_empty(), "a group shares one port");
        }
    }
}

fn asked_by(read: serde_json::Result<User>) {
    match read {
        Err(error) => refused(&unreadable(&error)),
        Ok(user) => {
            if let Err(refusal) = check_text("run_id", &user.run_id) {
                refused(&refusal);
            }
        }
    }
}

fn user_conn(content: Value) {
    let body: NewUserConn = match serde_json::from_value(content) {
        Ok(body) => body,
        Err(error) => return refused(&unreadable(&error)),
    };
    if let Some(client) = client_of(&body.remote_addr) {
        assert_eq!(client.ip(), client.ip().to_canonical());
    }
}

/// Ping and NewWorkConn: only the key is ours.
fn keyed(content: &Value) {
    let answer = with_key(content.clone());
    let Some(told) = answer.content else {
        return assert!(answer.reject && !answer.reject_reason.is_empty());
    };
    assert!(!answer.reject && !answer.unchange);
    assert_eq!(told["privilege_key"].as_str().map(str::len), Some(32));
    let (mut told, mut sent) = (told, content.clone());
    for content in [&mut told, &mut sent] {
        content
            .as_object_mut()
            .expect("an object")
            .remove("privilege_key");
    }
    assert_eq!(told, sent);
}

fn seeds() -> Vec<Vec<u8>> {
    let user =
        json!({"user": "inv_1", "metas": {"totoro_login": "n"}, "run_id": "0123456789abcdef"});
    let of = |op: &str, content: Value| json!({"version": "0.1.0", "op": op, "content": content});
    let login = json!({
        "version": "0.70.1", "hostname": "box", "os": "linux", "arch": "amd64", "user": "inv_1",
        "privilege_key": "v4.public.AAAA", "timestamp": 1_700_000_000, "run_id": "", "client_id": "",
        "metas": null, "pool_count": 1, "client_address": "[::ffff:192.0.2.1]:50000", "client_spec": {},
    });
    let mut anonymous = login.clone();
    anonymous["user"] = json!("public-1");
    anonymous["metas"] = json!({"totoro_ticket": "v4.public.BBBB", "mine": "x"});
    anonymous["privilege_key"] = json!("0123456789abcdef0123456789abcdef");
    let proxy = json!({
        "user": user, "proxy_name": "inv_1.web", "proxy_type": "tcp", "remote_port": 20001, "group": "",
        "group_key": "", "bandwidth_limit_mode": "client", "use_encryption": true,
    });
    let mut grouped = proxy.clone();
    grouped["group"] = json!("g");
    [
        of("Login", login),
        of("Login", anonymous),
        of("NewProxy", proxy),
        of("NewProxy", grouped),
        of("CloseProxy", json!({"user": user, "proxy_name": "inv_1.web"})),
        of("NewUserConn", json!({
            "user": user, "proxy_name": "inv_1.web", "proxy_type": "tcp", "remote_addr": "198.51.100.1:5",
        })),
        of("Ping", json!({"user": user, "timestamp": 1_700_000_000, "privilege_key": ""})),
        of("NewWorkConn", json!({"user": user, "run_id": "0123456789abcdef"})),
    ]
    .iter()
    .map(|request| request.to_string().into_bytes())
    .collect()
}
