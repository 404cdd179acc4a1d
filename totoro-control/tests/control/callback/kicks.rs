//! A kick where no daemon is: it ends the session here and now.

use serde_json::json;

use super::{Frps, allowed, refused};
use crate::support::Control;

#[tokio::test]
async fn a_kicked_session_ends_at_once_and_for_good() {
    let control = Control::start();
    let frps = Frps::new(&control, "n1", json!({})).await;
    let key = frps.node.key.as_str();
    let invite = control.invite(&frps.node, json!({})).await;
    let session = frps.session(&control, &invite, "198.51.100.1:1111").await;
    allowed(&frps.new_proxy(&control, &session, ("web", "tcp", 0)).await);
    let listed = control.get("/nodes/sessions", key).await.with(200);
    let items = listed["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["tenant"]), (1, &json!(invite.0)));
    let path = format!("/nodes/sessions/{}", items[0]["id"].as_str().unwrap());
    for _ in 0..2 {
        let kicked = control.delete(&path, key).await;
        assert_eq!(kicked.status.as_u16(), 204, "{}", kicked.text);
    }
    refused(&frps.ping(&control, &session).await, "session_expired");
    let listed = control.get("/nodes/sessions", key).await.with(200);
    assert_eq!(listed["items"], json!([]));
    let query = format!("&node={}", frps.node.id);
    let mut kinds = control.kinds(&query).await;
    kinds.retain(|kind| kind.starts_with("session.") || kind.starts_with("proxy."));
    assert_eq!(
        kinds,
        [
            "session.opened",
            "proxy.opened",
            "session.kicked",
            "proxy.closed",
            "session.closed"
        ]
    );
}
