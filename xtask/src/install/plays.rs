//! What is looked at, in the order in which an operator would come to it.

use anyhow::{Context, Result, ensure};

use super::World;

/// Ports of the tried node.
const POOL: &str = "20000-20009";
/// A client of the plugin's port that asks nothing.
const KNOCK: &str = "exec 3<>/dev/tcp/127.0.0.1/988";
/// Files that any installation changes.
const NOISE: &str = r"^/(var/(log|cache|lib/(dpkg|apt|systemd|private)|tmp)|dev|proc|sys|run|tmp|root)(/|$)|^/etc/(passwd|group|shadow|gshadow|subuid|subgid)-?$|^/etc/ld.so.cache$|^/usr/local/bin/frp|^/opt";
/// A user connection, as a unit (`$$` is its `$`), that says something five times a second and must be answered.
const HELD: &str = "exec 3<>/dev/tcp/10.99.0.1/20000; while :; do echo hello >&3; read -t 5 -u 3 line; \
                    [ \"$$line\" = hello ]; sleep 0.2; done";

pub(super) fn all(world: &World) {
    let checks = &world.checks;
    let files = world
        .run(&format!("find / -xdev | grep -vE '{NOISE}' | sort"))
        .unwrap_or_default();
    let machine = kernel_side(world).unwrap_or_default();
    println!("install");
    checks.check("apt installs both packages", || installed(world));
    checks.check("nothing was started or enabled", || idle(world));
    checks.check("systemd finds the units good", || verified(world));
    checks.check("units are hardened", || hardened(world));
    checks.check("man pages and completions are there", || pages(world));
    println!("run");
    checks.check("the control plane runs as its own user", || control(world));
    checks.check("the node is enrolled, and its preflight passes", || {
        enrolled(world)
    });
    checks.check("the plugin's socket starts the daemon", || activated(world));
    checks.check("the daemon has three capabilities", || capabilities(world));
    checks.check("frps and frpc: a user is served", || served(world));
    checks.check(
        "a daemon that can't start is tried again, and its socket stays",
        || tried_again(world),
    );
    println!("upgrade");
    checks.check("ssh lets the deployer in", || world.open_ssh());
    checks.check("deploy --dry-run changes nothing", || dry_run(world));
    checks.check("deploy upgrades without a gap", || upgraded(world));
    checks.check("a release that does not run is rolled back", || {
        rolled_back(world)
    });
    checks.check("apt upgrades the control plane, which goes on", || {
        control_upgraded(world)
    });
    println!("remove");
    checks.check("apt purge says that nothing is left", || purged(world));
    checks.check("no program, link, pin, qdisc or sysctl is left", || {
        let now = kernel_side(world)?;
        ensure!(now == machine, "before:\n{machine}\nnow:\n{now}");
        Ok("the kernel side is as it was".to_owned())
    });
    checks.check("no file is left", || {
        let now = world.run(&format!("find / -xdev | grep -vE '{NOISE}' | sort"))?;
        let before: std::collections::BTreeSet<&str> = files.lines().collect();
        let new: Vec<&str> = now.lines().filter(|path| !before.contains(path)).collect();
        ensure!(new.is_empty(), "{}", new.join(" "));
        Ok(format!("{} files as before", before.len()))
    });
}

/// What the kernel has that a node could leave.
fn kernel_side(world: &World) -> Result<String> {
    world.run(
        "find /sys/fs/bpf -mindepth 1; tc qdisc show | sort; \
         sysctl -n net.ipv4.ip_local_reserved_ports; ss -ltnH | awk '{ print $4 }' | sort",
    )
}

fn installed(world: &World) -> Result<String> {
    let said = world.apt_install(&world.first)?;
    let next = said.lines().find(|line| line.contains("not enrolled"));
    next.map(str::to_owned)
        .context("it does not say what comes next")
}

fn idle(world: &World) -> Result<String> {
    world.run(
        "for unit in totoro-node.service totoro-node.socket totoro-frps.service \
         totoro-control.service; do if systemctl -q is-active $unit || systemctl -q is-enabled $unit; \
         then echo $unit; exit 1; fi; done; test ! -e /sys/fs/bpf/totoro",
    )?;
    Ok("four units, none active, none enabled; nothing is pinned".to_owned())
}

fn verified(world: &World) -> Result<String> {
    world.tool("frps", "/usr/local/bin/frps")?;
    world.tool("frpc", "/usr/local/bin/frpc")?;
    let said = world.run("systemd-analyze verify /usr/lib/systemd/system/totoro-* 2>&1")?;
    ensure!(said.is_empty(), "{said}");
    Ok("no complaint".to_owned())
}

