//! `inspect`: what the kernel holds, with names. Reads the pins, so it works beside a running daemon
//! and without one; only single refusals are the daemon's to tell.

mod refused;
mod rows;
mod tables;
mod talkers;

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde::Serialize;
use totoro_api::ticket::rfc3339;
use totoro_cli::{Table, out};

use crate::clock::machine_ms;
use crate::config::{Config, Span};
use crate::kernel::{Inspector, KernelError};

/// What to look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum What {
    /// Leased ports.
    #[default]
    Ports,
    /// Tenants and their counts.
    Tenants,
    /// Live TCP user connections.
    Conns,
    /// Live UDP flows.
    Flows,
    /// Where users come from: connections by address (IPv6: /64, to frps's own port by /48 too) and tenant.
    Sources,
    /// Leased ports by traffic, measured over a second.
    Talkers,
    /// Refusals by tenant and reason.
    Reasons,
    /// Single refusals, the newest first: samples, of which the daemon remembers 256.
    Refused,
    /// How full the kernel's tables are, the fullest first.
    Tables,
}

/// Options of `inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  totoro-node inspect                                   the ports that are lent, and to whom
  totoro-node inspect talkers --top 10 --watch          who moves the most, every 2 s
  totoro-node inspect conns --tenant inv-4k2v9x0c7m1p   one tenant's connections
  totoro-node inspect refused --top 20                  who was refused lately, where and why
  totoro-node inspect tables                            is there room?
  totoro-node inspect reasons --json")]
pub(super) struct Args {
    /// What to look at.
    #[arg(value_enum, default_value_t)]
    pub(super) what: What,
    /// Only one tenant: an invite's id or `public:<prefix>`, by the daemon's word, or `#` and its number.
    #[arg(long)]
    tenant: Option<String>,
    /// At most so many lines, from the top.
    #[arg(long, value_name = "N")]
    top: Option<usize>,
    /// Look again and again; every 2 s unless it says how often. With --json one line each time.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "2s", value_name = "TIME")]
    watch: Option<Span>,
}

/// Tenants' ids by their number in the kernel.
pub(super) type Names = BTreeMap<u32, String>;

/// What one line of a table shows.
trait Row: Serialize {
    /// The table's head.
    const HEAD: &'static [&'static str];
    /// The cells under it.
    fn cells(self) -> Vec<String>;
    /// The tenant that it is about.
    fn tenant(&self) -> &str;
}

/// Where lines come from.
struct Source<'a> {
    inspector: Inspector,
    names: &'a Names,
}

impl Args {
    /// Whether nothing can be shown without names: a tenant's lines are found by its own, unless it is nobody (`-`)
    /// or was given by number.
    fn needs_names(&self) -> bool {
        let named = |tenant: &str| tenant != "-" && !tenant.starts_with('#');
        self.tenant.as_deref().is_some_and(named)
    }

    /// How lines name the tenant that is asked for.
    fn wanted(&self, names: &Names) -> Option<String> {
        let given = self.tenant.as_deref()?;
        let number = given.strip_prefix('#').and_then(|text| text.parse().ok());
        Some(number.map_or_else(|| given.to_owned(), |number| rows::name(names, number)))
    }
}

/// How lines are shown.
struct View<'a> {
    args: &'a Args,
    json: bool,
}

