//! The commands, as a script or an operator runs them.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::{Control, binary};

pub(crate) struct Cli<'a>(pub(crate) &'a Control);

impl Cli<'_> {
    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        Command::new(binary())
            .args(arguments)
            .env("TOTORO_API", &self.0.api)
            .env("TOTORO_TOKEN_FILE", self.0.at().join("admin.token"))
            .output()
            .unwrap()
    }

    #[track_caller]
    pub(crate) fn text(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.text(&[arguments, &["--json"]].concat())).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_day() {
    let control = Control::start();
    let cli = Cli(&control);
    let made = cli.json(&[
        "node",
        "add",
        "--name",
        "n1",
        "--pool-tcp",
        "20000-20099",
        "--pool-udp",
        "20000-20099",
        "--server-addr",
        "192.0.2.1:7000",
        "--server-addr",
        "[2001:db8::1]:7000",
        "--public",
        "--public-limits",
        r#"{"max_conns": 3}"#,
    ]);
    let node = made["id"].as_str().unwrap();
    assert!(made["token"].as_str().unwrap().starts_with("te1-"));
    assert!(cli.text(&["node", "list"]).contains("n1"));
    assert_eq!(
        cli.json(&["node", "show", "n1"])["public_limits"],
        json!({ "max_conns": 3 })
    );
    // Whatever takes an id of a node takes its name.
    let token = cli.json(&["node", "token", "n1"]);
    assert_eq!(token["id"], made["id"]);
    let drained = cli.json(&["node", "change", "n1", "--draining", "true"]);
    assert_eq!(drained["id"], node);
    assert_eq!(
        (&drained["state"], &drained["visibility"]),
        (&json!("offline"), &json!("public"))
    );

    let invite = cli.json(&[
        "invite",
        "create",
        "--node",
        "n1",
        "--label",
        "Mei",
        "--max-conns",
        "5",
        "--types",
        "tcp,udp",
        "--ports",
        "20000-20009",
        "--expires",
        "7d",
    ]);
    let id = invite["id"].as_str().unwrap();
    assert_eq!(
        invite["limits"],
        json!({ "max_conns": 5, "types": ["tcp", "udp"], "ports": ["20000-20009"] })
    );
    assert!(invite["code"].as_str().unwrap().starts_with("tn1-"));
    let changed = cli.json(&[
        "invite",
        "change",
        id,
        "--max-proxies",
        "2",
        "--expires",
        "never",
    ]);
    assert_eq!(changed["limits"]["max_conns"], 5, "what is not given stays");
    assert_eq!(
        (&changed["limits"]["max_proxies"], &changed["expires_at"]),
        (&json!(2), &Value::Null)
    );
    assert_eq!(cli.json(&["invite", "pause", id])["state"], "paused");
    assert_eq!(cli.json(&["invite", "resume", id])["state"], "active");
    assert_ne!(cli.json(&["invite", "rotate", id])["code"], invite["code"]);
    assert_eq!(cli.json(&["invite", "revoke", id])["state"], "revoked");
    assert!(
        cli.text(&["invite", "list", "--node", "n1"])
            .contains("revoked")
    );

    let ban = cli.json(&[
        "ban",
        "add",
        "192.0.2.0/24",
        "--node",
        "n1",
        "--until",
        "1d",
    ]);
    assert!(
        cli.text(&["ban", "list", "--node", "n1"])
            .contains("192.0.2.0/24")
    );
    cli.text(&["ban", "remove", ban["id"].as_str().unwrap(), "--node", "n1"]);
    let ever = cli.text(&["ban", "add", "192.0.2.0/24", "--node", "n1"]);
    assert!(ever.contains("  never"), "{ever}");
    let ban = ever.lines().nth(1).unwrap().split(' ').next().unwrap();
    cli.text(&["ban", "remove", ban, "--node", "n1"]);
    let tokens = cli.text(&["token", "list"]);
    assert!(tokens.contains("never"), "{tokens}");
    assert!(!tokens.contains("revoked"), "{tokens}");

    let trail = cli.json(&["audit", "--invite", id, "--since", "1h"]);
    let kinds: Vec<&str> = trail["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "invite.created",
            "invite.changed",
            "invite.paused",
            "invite.resumed",
            "invite.rotated",
            "invite.revoked"
        ]
    );
    let newest = cli.json(&["audit", "--limit", "1"]);
    assert_eq!(newest["items"][0]["kind"], "ban.lifted");
    assert!(
        cli.text(&["audit", "--kind", "invite.revoked"])
            .contains(id)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_say_what_happened() {
    let control = Control::start();
    let cli = Cli(&control);
    let code = |arguments: &[&str]| cli.output(arguments).status.code();
    assert_eq!(code(&["node", "list"]), Some(0));
    assert_eq!(code(&["node", "show", "nowhere"]), Some(1));
    assert_eq!(code(&["node", "shwo"]), Some(2));
    assert_eq!(
        code(&["invite", "create", "--node", "n1", "--types", "stcp"]),
        Some(2)
    );
    assert_eq!(
        code(&["node", "list", "--api", "http://127.0.0.1:1"]),
        Some(3)
    );

    let wrong = control.dir.path().join("wrong.token");
    std::fs::write(&wrong, "ta1-nonsense\n").unwrap();
    let with_token = |mode: u32| {
        std::fs::set_permissions(&wrong, std::fs::Permissions::from_mode(mode)).unwrap();
        cli.output(&["node", "list", "--token-file", wrong.to_str().unwrap()])
    };
    let denied = with_token(0o600);
    assert_eq!(denied.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&denied.stderr).contains("not_authorized"));
    let loose = with_token(0o644);
    assert_eq!(loose.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&loose.stderr).contains("chmod 600"));
    let bare = Command::new(binary())
        .args(["node", "list", "--api", &control.api])
        .env_remove("TOTORO_TOKEN")
        .env_remove("TOTORO_TOKEN_FILE")
        .output()
        .unwrap();
    assert_eq!(bare.status.code(), Some(2));
}

