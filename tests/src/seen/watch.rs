//! `inspect --watch`: it goes on until somebody ends it, or nobody reads it any more.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::hostile::client::{Client, USERS_DOOR, Way, ample};
use crate::lab::Place;
use crate::net::user;
use crate::report::Report;
use crate::story::frpc::{PATIENCE, Proxy};
use crate::story::{World, within};

const PORT: u16 = 20_030;
/// What a terminal is told before each look: home, and clear what is below.
const CLEAR: &[u8] = b"\x1b[H\x1b[2J";
/// Ctrl-C, as a keyboard says it.
const CTRL_C: &[u8] = b"\x03";

pub(super) fn play(world: &World, report: &mut Report) {
    report.check(
        "as JSON, in a pipe: a line each time, with what is new",
        || json(world),
    );
    report.check(
        "as a table, in a pipe: with its time, without a terminal's codes",
        || table(world),
    );
    report.check("whose reader has gone ends, well", || unread(world));
    report.check("in a terminal: drawn over, until Ctrl-C", || {
        terminal(world)
    });
}

/// A command that is watched; it ends with this.
struct Watched {
    child: Child,
    out: BufReader<Box<dyn Read>>,
}

impl Watched {
    fn start(mut command: Command) -> Result<Watched> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start it")?;
        let out = child.stdout.take().context("its output")?;
        let out = BufReader::new(Box::new(out) as Box<dyn Read>);
        Ok(Watched { child, out })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.out.read_line(&mut line)? > 0, "it says nothing more");
        Ok(line)
    }

    /// Reads on until a line is as it is awaited.
    fn until(&mut self, good: impl Fn(&str) -> bool) -> Result<String> {
        for _ in 0..100 {
            let line = self.line()?;
            if good(&line) {
                return Ok(line);
            }
        }
        bail!("100 lines, none of which is the one")
    }

    fn interrupt(&self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("a pid")?;
        kill(Pid::from_raw(pid), Signal::SIGINT).context("SIGINT")
    }

    fn ended(&mut self) -> Result<ExitStatus> {
        within(PATIENCE, || Ok(self.child.try_wait()?)).context("it goes on")
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A user comes and goes, and so does the line on their connection.
fn json(world: &World) -> Result<String> {
    let proxies = [Proxy::new("web", "tcp", world.backend.tcp, PORT)];
    let client = Client::start(world, "watched", ample(), Way::PLAIN, &proxies)?;
    let command = world.node_command(&["inspect", "conns", "--watch=500ms", "--json"]);
    let mut watched = Watched::start(command)?;
    let has = |count: usize| {
        let invite = client.invite.as_str();
        move |line: &str| {
            let rows = serde_json::from_str::<Vec<Value>>(line);
            let ours = |rows: Vec<Value>| rows.iter().filter(|row| row["tenant"] == invite).count();
            rows.is_ok_and(|rows| ours(rows) == count)
        }
    };
    ensure!(
        has(0)(&watched.line()?) && has(0)(&watched.line()?),
        "nobody is there yet"
    );
    let to = user::at(USERS_DOOR, PORT)?;
    let session = user::connect(world.lab.ns(Place::User), to)?;
    watched.until(has(1)).context("the user's connection")?;
    drop(session);
    watched.until(has(0)).context("its end")?;
    watched.interrupt()?;
    let status = watched.ended()?;
    ensure!(status.signal() == Some(Signal::SIGINT as i32), "{status}");
    client.frpc.stop();
    Ok(format!("the user came and went; then {status}"))
}

fn table(world: &World) -> Result<String> {
    let command = world.node_command(&["inspect", "tables", "--top", "1", "--watch=500ms"]);
    let mut watched = Watched::start(command)?;
    let mut times = Vec::new();
    for _ in 0..2 {
        let time = watched.line()?.trim().to_owned();
        ensure!(
            time.starts_with("20") && time.ends_with('Z'),
            "no time: {time:?}"
        );
        let (head, row) = (watched.line()?, watched.line()?);
        ensure!(head.starts_with("TABLE"), "no head: {head:?}");
        ensure!(
            !row.trim().is_empty() && !row.starts_with("20"),
            "no row: {row:?}"
        );
        ensure!(
            ![&time, &head, &row]
                .iter()
                .any(|line| line.contains('\x1b')),
            "codes: {head:?}"
        );
        times.push(time);
    }
    watched.interrupt()?;
    let status = watched.ended()?;
    ensure!(status.signal() == Some(Signal::SIGINT as i32), "{status}");
    Ok(format!("at {}; then {status}", times.join(", ")))
}

/// As with `| head -1`.
fn unread(world: &World) -> Result<String> {
    let command = world.node_command(&["inspect", "ports", "--watch=500ms"]);
    let mut watched = Watched::start(command)?;
    watched.line()?;
    watched.out = BufReader::new(Box::new(std::io::empty()));
    let status = watched.ended()?;
    ensure!(status.code() == Some(0), "{status}");
    Ok(status.to_string())
}

/// `script` has a terminal, and hands on what is typed and how it ended.
fn terminal(world: &World) -> Result<String> {
    let node = world.node_command(&["inspect", "tables", "--watch=500ms"]);
    let words = std::iter::once(node.get_program()).chain(node.get_args());
    let words: Vec<String> = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let mut command = world.lab.command("script");
    command.args(["-q", "-e", "-c", &words.join(" "), "/dev/null"]);
    let mut watched = Watched::start(command)?;
    for _ in 0..2 {
        let mut seen = Vec::new();
        while !seen.ends_with(CLEAR) {
            let mut byte = [0];
            watched
                .out
                .read_exact(&mut byte)
                .context("no second look")?;
            seen.push(byte[0]);
        }
    }
    let mut keyboard = watched.child.stdin.take().context("its input")?;
    keyboard.write_all(CTRL_C)?;
    let status = watched.ended()?;
    ensure!(
        status.code() == Some(128 + Signal::SIGINT as i32),
        "{status}"
    );
    Ok(status.to_string())
}