/// Prints it, as a table or as JSON, once or for ever. `names` is asked each time; without the daemon the pins still
/// tell all but those.
pub(super) async fn run(
    config: &Config,
    args: &Args,
    json: bool,
    names: impl AsyncFn() -> Result<Names>,
) -> Result<()> {
    ensure!(
        args.what != What::Tables || args.tenant.is_none(),
        "the tables are all tenants' together: leave --tenant out (inspect tenants shows their counts)"
    );
    let view = View { args, json };
    let mut known = match names().await {
        Err(error) if args.needs_names() => return Err(error),
        known => known.unwrap_or_default(),
    };
    let Some(every) = args.watch else {
        return Ok(out::text(&view.once(config, &known).await?)?);
    };
    // Twice a second is enough for eyes; each look reads whole maps.
    let every = Duration::from_millis(u64::try_from(every.ms).unwrap_or(0).max(500));
    loop {
        let began = Instant::now();
        let mut text = String::new();
        if !json && std::io::stdout().is_terminal() {
            // Home, and clear what is below.
            text.push_str("\x1b[H\x1b[2J");
        }
        if !json {
            text.push_str(&format!("{}\n", rfc3339(machine_ms() / 1000)));
        }
        text.push_str(&view.once(config, &known).await?);
        if !out::write(&text)? {
            return Ok(());
        }
        tokio::time::sleep(every.saturating_sub(began.elapsed())).await;
        // A daemon that restarts gives the same ones: its tenants keep their numbers.
        known = names().await.unwrap_or(known);
    }
}

impl View<'_> {
    /// What is to be printed. Opens the pins each time: a daemon that came back may have new ones.
    async fn once(&self, config: &Config, names: &Names) -> Result<String> {
        let source = || {
            let inspector = Inspector::open(&config.pin_root)?;
            Ok::<_, KernelError>(Source { inspector, names })
        };
        match self.args.what {
            What::Ports => self.show(names, source()?.ports()?),
            What::Tenants => self.show(names, source()?.tenants()?),
            What::Conns => self.show(names, source()?.conns()?),
            What::Flows => self.show(names, source()?.flows()?),
            What::Sources => self.show(names, source()?.sources()?),
            What::Talkers => self.show(names, source()?.talkers()?),
            What::Reasons => self.show(names, source()?.reasons()?),
            What::Refused => self.show(names, refused::rows(&config.local_socket(), names).await?),
            What::Tables => self.show(names, source()?.tables()?),
        }
    }

    fn show<R: Row>(&self, names: &Names, mut rows: Vec<R>) -> Result<String> {
        if let Some(tenant) = self.args.wanted(names) {
            rows.retain(|row| row.tenant() == tenant);
        }
        rows.truncate(self.args.top.unwrap_or(usize::MAX));
        if self.json {
            let text = match self.args.watch {
                Some(_) => serde_json::to_string(&rows)?,
                None => serde_json::to_string_pretty(&rows)?,
            };
            return Ok(format!("{text}\n"));
        }
        let mut table = Table::of(R::HEAD.iter().copied());
        for row in rows {
            table.push(row.cells());
        }
        Ok(table.render())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::local::{Ask, NotRunning, ask};

    fn args(tenant: Option<&str>) -> Args {
        Args {
            what: What::Conns,
            tenant: tenant.map(str::to_owned),
            top: None,
            watch: None,
        }
    }

    #[tokio::test]
    async fn one_tenants_lines_need_the_daemons_names() {
        let dir = tempfile::tempdir().unwrap();
        let given = Settings {
            pin_root: Some(dir.path().join("pins")),
            run_dir: Some(dir.path().join("run")),
            ..Settings::default()
        };
        let config = Config::unenrolled(&dir.path().join("node.toml"), given).unwrap();
        // There are no pins either, which is said where names are not needed.
        for (tenant, is_needed) in [
            (Some("inv-4k2v9x0c7m1p"), true),
            (Some("public:192.0.2.0/24"), true),
            (Some("#7"), false),
            (Some("-"), false),
            (None, false),
        ] {
            let names = async || ask(&config.local_socket(), &Ask::Tenants).await;
            let done = run(&config, &args(tenant), false, names).await;
            let said = done.unwrap_err().is::<NotRunning>();
            assert_eq!(said, is_needed, "{tenant:?}");
        }
    }

    #[test]
    fn a_tenant_is_found_by_its_number_too() {
        let names = Names::from([(7, "inv-7".to_owned())]);
        let wanted = |tenant| args(Some(tenant)).wanted(&names).unwrap();
        assert_eq!(wanted("#7"), "inv-7");
        assert_eq!(wanted("#8"), "#8", "as where it has no name");
        assert_eq!(wanted("inv-7"), "inv-7");
        assert_eq!(args(None).wanted(&names), None);
    }
}
