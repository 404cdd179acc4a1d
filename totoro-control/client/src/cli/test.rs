//! `totoro test`: a tunnel to a built-in echo, measured through its public address.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;
use totoro_api::ports::Protocol;

use super::Common;
use super::output::{Output, bytes};
use super::tunnel::{Signals, open};
use crate::canary::{Echo, Figures};
use crate::error::Error;
use crate::frpc::Frpc;
use crate::lang::say;
use crate::target::{Wanted, machine, proxies};
use crate::tunnel::Event;

/// How long the tunnel may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Through which node.
#[derive(Args)]
pub(super) struct Test {
    /// A public node's name: needs no code.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// The public port; by default the node chooses.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    remote_port: u16,
}

/// The result for programs.
#[derive(Serialize)]
struct Measured {
    address: String,
    #[serde(flatten)]
    figures: Figures,
}

impl Test {
    pub(super) async fn run(self, common: &Common, output: Output) -> Result<u8, Error> {
        let lang = output.lang;
        Frpc::locate(common.frpc.as_deref())?;
        let mut answers = common.answers(self.node.as_deref(), output).await?;
        let echo = Echo::start().await?;
        let wanted = Wanted {
            // The same each time, so that the node gives the same port again.
            name: Some(format!("{}-test", machine())),
            ..Wanted::new(Protocol::Tcp, &echo.port.to_string(), self.remote_port)
        };
        let mut signals = Signals::new()?;
        let proxies = proxies(&[wanted], "", lang)?;
        let (mut tunnel, mut events) = open(&answers, common.frpc.as_deref(), proxies).await?;
        answers.keep(output)?;
        let measured = tokio::select! {
            measured = measure(&echo, &mut events, output) => measured,
            () = signals.any() => Err(Error::Canary(say!(lang, "interrupted", "已中断"))),
        };
        tunnel.stop().await;
        let Measured { address, figures } = measured?;
        if output.json {
            output.json(&Measured { address, figures });
            return Ok(0);
        }
        let Figures {
            connect_ms,
            round_trip_ms,
            slowest_ms,
            ..
        } = figures;
        let (up, down) = (bytes(figures.up), bytes(figures.down));
        output.line(&say!(
            lang,
            "{address} works from here: connected in {connect_ms:.1} ms\n  round trip {round_trip_ms:.1} ms (slowest {slowest_ms:.1} ms)\n  to the service {up}/s, from it {down}/s",
            "{address} 从这里可用：{connect_ms:.1} 毫秒内连接\n  往返 {round_trip_ms:.1} 毫秒（最慢 {slowest_ms:.1} 毫秒）\n  到服务 {up}/s，从服务 {down}/s"
        ));
        Ok(0)
    }
}

/// Waits for the address, then measures.
async fn measure(
    echo: &Echo,
    events: &mut tokio::sync::broadcast::Receiver<Event>,
    output: Output,
) -> Result<Measured, Error> {
    let lang = output.lang;
    let mut why = String::new();
    let address = timeout(PATIENCE, async {
        loop {
            match events.recv().await {
                Ok(Event::Running { address, .. }) => return Ok(address),
                Ok(Event::Refused {
                    told, last: true, ..
                }) => return Err(Error::refused(told)),
                Ok(Event::Reconnecting { why: now, .. }) => why = now.text(lang),
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => {
                    let text = say!(lang, "the tunnel ended: {why}", "隧道已结束：{why}");
                    return Err(Error::Canary(text));
                }
            }
        }
    });
    let address = match address.await {
        Ok(address) => address?,
        Err(_) => {
            return Err(Error::Canary(say!(
                lang,
                "no tunnel came up within {PATIENCE:?}: {why}",
                "{PATIENCE:?} 内未建立隧道：{why}"
            )));
        }
    };
    if !output.json {
        output.line(&say!(lang, "measuring {address} …", "正在测量 {address}……"));
    }
    let figures = echo.measure(&address, lang).await?;
    Ok(Measured { address, figures })
}