fn hardened(world: &World) -> Result<String> {
    let mut all = Vec::new();
    for (unit, most) in [
        ("totoro-node", 45),
        ("totoro-frps", 35),
        ("totoro-control", 20),
    ] {
        // In tenths: systemd-analyze's exposure, 0 to 10.
        // Not into a pipe: that would end as its last command does, however exposed the unit is.
        let said = world.run(&format!(
            "said=$(systemd-analyze security --no-pager --threshold={most} {unit}.service); echo \"${{said##*$'\\n'}}\""
        ))?;
        let level = said
            .rsplit_once("service: ")
            .map_or(&*said, |(_, level)| level);
        all.push(format!("{unit} {level}"));
    }
    Ok(all.join(", "))
}

fn pages(world: &World) -> Result<String> {
    let pages = world.run(
        "bash -n /usr/share/bash-completion/completions/totoro-node; \
         bash -n /usr/share/bash-completion/completions/totoro-control; \
         dpkg -L totoro-node totoro-control | grep -c '/man1/totoro.*gz$'",
    )?;
    Ok(format!("{pages} pages"))
}

fn control(world: &World) -> Result<String> {
    world.run(
        "runuser -u totoro -- totoro-control init --dir /etc/totoro/control >/dev/null; \
         systemctl start totoro-control",
    )?;
    world
        .run("ps -o user= -C totoro-control; totoro-control --version")
        .map(|said| said.replace('\n', ", "))
}

fn enrolled(world: &World) -> Result<String> {
    world.run(&format!(
        "export TOTORO_TOKEN_FILE=/etc/totoro/control/admin.token; \
         totoro-control node add --name n1 --pool-tcp {POOL} --server-addr 10.99.0.1:7000 --json \
            | sed -n 's/.*\"token\": *\"\\([^\"]*\\)\".*/\\1/p' > /run/token; chmod 600 /run/token; \
         totoro-node enroll --control http://127.0.0.1:8080 --insecure-http --token-file /run/token; \
         totoro-node frps-config --out /etc/totoro/frps.toml; rm /run/token"
    ))?;
    let said = world.run("totoro-node check")?;
    let warnings = said.lines().filter(|line| line.contains(" WARN ")).count();
    Ok(format!(
        "{} lines, {warnings} warnings",
        said.lines().count() - 1
    ))
}

fn activated(world: &World) -> Result<String> {
    world.run("systemctl start totoro-node.socket; if systemctl -q is-active totoro-node; then exit 1; fi")?;
    world.run(KNOCK)?;
    world.until("systemctl -q is-active totoro-node")?;
    let links = world.pinned()?.len();
    Ok(format!("it runs; {links} links are pinned"))
}

/// For longer than systemd's own limits of starts count, with questions that wait.
fn tried_again(world: &World) -> Result<String> {
    world.run("chmod 0644 /etc/totoro/node.key; systemctl kill -s KILL totoro-node")?;
    let asked = world.run(&format!(
        "for nth in $(seq 18); do ({KNOCK}) || exit 1; sleep 4; done; \
         if systemctl -q is-active totoro-node; then echo 'it runs with an open key'; exit 1; fi; \
         systemctl -q is-active totoro-node.socket; systemctl show -P NRestarts totoro-node"
    ));
    world.run("chmod 0600 /etc/totoro/node.key")?;
    let restarts = asked?;
    world.until("systemctl -q is-active totoro-node")?;
    Ok(format!("{restarts} starts in 72 s, then it ran"))
}

fn capabilities(world: &World) -> Result<String> {
    let said = world.run(
        "for set in CapEff CapPrm CapBnd; do \
         sed -n \"s/^$set:[[:space:]]*//p\" /proc/$(systemctl show -P MainPID totoro-node)/status; done",
    )?;
    // BPF (39), PERFMON (38), NET_ADMIN (12).
    let kept = format!("{:016x}", 1u64 << 39 | 1 << 38 | 1 << 12);
    ensure!(said.lines().all(|line| line == kept), "{said}");
    Ok("BPF, PERFMON, NET_ADMIN: effective, permitted and bounding".to_owned())
}

