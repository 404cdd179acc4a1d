//! A running frpc: started on a private file, heard line by line, ended in order.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::log::MAX_LINE;
use super::{Frpc, sys};
use crate::error::Error;

/// How long it may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
/// Lines that wait for us; frpc waits when there are more.
const LINES: usize = 256;

/// A running frpc. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Process {
    /// Starts it on a file.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(frpc: &Frpc, config: &Path) -> Result<Self, Error> {
        let mut command = Command::new(&frpc.path);
        command
            .arg("-c")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // The code is in the file alone.
            .env_remove("TOTORO_INVITE")
            // Ctrl-C at the terminal is ours to hear: we end it in order.
            .process_group(0)
            .kill_on_drop(true);
        sys::ends_with_us(&mut command);
        let mut child = command.spawn().map_err(|error| Error::FrpcFails {
            path: frpc.path.clone(),
            said: error.to_string(),
        })?;
        let (tell, lines) = mpsc::channel(LINES);
        if let Some(out) = child.stdout.take() {
            tokio::spawn(listen(out, tell.clone()));
        }
        if let Some(err) = child.stderr.take() {
            tokio::spawn(listen(err, tell));
        }
        Ok(Process { child, lines })
    }

    /// Its next line; `None` when it says no more.
    pub async fn line(&mut self) -> Option<String> {
        self.lines.recv().await
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> Option<ExitStatus> {
        self.child.wait().await.ok()
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends it: SIGTERM, then SIGKILL.
    pub async fn stop(mut self) {
        // Until it is waited for its id is nobody else's.
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
            // Stopped (SIGSTOP), it would not hear of it.
            kill(Pid::from_raw(pid), Signal::SIGCONT).ok();
        }
        // Its pipe must not be what keeps it.
        self.lines.close();
        if tokio::time::timeout(GRACE, self.child.wait())
            .await
            .is_err()
        {
            self.child.kill().await.ok();
        }
    }
}

/// Passes lines on, each cut to a bound.
async fn listen(pipe: impl AsyncRead + Unpin, tell: mpsc::Sender<String>) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    let mut heard = true;
    loop {
        line.clear();
        let part = (&mut pipe).take(MAX_LINE as u64);
        match { part }.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) if heard => {
                let text = String::from_utf8_lossy(&line);
                heard = tell.send(text.trim_end().to_owned()).await.is_ok();
            }
            // Nobody listens any more, but it must not block on its pipe.
            Ok(_) => {}
        }
    }
}
