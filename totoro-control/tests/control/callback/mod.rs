//! A stock frps without our daemon, as the control plane sees one: the plugin protocol, every
//! operation and every reason.

mod commands;
mod house;
mod kicks;
mod living;
mod logins;
mod proxies;
mod races;
mod real;
mod requests;
mod shown;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::{Control, Node};

/// A stock frps: its node, and how it shows the node's key.
pub(crate) struct Frps {
    pub(crate) node: Node,
}

/// A frpc that has logged in, as frps knows it.
#[derive(Clone)]
struct Session {
    user: Value,
}

impl Frps {
    /// A node enrolled without a daemon.
    pub(crate) async fn new(control: &Control, name: &str, more: Value) -> Self {
        let mut new = json!({
            "name": name,
            "server_addr": ["192.0.2.1:7000"],
            "pool": { "tcp": ["20000-20009"], "udp": ["20000-20009"] },
        });
        let fields = new.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        let made = control
            .post("/admin/nodes", &control.admin, new)
            .await
            .with(201);
        let node = Node::new(made["id"].as_str().unwrap());
        let mut enrolment = node.enrolment();
        enrolment["callback"] = json!(true);
        let token = made["token"].as_str().unwrap();
        control
            .post("/nodes/enroll", token, enrolment)
            .await
            .with(200);
        Frps { node }
    }

    /// What frps is answered, whatever it is: always 200, never without a reason, never an empty
    /// content.
    async fn ask(&self, control: &Control, op: &str, content: Value) -> Value {
        let door = match op {
            "Login" | "Ping" | "NewWorkConn" => "handshake",
            _ => "proxy",
        };
        let body = json!({ "version": "0.1.0", "op": op, "content": content });
        self.ask_raw(control, door, op, body.to_string()).await
    }

    async fn ask_raw(&self, control: &Control, door: &str, op: &str, body: String) -> Value {
        let basic = STANDARD.encode(format!("{}:{}", self.node.id, self.node.key));
        let url = format!(
            "{}/api/v1/frps/auth/{door}?version=0.1.0&op={op}",
            control.api
        );
        let request = control
            .http
            .post(url)
            .header("authorization", format!("Basic {basic}"))
            .header("content-type", "application/json")
            .body(body);
        let answer = crate::support::answer(request).await.with(200);
        let said = answer["reject_reason"].as_str().unwrap();
        if answer["reject"] == true {
            assert!(said.starts_with("totoro["), "{answer}");
            assert_eq!(answer["unchange"], true);
        } else {
            assert_eq!(answer["reject"], false);
            assert_eq!(said, "");
            assert!(answer["unchange"] == true || answer["content"].is_object());
        }
        answer
    }

    /// A Login's answer.
    async fn login(&self, control: &Control, content: Value) -> Value {
        self.ask(control, "Login", content).await
    }

    /// A session of this invite from this address, with a ticket fetched by its code.
    async fn session(
        &self,
        control: &Control,
        (id, code): &(String, String),
        from: &str,
    ) -> Session {
        let ticket = ticket(control, code).await;
        let answer = self.login(control, login_of(id, &ticket, from)).await;
        Session::of(&answer)
    }

    /// Asks something, whatever is said to it: it is heard of then.
    pub(crate) async fn asks(&self, control: &Control) {
        self.ask(control, "Ping", json!({})).await;
    }

    async fn new_proxy(
        &self,
        control: &Control,
        session: &Session,
        (name, kind, port): (&str, &str, i64),
    ) -> Value {
        let content = session.proxy(name, kind, port);
        self.ask(control, "NewProxy", content).await
    }

    async fn close_proxy(&self, control: &Control, session: &Session, name: &str) {
        let content = json!({ "user": session.user, "proxy_name": session.wire(name) });
        let answer = self.ask(control, "CloseProxy", content).await;
        allowed(&answer);
    }

    async fn ping(&self, control: &Control, session: &Session) -> Value {
        let content = json!({ "user": session.user, "privilege_key": "v4.public.x" });
        self.ask(control, "Ping", content).await
    }

    async fn user_conn(&self, control: &Control, session: &Session, name: &str) -> Value {
        let content = json!({
            "user": session.user, "proxy_name": session.wire(name), "proxy_type": "tcp",
            "remote_addr": "203.0.113.7:5555",
        });
        self.ask(control, "NewUserConn", content).await
    }
}

impl Session {
    /// The session that a Login's answer opened.
    #[track_caller]
    fn of(answer: &Value) -> Self {
        assert_eq!(answer["reject"], false, "{answer}");
        let content = &answer["content"];
        let user = json!({
            "user": content["user"], "metas": content["metas"], "run_id": content["run_id"],
        });
        Session { user }
    }

    fn run_id(&self) -> &str {
        self.user["run_id"].as_str().unwrap()
    }

    fn wire(&self, name: &str) -> String {
        format!("{}.{name}", self.user["user"].as_str().unwrap())
    }

    fn proxy(&self, name: &str, kind: &str, port: i64) -> Value {
        json!({
            "user": self.user, "proxy_name": self.wire(name), "proxy_type": kind,
            "remote_port": port, "use_encryption": false, "metas": null,
        })
    }
}

/// A Login as frpc with `auth.method = "oidc"` sends it.
fn login_of(user: &str, ticket: &str, from: &str) -> Value {
    json!({
        "version": "0.70.1", "hostname": "h", "os": "linux", "arch": "amd64", "user": user,
        "privilege_key": ticket, "timestamp": 1_700_000_000, "pool_count": 1, "metas": null,
        "client_address": from,
    })
}

async fn ticket(control: &Control, code: &str) -> String {
    let token = control.oauth(code).await.with(200);
    token["access_token"].as_str().unwrap().to_owned()
}

/// The port that a NewProxy was given.
#[track_caller]
fn port_of(answer: &Value, asked: i64) -> i64 {
    assert_eq!(answer["reject"], false, "{answer}");
    if answer["unchange"] == true {
        return asked;
    }
    answer["content"]["remote_port"].as_i64().unwrap()
}

#[track_caller]
fn allowed(answer: &Value) {
    assert_eq!(answer["reject"], false, "{answer}");
}

#[track_caller]
fn refused(answer: &Value, reason: &str) {
    let line = format!("totoro[{reason}]: ");
    let said = answer["reject_reason"].as_str().unwrap();
    assert!(
        answer["reject"] == true && said.starts_with(&line),
        "not {reason}: {answer}"
    );
    assert!(said.contains("; "), "no next step in {said}");
}

/// The kinds of events about sessions and proxies.
async fn kinds(control: &Control, query: &str) -> Vec<String> {
    let mut all = control.kinds(query).await;
    all.retain(|kind| ["session.", "proxy."].iter().any(|of| kind.starts_with(of)));
    all
}

/// Short times for what takes minutes.
fn hasten(control: &mut Control, reserve: &str, cool: &str) {
    control.reconfigure(&[
        ("callback_ping = \"30s\"", "callback_ping = \"1s\""),
        (
            "port_reserve = \"10m\"",
            &format!("port_reserve = \"{reserve}\""),
        ),
        ("port_cool = \"10m\"", &format!("port_cool = \"{cool}\"")),
    ]);
}
