//! Each setting as a flag and an environment variable over `control.toml`, and where each of the
//! effective values comes from.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args as _, FromArgMatches as _};
use ipnet::IpNet;
use serde::Serialize;
use toml::{Table, Value};

use super::{Config, ConfigError};
use crate::duration::Span;

/// Declares every setting that the file can hold: its flag and variable, and its key there.
macro_rules! settings {
    ($($(#[$meta:meta])* $name:ident: $kind:ty = $key:literal, $env:literal;)+) => {
        /// Settings as flags and environment variables give them, over the file.
        #[derive(Clone, Debug, Default, clap::Args)]
        #[command(next_help_heading = "Settings (over control.toml)")]
        pub struct Settings {
            $($(#[$meta])* #[arg(long, env = $env)] pub $name: Option<$kind>,)+
        }

        impl Settings {
            /// What is given, by its key in the file.
            fn given(&self) -> Result<Vec<(&'static str, Value)>, toml::ser::Error> {
                let mut given = Vec::new();
                $(if let Some(value) = &self.$name {
                    given.push(($key, Value::try_from(value)?));
                })+
                Ok(given)
            }

            /// Every setting: its key in the file, its flag's id, its variable.
            const ALL: &'static [(&'static str, &'static str, &'static str)] =
                &[$(($key, stringify!($name), $env),)+];
        }
    };
}

settings! {
    /// Where to listen; without TLS on loopback, behind a proxy that serves TLS.
    #[arg(value_name = "ADDRESS:PORT")]
    listen: SocketAddr = "listen", "TOTORO_CONTROL_LISTEN";
    /// Where clients reach it; goes into the generated frpc.toml.
    #[arg(value_name = "URL")]
    public_url: String = "public_url", "TOTORO_CONTROL_PUBLIC_URL";
    /// Where to serve the admins' part and /metrics instead, for admins alone.
    #[arg(value_name = "ADDRESS:PORT")]
    admin_listen: SocketAddr = "admin_listen", "TOTORO_CONTROL_ADMIN_LISTEN";
    /// Serve TLS with this certificate, in PEM with its chain.
    #[arg(value_name = "FILE")]
    tls_cert: PathBuf = "tls.cert", "TOTORO_CONTROL_TLS_CERT";
    /// Its private key in PEM, mode 0600.
    #[arg(value_name = "FILE")]
    tls_key: PathBuf = "tls.key", "TOTORO_CONTROL_TLS_KEY";
    /// Serve keys over plain HTTP beyond loopback. Only for closed networks.
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    insecure_http: bool = "insecure_http", "TOTORO_CONTROL_INSECURE_HTTP";
    /// The store.
    #[arg(value_name = "DIR")]
    data_dir: PathBuf = "data_dir", "TOTORO_CONTROL_DATA_DIR";
    /// Secret files, mode 0600 each.
    #[arg(value_name = "DIR")]
    secrets_dir: PathBuf = "secrets_dir", "TOTORO_CONTROL_SECRETS_DIR";
    /// A ticket's life, 1s to 24h; less than 5m is for tests.
    ticket_ttl: Span = "ticket_ttl", "TOTORO_CONTROL_TICKET_TTL";
    /// How often nodes report, 1s to 5m; three missed make a node offline.
    heartbeat_interval: Span = "heartbeat_interval", "TOTORO_CONTROL_HEARTBEAT_INTERVAL";
    /// How often clients of a node without our daemon ping, 1s to 1h.
    callback_ping: Span = "callback_ping", "TOTORO_CONTROL_CALLBACK_PING";
    /// How long a node's stream of its policy lives at most, 1s to 1d.
    stream_life: Span = "stream_life", "TOTORO_CONTROL_STREAM_LIFE";
    /// How long a lost session's ports wait for it there, at most 7d.
    port_reserve: Span = "port_reserve", "TOTORO_CONTROL_PORT_RESERVE";
    /// How long after that no other tenant may have them, at most 7d.
    port_cool: Span = "port_cool", "TOTORO_CONTROL_PORT_COOL";
    /// Invites of one node at most, over and not yet forgotten ones included; 1 to 100000.
    invites_per_node: u32 = "invites_per_node", "TOTORO_CONTROL_INVITES_PER_NODE";
    /// Open connections at most.
    max_connections: u32 = "max_connections", "TOTORO_CONTROL_MAX_CONNECTIONS";
    /// Open connections at most of one IPv4 address or IPv6 /64.
    connections_per_address: u32 = "connections_per_address", "TOTORO_CONTROL_CONNECTIONS_PER_ADDRESS";
    /// Proxies in front, of which X-Forwarded-For is believed, like 127.0.0.1/32,::1/128.
    #[arg(value_delimiter = ',', value_name = "CIDR,…")]
    trusted_proxies: Vec<IpNet> = "trusted_proxies", "TOTORO_CONTROL_TRUSTED_PROXIES";
    /// The store's page cache, MiB.
    cache_mib: u32 = "cache_mib", "TOTORO_CONTROL_CACHE_MIB";
    /// Changes held in memory on their way to sled, KiB; the log takes twice as much.
    layer_kib: u32 = "layer_kib", "TOTORO_CONTROL_LAYER_KIB";
    /// Serve a page for people at /: the public nodes, and a box for an invite's code.
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    page: bool = "page", "TOTORO_CONTROL_PAGE";
    /// Requests per minute and address on invites/resolve and invites/usage.
    rate_resolve: u32 = "rate.resolve", "TOTORO_CONTROL_RATE_RESOLVE";
    /// The same on oauth/token.
    rate_token: u32 = "rate.token", "TOTORO_CONTROL_RATE_TOKEN";
    /// The same on the list of public nodes and their tickets.
    rate_public: u32 = "rate.public", "TOTORO_CONTROL_RATE_PUBLIC";
    /// Requests with a wrong key per minute and address, before lockouts that grow.
    rate_wrong_key: u32 = "rate.wrong_key", "TOTORO_CONTROL_RATE_WRONG_KEY";
    /// Requests with a wrong code per minute and address, before lockouts that grow.
    rate_wrong_code: u32 = "rate.wrong_code", "TOTORO_CONTROL_RATE_WRONG_CODE";
    /// Events per minute of one node, each of up to 256 bytes; a larger one counts as several.
    rate_events: u32 = "rate.events", "TOTORO_CONTROL_RATE_EVENTS";
    /// Connect once to each address of a public node before it is listed.
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    listing_probe: bool = "listing.probe", "TOTORO_CONTROL_LISTING_PROBE";
    /// To loopback, link-local and metadata addresses too. Only for labs.
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    listing_special_addresses: bool = "listing.special_addresses", "TOTORO_CONTROL_LISTING_SPECIAL_ADDRESSES";
    /// How long audit events are kept, 1d to 3650d.
    audit_keep_for: Span = "audit.keep_for", "TOTORO_CONTROL_AUDIT_KEEP_FOR";
    /// The most that the audit trail takes, MiB, 16 to 1048576.
    audit_keep_mib: u32 = "audit.keep_mib", "TOTORO_CONTROL_AUDIT_KEEP_MIB";
    /// After it only a prefix of a client's address is kept, 1d to 3650d.
    audit_addresses_for: Span = "audit.addresses_for", "TOTORO_CONTROL_AUDIT_ADDRESSES_FOR";
    /// The rest between moves of events to segments, 10ms to 1m.
    audit_move_every: Span = "audit.move_every", "TOTORO_CONTROL_AUDIT_MOVE_EVERY";
}

impl Settings {
    /// Writes what is given over a file's table. Paths in flags are the caller's, those in a file
    /// are relative to it, so the former become absolute.
    ///
    /// # Errors
    /// When a path has no absolute form.
    pub fn over(&self, table: &mut Table) -> Result<(), ConfigError> {
        let own = self
            .clone()
            .absolute()
            .map_err(|error| value("--", &error))?;
        for (key, given) in own.given().map_err(|error| value("--", &error))? {
            put(table, key, given);
        }
        Ok(())
    }

    fn absolute(mut self) -> std::io::Result<Self> {
        let paths = [
            &mut self.tls_cert,
            &mut self.tls_key,
            &mut self.data_dir,
            &mut self.secrets_dir,
        ];
        for path in paths.into_iter().flatten() {
            *path = std::path::absolute(&*path)?;
        }
        Ok(self)
    }

    /// What the environment gives, for commands without these flags.
    ///
    /// # Errors
    /// In a line: which variable cannot be read.
    pub fn of_environment() -> Result<Self, ConfigError> {
        let command = Self::augment_args(clap::Command::new("environment"));
        let read = |command: clap::Command| {
            let matches = command.try_get_matches_from(["environment"])?;
            Self::from_arg_matches(&matches)
        };
        read(command).map_err(|error| value("environment", &error))
    }

    /// Whether nothing is given.
    pub(super) fn is_empty(&self) -> bool {
        self.given().is_ok_and(|given| given.is_empty())
    }
}

fn value(key: &'static str, error: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::Value {
        key,
        problem: error.to_string(),
    }
}

/// Sets a key, which names at most one table: `rate.resolve`.
fn put(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((outer, inner)) => {
            let below = table
                .entry(outer)
                .or_insert_with(|| Value::Table(Table::new()));
            // Something else in its place is what the reader of the whole will complain about.
            if let Some(below) = below.as_table_mut() {
                below.insert(inner.to_owned(), value);
            }
        }
    }
}

