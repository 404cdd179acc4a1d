//! What the story's items share.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use totoro_api::Reason;
use totoro_api::wire::invite::{Code, Invite, Resolved, Usage};

use crate::api::Api;
use crate::lab::{Finished, Lab, NODE_CLIENT_V4, Place, Process};
use crate::net::backend::Backend;

/// Where the control plane listens.
pub(crate) const CONTROL: &str = "http://10.77.1.1:8080";
/// frps's own port.
pub const FRPS_PORT: u16 = 7000;
/// The lent ports, both protocols.
pub(crate) const POOL: &str = "20000-20099";
/// Life of a ticket, seconds: short, so that the story sees one expire.
pub(crate) const TICKET_TTL_S: u64 = 5;
/// How often a story's node reports, so that nobody waits for it.
pub(crate) const HEARTBEAT: &str = "1s";

/// An invite, its code, and the frpc that uses it.
#[derive(Debug)]
pub struct Tenant {
    /// The invite.
    pub invite: Invite,
    /// Its code.
    pub code: String,
    /// Its running frpc, if there is one.
    pub frpc: Option<Process>,
}

/// The lab and everything in it.
#[derive(Debug)]
pub struct World {
    /// The namespaces.
    pub lab: Lab,
    pub(crate) backend: Backend,
    pub(crate) control: Option<Process>,
    /// Its daemon, where it runs.
    pub node: Option<Process>,
    /// Its frps, where it runs.
    pub frps: Option<Process>,
    /// Life of a ticket, seconds.
    pub(crate) ticket_ttl_s: u64,
    /// How often the node reports, where it is not the product's own choice.
    pub(crate) heartbeat: Option<&'static str>,
    /// Its name with the control plane.
    pub node_id: String,
    /// The node's enrolment token, after its use.
    pub(crate) spent_token: String,
    /// Without a credential, from the client's machine.
    pub(crate) anyone: Api,
    /// The one whose limits the story is about: ports 20000-20049, max_conns 5, max_proxies 2.
    pub(crate) tenant: Option<Tenant>,
    /// Another tenant of the same node.
    pub(crate) other: Option<Tenant>,
    /// The tenant's ports: tcp, udp.
    pub(crate) ports: Option<(u16, u16)>,
    /// Connections of the tenant's users that the story saw refused for `max_conns`, or muted.
    pub(crate) refused_conns: u64,
    /// A ticket from the story's beginning, for the check that needs an old one.
    pub(crate) early_ticket: Option<(String, Instant)>,
    /// Settings of the node beside the story's own, as TOML values.
    pub(crate) settings: Vec<(&'static str, &'static str)>,
    /// Lines before frps's printed configuration.
    pub(crate) frps_more: String,
}

impl World {
    pub(crate) fn new(lab: Lab, ticket_ttl_s: u64) -> Result<World> {
        let backend = Backend::start(lab.ns(Place::Client))?;
        let anyone = Api::new(lab.ns(Place::Client), CONTROL, None)?;
        Ok(World {
            lab,
            backend,
            anyone,
            control: None,
            node: None,
            frps: None,
            ticket_ttl_s,
            heartbeat: Some(HEARTBEAT),
            node_id: String::new(),
            spent_token: String::new(),
            tenant: None,
            other: None,
            ports: None,
            refused_conns: 0,
            early_ticket: None,
            settings: Vec::new(),
            frps_more: String::new(),
        })
    }

    /// The admin's view.
    ///
    /// # Errors
    /// There is no admin's token.
    pub fn admin(&self) -> Result<Api> {
        Ok(self.anyone.with_token(&secret(&self.admin_token())?))
    }

    /// The lender's view, by the node's own key.
    pub(crate) fn lender(&self) -> Result<Api> {
        Ok(self.anyone.with_token(&secret(&self.node_key())?))
    }

    pub(crate) fn admin_token(&self) -> PathBuf {
        self.lab.file("control/admin.token")
    }

    pub(crate) fn node_key(&self) -> PathBuf {
        self.lab.file("node/node.key")
    }

    pub(crate) fn node_config(&self) -> PathBuf {
        self.lab.file("node/node.toml")
    }

