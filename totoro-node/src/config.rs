//! Settings: `node.toml`, each also a flag and an environment variable.

mod print;
mod span;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use totoro_api::ports::Pool;

pub use self::span::Span;
use crate::kernel::XdpMode;
use crate::spool;

/// The most that `spool_mib` may be.
const MAX_SPOOL_MIB: u32 = 16_384;

/// Declares every setting once: the optional form that flags, environment and file share, and how
/// they go over each other.
macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $kind:ty, $env:literal;)+) => {
        /// Settings as they are given; what is absent comes from the next source.
        #[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Settings {
            $($(#[$doc])*
            #[arg(long, env = $env, global = true, help_heading = "Settings (over node.toml)")]
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub $name: Option<$kind>,)+
            /// Ports lent for TCP and UDP at enrolment: frps's first `allowPorts`.
            #[arg(skip)]
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub pool: Option<Pool>,
        }

        impl Settings {
            /// These, and where they say nothing, `under`.
            #[must_use]
            pub fn over(self, under: Settings) -> Settings {
                Settings { $($name: self.$name.or(under.$name),)+ pool: self.pool.or(under.pool) }
            }

            /// Where each value comes from, one line each.
            fn sources(given: &Settings, file: &Settings) -> Vec<(&'static str, &'static str)> {
                vec![$((stringify!($name), if given.$name.is_some() {
                    "flag or environment"
                } else if file.$name.is_some() {
                    "file"
                } else {
                    "default"
                }),)+]
            }
        }
    };
}

settings! {
    /// The control plane's address, e.g. `https://control.example`.
    control: String, "TOTORO_NODE_CONTROL";
    /// Allow `http://` to the control plane: for loopback and tests.
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    insecure_http: bool, "TOTORO_NODE_INSECURE_HTTP";
    /// This node's id.
    node: String, "TOTORO_NODE_ID";
    /// The file with the node's key (0600).
    key_file: PathBuf, "TOTORO_NODE_KEY_FILE";
    /// The file with the secret of the plugin endpoint (0600).
    plugin_secret_file: PathBuf, "TOTORO_NODE_PLUGIN_SECRET_FILE";
    /// The file with the password of frps's admin API (0600).
    frps_password_file: PathBuf, "TOTORO_NODE_FRPS_PASSWORD_FILE";
    /// The directory with frps's CA and certificate.
    tls_dir: PathBuf, "TOTORO_NODE_TLS_DIR";
    /// Where state is kept.
    state_dir: PathBuf, "TOTORO_NODE_STATE_DIR";
    /// Where the local socket is.
    run_dir: PathBuf, "TOTORO_NODE_RUN_DIR";
    /// Where programs and maps are pinned, on a bpffs.
    pin_root: PathBuf, "TOTORO_NODE_PIN_ROOT";
    /// The cgroup (v2) whose sockets are counted.
    cgroup: PathBuf, "TOTORO_NODE_CGROUP";
    /// The kernel object; empty: the one that is built in.
    object: PathBuf, "TOTORO_NODE_OBJECT";
    /// Interfaces to filter; those with a default route when absent.
    #[arg(value_delimiter = ',')]
    interfaces: Vec<String>, "TOTORO_NODE_INTERFACES";
    /// How packets are filtered before the stack.
    xdp: XdpMode, "TOTORO_NODE_XDP";
    /// Where frps reaches the plugin endpoint: loopback, below port 1024.
    plugin_listen: SocketAddr, "TOTORO_NODE_PLUGIN_LISTEN";
    /// frps's own port.
    frps_bind_port: u16, "TOTORO_NODE_FRPS_BIND_PORT";
    /// frps's admin API.
    frps_admin: SocketAddr, "TOTORO_NODE_FRPS_ADMIN";
    /// Where /metrics is served beside its unix socket: loopback; nowhere when absent.
    metrics_listen: SocketAddr, "TOTORO_NODE_METRICS_LISTEN";
    /// Whether frpc has one connection for everything (frps's `transport.tcpMux`, its default), or
    /// one more for each user connection.
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    frps_tcp_mux: bool, "TOTORO_NODE_FRPS_TCP_MUX";
    /// Connections from one source to frps's own port; 0 = no limit.
    control_per_source: u32, "TOTORO_NODE_CONTROL_PER_SOURCE";
    /// TCP user connections of all tenants together; 0 = no limit but the tables' size.
    max_conns_total: u32, "TOTORO_NODE_MAX_CONNS_TOTAL";
    /// Without a datagram for so long a UDP flow is idle, e.g. `60s`.
    flow_idle: Span, "TOTORO_NODE_FLOW_IDLE";
    /// How long a lost proxy's port waits for it, e.g. `10m`.
    port_reserve: Span, "TOTORO_NODE_PORT_RESERVE";
    /// How long after that no other tenant may have it, e.g. `10m`.
    port_cool: Span, "TOTORO_NODE_PORT_COOL";
    /// How long a session outlives its connection, e.g. `30s`.
    session_grace: Span, "TOTORO_NODE_SESSION_GRACE";
    /// The most that audit events take which wait for the control plane, MiB.
    spool_mib: u32, "TOTORO_NODE_SPOOL_MIB";
    /// Where clients reach frps.
    #[arg(value_delimiter = ',')]
    server_addr: Vec<String>, "TOTORO_NODE_SERVER_ADDR";
}