#[test]
fn init_asks_for_what_it_must_and_overwrites_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("c");
    let init = |more: &[&str]| {
        Command::new(binary())
            .args(["init", "--dir"])
            .arg(&at)
            .args(more)
            .output()
            .unwrap()
    };
    let open = [
        "--listen",
        "0.0.0.0:0",
        "--public-url",
        "https://control.example.org",
    ];
    let refused = init(&open);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("insecure_http"));
    assert!(!at.exists(), "a refusal leaves nothing");
    let closed = [
        "--listen",
        "127.0.0.1:0",
        "--public-url",
        "https://control.example.org",
    ];
    assert_eq!(init(&closed).status.code(), Some(0));
    for secret in ["admin.token", "secrets/server.key"] {
        let mode = std::fs::metadata(at.join(secret))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    let token = std::fs::read(at.join("admin.token")).unwrap();
    assert_eq!(init(&closed).status.code(), Some(1));
    assert_eq!(std::fs::read(at.join("admin.token")).unwrap(), token);
    let mode = |path: &str| {
        let about = std::fs::metadata(at.join(path)).unwrap();
        about.permissions().mode() & 0o777
    };
    assert_eq!(mode("data"), 0o700, "the addresses of clients are in it");
    assert!(!at.join("control.toml.new").exists());

    // One that died before its end says what it left and what to do.
    std::fs::remove_file(at.join("control.toml")).unwrap();
    let again = init(&closed);
    assert_eq!(again.status.code(), Some(1));
    let said = String::from_utf8_lossy(&again.stderr);
    for word in ["did not end", "server.key", "admin.token", "data", "rm -r"] {
        assert!(said.contains(word), "{said}");
    }
    for left in ["secrets/server.key", "admin.token"] {
        std::fs::remove_file(at.join(left)).unwrap();
    }
    std::fs::remove_dir_all(at.join("data")).unwrap();
    assert_eq!(init(&closed).status.code(), Some(0));
}

