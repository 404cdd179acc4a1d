//! A control plane and a node, the real ones, in release builds.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Client;
use serde_json::{Value, json};

use crate::place::Paths;

/// The ports that the node lends: as many as it may have leases, of both protocols.
pub(crate) const FIRST: u16 = 20_000;
/// Where frps would be.
pub(crate) const FRPS: u16 = 7000;
const API: &str = "http://127.0.0.1:8080/api/v1";
/// The plugin's endpoint.
pub(crate) const PLUGIN: &str = "http://127.0.0.1:988";

/// A process, killed when dropped.
pub(crate) struct Daemon(pub(crate) Child);

impl Daemon {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

/// A daemon that is stopped until this is dropped.
pub(crate) struct Away(Pid);

impl Drop for Away {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGCONT).unwrap();
    }
}

/// This program, as one that serves; and the first line that it prints.
pub(crate) fn serving(args: &[&str]) -> (Daemon, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(args)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let output = child.stdout.as_mut().unwrap();
    BufReader::new(output).read_line(&mut line).unwrap();
    (Daemon(child), line.trim().to_owned())
}

pub(crate) struct Daemons {
    pub(crate) node: Daemon,
    control: Daemon,
    pub(crate) key: String,
    /// How frps shows the plugin's secret.
    pub(crate) authorization: String,
    pub(crate) pins: PathBuf,
    dir: PathBuf,
}

/// An invite, and what opens it.
#[derive(Clone)]
pub(crate) struct Tenant {
    pub(crate) invite: String,
    pub(crate) code: String,
}

/// Those ports, as one range.
pub(crate) fn pool() -> String {
    format!("{FIRST}-{}", u32::from(FIRST) + 32_767)
}

