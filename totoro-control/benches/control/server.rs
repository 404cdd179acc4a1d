//! The real server, ready to be asked.

use std::time::{Duration, Instant};

use serde_json::json;
use totoro_api::wire::invite::MAX_COUNT;

use crate::client::{Request, bytes_of};
use crate::support::ca::trusting;
use crate::support::{Control, Node, PATIENCE, answer};
use crate::tls::Certificate;

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// Nodes that invites are made for in turn: one may have 100,000.
const MAKERS: usize = 16;
/// Nodes whose invites' codes are asked for, 1,000 each. Five times as many as the server keeps decoded, and more than
/// are asked for in the usual rounds: none is asked for again while it is still at hand.
const LENDERS: usize = 100;

/// A server with a node that reports, nodes that have invites, and nodes that invites are made for.
pub(crate) struct Real {
    control: Control,
    node: Node,
    makers: Vec<Node>,
    codes: Vec<String>,
}

impl Real {
    /// One that speaks TLS where there is a certificate; it has invites if codes will be asked for.
    pub(crate) async fn start(certificate: Option<&Certificate>, has_codes: bool) -> Self {
        let made = Control::init(&[]);
        let at = made.path().join("control");
        let file = at.join("control.toml");
        let mut settings: toml::Table =
            toml::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        // Everybody here is one address, and few nodes tell of everything.
        let most = toml::Value::Integer(i64::from(u32::MAX));
        let names = [
            "resolve",
            "token",
            "public",
            "wrong_key",
            "wrong_code",
            "events",
        ];
        let rate = names.map(|name| (name.to_owned(), most.clone()));
        settings.insert(
            "rate".to_owned(),
            toml::Value::Table(rate.into_iter().collect()),
        );
        settings.insert("invites_per_node".to_owned(), toml::Value::Integer(100_000));
        if let Some(certificate) = certificate {
            let mut tls = toml::Table::new();
            for (name, file) in [("cert", "cert.pem"), ("key", "key.pem")] {
                // With its mode.
                std::fs::copy(certificate.dir.path().join(file), at.join(file)).unwrap();
                tls.insert(name.to_owned(), toml::Value::String(file.to_owned()));
            }
            settings.insert("tls".to_owned(), toml::Value::Table(tls));
        }
        std::fs::write(&file, settings.to_string()).unwrap();
        let mut control = Control::over(made, &[("TOTORO_LOG", "warn".to_owned())]);
        if let Some(certificate) = certificate {
            control.http = trusting(&certificate.authority);
        }
        let node = control.node("n1").await;
        let codes = match has_codes {
            true => codes(&control).await,
            false => Vec::new(),
        };
        let mut makers = Vec::new();
        for number in 0..MAKERS {
            makers.push(control.node(&format!("maker-{number}")).await);
        }
        Real {
            control,
            node,
            makers,
            codes,
        }
    }

    /// The installation.
    pub(crate) const fn control(&self) -> &Control {
        &self.control
    }

    /// Waits until its events are in segments: moving them would fall to whoever is measured next.
    pub(crate) async fn settled(&self) {
        let began = Instant::now();
        let Control {
            api, http, admin, ..
        } = &self.control;
        loop {
            let asked = http.get(format!("{api}/metrics")).bearer_auth(admin);
            let told = answer(asked).await.text;
            if told.contains("\ntotoro_audit_waiting 0\n") {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "they stay: {told}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The server's address.
    pub(crate) fn address(&self) -> &str {
        &self.control.api
    }

    pub(crate) fn token(&self, server: &str) -> Request {
        let of = |code: &String| {
            let body = form_urlencoded::Serializer::new(String::new())
                .extend_pairs([
                    ("grant_type", "client_credentials"),
                    ("client_id", "totoro"),
                    ("client_secret", code),
                ])
                .finish();
            bytes_of(server, "/oauth/token", "none", FORM, &body)
        };
        Request::again(server, self.codes.iter().map(of).collect())
    }

    pub(crate) fn resolve(&self, server: &str) -> Request {
        let of = |code: &String| {
            let body = json!({ "code": code }).to_string();
            bytes_of(server, "/invites/resolve", "none", JSON, &body)
        };
        // Far from those that `oauth/token` has just asked for.
        let (first, second) = self.codes.split_at(self.codes.len() / 2);
        Request::again(server, second.iter().chain(first).map(of).collect())
    }

    pub(crate) fn heartbeat(&self, server: &str) -> Request {
        let body = self.node.heartbeat().to_string();
        let key = format!("Bearer {}", self.node.key);
        Request::post(server, "/nodes/heartbeat", &key, (JSON, &body), "200")
    }

    pub(crate) fn invite(&self, server: &str) -> Request {
        let body = json!({ "label": "bench" }).to_string();
        let of = |node: &Node| {
            let key = format!("Bearer {}", node.key);
            bytes_of(server, "/nodes/invites", &key, JSON, &body)
        };
        let all = self.makers.iter().map(of).collect();
        Request::again(server, all).answered("201")
    }
}

/// The codes of all lenders' invites, each another lender's than the one before.
async fn codes(control: &Control) -> Vec<String> {
    let mut all = Vec::new();
    for number in 0..LENDERS {
        let lender = control.node(&format!("lender-{number}")).await;
        let body = json!({ "label": "bench {n}", "count": MAX_COUNT });
        let made = control.post("/nodes/invites", &lender.key, body).await;
        let made = made.with(201);
        let items = made["items"].as_array().unwrap().iter();
        let codes = items.map(|item| item["code"].as_str().unwrap().to_owned());
        all.push(codes.collect::<Vec<String>>());
    }
    let nth = |nth: usize| all.iter().filter_map(move |codes| codes.get(nth).cloned());
    (0..MAX_COUNT as usize).flat_map(nth).collect()
}
