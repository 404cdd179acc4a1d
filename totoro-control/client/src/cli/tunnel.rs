//! `tcp`, `udp`, `connect`: a tunnel until it is stopped.

use std::path::{Path, PathBuf};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::broadcast::{self, error::RecvError};
use totoro_api::Reason;
use totoro_api::ports::Protocol;

use super::Common;
use super::ask::Answers;
use super::live::Live;
use super::output::Output;
use crate::error::{Error, refused_code};
use crate::frpc::Frpc;
use crate::lang::say;
use crate::settings;
use crate::target::{Wanted, machine, proxies};
use crate::tunnel::{Event, Spec, Tunnel};
use crate::{nodes, running};

/// So many other nodes are offered where one does not take us.
const OTHERS: usize = 3;

/// What to expose.
#[derive(Args)]
pub(super) struct Expose {
    /// The services: a port of this machine, or host:port.
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
    /// A public node's name: needs no code.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// The public port; for several services, one for each, in their order. By default the node
    /// chooses, and keeps to it.
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    remote_port: Vec<u16>,
}

/// A file of tunnels.
#[derive(Args)]
pub(super) struct Connect {
    /// TOML with [[proxies]] (type, local, remote_port, name), or an frpc.toml of the control plane.
    file: PathBuf,
    /// A public node's name: needs no code.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

impl Expose {
    pub(super) async fn run(
        self,
        common: &Common,
        output: Output,
        protocol: Protocol,
    ) -> Result<u8, Error> {
        if self.remote_port.len() > self.services.len() {
            return Err(Error::Usage(say!(
                output.lang,
                "there are more --remote-port than services",
                "--remote-port 多于服务"
            )));
        }
        let ports = self.remote_port.iter().copied().chain(std::iter::repeat(0));
        let wanted: Vec<Wanted> = self
            .services
            .iter()
            .zip(ports)
            .map(|(service, port)| Wanted::new(protocol, service, port))
            .collect();
        // Before a person is asked for anything.
        let proxies = proxies(&wanted, &machine(), output.lang)?;
        Frpc::locate(common.frpc.as_deref())?;
        let answers = common.answers(self.node.as_deref(), output).await?;
        keep_open(answers, common.frpc.as_deref(), proxies, output).await
    }
}

impl Connect {
    pub(super) async fn run(self, common: &Common, output: Output) -> Result<u8, Error> {
        let asked = settings::read_file(&self.file, output.lang)?;
        let proxies = proxies(&asked.wanted, &machine(), output.lang)?;
        Frpc::locate(common.frpc.as_deref())?;
        let source = self.node.map(crate::Source::Public).or(asked.source);
        let (control, file) = (asked.control.as_deref(), asked.invite_file.as_deref());
        let answers = common.answers_with(source, control, file, output).await?;
        keep_open(answers, common.frpc.as_deref(), proxies, output).await
    }
}

/// Opens a tunnel, shows it, and ends it when a signal or a refusal says so.
async fn keep_open(
    mut answers: Answers,
    frpc: Option<&Path>,
    proxies: Vec<totoro_api::frpc::Proxy>,
    output: Output,
) -> Result<u8, Error> {
    let mut signals = Signals::new()?;
    let opened = tokio::select! {
        opened = open(&answers, frpc, proxies) => opened,
        () = signals.any() => return Ok(0),
    };
    let (mut tunnel, mut events) = match opened {
        Ok(opened) => opened,
        Err(error) => return Err(offering_others(error, &answers, output).await),
    };
    answers.keep(output)?;
    // That nobody else sees it is no reason not to run.
    let _shown = running::show(tunnel.watch()).ok();
    let mut live = Live::new(output, tunnel.watch());
    let stopped = loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => live.show(&event),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => break false,
            },
            () = signals.any() => break true,
            () = live.tick() => {}
        }
        if live.over() {
            break false;
        }
    };
    live.clear();
    if stopped {
        live.stopping();
        tokio::select! {
            () = tunnel.stop() => {}
            // Asked twice: frpc is killed when the tunnel is dropped.
            () = signals.any() => {}
        }
        live.stopped();
        return Ok(0);
    }
    let Some(told) = tunnel.ended().await else {
        return Ok(0);
    };
    if !output.json {
        output.refusal(&told);
    }
    let code = refused_code(&told);
    offering_others(Error::refused(told), &answers, output).await;
    Ok(code)
}

/// Looks at frpc while the control plane is asked.
pub(super) async fn open(
    answers: &Answers,
    frpc: Option<&Path>,
    proxies: Vec<totoro_api::frpc::Proxy>,
) -> Result<(Tunnel, broadcast::Receiver<Event>), Error> {
    let Answers {
        control, source, ..
    } = answers;
    let (frpc, access) = tokio::try_join!(Frpc::find(frpc), source.access(control))?;
    runs_already(access.invite.as_deref(), &proxies)?;
    let spec = Spec {
        control: control.clone(),
        source: source.clone(),
        proxies,
        frpc,
    };
    Tunnel::with_access(spec, access)
}

/// The same of one invite twice is refused by the node, which can't say where the other one is.
fn runs_already(invite: Option<&str>, proxies: &[totoro_api::frpc::Proxy]) -> Result<(), Error> {
    for entry in running::list().unwrap_or_default() {
        let names = || entry.tunnel.proxies.iter().map(|proxy| &proxy.name);
        let same = proxies
            .iter()
            .find(|one| names().any(|name| *name == one.name));
        if let Some(same) = same
            && invite.is_some()
            && entry.tunnel.invite.as_deref() == invite
        {
            return Err(Error::Runs {
                pid: entry.pid,
                proxy: same.name.clone(),
            });
        }
    }
    Ok(())
}

/// Where another node would do, says which.
async fn offering_others(error: Error, answers: &Answers, output: Output) -> Error {
    let Error::Refused(told) = &error else {
        return error;
    };
    let other_would_do = matches!(
        told.reason(),
        Some(
            Reason::NodeDraining
                | Reason::NodeOffline
                | Reason::NodeDisabled
                | Reason::NodeFull
                | Reason::PublicFull
                | Reason::PoolExhausted
        )
    );
    if other_would_do && !output.json {
        let than = match &answers.source {
            crate::Source::Public(node) => node.as_str(),
            crate::Source::Invite(_) => "",
        };
        let others = nodes::others(&answers.control, than, OTHERS).await;
        if !others.is_empty() {
            output.line(&super::words::offer(&others, output.lang));
        }
    }
    error
}

/// What ends a tunnel: Ctrl-C, and what a service manager or a closed terminal sends.
pub(super) struct Signals([Signal; 3]);

impl Signals {
    pub(super) fn new() -> Result<Self, Error> {
        let of = |kind| signal(kind).map_err(|error| Error::file("signals", error));
        Ok(Signals([
            of(SignalKind::interrupt())?,
            of(SignalKind::terminate())?,
            of(SignalKind::hangup())?,
        ]))
    }

    pub(super) async fn any(&mut self) {
        let [one, two, three] = &mut self.0;
        tokio::select! {
            _ = one.recv() => {}
            _ = two.recv() => {}
            _ = three.recv() => {}
        }
    }
}