/// The effective settings; paths are absolute.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The control plane's address, without a final slash.
    pub control: String,
    /// Whether it may be reached over plain HTTP.
    pub insecure_http: bool,
    /// This node's id.
    pub node: String,
    /// The file with the node's key.
    pub key_file: PathBuf,
    /// The file with the plugin endpoint's secret.
    pub plugin_secret_file: PathBuf,
    /// The file with frps's admin password.
    pub frps_password_file: PathBuf,
    /// frps's CA and certificate.
    pub tls_dir: PathBuf,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// Where the local socket is.
    pub run_dir: PathBuf,
    /// Where programs and maps are pinned.
    pub pin_root: PathBuf,
    /// The cgroup (v2) whose sockets are counted.
    pub cgroup: PathBuf,
    /// The kernel object.
    pub object: PathBuf,
    /// Interfaces to filter.
    pub interfaces: Vec<String>,
    /// Whether nobody named them: then those with a default route, and those that get one.
    pub interfaces_found: bool,
    /// How packets are filtered.
    pub xdp: XdpMode,
    /// The plugin endpoint.
    pub plugin_listen: SocketAddr,
    /// frps's own port.
    pub frps_bind_port: u16,
    /// frps's admin API.
    pub frps_admin: SocketAddr,
    /// Where `/metrics` is served beside its unix socket.
    pub metrics_listen: Option<SocketAddr>,
    /// frps's `transport.tcpMux`.
    pub frps_tcp_mux: bool,
    /// Connections from one source to frps's own port.
    pub control_per_source: u32,
    /// TCP user connections of all tenants together; 0 = no limit.
    pub max_conns_total: u32,
    /// Idle time of UDP flows.
    pub flow_idle: Span,
    /// How long a lost proxy's port waits for it.
    pub port_reserve: Span,
    /// How long after that no other tenant may have it.
    pub port_cool: Span,
    /// How long a session outlives its connection.
    pub session_grace: Span,
    /// The most that waiting audit events take, MiB.
    pub spool_mib: u32,
    /// Where clients reach frps.
    pub server_addr: Vec<String>,
    /// Ports lent at enrolment.
    pub pool: Pool,
    sources: Vec<(&'static str, &'static str)>,
}