    /// `totoro-control ARGS`, as its admin.
    pub(crate) fn control_cli(&self, args: &[&str]) -> Result<Finished> {
        let mut command = self.lab.command(&self.lab.tools.control);
        command
            .args(args)
            .env("TOTORO_API", CONTROL)
            .env("TOTORO_INSECURE_HTTP", "true")
            .env("TOTORO_TOKEN_FILE", self.admin_token());
        self.lab.run(Place::Node, command)
    }

    /// `totoro-node ARGS --config …`.
    pub(crate) fn node_cli(&self, args: &[&str]) -> Result<Finished> {
        self.lab.run(Place::Node, self.node_command(args))
    }

    /// The command of [`World::node_cli`], with the lab's own places.
    pub(crate) fn node_command(&self, args: &[&str]) -> Command {
        let mut command = self.lab.command(&self.lab.tools.node);
        command.args(args).arg("--config").arg(self.node_config());
        command
    }

    /// `totoro-node inspect WHAT --json`.
    ///
    /// # Errors
    /// It fails, or prints no list.
    pub fn inspect(&self, what: &str) -> Result<Vec<Value>> {
        let text = self.node_cli(&["inspect", what, "--json"])?.ok()?;
        let read: Value =
            serde_json::from_str(&text).with_context(|| format!("read {text:.200}"))?;
        match read {
            Value::Array(rows) => Ok(rows),
            other => bail!("inspect {what} printed no list: {other}"),
        }
    }

    /// `totoro-node doctor`'s lines. Something may be wrong.
    ///
    /// # Errors
    /// It prints none.
    pub(crate) fn doctor(&self) -> Result<Vec<Value>> {
        let told = self.node_cli(&["doctor", "--json"])?.out;
        serde_json::from_str(&told).with_context(|| format!("read doctor's {told}"))
    }