fn find<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((outer, inner)) => table.get(outer)?.as_table()?.get(inner),
    }
}

/// The effective settings, each with its origin, in a form that is itself a `control.toml`.
///
/// # Errors
/// When the file cannot be read, or the settings cannot be written as TOML.
pub fn print(config: &Config, file: &Path, matches: &ArgMatches) -> Result<String, ConfigError> {
    let unwritable = |error: toml::ser::Error| value("--print-config", &error);
    let effective = Table::try_from(config).map_err(unwritable)?;
    let in_file = super::read_table(file)?;
    let mut text = format!("# The file: {}\n", file.display());
    for (key, id, env) in Settings::ALL {
        let from = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => format!("--{}", id.replace('_', "-")),
            Some(ValueSource::EnvVariable) => (*env).to_owned(),
            _ if find(&in_file, key).is_some() => "the file".to_owned(),
            _ => "default".to_owned(),
        };
        let line = match find(&effective, key) {
            Some(value) => format!("{key} = {}", inline(value).map_err(unwritable)?),
            None => format!("# {key} is not set"),
        };
        let _ = writeln!(text, "{line:<50} # {from}");
    }
    Ok(text)
}

/// A value as it stands behind a `=`.
fn inline(value: &Value) -> Result<String, toml::ser::Error> {
    let mut text = String::new();
    value.serialize(toml::ser::ValueSerializer::new(&mut text))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::super::TlsFiles;
    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    fn parse(args: &[&str]) -> (Settings, ArgMatches) {
        let args = [&["x"], args].concat();
        let matches = Line::command().get_matches_from(args);
        let line = Line::from_arg_matches(&matches).unwrap();
        (line.settings, matches)
    }

    #[test]
    fn every_key_of_the_file_is_a_flag_and_a_variable() {
        let mut config = Config::new("127.0.0.1:1".parse().unwrap(), "http://[::1]".to_owned());
        config.admin_listen = Some(config.listen);
        config.tls = Some(TlsFiles {
            cert: "c".into(),
            key: "k".into(),
        });
        let mut keys = Vec::new();
        for (outer, value) in Table::try_from(&config).unwrap() {
            match value {
                Value::Table(below) => {
                    keys.extend(below.keys().map(|inner| format!("{outer}.{inner}")));
                }
                _ => keys.push(outer),
            }
        }
        keys.sort();
        let mut known: Vec<&str> = Settings::ALL.iter().map(|(key, ..)| *key).collect();
        known.sort_unstable();
        assert_eq!(known, keys);
        for (key, id, env) in Settings::ALL {
            assert_eq!(*id, key.replace('.', "_"));
            assert_eq!(*env, format!("TOTORO_CONTROL_{}", id.to_uppercase()));
        }
    }

    #[test]
    fn a_flag_goes_over_the_file_and_the_print_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("control.toml");
        std::fs::write(
            &file,
            "listen = \"127.0.0.1:1\"\npublic_url = \"http://[::1]\"\n[rate]\ntoken = 7\n",
        )
        .unwrap();
        let (given, matches) = parse(&[
            "--rate-resolve=9",
            "--listen",
            "[::1]:2",
            "--trusted-proxies",
            "10.0.0.0/8,::1/128",
            "--insecure-http",
            "--data-dir",
            "elsewhere",
        ]);
        let config = Config::load(&file, &given).unwrap();
        assert_eq!(config.listen, "[::1]:2".parse().unwrap());
        assert_eq!((config.rate.resolve, config.rate.token), (9, 7));
        assert_eq!(config.trusted_proxies.len(), 2);
        assert!(config.insecure_http);
        let here = std::env::current_dir().unwrap();
        assert_eq!(config.data_dir, here.join("elsewhere"), "the caller's");
        assert_eq!(config.secrets_dir, dir.path().join("secrets"), "the file's");

        let text = print(&config, &file, &matches).unwrap();
        let from = |key: &str| {
            let line = text.lines().find(|line| line.starts_with(key)).unwrap();
            line.rsplit_once(" # ").unwrap().1.to_owned()
        };
        assert_eq!(from("rate.resolve"), "--rate-resolve");
        assert_eq!(from("rate.token"), "the file");
        assert_eq!(from("rate.public"), "default");
        assert!(text.contains("# tls.cert is not set"), "{text}");
        // It can be used as a file, and says the same.
        std::fs::write(&file, &text).unwrap();
        assert_eq!(Config::load(&file, &Settings::default()).unwrap(), config);
    }

    #[test]
    fn what_is_printed_says_the_same_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("control.toml");
        let least = "listen = \"127.0.0.1:1\"\npublic_url = \"http://[::1]\"\n";
        std::fs::write(&file, format!("{least}[tls]\ncert = \"c\"\nkey = \"k\"\n")).unwrap();
        // The same file as somebody names it who stands elsewhere.
        let here = std::env::current_dir().unwrap();
        let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
        let named = up.join(file.strip_prefix("/").unwrap());
        let (given, matches) = parse(&[]);
        let config = Config::load(&named, &given).unwrap();
        let text = print(&config, &named, &matches).unwrap();
        let elsewhere = dir.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        let copy = elsewhere.join("control.toml");
        std::fs::write(&copy, &text).unwrap();
        let read = Config::load(&copy, &Settings::default()).unwrap();
        assert_eq!(read, config, "{text}");
    }

    #[test]
    fn what_cannot_hold_is_refused_wherever_it_comes_from() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("control.toml");
        std::fs::write(
            &file,
            "listen = \"127.0.0.1:1\"\npublic_url = \"http://[::1]\"\n",
        )
        .unwrap();
        for (args, word) in [
            (&["--listen", "10.0.0.1:1"][..], "not loopback"),
            (&["--rate-token", "0"], "rate.token: must not be 0"),
            (
                &["--rate-wrong-code", "0"],
                "rate.wrong_code: must not be 0",
            ),
            (&["--tls-cert", "x"], "key"),
        ] {
            let refused = Config::load(&file, &parse(args).0).unwrap_err();
            assert!(refused.to_string().contains(word), "{args:?}: {refused}");
        }
        assert!(Line::try_parse_from(["x", "--ticket-ttl", "soon"]).is_err());
    }
}
