//! The real server as a child process on an ephemeral loopback port, and a node's daemon as far as
//! the control plane sees one.

mod answer;
pub(crate) mod ca;
mod node;

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

pub(crate) use answer::{Answer, answer};
pub(crate) use node::Node;

/// How long anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running control plane in a directory of its own. It is killed when dropped.
pub(crate) struct Control {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) api: String,
    pub(crate) admin: String,
    pub(crate) http: reqwest::Client,
    pub(crate) at: PathBuf,
    child: Child,
    log: PathBuf,
    env: Vec<(&'static str, String)>,
}

pub(crate) fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_totoro-control")
}

/// Without the trace log that some tests look into: it would cost most of the time under load.
pub(crate) fn quiet() -> (&'static str, String) {
    ("TOTORO_LOG", "info".to_owned())
}

impl Control {
    /// A new installation, running; heartbeats every second.
    pub(crate) fn start() -> Self {
        Self::start_with(&["--ticket-ttl", "1h"])
    }

    pub(crate) fn start_with(init: &[&str]) -> Self {
        Self::over(Self::init(init), &[])
    }

    /// A new installation in `control`, not running.
    pub(crate) fn init(init: &[&str]) -> tempfile::TempDir {
        Self::init_in(tempfile::tempdir().unwrap(), init)
    }

    /// The same in a directory that is there.
    pub(crate) fn init_in(dir: tempfile::TempDir, init: &[&str]) -> tempfile::TempDir {
        let at = dir.path().join("control");
        let done = Command::new(binary())
            .args([
                "init",
                "--listen",
                "127.0.0.1:0",
                "--public-url",
                "http://127.0.0.1:1",
            ])
            .args(["--heartbeat-interval", "1s", "--dir"])
            .arg(&at)
            .args(init)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        // Nobody is at the nodes' addresses; the tests of listing switch it on again.
        change(&at, &[("probe = true", "probe = false")]);
        dir
    }

    /// Runs the installation in `control`, with this environment.
    pub(crate) fn over(dir: tempfile::TempDir, env: &[(&'static str, String)]) -> Self {
        let at = dir.path().join("control");
        let admin = std::fs::read_to_string(at.join("admin.token"))
            .unwrap()
            .trim()
            .to_owned();
        let log = dir.path().join("log");
        let (child, api) = serve(&at, &log, env);
        Control {
            dir,
            api,
            admin,
            http: http(),
            at,
            child,
            log,
            env: env.to_vec(),
        }
    }

    /// The installation's directory.
    pub(crate) fn at(&self) -> PathBuf {
        self.at.clone()
    }

    /// Everything that was logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Ends the server, changes its settings and starts it again.
    pub(crate) fn reconfigure(&mut self, changes: &[(&str, &str)]) {
        assert!(self.terminate().success());
        change(&self.at(), changes);
        self.restart();
    }

    /// Gives admins an address of their own: where it is.
    pub(crate) fn with_admin_address(&mut self) -> String {
        self.reconfigure(&[(
            "insecure_http = false",
            "insecure_http = false\nadmin_listen = \"127.0.0.1:0\"",
        )]);
        let log = self.log();
        let told = log.rsplit("admin_url=").next().unwrap();
        let admin = told.split_whitespace().next().unwrap();
        admin.trim_matches('"').to_owned()
    }

    /// Starts the server again after it has ended.
    pub(crate) fn restart(&mut self) {
        let (child, api) = serve(&self.at(), &self.log, &self.env);
        (self.child, self.api) = (child, api);
    }

    /// The same without what the environment had said.
    pub(crate) fn restart_plainly(&mut self) {
        self.env = vec![quiet()];
        self.restart();
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The most memory it had at once, KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.unwrap().trim().trim_end_matches(" kB");
        peak.parse().unwrap()
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.pid());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Its process.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// SIGTERM, and the end.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.ended()
    }

    /// Waits until it has ended, for whatever reason.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A request with this bearer text.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        bearer: &str,
        body: Option<Value>,
    ) -> Answer {
        self.call_with(method, path, bearer, body, &[]).await
    }