    /// Its line on a component.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn doctor_on(&self, component: &str) -> Result<Value> {
        let mut lines = self.doctor()?.into_iter();
        let line = lines.find(|line| line["component"] == component);
        line.with_context(|| format!("doctor has no line on {component}"))
    }

    /// How much the node has refused for a reason so far, by the kernel's counters.
    ///
    /// # Errors
    /// They can't be read.
    pub(crate) fn refused(&self, reason: Reason) -> Result<u64> {
        let rows = self.inspect("reasons")?.into_iter();
        let rows = rows.filter(|row| row["reason"] == reason.code());
        Ok(rows.filter_map(|row| row["count"].as_u64()).sum())
    }

    pub(crate) fn tenant(&mut self) -> Result<&mut Tenant> {
        self.tenant
            .as_mut()
            .context("there is no invite from item 2")
    }

    /// The tenant's ports: tcp, udp.
    pub(crate) fn ports(&self) -> Result<(u16, u16)> {
        self.ports.context("there is no tunnel from item 3")
    }

    /// Resolves a code from the client's machine.
    pub(crate) fn resolve(&self, code: &str) -> Result<Resolved> {
        self.anyone.post(
            "/invites/resolve",
            &Code {
                code: code.to_owned(),
            },
        )
    }

    /// What the node last told about a tenant, once it satisfies `good`.
    pub(crate) fn usage_when(&self, code: &str, good: impl Fn(&Usage) -> bool) -> Result<Usage> {
        let mut last = None;
        let found = within(Duration::from_secs(8), || {
            // Heartbeats come every second, and an address may ask twice a second for long.
            std::thread::sleep(Duration::from_millis(300));
            let usage: Usage = self.anyone.post(
                "/invites/usage",
                &Code {
                    code: code.to_owned(),
                },
            )?;
            let ok = good(&usage);
            last = Some(usage.clone());
            Ok(ok.then_some(usage))
        });
        found.with_context(|| format!("the usage stays {last:?}"))
    }

    /// Makes an invite as the lender does, by the command.
    pub(crate) fn invite_by_command(&self, label: &str, limits: &Value) -> Result<Tenant> {
        let limits = limits.to_string();
        let made = self.node_cli(&[
            "invite", "create", "--label", label, "--limits", &limits, "--json",
        ])?;
        let text = made.ok()?;
        tenant(serde_json::from_str(&text).with_context(|| format!("read {text:.200}"))?)
    }

    /// Makes an invite as the lender, by REST.
    ///
    /// # Errors
    /// The control plane does not answer, or refuses.
    pub fn invite(&self, label: &str, limits: Value) -> Result<Tenant> {
        self.invite_of(&serde_json::json!({ "label": label, "limits": limits }))
    }

    /// The same, by the request's whole body.
    ///
    /// # Errors
    /// As [`World::invite`].
    pub fn invite_of(&self, body: &Value) -> Result<Tenant> {
        tenant(self.lender()?.post("/nodes/invites", body)?)
    }

    /// A file of the lab's that only its owner reads.
    pub(crate) fn write_secret(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.lab.file("other").join(name);
        fs::create_dir_all(self.lab.file("other")).context("create the client's directory")?;
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options
            .open(&path)
            .with_context(|| format!("create {}", path.display()))?;
        std::io::Write::write_all(&mut file, text.as_bytes()).context("write a secret")?;
        Ok(path)
    }

    /// Whether control plane, node and frps were started.
    pub(crate) const fn is_up(&self) -> bool {
        self.control.is_some() && self.node.is_some() && self.frps.is_some()
    }

    /// For people who play on in a kept lab: the services behind frpc become a process, and
    /// `target/demo/lab.env` is written; where it is.
    ///
    /// # Errors
    /// Either fails.
    pub fn leave(self) -> Result<PathBuf> {
        let env = self.env();
        let (tcp, udp) = (self.backend.tcp, self.backend.udp);
        let exe = std::env::current_exe().context("our own path")?;
        let World { lab, backend, .. } = self;
        drop(backend);
        let mut serve = lab.command(exe);
        serve.args(["backend", &tcp.to_string(), &udp.to_string()]);
        let backend = lab.start(Place::Client, "backend", serve)?;
        let path = lab.leave(&env);
        drop(backend);
        path
    }

    fn env(&self) -> String {
        let ns = |place| self.lab.ns(place).name().to_owned();
        let tools = &self.lab.tools;
        [
            ("TOTORO_API", CONTROL.to_owned()),
            ("TOTORO_INSECURE_HTTP", "true".to_owned()),
            (
                "TOTORO_TOKEN_FILE",
                self.admin_token().display().to_string(),
            ),
            (
                "TOTORO_NODE_KEY_FILE",
                self.node_key().display().to_string(),
            ),
            (
                "TOTORO_NODE_CONFIG",
                self.node_config().display().to_string(),
            ),
            ("TOTORO_NODE_ID", self.node_id.clone()),
            ("LAB_NS_NODE", ns(Place::Node)),
            ("LAB_NS_CLIENT", ns(Place::Client)),
            ("LAB_NS_USER", ns(Place::User)),
            ("LAB_FRPS", format!("{NODE_CLIENT_V4}:{FRPS_PORT}")),
            ("LAB_PINS", self.lab.pin_root().display().to_string()),
            ("LAB_CGROUP", self.lab.cgroup().display().to_string()),
            ("LAB_DIR", self.lab.dir.display().to_string()),
            ("TOTORO_CONTROL", tools.control.display().to_string()),
            ("TOTORO_NODE", tools.node.display().to_string()),
            ("FRPS", tools.frps.display().to_string()),
            ("FRPC", tools.frpc.display().to_string()),
        ]
        .map(|(name, value)| format!("{name}='{value}'\n"))
        .concat()
    }
}

/// A new invite's tenant, whose frpc does not run yet.
fn tenant(invite: Invite) -> Result<Tenant> {
    let code = invite.code.clone();
    Ok(Tenant {
        code: code.context("the new invite came without its code")?,
        invite,
        frpc: None,
    })
}

/// A secret from its file.
fn secret(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// Asks again every 10 ms until there is an answer.
///
/// # Errors
/// There is none in time: the last error, if there was one.
pub fn within<T>(patience: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        let answer = ask();
        if let Ok(Some(answer)) = answer {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            return match answer {
                Err(error) => Err(error.context(format!("still after {patience:?}"))),
                _ => bail!("not within {patience:?}"),
            };
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Milliseconds, for people.
pub(crate) fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
