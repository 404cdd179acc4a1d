//! A node's daemon as far as the control plane sees one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::Control;

/// A node's daemon.
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) instance: String,
}

impl Node {
    pub(crate) fn new(id: &str) -> Self {
        let mut bytes = [0; 48];
        getrandom::fill(&mut bytes).unwrap();
        let key = format!("tk1-{}", URL_SAFE_NO_PAD.encode(&bytes[..32]));
        let instance = bytes[32..]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Node {
            id: id.to_owned(),
            key,
            instance,
        }
    }

    /// The body of `POST /nodes/enroll`.
    pub(crate) fn enrolment(&self) -> Value {
        let hash = blake3::hash(self.key.as_bytes()).to_hex();
        json!({ "key_hash": hash.as_str(), "instance": self.instance })
    }

    /// A heartbeat.
    pub(crate) fn heartbeat(&self) -> Value {
        json!({ "instance": self.instance, "grade": "kernel", "agent_version": "0.1.0" })
    }

    pub(crate) async fn beat(&self, control: &Control) -> Value {
        control
            .post("/nodes/heartbeat", &self.key, self.heartbeat())
            .await
            .with(200)
    }

    /// Reports, fetches its desired state and acknowledges it; answers the state.
    pub(crate) async fn come_up(&self, control: &Control) -> Value {
        self.beat(control).await;
        let state = control.get("/nodes/watch", &self.key).await.with(200);
        let keys: Vec<&Value> = state["keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| &key["kid"])
            .collect();
        let applied = json!({ "gen": state["gen"], "rev": state["rev"], "keys": keys });
        control
            .post("/nodes/applied", &self.key, applied)
            .await
            .with(204);
        state
    }

    /// The long-poll's path from a state.
    pub(crate) fn watch_from(state: &Value, wait: &str) -> String {
        format!(
            "/nodes/watch?wait={wait}&gen={}&rev={}",
            state["gen"], state["rev"]
        )
    }
}