#[test]
fn init_chooses_what_it_can_and_every_setting_is_a_flag_and_a_variable() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("c");
    let run = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = Command::new(binary());
        command.args(args).envs(env.iter().copied());
        let done = command.output().unwrap();
        let said = [done.stdout, done.stderr].concat();
        (done.status.code(), String::from_utf8(said).unwrap())
    };
    let to = at.to_str().unwrap();
    let (code, said) = run(
        &[
            "init",
            "--dir",
            to,
            "--listen",
            "192.0.2.1:1",
            "--insecure-http",
        ],
        &[],
    );
    assert_eq!(code, Some(2), "only the operator knows the name: {said}");
    assert!(said.contains("--public-url"), "{said}");
    let (code, said) = run(&["init", "--dir", to, "--tls-cert", "x"], &[]);
    assert_eq!(code, Some(2), "{said}");

    let (code, said) = run(
        &["init", "--dir", to],
        &[("TOTORO_CONTROL_RATE_TOKEN", "7")],
    );
    assert_eq!(code, Some(0), "{said}");
    let file = at.join("control.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("public_url = \"http://127.0.0.1:8080\""),
        "{text}"
    );

    let file = file.to_str().unwrap();
    let print = [
        "serve",
        "--config",
        file,
        "--print-config",
        "--cache-mib",
        "9",
    ];
    let (code, said) = run(&print, &[("TOTORO_CONTROL_LISTEN", "127.0.0.1:9090")]);
    assert_eq!(code, Some(0), "{said}");
    for (line, from) in [
        ("listen = \"127.0.0.1:9090\"", "# TOTORO_CONTROL_LISTEN"),
        ("cache_mib = 9", "# --cache-mib"),
        ("rate.token = 7", "# the file"),
        ("# tls.cert is not set", "# default"),
    ] {
        let found = said.lines().find(|said| said.starts_with(line));
        let found = found.unwrap_or_else(|| panic!("no {line} in {said}"));
        assert!(found.ends_with(from), "{found}");
    }
    let (code, said) = run(&print, &[("TOTORO_CONTROL_LISTEN", "10.0.0.1:1")]);
    assert_eq!(code, Some(1));
    assert!(said.contains("not loopback"), "{said}");
    let (code, said) = run(&print, &[("TOTORO_CONTROL_TICKET_TTL", "soon")]);
    assert_eq!(code, Some(2));
    assert!(said.contains("1h"), "says how to write it: {said}");
}

#[test]
fn the_token_does_not_travel_in_the_clear_unasked() {
    let control = Control::start();
    // An address of a documentation network: nothing is there, and nothing is sent.
    let list = |insecure: &str| {
        let mut command = Command::new(binary());
        command
            .args(["node", "list", "--api", "http://192.0.2.1:9"])
            .env("TOTORO_TOKEN_FILE", control.at().join("admin.token"))
            .env("TOTORO_INSECURE_HTTP", insecure);
        command.output().unwrap()
    };
    let refused = list("false");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--insecure-http"));
}

#[test]
fn a_reader_that_has_gone_is_no_failure_and_a_full_disk_is_one_with_a_text() {
    let control = Control::start();
    let cli = Cli(&control);
    let add = "node add --name n1 --pool-tcp 20000-20099 --server-addr 192.0.2.1:7000";
    cli.text(&add.split(' ').collect::<Vec<_>>());
    let settings = control.at().join("control.toml");
    let doctor = format!("doctor --config {}", settings.display());
    for command in [
        "node list",
        "node show n1 --json",
        "node token n1",
        "invite create --node n1",
        "invite create --node n1 --count 2 --csv",
        "invite create --node n1 --count 2 --json",
        "audit",
        "audit --ndjson",
        "token list",
        &doctor,
    ] {
        let to = |out: std::process::Stdio| {
            let mut spoken = Command::new(binary());
            spoken.args(command.split(' ')).stdout(out);
            spoken.env("TOTORO_API", &control.api);
            spoken.env("TOTORO_TOKEN_FILE", control.at().join("admin.token"));
            let ended = spoken.output().unwrap();
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            (ended.status.code(), said)
        };
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(to(writer.into()), (Some(0), String::new()), "{command}");
        let full = std::fs::File::options().write(true).open("/dev/full");
        let (code, said) = to(full.unwrap().into());
        assert_eq!(code, Some(1), "{command}: {said}");
        assert!(said.contains("cannot write: "), "{command}: {said}");
    }
}

#[tokio::test]
async fn a_hangup_does_not_end_the_server() {
    let control = Control::start();
    control.signal(nix::sys::signal::Signal::SIGHUP);
    let began = std::time::Instant::now();
    while !control.log().contains("SIGHUP") {
        assert!(began.elapsed() < crate::support::PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    control.get("/admin/nodes", &control.admin).await.with(200);
}
