//! The daemons' files.

use std::path::{Path, PathBuf};

use totoro_node::config::{Config, Settings};

use crate::Target;

/// `node.toml`.
pub(crate) const NODE: Target = Target {
    name: "settings-node",
    run: node,
    seeds: node_seeds,
};

/// `control.toml`.
pub(crate) const CONTROL: Target = Target {
    name: "settings-control",
    run: control,
    seeds: control_seeds,
};

fn node(data: &[u8]) {
    let Some(file) = std::str::from_utf8(data)
        .ok()
        .and_then(|text| toml::from_str::<Settings>(text).ok())
    else {
        return;
    };
    let written = toml::to_string(&file).expect("what was read can be written");
    let again: Settings = toml::from_str(&written).expect("what was written can be read");
    assert_eq!(toml::to_string(&again).expect("written"), written);

    // What the machine would be asked for.
    let given = Settings {
        cgroup: Some(PathBuf::from("/cgroup")),
        object: Some(PathBuf::new()),
        interfaces: Some(vec!["eth0".to_owned()]),
        ..Settings::default()
    };
    let insecure = file.insecure_http.unwrap_or(false);
    let Ok(config) = Config::from_settings(given, file, Path::new("/etc/totoro")) else {
        return;
    };
    assert!(
        config.control.starts_with("https://") || insecure && config.control.starts_with("http://")
    );
    assert!(!config.control.ends_with('/'));
    for at in [
        Some(config.plugin_listen),
        Some(config.frps_admin),
        config.metrics_listen,
    ] {
        assert!(
            at.is_none_or(|at| at.ip().is_loopback()),
            "{at:?} would be open to others"
        );
    }
    for path in [
        &config.key_file,
        &config.plugin_secret_file,
        &config.frps_password_file,
        &config.state_dir,
    ] {
        assert!(path.is_absolute(), "{}", path.display());
    }
    let printed = config.print().expect("what holds can be shown");
    printed
        .parse::<toml::Table>()
        .expect("what is shown is TOML");
}

fn control(data: &[u8]) {
    use totoro_control::config::Config;
    let Some(config) = std::str::from_utf8(data)
        .ok()
        .and_then(|text| toml::from_str::<Config>(text).ok())
    else {
        return;
    };
    let written = toml::to_string(&config).expect("what was read can be written");
    assert_eq!(
        toml::from_str::<Config>(&written).expect("what was written can be read"),
        config
    );
    if config.check().is_err() {
        return;
    }
    let open = |at: std::net::SocketAddr| !at.ip().is_loopback();
    if config.tls.is_none() && !config.insecure_http {
        assert!(!open(config.listen) && !config.admin_listen.is_some_and(open));
    }
    let url = &config.public_url;
    assert!(
        url.starts_with("https://") || url.starts_with("http://"),
        "{url}"
    );
    assert!((1..=86_400).contains(&config.ticket_ttl.secs()));
}

fn node_seeds() -> Vec<Vec<u8>> {
    let least = "control = \"https://c.example\"\nnode = \"nod_a\"\n";
    let all = format!(
        "{least}insecure_http = false\nkey_file = \"node.key\"\nstate_dir = \"/var/lib/totoro\"\n\
         interfaces = [\"eth0\"]\nxdp = \"auto\"\nplugin_listen = \"127.0.0.1:988\"\nfrps_bind_port = 7000\n\
         frps_admin = \"[::1]:7500\"\nmetrics_listen = \"127.0.0.1:9100\"\nfrps_tcp_mux = true\n\
         control_per_source = 64\nmax_conns_total = 0\nflow_idle = \"60s\"\nport_reserve = \"10m\"\n\
         session_grace = \"500ms\"\nspool_mib = 64\nserver_addr = [\"n1.example:7000\"]\n\
         [pool]\ntcp = [\"20000-20099\"]\nudp = [\"20000\"]\n"
    );
    vec![least.into(), all.into()]
}

fn control_seeds() -> Vec<Vec<u8>> {
    use totoro_control::config::Config;
    let least = "listen = \"127.0.0.1:8080\"\npublic_url = \"https://c.example\"\n";
    let config = Config::new(
        ([127, 0, 0, 1], 8080).into(),
        "https://c.example".to_owned(),
    );
    let all = toml::to_string(&config).expect("settings are TOML");
    let tls = format!(
        "{least}admin_listen = \"10.0.0.1:1\"\ntrusted_proxies = [\"10.0.0.0/8\"]\n[tls]\ncert = \"c\"\nkey = \"k\"\n"
    );
    vec![least.into(), all.into(), tls.into()]
}