    pub(crate) async fn call_with(
        &self,
        method: &str,
        path: &str,
        bearer: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let url = format!("{}/api/v1{path}", self.api);
        let mut request = self
            .http
            .request(Method::from_bytes(method.as_bytes()).unwrap(), url);
        if !bearer.is_empty() {
            request = request.bearer_auth(bearer);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        answer(request).await
    }

    pub(crate) async fn get(&self, path: &str, bearer: &str) -> Answer {
        self.call("GET", path, bearer, None).await
    }

    pub(crate) async fn post(&self, path: &str, bearer: &str, body: Value) -> Answer {
        self.call("POST", path, bearer, Some(body)).await
    }

    /// Changes something under `If-Match: *`.
    pub(crate) async fn patch(&self, path: &str, bearer: &str, body: Value) -> Answer {
        self.call_with("PATCH", path, bearer, Some(body), &[("if-match", "*")])
            .await
    }

    pub(crate) async fn delete(&self, path: &str, bearer: &str) -> Answer {
        self.call_with("DELETE", path, bearer, None, &[("if-match", "*")])
            .await
    }

    /// `POST /oauth/token` as a form.
    pub(crate) async fn oauth(&self, secret: &str) -> Answer {
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([
                ("grant_type", "client_credentials"),
                ("client_id", "totoro"),
                ("client_secret", secret),
            ])
            .finish();
        let url = format!("{}/api/v1/oauth/token", self.api);
        let kind = "application/x-www-form-urlencoded";
        answer(self.http.post(url).header("content-type", kind).body(form)).await
    }

    /// All events of a query, as an admin sees them.
    pub(crate) async fn audit(&self, query: &str) -> Vec<Value> {
        let page = self
            .get(&format!("/admin/audit?limit=1000{query}"), &self.admin)
            .await
            .with(200);
        page["items"].as_array().unwrap().clone()
    }

    /// Their kinds.
    pub(crate) async fn kinds(&self, query: &str) -> Vec<String> {
        let kind = |event: &Value| event["kind"].as_str().unwrap().to_owned();
        self.audit(query).await.iter().map(kind).collect()
    }

    /// An enrolled node that has reported and acknowledged its keys.
    pub(crate) async fn node(&self, name: &str) -> Node {
        let node = self.enrolled(name, json!({})).await;
        node.come_up(self).await;
        node
    }

    /// An enrolled node that has said nothing yet.
    pub(crate) async fn enrolled(&self, name: &str, more: Value) -> Node {
        let mut new = json!({
            "name": name,
            "server_addr": ["192.0.2.1:7000"],
            "pool": { "tcp": ["20000-20099"], "udp": ["20000-20099"] },
        });
        new.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let made = self.post("/admin/nodes", &self.admin, new).await.with(201);
        let node = Node::new(made["id"].as_str().unwrap());
        let token = made["token"].as_str().unwrap();
        let enrolled = self
            .post("/nodes/enroll", token, node.enrolment())
            .await
            .with(200);
        assert_eq!(enrolled["node"], node.id.as_str());
        node
    }

    /// A new invite: its id and its code.
    pub(crate) async fn invite(&self, node: &Node, body: Value) -> (String, String) {
        let made = self.post("/nodes/invites", &node.key, body).await.with(201);
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        (text("id"), text("code"))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the server's log\n{}", self.log());
        }
    }
}

/// Changes the settings of the installation there.
pub(crate) fn change(at: &Path, changes: &[(&str, &str)]) {
    let file = at.join("control.toml");
    let mut text = std::fs::read_to_string(&file).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from} is not in {text}");
        text = text.replace(from, to);
    }
    std::fs::write(&file, text).unwrap();
}

fn serve(at: &Path, log: &Path, env: &[(&'static str, String)]) -> (Child, String) {
    let path = log;
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(log)
        .unwrap();
    let mut child = Command::new(binary())
        .args(["serve", "--config"])
        .arg(at.join("control.toml"))
        .env(
            "TOTORO_LOG",
            "debug,totoro_control=trace,hyper=trace,warp=trace,sled=info",
        )
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap().take(200))
        .read_line(&mut line)
        .unwrap();
    let api = line
        .trim()
        .strip_prefix("listening on ")
        .unwrap_or_else(|| {
            let log = std::fs::read_to_string(path).unwrap_or_default();
            panic!("said {line:?}; its log:\n{log}")
        });
    (child, api.to_owned())
}

/// A client that trusts the loopback alone.
pub(crate) fn http() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .unwrap()
}
