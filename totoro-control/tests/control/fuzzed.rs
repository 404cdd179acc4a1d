//! schemathesis against the API's own description: every call, with what is right and what is wrong
//! in every place, and no answer that is not documented.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;

use crate::callback::Frps;
use crate::support::{Control, Node, quiet};

/// Cases of each call and phase, where the environment does not say.
const CASES: &str = "5";
/// The most memory that the server may take, KiB: it holds no body that it need not, and no more
/// invites than it was asked for.
const MEMORY_KIB: u64 = 768 * 1024;

/// Allowances that nobody reaches: it is the API that is asked, not the limiter.
fn without_limits() -> Control {
    let most = |name| (name, "1000000000".to_owned());
    let env = [
        quiet(),
        most("TOTORO_CONTROL_RATE_RESOLVE"),
        most("TOTORO_CONTROL_RATE_TOKEN"),
        most("TOTORO_CONTROL_RATE_PUBLIC"),
        most("TOTORO_CONTROL_RATE_WRONG_KEY"),
        most("TOTORO_CONTROL_RATE_WRONG_CODE"),
        most("TOTORO_CONTROL_RATE_EVENTS"),
    ];
    Control::over(Control::init(&[]), &env)
}

/// What a run needs of an installation: nodes of both grades, one of them public, with invites,
/// sessions, leases and bans.
struct Prepared {
    control: Control,
    node: Node,
    env: Vec<(&'static str, String)>,
}

impl Prepared {
    async fn new() -> Self {
        let control = without_limits();
        let public = json!({ "visibility": "public" });
        let node = control.enrolled("n1", public).await;
        node.come_up(&control).await;
        let frps = Frps::new(&control, "n2", json!({})).await.node;
        let new = json!({
            "name": "n3", "server_addr": ["192.0.2.3:7000"], "pool": { "tcp": ["20000-20099"] },
        });
        let admin = control.admin.as_str();
        let made = control.post("/admin/nodes", admin, new).await.with(201);
        let mut spare = Vec::new();
        for number in 0..5 {
            spare.push(
                control
                    .enrolled(&format!("spare-{number}"), json!({}))
                    .await
                    .id,
            );
        }
        let (_, code) = control.invite(&node, json!({ "label": "first" })).await;
        let many = json!({ "count": 30 });
        let made_many = control.post("/nodes/invites", &node.key, many).await;
        let invites = made_many.with(201)["items"].as_array().unwrap().clone();
        for key in [&node.key, &control.admin] {
            let group = if *key == node.key { "nodes" } else { "admin" };
            let ban = json!({ "prefix": "198.51.100.0/24" });
            control
                .post(&format!("/{group}/bans"), key, ban)
                .await
                .with(201);
        }
        let tokens = control.get("/admin/tokens", admin).await.with(200);
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let own = [
            node.id.clone(),
            frps.id.clone(),
            text(&tokens["items"][0]["id"]),
            "n1".to_owned(),
            "n2".to_owned(),
        ];
        let invites: Vec<String> = invites.iter().map(|made| text(&made["id"])).collect();
        let env = vec![
            ("TOTORO_NODE_KEY", node.key.clone()),
            ("TOTORO_ADMIN_TOKEN", control.admin.clone()),
            ("TOTORO_ENROLMENT_TOKEN", text(&made["token"])),
            ("TOTORO_FRPS_NODE", frps.id.clone()),
            ("TOTORO_FRPS_KEY", frps.key.clone()),
            ("TOTORO_CODE", code),
            ("TOTORO_OWN_IDS", own.join(",")),
            ("TOTORO_NODE_ID", node.id.clone()),
            ("TOTORO_SPARE_IDS", spare.join(",")),
            ("TOTORO_INSTANCE", node.instance.clone()),
            ("TOTORO_INVITE_IDS", invites.join(",")),
        ];
        Prepared { control, node, env }
    }

    /// What the node's daemon does, so that the node stays online and has somebody on it; whatever
    /// else was done to it meanwhile.
    async fn live(&self) {
        let (control, key) = (&self.control, self.node.key.as_str());
        let sessions = (0..5).map(|n| json!({ "id": format!("s-{n}"), "client": "192.0.2.7" }));
        let mut beat = self.node.heartbeat();
        beat["tenants"] =
            json!([{ "tenant": "public:192.0.2.7", "sessions": sessions.collect::<Vec<_>>() }]);
        loop {
            let _ = control.post("/nodes/heartbeat", key, beat.clone()).await;
            let state = control.get("/nodes/watch", key).await.body;
            let keys = state["keys"].as_array().cloned().unwrap_or_default();
            let keys: Vec<_> = keys.iter().map(|key| key["kid"].clone()).collect();
            let applied = json!({ "gen": state["gen"], "rev": state["rev"], "keys": keys });
            let _ = control.post("/nodes/applied", key, applied).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs schemathesis: `cargo xtask test` and `cargo xtask soak api` run it"]
async fn no_call_answers_what_is_not_documented() {
    let program = std::env::var_os("TOTORO_SCHEMATHESIS").expect("TOTORO_SCHEMATHESIS: its path");
    let cases = std::env::var("TOTORO_API_CASES").unwrap_or_else(|_| CASES.to_owned());
    let prepared = Prepared::new().await;
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/schemathesis");
    let mut command = Command::new(program);
    command
        .current_dir(prepared.control.dir.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", prepared.control.dir.path())
        .env("PYTHONPATH", &config)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .envs(prepared.env.iter().map(|(name, value)| (name, value)))
        .arg("--config-file")
        .arg(config.join("schemathesis.toml"))
        .args(["run", "--no-color", "--workers", "2"])
        .args(["--generation-database", "none", "--max-examples", &cases])
        .arg(format!("{}/api/v1/openapi.json", prepared.control.api))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Ok(seed) = std::env::var("TOTORO_SEED") {
        command.args(["--seed", &seed]);
    }
    let mut running = command.spawn().expect("schemathesis starts");
    let status = tokio::select! {
        status = running.wait() => status.unwrap(),
        () = prepared.live() => unreachable!("it lives for ever"),
    };
    let peak = prepared.control.peak_kib();
    println!("the server had at most {} MiB of memory", peak / 1024);
    assert!(status.success(), "schemathesis found something: see above");
    assert!(peak < MEMORY_KIB, "{peak} KiB");
    let log = prepared.control.log();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    let ready = format!("{}/readyz", prepared.control.api);
    let ready = prepared.control.http.get(ready).send().await.unwrap();
    assert_eq!(ready.status().as_u16(), 200);
}
