//! `run`: the daemon.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::check;
use crate::clock::Clock;
use crate::config::Config;
use crate::control::Control;
use crate::figures::{self, Sources};
use crate::frps::{self, Frps};
use crate::health::Health;
use crate::heartbeat::{Pulse, kept_clock};
use crate::kernel::{Abi, Event, Kernel, KernelOptions};
use crate::plugin::{Limits, Server, bind};
use crate::session::policy::apart;
use crate::session::ports::Patience;
use crate::session::{Desk, Gate, Rules, Tools, stored_pool};
use crate::spool::{self, Spool};
use crate::store::Store;
use crate::{local, machine, privilege, reserve, secret, sync, tls};

/// Sessions whose connection was lost, and what expires, are looked for this often.
const TICK: Duration = Duration::from_millis(250);
/// Enforcement is tried this often; and again so soon when it failed.
const CANARY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(5));
/// Connections whose end was not heard of, which is rare, are looked for this often.
const LOST: Duration = Duration::from_secs(10);
/// Counters that an earlier run left are looked for so many seconds after the start, and then each time so many
/// have passed: tens of thousands are listed for a few that take no more than room.
const ADOPT: (u128, u128) = (60, 600);
/// The most events that are taken note of in one go.
const EVENTS: usize = 1024;

/// Takes the plugin's socket, then gives up what is not needed for the rest. Call it while there is
/// one thread. It comes before anything is loaded: a daemon that frps can't ask would guard nobody.
pub(super) fn prepare(config: &Config, allow_unprivileged: bool) -> Result<TcpListener> {
    let listener = bind(config.plugin_listen, allow_unprivileged)?;
    // Whose programs run is told only to who has every capability.
    crate::kernel::refuse_foreign(&config.pin_root)?;
    privilege::shed()?;
    Ok(listener)
}

/// Runs until a signal ends it. Enforcement goes on without it.
pub(super) async fn run(config: Config, health: Health, listener: TcpListener) -> Result<()> {
    check::require_secrets(&config)?;
    let plugin_secret = secret::read(&config.plugin_secret_file)?;
    let instance = config.key_file.with_file_name("instance");
    let instance = secret::read(&instance)?;
    let store = Store::open(&config.state_dir)?.with_spool(u64::from(config.spool_mib) << 20);
    store.claim(&config.node, &config.state_dir)?;
    let store = Arc::new(store);
    // As it was found: before anything is told of.
    let spool = Spool::of(Arc::clone(&store));
    let kept = kept_clock(&store)?;
    let clock = Arc::new(Clock::resume(&kept, &machine::boot_id()));
    let pool = stored_pool(&*store, &config.pool)?;
    apart(&pool, &own_ports(&config)).map_err(|why| {
        anyhow::anyhow!("{why}; change the pool (control plane) or that port (node.toml)")
    })?;
    reserve::reserve(&pool, &config.state_dir)?;
    let mut kernel = Kernel::load(&options(&config, pool.clone()))?;
    for filter in kernel.filters() {
        tracing::info!(
            interface = filter.interface,
            mode = filter.mode,
            "filtering"
        );
    }
    for missing in kernel.missing() {
        tracing::warn!(missing, "grade");
    }
    let events = kernel.start_events()?;
    let kernel = Arc::new(kernel);

    let wake = Arc::new(Notify::new());
    let tools = Tools {
        kernel: Arc::clone(&kernel) as Arc<dyn Gate>,
        store: Arc::clone(&store),
        clock: Arc::clone(&clock),
        wake: Arc::clone(&wake),
    };
    let desk = Arc::new(Desk::open(tools, rules(&config, pool))?);
    let control = Arc::new(Control::with_key_file(&config.control, &config.key_file)?);
    let frps = Frps::new(&config)?;
    let (halt, halted) = watch::channel(());
    let ticking = tokio::spawn(ticks(Arc::clone(&desk), halted.clone()));
    tokio::spawn(canary(Arc::clone(&desk)));
    let listening = listen(Arc::clone(&desk), events, halted)?;
    let settling = Arc::clone(&desk);
    tokio::spawn(spool::run(
        spool.clone(),
        Arc::clone(&control),
        Arc::clone(&wake),
        move || {
            let desk = Arc::clone(&settling);
            async move { desk.forget_delivered().await }
        },
    ));
    tokio::spawn(sync::run(
        Arc::clone(&desk),
        Arc::clone(&control),
        config.state_dir.clone(),
    ));
    tokio::spawn(frps::compare(
        Arc::clone(&desk),
        frps.clone(),
        Arc::clone(&clock),
        health.clone(),
    ));
    let ca = std::fs::read_to_string(config.tls_dir.join(tls::CA)).unwrap_or_default();
    let server = Server::new(Arc::clone(&desk), &plugin_secret, Limits::default());
    let sources = Arc::new(Sources {
        desk: Arc::clone(&desk),
        kernel: Arc::clone(&kernel),
        spool: spool.clone(),
        clock: Arc::clone(&clock),
        health: health.clone(),
        plugin: server.meter(),
    });
    let pulse = Pulse {
        desk: Arc::clone(&desk),
        kernel,
        control,
        spool,
        store,
        clock,
        health,
        frps,
        instance,
        tls_ca: ca,
    };
    tokio::spawn(pulse.run());
    local::serve(&config.local_socket(), Arc::clone(&sources))?;
    figures::serve(&sources, &config.metrics_socket(), config.metrics_listen)?;

    let (stop, stopped) = oneshot::channel::<()>();
    let serving = server.start(listener, async {
        let _ = stopped.await;
    });
    let serving = serving.context("serve the plugin's socket")?;
    tracing::info!(node_id = config.node, plugin = %config.plugin_listen, kernel = machine::kernel_release(), "ready");
    tell_systemd(&NotifyState::Ready);
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tell_systemd(&NotifyState::Stopping);
    tracing::info!("stopping; what is admitted goes on, limits hold without the daemon");
    let _ = stop.send(());
    serving.ended().await;
    // Nobody beside the last records changes anything.
    drop(halt);
    let _ = ticking.await;
    tokio::task::spawn_blocking(move || {
        let _ = listening.join();
        desk.finish();
    })
    .await
    .context("the last records")?;
    for socket in [config.local_socket(), config.metrics_socket()] {
        let _ = std::fs::remove_file(socket);
    }
    Ok(())
}

