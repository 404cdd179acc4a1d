//! Users who come one after the other, many at a time: how many were served, or refused, in a second.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use totoro_report::percentile;
use totoro_tests::lab::Netns;

/// Who waits longer was neither served nor refused.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a user expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// A byte there and back.
    Service,
    /// A reset, or an end without a byte.
    Refusal,
}

/// Who comes, and to where.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) ns: Netns,
    /// Users' addresses, taken in turn.
    pub(super) sources: Vec<Ipv4Addr>,
    /// The node's.
    pub(super) door: IpAddr,
    /// Pool ports, taken in turn.
    pub(super) ports: Vec<u16>,
    /// Users at once.
    pub(super) at_once: usize,
    pub(super) wants: Wants,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Series {
    /// Per second.
    pub(super) rate: f64,
    /// Half of them took no longer, ms.
    pub(super) p50: f64,
    /// 99 of 100 took no longer, ms.
    pub(super) p99: f64,
    /// Processor time of the node's processes for each, µs; 0 where it was not looked at.
    pub(super) cost: f64,
}

impl Plan {
    /// Has users come for a time; only what ended within it counts.
    ///
    /// # Errors
    /// One had something else than it expected.
    pub(super) fn drive(&self, time: Duration) -> Result<Series> {
        let took = self.ns.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("a runtime")?;
            runtime.block_on(self.all(time))
        })?;
        ensure!(!took.is_empty(), "nobody was done in {time:?}");
        let rate = took.len() as f64 / time.as_secs_f64();
        let [p50, p99] = quantiles(took);
        Ok(Series {
            rate,
            p50,
            p99,
            cost: 0.0,
        })
    }

    async fn all(&self, time: Duration) -> Result<Vec<Duration>> {
        let (plan, next) = (Arc::new(self.clone()), Arc::new(AtomicUsize::new(0)));
        let deadline = Instant::now() + time;
        let users = (0..self.at_once).map(|_| {
            let (plan, next) = (Arc::clone(&plan), Arc::clone(&next));
            tokio::spawn(async move {
                let mut took = Vec::new();
                loop {
                    let begun = Instant::now();
                    if begun >= deadline {
                        return anyhow::Ok(took);
                    }
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    tokio::time::timeout(PATIENCE, plan.one(nth))
                        .await
                        .with_context(|| format!("a user waited for {PATIENCE:?}"))??;
                    if Instant::now() <= deadline {
                        took.push(begun.elapsed());
                    }
                }
            })
        });
        let users: Vec<_> = users.collect();
        let mut all = Vec::new();
        for user in users {
            all.extend(user.await.context("a user panicked")??);
        }
        Ok(all)
    }

    async fn one(&self, nth: usize) -> Result<()> {
        let socket = TcpSocket::new_v4().context("a socket")?;
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true).context("leave the port open")?;
        let source = self.sources[nth % self.sources.len()];
        socket.bind((source, 0).into()).context("bind")?;
        let to = SocketAddr::new(self.door, self.ports[nth % self.ports.len()]);
        match (socket.connect(to).await, self.wants) {
            (Ok(stream), Wants::Service) => served(stream).await.context("not served"),
            (Ok(mut stream), Wants::Refusal) => match stream.read(&mut [0; 16]).await {
                Ok(0) | Err(_) => Ok(()),
                Ok(_) => bail!("a user who was to be refused was served"),
            },
            (Err(error), Wants::Refusal)
                if error.kind() == std::io::ErrorKind::ConnectionRefused =>
            {
                Ok(())
            }
            (Err(error), _) => Err(error).context("connect"),
        }
    }
}

async fn served(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(b"E?").await?;
    stream.read_u8().await.map(drop)
}

/// What half, and 99 of 100, stay below, ms.
pub(super) fn quantiles(mut took: Vec<Duration>) -> [f64; 2] {
    took.sort_unstable();
    [50, 99].map(|percent| percentile(&took, percent))
}
