//! `totoro`, the client, in a person's hands: real control plane, node, frps and frpc. What it prints
//! for programs (`--json`) is what is waited for.

mod begin;
mod breaks;
mod page;
pub mod painted;
pub mod speed;

use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

pub use begin::play as begin;
pub use breaks::play as breaks;
pub use page::play as page;

use crate::lab::{Place, Process};
use crate::story::{CONTROL, World};

/// How long something may take where everybody else is busy, too: frpc waits up to 20 s by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `totoro --json`.
struct Totoro {
    process: Process,
    mark: u64,
}

impl Totoro {
    /// Starts it on the client's machine, with a code or without, and another frpc than the newest.
    fn start(
        world: &World,
        name: &str,
        words: &[&str],
        code: Option<&str>,
        frpc: Option<&Path>,
    ) -> Result<Totoro> {
        let mut command = world.lab.command(&world.lab.tools.client);
        command
            .args(words)
            .arg("--json")
            .envs(environment(world, frpc));
        if let Some(code) = code {
            command.env("TOTORO_INVITE", code);
        }
        let log = world.lab.file(&format!("{name}.log"));
        let mark = log.metadata().map_or(0, |meta| meta.len());
        let process = world.lab.start(Place::Client, name, command)?;
        Ok(Totoro { process, mark })
    }

    /// The next event of this kind.
    fn event(&mut self, kind: &str) -> Result<Value> {
        let wanted = format!("\"event\":\"{kind}\"");
        let line = self.process.wait_after(self.mark, &wanted, PATIENCE)?;
        // What came before it is over; what comes after it is asked for next.
        let log = self.process.log_after(self.mark);
        let end = log.find(&line).context("the line is gone")? + line.len();
        self.mark += u64::try_from(end)?;
        serde_json::from_str(&line).with_context(|| format!("read {line:.200}"))
    }

    /// The next time that it is away for such a reason; not for ever, whatever else it says.
    fn away(&mut self, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let begun = Instant::now();
        loop {
            let event = self.event("reconnecting")?;
            if is(&event) {
                return Ok(event);
            }
            ensure!(begun.elapsed() < PATIENCE, "for another reason: {event}");
        }
    }

    /// The public port of the next proxy that runs.
    fn port(&mut self) -> Result<u16> {
        let event = self.event("running")?;
        let address = event["address"].as_str().context("no address")?;
        let port = address.rsplit(':').next().unwrap_or_default();
        port.parse()
            .with_context(|| format!("no port in {address}"))
    }

    /// Ends it as Ctrl-C does.
    fn interrupt(mut self) -> Result<()> {
        let frpc = self.frpc()?;
        self.signal(Signal::SIGINT)?;
        let status = self.process.wait_exit(PATIENCE)?;
        ensure!(status.success(), "ended by Ctrl-C with {status}");
        ensure!(
            !Path::new(&format!("/proc/{frpc}")).exists(),
            "frpc outlives it"
        );
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(
            Pid::from_raw(i32::try_from(self.process.pid())?),
            signal,
        )?)
    }

    /// Waits for its end, which must be a refusal for this reason.
    fn refused(mut self, reason: &str, code: i32) -> Result<()> {
        let status = self.process.wait_exit(PATIENCE)?;
        let log = self.process.log_after(0);
        ended(status, code, &log)?;
        ensure!(
            log.contains(&format!("\"code\":\"{reason}\"")),
            "no {reason} in {log}"
        );
        ensure!(log.contains("\"next\":\""), "no next step in {log}");
        Ok(())
    }

    /// Its frpc's process id.
    fn frpc(&self) -> Result<i32> {
        let pid = self.process.pid();
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Each of its threads has children of its own.
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
            let children =
                tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
            let found: Vec<i32> = children
                .flat_map(|list| {
                    list.split_whitespace()
                        .filter_map(|pid| pid.parse().ok())
                        .collect::<Vec<_>>()
                })
                .collect();
            match found[..] {
                [frpc] => return Ok(frpc),
                _ if Instant::now() > deadline => bail!("it has {} children", found.len()),
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

/// What a person's shell would have: the lab's control plane speaks plain HTTP.
fn environment(world: &World, frpc: Option<&Path>) -> Vec<(&'static str, String)> {
    let frpc = frpc.unwrap_or(&world.lab.tools.frpc);
    vec![
        ("TOTORO_CONTROL", CONTROL.to_owned()),
        ("TOTORO_INSECURE_HTTP", "true".to_owned()),
        ("TOTORO_FRPC", frpc.display().to_string()),
        ("XDG_RUNTIME_DIR", world.lab.run_dir().display().to_string()),
        (
            "XDG_CONFIG_HOME",
            world.lab.file("config").display().to_string(),
        ),
    ]
}

/// Runs a command of the client to its end: exit code, output, errors.
fn run(world: &World, words: &[&str], code: Option<&str>) -> Result<crate::lab::Finished> {
    let mut command = world.lab.command(&world.lab.tools.client);
    command.args(words).envs(environment(world, None));
    if let Some(code) = code {
        command.env("TOTORO_INVITE", code);
    }
    world.lab.run(Place::Client, command)
}

fn ended(status: ExitStatus, code: i32, log: &str) -> Result<()> {
    ensure!(
        status.code() == Some(code),
        "ended with {status}, not {code}: {log}"
    );
    Ok(())
}