impl Config {
    /// Reads the file and puts what was given over it.
    ///
    /// # Errors
    /// The file can't be read, has an unknown key, or a value is missing or cannot hold.
    pub fn load(path: &Path, given: Settings) -> Result<Config> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("read {} (made by: totoro-node enroll)", path.display()))?;
        let file: Settings =
            toml::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
        Config::from_settings(given, file, &dir_of(path)?)
    }

    /// The settings of a machine that is not enrolled yet, for its preflight: what is given, and
    /// defaults. Control plane and node have no names in it.
    ///
    /// # Errors
    /// A value cannot hold.
    pub fn unenrolled(path: &Path, given: Settings) -> Result<Config> {
        let nameless = Settings {
            control: Some("https://control.invalid".to_owned()),
            node: Some(String::new()),
            ..Settings::default()
        };
        Config::from_settings(given, nameless, &dir_of(path)?)
    }

    /// The effective settings; relative paths are relative to `dir`.
    ///
    /// # Errors
    /// A value is missing or cannot hold.
    pub fn from_settings(given: Settings, file: Settings, dir: &Path) -> Result<Config> {
        let sources = Settings::sources(&given, &file);
        let all = given.over(file);
        let missing = |name: &str| format!("{name} is not set (totoro-node enroll writes it)");
        let path = |value: Option<PathBuf>, default: &str| match value {
            Some(path) if path.is_absolute() => path,
            Some(path) => dir.join(path),
            None if Path::new(default).is_absolute() => PathBuf::from(default),
            None => dir.join(default),
        };
        let control = all.control.with_context(|| missing("control"))?;
        let insecure_http = all.insecure_http.unwrap_or(false);
        let control = check_control(&control, insecure_http)?;
        let frps_admin = all.frps_admin.unwrap_or(([127, 0, 0, 1], 7500).into());
        let plugin_listen = all.plugin_listen.unwrap_or(([127, 0, 0, 1], 988).into());
        let listens = [("plugin_listen", plugin_listen), ("frps_admin", frps_admin)];
        let metrics = all.metrics_listen.map(|at| ("metrics_listen", at));
        for (name, at) in listens.into_iter().chain(metrics) {
            ensure!(at.ip().is_loopback(), "{name} = {at} is not on loopback");
        }
        let spool_mib = all.spool_mib.unwrap_or(spool::DEFAULT_MIB);
        ensure!(
            (spool::LEAST_MIB..=MAX_SPOOL_MIB).contains(&spool_mib),
            "spool_mib = {spool_mib} is not {} to {MAX_SPOOL_MIB}",
            spool::LEAST_MIB
        );
        Ok(Config {
            control,
            insecure_http,
            node: all.node.with_context(|| missing("node"))?,
            key_file: path(all.key_file, "node.key"),
            plugin_secret_file: path(all.plugin_secret_file, "plugin.secret"),
            frps_password_file: path(all.frps_password_file, "frps-admin.password"),
            tls_dir: path(all.tls_dir, "tls"),
            state_dir: path(all.state_dir, "/var/lib/totoro"),
            run_dir: path(all.run_dir, "/run/totoro"),
            pin_root: path(all.pin_root, "/sys/fs/bpf/totoro"),
            cgroup: match all.cgroup {
                Some(path) => absolute(&path)?,
                None => crate::machine::cgroup2_root().unwrap_or_else(|| "/sys/fs/cgroup".into()),
            },
            object: match all.object {
                // Not one beside the settings: empty is the one that is built in.
                Some(path) if path.as_os_str().is_empty() => path,
                Some(path) => absolute(&path)?,
                None => crate::kernel::object::find(),
            },
            interfaces_found: all.interfaces.is_none(),
            interfaces: match all.interfaces {
                Some(interfaces) => interfaces,
                None => crate::machine::default_interfaces(),
            },
            xdp: all.xdp.unwrap_or_default(),
            plugin_listen,
            frps_bind_port: all.frps_bind_port.unwrap_or(7000),
            frps_admin,
            metrics_listen: all.metrics_listen,
            frps_tcp_mux: all.frps_tcp_mux.unwrap_or(true),
            control_per_source: all.control_per_source.unwrap_or(64),
            max_conns_total: all.max_conns_total.unwrap_or(0),
            flow_idle: all.flow_idle.unwrap_or(Span::seconds(60)),
            port_reserve: all.port_reserve.unwrap_or(Span::seconds(600)),
            port_cool: all.port_cool.unwrap_or(Span::seconds(600)),
            session_grace: all.session_grace.unwrap_or(Span::seconds(30)),
            spool_mib,
            server_addr: all.server_addr.unwrap_or_default(),
            pool: all.pool.unwrap_or_default(),
            sources,
        })
    }

    /// The socket that serves `/metrics`.
    #[must_use]
    pub fn metrics_socket(&self) -> PathBuf {
        self.run_dir.join("metrics.sock")
    }

    /// TCP ports of the node's own work, which the pool must leave alone: the socket lookup takes connections to
    /// the pool for its tenants' users.
    #[must_use]
    pub fn own_ports(&self) -> Vec<(&'static str, u16)> {
        let metrics = self
            .metrics_listen
            .map(|at| ("the metrics' port", at.port()));
        let always = [
            ("frps's own port", self.frps_bind_port),
            ("the plugin's port", self.plugin_listen.port()),
            ("frps's admin port", self.frps_admin.port()),
        ];
        always.into_iter().chain(metrics).collect()
    }

    /// The local socket.
    #[must_use]
    pub fn local_socket(&self) -> PathBuf {
        self.run_dir.join("node.sock")
    }
}

