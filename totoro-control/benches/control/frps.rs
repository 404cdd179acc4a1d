//! Nodes at grade `callback`: four for each client, each with two sessions, and what their
//! stock frps ask. One session logs in again with a new ticket each time, the other has proxies and
//! user connections.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use futures_util::stream::iter;
use serde_json::{Value, json};

use crate::client::{Request, bytes_of};
use crate::support::{Control, Node, answer};

const JSON: &str = "application/json";

/// A node, how its frps shows its key, and its sessions as frps knows them.
struct Asking {
    key: String,
    authorization: String,
    /// What logs in: the invite, its code, and the session's run_id.
    login: (String, String, String),
    /// The other session's `user`.
    user: Value,
}

pub(crate) struct Nodes(Vec<Asking>);

/// A ticket, and whose.
pub(crate) struct Ticket {
    of: usize,
    ticket: String,
}

impl Nodes {
    pub(crate) async fn start(control: &Control, count: usize) -> Self {
        let mut nodes = Vec::new();
        for number in 0..count {
            nodes.push(Asking::start(control, number).await);
        }
        Nodes(nodes)
    }

    /// The keys that tickets are verified with, as JSON.
    pub(crate) async fn keys(&self, control: &Control) -> String {
        let state = control.get("/nodes/watch", &self.0[0].key).await;
        state.with(200)["keys"].to_string()
    }

    /// So many tickets, no two alike.
    pub(crate) async fn tickets(&self, control: &Control, count: usize) -> Vec<Ticket> {
        let fetched = (0..count).map(|number| async move {
            let of = number % self.0.len();
            let ticket = ticket(control, &self.0[of].login.1).await;
            Ticket { of, ticket }
        });
        iter(fetched).buffer_unordered(32).collect().await
    }

    /// Logins that go on with a session, each with a ticket of its own.
    pub(crate) fn login_requests(&self, server: &str, tickets: &[Ticket]) -> Request {
        let login = |(number, Ticket { of, ticket }): (usize, &Ticket)| {
            let node = &self.0[*of];
            let (invite, _, run_id) = &node.login;
            let content = login_of(invite, ticket, run_id, number);
            node.bytes(server, "handshake", "Login", &content)
        };
        Request::again(server, tickets.iter().enumerate().map(login).collect())
    }

    /// For each client the opening of a proxy, and its end.
    pub(crate) fn proxies(&self, server: &str) -> Vec<Vec<u8>> {
        let pair = |node: &Asking| {
            let name = format!("{}.web", node.user["user"].as_str().unwrap());
            let open = json!({
                "user": node.user, "proxy_name": name, "proxy_type": "tcp",
                "remote_port": 20_000, "use_encryption": false, "metas": null,
            });
            let close = json!({ "user": node.user, "proxy_name": name });
            [
                node.bytes(server, "proxy", "NewProxy", &open),
                node.bytes(server, "proxy", "CloseProxy", &close),
            ]
        };
        self.0.iter().flat_map(pair).collect()
    }

    /// A user connection on each node.
    pub(crate) fn conns(&self, server: &str) -> Vec<Vec<u8>> {
        let conn = |node: &Asking| {
            let name = format!("{}.web", node.user["user"].as_str().unwrap());
            let content = json!({
                "user": node.user, "proxy_name": name, "proxy_type": "tcp",
                "remote_addr": "203.0.113.7:5555",
            });
            node.bytes(server, "proxy", "NewUserConn", &content)
        };
        self.0.iter().map(conn).collect()
    }
}

impl Asking {
    async fn start(control: &Control, number: usize) -> Self {
        let new = json!({
            "name": format!("frps-{number}"),
            "server_addr": ["192.0.2.1:7000"],
            "pool": { "tcp": ["20000-20009"], "udp": ["20000-20009"] },
        });
        let made = control.post("/admin/nodes", &control.admin, new).await;
        let made = made.with(201);
        let node = Node::new(made["id"].as_str().unwrap());
        let mut enrolment = node.enrolment();
        enrolment["callback"] = json!(true);
        let token = made["token"].as_str().unwrap();
        let enrolled = control.post("/nodes/enroll", token, enrolment).await;
        enrolled.with(200);
        let basic = STANDARD.encode(format!("{}:{}", node.id, node.key));
        let mut asking = Asking {
            key: node.key.clone(),
            authorization: format!("Basic {basic}"),
            login: Default::default(),
            user: Value::Null,
        };
        let limits = json!({ "max_proxies": 4096, "conn_rate": 100_000 });
        for at in 0..2 {
            let (invite, code) = control.invite(&node, json!({ "limits": limits })).await;
            let ticket = ticket(control, &code).await;
            // Far from the addresses of the logins that are measured.
            let from = 60_000 * 1024 + number * 2 + at;
            let content = login_of(&invite, &ticket, "", from);
            let session = asking.login(control, &content).await;
            match at {
                0 => {
                    let run_id = session["run_id"].as_str().unwrap().to_owned();
                    asking.login = (invite, code, run_id);
                }
                _ => {
                    asking.user = json!({
                        "user": session["user"], "metas": session["metas"],
                        "run_id": session["run_id"],
                    });
                }
            }
        }
        asking
    }

    async fn login(&self, control: &Control, content: &Value) -> Value {
        let url = format!("{}/api/v1/frps/auth/handshake?op=Login", control.api);
        let request = control.http.post(url).header("content-type", JSON);
        let request = request.header("authorization", &self.authorization);
        let body = json!({ "version": "0.1.0", "op": "Login", "content": content });
        let said = answer(request.body(body.to_string())).await.with(200);
        assert_eq!(said["reject"], false, "{said}");
        said["content"].clone()
    }

    fn bytes(&self, server: &str, door: &str, op: &str, content: &Value) -> Vec<u8> {
        let body = json!({ "version": "0.1.0", "op": op, "content": content });
        let path = format!("/frps/auth/{door}?version=0.1.0&op={op}");
        bytes_of(server, &path, &self.authorization, JSON, &body.to_string())
    }
}

/// A Login as a stock frpc sends it; each from a network of its own, since they are limited by it.
fn login_of(user: &str, ticket: &str, run_id: &str, from: usize) -> Value {
    let from = format!(
        "[2001:db8:{:x}:{:x}::1]:4000",
        from >> 16 & 0xffff,
        from & 0xffff
    );
    json!({
        "version": "0.70.1", "hostname": "h", "os": "linux", "arch": "amd64", "user": user,
        "privilege_key": ticket, "timestamp": 1_700_000_000, "pool_count": 1, "metas": null,
        "run_id": run_id, "client_address": from,
    })
}

async fn ticket(control: &Control, code: &str) -> String {
    let token = control.oauth(code).await.with(200);
    token["access_token"].as_str().unwrap().to_owned()
}