fn program(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    // target/release/deps/node-…
    exe.parent().unwrap().parent().unwrap().join(name)
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Starts one, and waits for a line of its log.
fn start(command: &mut Command, log: &Path, line: &str) -> Daemon {
    let file = fs::File::create(log).unwrap();
    let stdout = file.try_clone().unwrap();
    let daemon = Daemon(command.stdout(stdout).stderr(file).spawn().unwrap());
    let begun = Instant::now();
    loop {
        let said = fs::read_to_string(log).unwrap();
        if said.contains(line) {
            return daemon;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{said}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Drop for Daemons {
    /// Room for the next. A bench that fails says what the node had to say.
    fn drop(&mut self) {
        self.node.end();
        let _ = totoro_node::kernel::uninstall(&self.pins);
        if std::thread::panicking() {
            for line in self.log().iter().rev().take(20).rev() {
                eprintln!("the node said: {line}");
            }
        }
    }
}

impl Daemons {
    /// Takes the control plane off the processors, which it shares with the node here alone.
    pub(crate) fn away(&self) -> Away {
        let pid = Pid::from_raw(self.control.0.id().try_into().unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
        Away(pid)
    }

    /// New ones, whose state is under this name.
    pub(crate) fn start(place: &Paths, name: &str) -> Daemons {
        let dir = place.dir.join(name);
        fs::create_dir(&dir).unwrap();
        let (control, node) = (program("totoro-control"), program("totoro-node"));
        // In life it is another machine, with a disk and processors of its own: here it has memory for a disk, and
        // of the processors what nobody else wants. (At nice 19 it would still have a slice to its end, 3 ms.)
        let control_dir = place.elsewhere.join(name);
        run(Command::new(&control)
            .args(["init", "--dir"])
            .arg(&control_dir));
        let settings = control_dir.join("control.toml");
        let mut table: toml::Table =
            toml::from_str(&fs::read_to_string(&settings).unwrap()).unwrap();
        // Everybody here is one address, and one node tells of everything.
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
        let rate = toml::Value::Table(rate.into_iter().collect());
        table.insert("rate".to_owned(), rate);
        fs::write(&settings, table.to_string()).unwrap();
        let control_runs = start(
            Command::new("chrt")
                .args(["--idle", "0"])
                .arg(&control)
                .args(["serve", "--config"])
                .arg(&settings)
                .env("TOTORO_LOG", "warn"),
            &dir.join("control.log"),
            "listening",
        );
        let pool = pool();
        let added = run(Command::new(&control)
            .args([
                "node",
                "add",
                "--name",
                "bench",
                "--server-addr",
                "127.0.0.1:7000",
            ])
            .args(["--pool-tcp", &pool, "--pool-udp", &pool, "--json"])
            .env("TOTORO_TOKEN_FILE", control_dir.join("admin.token")));
        let added: Value = serde_json::from_str(&added).unwrap();
        let at = dir.join("node");
        run(Command::new(&node)
            .args([
                "enroll",
                "--control",
                "http://127.0.0.1:8080",
                "--insecure-http",
                "--dir",
            ])
            .arg(&at)
            .env("TOTORO_TOKEN", added["token"].as_str().unwrap()));
        let config = at.join("node.toml");
        let mut settings: toml::Table =
            toml::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
        let of = |path: PathBuf| toml::Value::String(path.display().to_string());
        settings.insert("pin_root".to_owned(), of(place.pins.clone()));
        settings.insert("cgroup".to_owned(), of(place.cgroup.clone()));
        settings.insert("state_dir".to_owned(), of(at.join("state")));
        settings.insert("run_dir".to_owned(), of(at.join("run")));
        settings.insert("interfaces".to_owned(), toml::Value::Array(Vec::new()));
        // No frps asks here; sessions live on their connections.
        fs::write(&config, settings.to_string()).unwrap();
        let read = |name: &str| fs::read_to_string(at.join(name)).unwrap().trim().to_owned();
        let authorization = format!(
            "Basic {}",
            STANDARD.encode(format!("totoro:{}", read("plugin.secret")))
        );
        let node = Daemons::start_node(&dir);
        Daemons {
            node,
            control: control_runs,
            key: read("node.key"),
            authorization,
            pins: place.pins.clone(),
            dir,
        }
    }

    fn start_node(dir: &Path) -> Daemon {
        start(
            Command::new(program("totoro-node"))
                .args(["run", "--config"])
                .arg(dir.join("node/node.toml"))
                .env("TOTORO_LOG", log()),
            &dir.join("node.log"),
            "ready",
        )
    }

    /// Kills the node and starts it again; how long that took, from the start of the process until it
    /// serves.
    pub(crate) fn restart_node(&mut self) -> Duration {
        self.node.end();
        let begun = Instant::now();
        self.node = Daemons::start_node(&self.dir);
        begun.elapsed()
    }

    /// Where their state is, and room for other files.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn metrics_socket(&self) -> PathBuf {
        self.dir.join("node/run/metrics.sock")
    }

    /// What the node logged since its start.
    pub(crate) fn log(&self) -> Vec<String> {
        let file = fs::File::open(self.dir.join("node.log")).unwrap();
        BufReader::new(file).lines().map_while(Result::ok).collect()
    }

    fn client() -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::builder().no_proxy().build().unwrap()
    }

    /// So many invites.
    pub(crate) async fn invites(&self, count: usize) -> Vec<Tenant> {
        let client = Daemons::client();
        let mut all = Vec::new();
        while all.len() < count {
            let batch = (count - all.len()).min(1000);
            let limits = json!({ "max_clients": 4, "max_proxies": 128, "max_conns": 8 });
            let body = json!({ "label": "bench {n}", "count": batch, "limits": limits });
            let request = client
                .post(format!("{API}/nodes/invites"))
                .bearer_auth(&self.key);
            let answer = request.json(&body).send().await.unwrap();
            let text = answer.text().await.unwrap();
            let made: Value = serde_json::from_str(&text).unwrap();
            let items = made["items"].as_array().unwrap_or_else(|| panic!("{text}"));
            all.extend(items.iter().map(|item| Tenant {
                invite: item["id"].as_str().unwrap().to_owned(),
                code: item["code"].as_str().unwrap().to_owned(),
            }));
        }
        // Until the node has applied them, a login by one of them is decided by its ticket alone.
        tokio::time::sleep(Duration::from_secs(2)).await;
        all
    }

    /// A ticket for each of these, in their order; no two alike.
    pub(crate) async fn tickets(&self, tenants: &[&Tenant]) -> Vec<String> {
        let client = Daemons::client();
        let fetch = |tenant: Tenant| {
            let client = client.clone();
            async move {
                let form = format!(
                    "grant_type=client_credentials&client_id=totoro&client_secret={}",
                    tenant.code
                );
                let request = client
                    .post(format!("{API}/oauth/token"))
                    .header("content-type", "application/x-www-form-urlencoded");
                let answer = request
                    .body(form)
                    .send()
                    .await
                    .unwrap()
                    .text()
                    .await
                    .unwrap();
                let read: Value = serde_json::from_str(&answer).unwrap();
                let ticket = read["access_token"].as_str();
                ticket.unwrap_or_else(|| panic!("{answer}")).to_owned()
            }
        };
        let all = tenants.iter().map(|tenant| fetch((*tenant).clone()));
        futures_util::stream::iter(all).buffered(32).collect().await
    }

    /// The keys that tickets are verified with, and the node's id, as JSON.
    pub(crate) async fn keys(&self) -> String {
        let request = Daemons::client().get(format!("{API}/nodes/watch"));
        let answer = request.bearer_auth(&self.key).send().await.unwrap();
        let state: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        state["keys"].to_string()
    }

    /// Changes an invite's `max_conns`, and answers when the request was sent and when it was answered.
    pub(crate) fn change(
        &self,
        client: &reqwest::blocking::Client,
        invite: &str,
        most: u32,
    ) -> [Instant; 2] {
        let at = format!("{API}/nodes/invites/{invite}");
        let shown = client.get(&at).bearer_auth(&self.key).send().unwrap();
        let tag = shown.headers()["etag"].to_str().unwrap().to_owned();
        let body = json!({ "limits": { "max_conns": most } });
        let request = client
            .patch(&at)
            .bearer_auth(&self.key)
            .header("if-match", tag);
        let sent = Instant::now();
        let answer = request.json(&body).send().unwrap();
        let status = answer.status();
        assert!(
            status.is_success(),
            "{status}: {}",
            answer.text().unwrap_or_default()
        );
        [sent, Instant::now()]
    }
}

/// What the node logs: what is given (`TOTORO_LOG`), or as it does by default.
fn log() -> String {
    std::env::var("TOTORO_LOG").unwrap_or_else(|_| "info".to_owned())
}
