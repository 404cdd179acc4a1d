//! The plugin endpoint's socket: systemd's, or our own.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{Backlog, listen};

/// The first descriptor that systemd passes (sd_listen_fds(3)).
const FIRST_FD: RawFd = 3;

/// The listening socket at `at`. Ports from 1024 on could be bound by any local user while the
/// daemon is down, who would then collect secret and tickets.
///
/// # Errors
/// The port may be anybody's, is taken, or what systemd passed is no such socket.
pub fn bind(at: SocketAddr, allow_unprivileged: bool) -> Result<TcpListener> {
    let listener = match from_systemd()? {
        Some(listener) => {
            let local = listener
                .local_addr()
                .context("ask the passed socket for its address")?;
            ensure!(
                local == at,
                "systemd passed a socket at {local}, but plugin_listen = {at}"
            );
            listener
        }
        None => TcpListener::bind(at).with_context(|| format!("listen on {at} (plugin_listen)"))?,
    };
    if at.port() >= 1024 && !allow_unprivileged {
        bail!(
            "plugin_listen = {at}: any local user can take a port from 1024 on while totoro-node \
             is down, and collect tickets; use a lower port, or --allow-unprivileged-plugin-port \
             where there are no other users"
        );
    }
    // All that frps asks at once after a restart waits here: beyond the 128 of the standard library the kernel
    // answers by cookies, and resets who speaks before it is accepted.
    listen(&listener, Backlog::MAXCONN).context("let more questions wait")?;
    listener
        .set_nonblocking(true)
        .context("make the socket non-blocking")?;
    Ok(listener)
}

fn from_systemd() -> Result<Option<TcpListener>> {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse::<u32>().ok())
    };
    // Meant for us, not for a parent whose environment we inherited.
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(None);
    }
    match number("LISTEN_FDS") {
        None | Some(0) => return Ok(None),
        Some(1) => {}
        Some(many) => bail!("systemd passed {many} sockets; one is expected"),
    }
    #[expect(
        unsafe_code,
        reason = "a descriptor passed by number, as systemd's protocol has it"
    )]
    // SAFETY: LISTEN_PID names this process, so descriptor 3 was passed to us and nobody else in
    // this process has taken it; this is called once, before other sockets are opened by number.
    let fd = unsafe { OwnedFd::from_raw_fd(FIRST_FD) };
    let listener = TcpListener::from(fd);
    listener
        .local_addr()
        .context("the descriptor that systemd passed is no TCP socket")?;
    Ok(Some(listener))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anybodys_port_needs_a_word() {
        let error = bind("127.0.0.1:0".parse().unwrap(), true);
        assert!(error.is_ok());
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = taken.local_addr().unwrap();
        assert!(format!("{:#}", bind(at, true).unwrap_err()).contains("plugin_listen"));
        drop(taken);
        let error = format!("{:#}", bind(at, false).unwrap_err());
        assert!(
            error.contains("--allow-unprivileged-plugin-port"),
            "{error}"
        );
    }
}
