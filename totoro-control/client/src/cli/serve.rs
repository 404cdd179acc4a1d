//! `totoro serve`: a page in the browser, and an API for programs.

use std::net::SocketAddr;

use clap::Args;
use serde::Serialize;

use super::Common;
use super::output::Output;
use super::tunnel::Signals;
use crate::control::Control;
use crate::error::Error;
use crate::frpc::Frpc;
use crate::lang::say;
use crate::serve::{Options, Saved, Server};

/// Where, and for whom.
#[derive(Args)]
pub(super) struct Serve {
    /// Where to listen. Beyond loopback, whoever comes needs the token, and sends it in the clear.
    #[arg(
        long,
        env = "TOTORO_SERVE_LISTEN",
        default_value = "127.0.0.1:7400",
        value_name = "ADDRESS:PORT"
    )]
    listen: SocketAddr,
    /// A name that it is asked by, beside addresses and localhost; may be given several times.
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// Open the tunnels of last time at once, without asking.
    #[arg(long)]
    restore: bool,
}

/// That it serves, for programs.
#[derive(Serialize)]
struct Serving {
    event: &'static str,
    url: String,
    token_file: String,
    remembered: usize,
}

impl Serve {
    pub(super) async fn run(self, common: &Common, output: Output) -> Result<u8, Error> {
        let lang = output.lang;
        let frpc = Frpc::find(common.frpc.as_deref()).await?;
        // Without one it still takes codes: a pasted address says where they are from.
        let control = common.control(output);
        let control = match control {
            Ok(control) => Some(control.url().to_owned()),
            Err(Error::NoControl) => None,
            Err(error) => return Err(error),
        };
        // One that was let through all the same was remembered with that.
        let refused = |url: &String| Control::new(url, false).is_err();
        let remembered_insecure = control.as_ref().is_some_and(refused);
        let options = Options {
            listen: self.listen,
            names: self.name,
            control,
            insecure_http: common.insecure_http || remembered_insecure,
            frpc,
        };
        let mut signals = Signals::new()?;
        let server = Server::new(options, Some(Saved::usual()?)).await?;
        let (url, token_file) = (server.url(), server.token_file().display().to_string());
        if output.json {
            output.json_line(&Serving {
                event: "serving",
                url,
                token_file,
                remembered: server.remembered(),
            });
        } else {
            output.line(&say!(lang, "serving at {url}", "页面地址 {url}"));
            output.line(&say!(
                lang,
                "  token for programs: {token_file}\n  stop: Ctrl-C",
                "  供程序使用的令牌：{token_file}\n  停止：Ctrl-C"
            ));
        }
        let remembered = server.remembered();
        if self.restore {
            for error in server.restore(lang).await {
                output.error(&error);
            }
        } else if remembered > 0 && !output.json {
            output.line(&say!(
                lang,
                "  {remembered} tunnels are remembered from last time: the page asks what to do (or --restore)",
                "  记得上次的 {remembered} 条隧道：页面会询问如何处理（或用 --restore）"
            ));
        }
        server.run(signals.any()).await;
        Ok(0)
    }
}