fn served(world: &World) -> Result<String> {
    world.run("systemctl start totoro-frps")?;
    world.run(
        "export TOTORO_TOKEN_FILE=/etc/totoro/control/admin.token; umask 077; \
         made=$(totoro-control invite create --node n1 --max-conns 3 --json); \
         code=$(echo \"$made\" | sed -n 's/.*\"code\": *\"\\([^\"]*\\)\".*/\\1/p'); \
         invite=$(echo \"$made\" | grep -o 'inv-[a-z0-9]*' | head -n 1); \
         printf '%s\\n' 'serverAddr = \"10.99.0.1\"' 'serverPort = 7000' \"user = \\\"$invite\\\"\" \
            'auth.method = \"oidc\"' 'auth.oidc.clientID = \"totoro\"' \
            \"auth.oidc.clientSecret = \\\"$code\\\"\" \
            'auth.oidc.tokenEndpointURL = \"http://127.0.0.1:8080/api/v1/oauth/token\"' \
            '[[proxies]]' 'name = \"echo\"' 'type = \"tcp\"' 'localPort = 5000' 'remotePort = 20000' \
            > /run/frpc.toml; \
         systemd-run -q --unit echo socat TCP-LISTEN:5000,fork,reuseaddr EXEC:cat; \
         systemd-run -q --unit frpc -p Restart=always /usr/local/bin/frpc -c /run/frpc.toml",
    )?;
    world.until(
        "exec 3<>/dev/tcp/10.99.0.1/20000; echo hello >&3; read -t 2 -u 3 line; [ \"$line\" = hello ]",
    )?;
    world.run(&format!("systemd-run -q --unit held bash -ec '{HELD}'"))?;
    world.until("totoro-node inspect conns | grep -q 20000")?;
    let group = world.run("systemctl show -P ControlGroup totoro-frps")?;
    Ok(format!("through the tunnel; frps in the cgroup {group}"))
}

/// The connection that has been there since before is alive.
fn held(world: &World) -> Result<()> {
    world.run("sleep 1; systemctl -q is-active held && systemctl -q is-active frpc")?;
    let restarts = world.run("systemctl show -P NRestarts frpc")?;
    ensure!(restarts == "0", "frpc was started {restarts} times more");
    Ok(())
}

fn version(world: &World) -> Result<String> {
    world.run("dpkg-query -W -f '${Version}' totoro-node")
}

fn dry_run(world: &World) -> Result<String> {
    let (before, links) = (version(world)?, world.pinned()?);
    world.deploy(&world.second[0], true)?;
    ensure!(
        version(world)? == before && world.pinned()? == links,
        "something changed"
    );
    Ok(format!("{before} stays"))
}

fn upgraded(world: &World) -> Result<String> {
    let before = world.pinned()?;
    world.deploy(&world.second[0], false)?;
    let after = world.pinned()?;
    let ids = |all: &[(u64, u64)]| all.iter().map(|(link, _)| *link).collect::<Vec<_>>();
    ensure!(
        ids(&before) == ids(&after),
        "links {before:?} became {after:?}"
    );
    let swapped = before
        .iter()
        .zip(&after)
        .filter(|(old, new)| old.1 != new.1)
        .count();
    held(world)?;
    Ok(format!(
        "{} runs; {} links kept, {swapped} programs swapped; a user's connection and frpc's session \
         lived on",
        version(world)?,
        after.len()
    ))
}

fn rolled_back(world: &World) -> Result<String> {
    let before = (version(world)?, world.pinned()?.len());
    let Err(error) = world.deploy(&world.broken, false) else {
        anyhow::bail!("a release that does not run was taken for well");
    };
    let said = format!("{error:#}");
    ensure!(said.contains("rolled back"), "{said}");
    world.until("systemctl -q is-active totoro-node")?;
    ensure!(
        (version(world)?, world.pinned()?.len()) == before,
        "not as before"
    );
    held(world)?;
    let left = world.run("ls /var/tmp | grep -c totoro-deploy || true")?;
    ensure!(left == "0", "uploads are left in /var/tmp");
    Ok(format!("{} runs again; the connection lived on", before.0))
}

fn control_upgraded(world: &World) -> Result<String> {
    world.apt_install(&world.second[1..])?;
    world.until("systemctl -q is-active totoro-control")?;
    world.until(
        "TOTORO_TOKEN_FILE=/etc/totoro/control/admin.token totoro-control node list | grep n1",
    )?;
    world.run("dpkg-query -W -f '${Version}' totoro-control")
}

fn purged(world: &World) -> Result<String> {
    let programs = world.pinned()?;
    let said = world.run("apt-get purge -y -q totoro-node totoro-control 2>&1")?;
    for line in [
        "nothing of Totoro is left in the kernel",
        "no longer reserved: ports 20000-20009",
    ] {
        ensure!(said.contains(line), "it does not say {line:?}:\n{said}");
    }
    for (link, program) in &programs {
        for (kind, id) in [("link", link), ("prog", program)] {
            let found = std::process::Command::new("bpftool")
                .args([kind, "show", "id", &id.to_string()])
                .output()
                .context("start bpftool")?;
            ensure!(!found.status.success(), "{kind} {id} is there still");
        }
    }
    // Ours, and no package's.
    world.run(
        "systemctl stop frpc held echo 2>/dev/null || true; rm -rf /var/cache/totoro-deploy",
    )?;
    Ok(format!("{} programs and links are gone", programs.len()))
}