fn options(config: &Config, pool: totoro_api::ports::Pool) -> KernelOptions {
    KernelOptions {
        object: config.object.clone(),
        abi: Abi::CURRENT,
        pin_root: config.pin_root.clone(),
        cgroup: config.cgroup.clone(),
        interfaces: config.interfaces.clone(),
        find_interfaces: config
            .interfaces_found
            .then_some(machine::default_interfaces),
        xdp: config.xdp,
        pool,
        bind_port: config.frps_bind_port,
        control_per_source: config.control_per_source,
        max_conns_total: config.max_conns_total,
        flow_idle_s: u32::try_from(config.flow_idle.ms / 1000)
            .unwrap_or(60)
            .max(1),
    }
}

fn own_ports(config: &Config) -> Vec<u16> {
    let own = config.own_ports().into_iter();
    own.map(|(_, port)| port).collect()
}

fn rules(config: &Config, pool: totoro_api::ports::Pool) -> Rules {
    Rules {
        node: config.node.clone(),
        own_ports: own_ports(config),
        patience: Patience {
            reserve_ms: config.port_reserve.ms,
            cool_ms: config.port_cool.ms,
        },
        grace_ms: config.session_grace.ms,
        tcp_mux: config.frps_tcp_mux,
        counts_own: machine::in_cgroup(&config.cgroup),
        pool,
        host: config
            .server_addr
            .first()
            .map_or_else(String::new, |at| tls::host_of(at).to_owned()),
    }
}

/// Has the desk take note of the kernel's events, as many at once as have come. On a thread of its
/// own: it waits for the desk and for the disk, which is not the runtime's to do.
fn listen(
    desk: Arc<Desk>,
    mut events: mpsc::Receiver<Event>,
    mut halted: watch::Receiver<()>,
) -> Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Handle::current();
    let listen = move || {
        let mut batch = Vec::with_capacity(EVENTS);
        loop {
            let came = runtime.block_on(async {
                tokio::select! {
                    came = events.recv_many(&mut batch, EVENTS) => came,
                    _ = halted.changed() => 0,
                }
            });
            if came == 0 {
                return;
            }
            desk.on_events(&batch);
            batch.clear();
        }
    };
    std::thread::Builder::new()
        .name("events".to_owned())
        .spawn(listen)
        .context("start the events' thread")
}

/// What time brings. Blocking calls are short, but not the runtime's to wait for.
async fn ticks(desk: Arc<Desk>, mut halted: watch::Receiver<()>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (lost_every, second_every) = (LOST.as_millis() / TICK.as_millis(), 1000 / TICK.as_millis());
    let mut count = 0;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = halted.changed() => return,
        }
        count += 1;
        let desk = Arc::clone(&desk);
        let done = tokio::task::spawn_blocking(move || {
            desk.tick();
            if count % second_every == 0 {
                desk.second();
            }
            if count % lost_every == 0 {
                desk.look_for_lost();
            }
            if count % (60 * second_every) == 0 {
                desk.forget();
            }
            if count % (ADOPT.1 * second_every) == ADOPT.0 * second_every {
                desk.adopt_spent();
            }
        });
        match done.await {
            // What answers frps's questions has answered ours: that is the sign of life.
            Ok(()) if count % second_every == 0 => tell_systemd(&NotifyState::Watchdog),
            Ok(()) => {}
            Err(error) => tracing::error!(%error, "a tick failed"),
        }
    }
}

/// Tries enforcement for ever.
async fn canary(desk: Arc<Desk>) {
    let mut wait = CANARY.1;
    loop {
        tokio::time::sleep(wait).await;
        let desk = Arc::clone(&desk);
        let well = tokio::task::spawn_blocking(move || desk.try_canary()).await;
        wait = match well {
            Ok(true) => CANARY.0,
            _ => CANARY.1,
        };
    }
}

/// Started without systemd, nobody is told.
fn tell_systemd(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}
