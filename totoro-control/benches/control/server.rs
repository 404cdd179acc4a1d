//! The real server, ready to be asked.

use serde_json::json;

use crate::client::{Request, bytes_of};
use crate::support::ca::trusting;
use crate::support::{Control, Node};
use crate::tls::Certificate;

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// Nodes that invites are made for in turn: one may have 100,000.
const MAKERS: usize = 16;

/// A server with a node that has an invite, and nodes that invites are made for.
pub(crate) struct Real {
    control: Control,
    node: Node,
    makers: Vec<Node>,
    code: String,
}

impl Real {
    /// One that speaks TLS where there is a certificate.
    pub(crate) async fn start(certificate: Option<&Certificate>) -> Self {
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
        let (_, code) = control.invite(&node, json!({})).await;
        let mut makers = Vec::new();
        for number in 0..MAKERS {
            makers.push(control.node(&format!("maker-{number}")).await);
        }
        Real {
            control,
            node,
            makers,
            code,
        }
    }

    /// The installation.
    pub(crate) const fn control(&self) -> &Control {
        &self.control
    }

    /// The server's address.
    pub(crate) fn address(&self) -> &str {
        &self.control.api
    }

    pub(crate) fn token(&self, server: &str) -> Request {
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([
                ("grant_type", "client_credentials"),
                ("client_id", "totoro"),
                ("client_secret", &self.code),
            ])
            .finish();
        Request::post(server, "/oauth/token", "none", (FORM, &body), "200")
    }

    pub(crate) fn resolve(&self, server: &str) -> Request {
        let body = json!({ "code": self.code }).to_string();
        Request::post(server, "/invites/resolve", "none", (JSON, &body), "200")
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
