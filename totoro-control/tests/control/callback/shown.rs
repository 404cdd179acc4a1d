//! How such a node is shown: its grade and what is not enforced there, wherever it appears.

use serde_json::{Value, json};

use super::{Frps, allowed};
use crate::support::Control;

#[track_caller]
fn says_so(shown: &Value) {
    assert_eq!(shown["grade"], "callback", "{shown}");
    let unenforced = json!([
        "max_conns",
        "max_conns_per_source",
        "max_flows",
        "live_revocation"
    ]);
    assert_eq!(shown["unenforced"], unenforced, "{shown}");
}

#[tokio::test]
async fn wherever_it_appears() {
    let control = Control::start();
    let frps = Frps::new(&control, "n1", json!({ "visibility": "public" })).await;
    let invite = control.invite(&frps.node, json!({})).await;
    let session = frps.session(&control, &invite, "198.51.100.1:1").await;
    allowed(
        &frps
            .new_proxy(&control, &session, ("web", "tcp", 20005))
            .await,
    );

    let list = control.get("/public/nodes", "").await.with(200);
    let listed = &list["items"][0];
    says_so(listed);
    assert_eq!(listed["state"], "online");
    assert_eq!(listed["free_ports"], json!({ "tcp": 9, "udp": 10 }));
    let path = format!("/admin/nodes/{}", frps.node.id);
    says_so(&control.get(&path, &control.admin).await.with(200));
    says_so(&control.get("/nodes/self", &frps.node.key).await.with(200));

    let code = json!({ "code": invite.1 });
    let resolved = control
        .post("/invites/resolve", "", code.clone())
        .await
        .with(200);
    says_so(&resolved);
    let usage = control.post("/invites/usage", "", code).await.with(200);
    says_so(&usage);
    for usage in [&usage, &resolved["usage"]] {
        assert_eq!(usage["sessions"][0]["client"], "198.51.100.1:1");
        let lease = &usage["leases"][0];
        assert_eq!(
            (&lease["proxy"], &lease["type"]),
            (&json!("web"), &json!("tcp"))
        );
        assert_eq!(
            (&lease["address"], &lease["port"]),
            (&json!("192.0.2.1"), &json!(20005))
        );
    }
    let public = control
        .post("/public/nodes/n1/ticket", "", json!({}))
        .await
        .with(200);
    says_so(&public);
    // Its clients ping; those of a node with a daemon do not.
    for shown in [&resolved, &public] {
        let toml: toml::Table = shown["frpc_toml"].as_str().unwrap().parse().unwrap();
        let interval = &toml["transport"]["heartbeatInterval"];
        assert_eq!(interval.as_integer(), Some(30));
    }
    let node = control.node("n2").await;
    let (_, code) = control.invite(&node, json!({})).await;
    node.come_up(&control).await;
    let code = json!({ "code": code });
    let resolved = control.post("/invites/resolve", "", code).await.with(200);
    assert_eq!(
        (&resolved["grade"], &resolved["unenforced"]),
        (&json!("kernel"), &json!([]))
    );
    let toml: toml::Table = resolved["frpc_toml"].as_str().unwrap().parse().unwrap();
    assert!(!toml.contains_key("transport"));
}
