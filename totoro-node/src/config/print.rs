//! `--print-config`: the effective settings as a `node.toml`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{Config, Settings};

/// The effective settings, and where each comes from.
#[derive(Debug, Serialize)]
pub struct Printed {
    settings: Settings,
    sources: BTreeMap<&'static str, &'static str>,
}

impl Config {
    /// The effective settings in a form that is itself a `node.toml`, with where each comes from.
    ///
    /// # Errors
    /// They can't be written as TOML.
    pub fn print(&self) -> Result<String> {
        let settings = self.settings();
        let mut text = toml::to_string(&settings).context("write the settings as TOML")?;
        text.push('\n');
        for (name, source) in &self.sources {
            let now = match (*name, self.interfaces_found) {
                ("interfaces", true) => format!(", now {}", self.interfaces.join(", ")),
                _ => String::new(),
            };
            writeln!(text, "# {name}: {source}{now}").context("write")?;
        }
        Ok(text)
    }

    /// The same for scripts.
    #[must_use]
    pub fn printed(&self) -> Printed {
        Printed {
            settings: self.settings(),
            sources: self.sources.iter().copied().collect(),
        }
    }

    /// What a file that says all of it holds.
    fn settings(&self) -> Settings {
        let this = self.clone();
        Settings {
            control: Some(this.control),
            insecure_http: Some(this.insecure_http),
            node: Some(this.node),
            key_file: Some(this.key_file),
            plugin_secret_file: Some(this.plugin_secret_file),
            frps_password_file: Some(this.frps_password_file),
            tls_dir: Some(this.tls_dir),
            state_dir: Some(this.state_dir),
            run_dir: Some(this.run_dir),
            pin_root: Some(this.pin_root),
            cgroup: Some(this.cgroup),
            object: Some(this.object),
            // Written down, those that are found now would be all there are for ever.
            interfaces: (!this.interfaces_found).then_some(this.interfaces),
            xdp: Some(this.xdp),
            plugin_listen: Some(this.plugin_listen),
            frps_bind_port: Some(this.frps_bind_port),
            frps_admin: Some(this.frps_admin),
            metrics_listen: this.metrics_listen,
            frps_tcp_mux: Some(this.frps_tcp_mux),
            control_per_source: Some(this.control_per_source),
            max_conns_total: Some(this.max_conns_total),
            flow_idle: Some(this.flow_idle),
            port_reserve: Some(this.port_reserve),
            port_cool: Some(this.port_cool),
            session_grace: Some(this.session_grace),
            spool_mib: Some(this.spool_mib),
            server_addr: Some(this.server_addr),
            pool: Some(this.pool),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_is_printed_is_a_file_that_says_the_same_wherever_it_is() {
        let least = "control = \"http://c.example\"\nnode = \"n1\"\ninsecure_http = true\n";
        let more = "interfaces = [\"eth0\"]\nstate_dir = \"state\"\nmetrics_listen = \"127.0.0.1:1\"\n\
                    [pool]\ntcp = [\"20000-20099\"]\n";
        for text in [least.to_owned(), format!("{least}{more}")] {
            let file: Settings = toml::from_str(&text).unwrap();
            let there = Path::new("/etc/totoro");
            let config = Config::from_settings(Settings::default(), file, there).unwrap();
            let printed = config.print().unwrap();
            let file: Settings = toml::from_str(&printed).unwrap();
            let elsewhere = Path::new("/elsewhere");
            let read = Config::from_settings(Settings::default(), file, elsewhere).unwrap();
            let json = serde_json::to_value(config.printed()).unwrap();
            assert_eq!(json["settings"]["control"], "http://c.example");
            assert_eq!(json["sources"]["control"], "file");
            assert_eq!(json["sources"]["spool_mib"], "default");
            let sources = config.sources.clone();
            assert_eq!(Config { sources, ..read }, config, "{printed}");
        }
    }

    #[test]
    fn paths_beside_a_file_named_from_here_are_absolute() {
        let here = std::env::current_dir().unwrap();
        let name = Path::new("node.toml");
        let config = Config::unenrolled(name, Settings::default()).unwrap();
        assert_eq!(config.key_file, here.join("node.key"));
        assert_eq!(config.tls_dir, here.join("tls"));
    }
}