/// Where a settings' file is. What is made from it is used in other places, and by other programs.
fn dir_of(file: &Path) -> Result<PathBuf> {
    let mut dir = absolute(file)?;
    dir.pop();
    Ok(dir)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("find {}", path.display()))
}

/// The control plane's address, checked: keys and tickets travel there.
fn check_control(control: &str, insecure_http: bool) -> Result<String> {
    let control = control.trim_end_matches('/');
    if control.starts_with("http://") {
        ensure!(
            insecure_http,
            "control = {control} would carry the node's key in the clear; use https, or set \
             insecure_http = true where nobody else is on the wire"
        );
    } else if !control.starts_with("https://") {
        bail!("control = {control} is no address: https://HOST[:PORT]");
    }
    Ok(control.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config> {
        let file: Settings = toml::from_str(text)?;
        Config::from_settings(Settings::default(), file, Path::new("/etc/totoro"))
    }

    const LEAST: &str = "control = \"https://c.example/\"\nnode = \"n1\"\n";

    #[test]
    fn defaults_are_beside_the_file() {
        let config = read(LEAST).unwrap();
        assert_eq!(config.control, "https://c.example");
        assert_eq!(config.key_file, Path::new("/etc/totoro/node.key"));
        assert_eq!(config.pin_root, Path::new("/sys/fs/bpf/totoro"));
        assert_eq!(config.port_cool, Span::seconds(600));
        let printed = config.print().unwrap();
        assert!(printed.contains("# node: file") && printed.contains("# xdp: default"));
    }

    #[test]
    fn flags_go_over_the_file() {
        let file: Settings = toml::from_str(&format!("{LEAST}frps_bind_port = 7001")).unwrap();
        let given = Settings {
            frps_bind_port: Some(7002),
            ..Settings::default()
        };
        let config = Config::from_settings(given, file, Path::new("/")).unwrap();
        assert_eq!(config.frps_bind_port, 7002);
    }

    #[test]
    fn the_metrics_port_is_one_of_the_nodes_own() {
        let ports = |text: &str| -> Vec<u16> {
            let own = read(&format!("{LEAST}{text}")).unwrap().own_ports();
            own.into_iter().map(|(_, port)| port).collect()
        };
        assert_eq!(ports(""), [7000, 988, 7500]);
        let all = ports("frps_bind_port = 1\nmetrics_listen = \"127.0.0.1:9100\"");
        assert_eq!(all, [1, 988, 7500, 9100]);
    }

    #[test]
    fn what_cannot_hold_is_refused() {
        for (text, named) in [
            ("nod = \"n1\"".to_owned(), "nod"),
            (
                "control = \"http://c.example\"\nnode = \"n\"".to_owned(),
                "insecure_http",
            ),
            (
                "control = \"c.example\"\nnode = \"n\"".to_owned(),
                "no address",
            ),
            (
                "control = \"https://c.example\"".to_owned(),
                "node is not set",
            ),
            (
                format!("{LEAST}plugin_listen = \"0.0.0.0:988\""),
                "loopback",
            ),
            (format!("{LEAST}port_cool = \"10\""), "no time"),
            (format!("{LEAST}port_cool = \"31d\""), "no time"),
            (format!("{LEAST}spool_mib = 3"), "spool_mib"),
        ] {
            let error = format!("{:#}", read(&text).unwrap_err());
            assert!(error.contains(named), "{text:?}: {error}");
        }
    }
}
