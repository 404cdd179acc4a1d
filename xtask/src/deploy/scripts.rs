//! The scripts that run on a machine, `host.sh` and those of the packages, in a directory that stands
//! for one: its programs are stubs that write down how they were called.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use super::HOST;

const PRERM: &str = include_str!("../../../deploy/debian/node/prerm");

/// A totoro-node that refuses settings as the real one does, and writes down where its pins are.
const NODE: &str = r#"
case $TOTORO_NODE_XDP in wrong) echo "invalid value" >&2; exit 2 ;; esac
! grep -qs broken "$2" || { echo "TOML parse error" >&2; exit 1; }
[ "$3" != uninstall ] || echo "pins ${TOTORO_NODE_PIN_ROOT:-default}"
"#;

/// A directory that stands for a machine.
struct Machine(PathBuf);

impl Machine {
    /// One where each program of `stubs` is a line of shell.
    fn new(name: &str, stubs: &[(&str, &str)]) -> Self {
        let dir = format!("totoro-scripts-{}-{name}", std::process::id());
        let machine = Machine(std::env::temp_dir().join(dir));
        for dir in ["bin", "etc/default", "etc/totoro"] {
            fs::create_dir_all(machine.0.join(dir)).unwrap();
        }
        // Never this machine's own.
        let harmless = [
            "apt-get",
            "deb-systemd-invoke",
            "dpkg",
            "dpkg-deb",
            "dpkg-query",
            "journalctl",
            "systemctl",
            "totoro-node",
        ];
        for (program, line) in harmless.map(|name| (name, ":")).iter().chain(stubs) {
            let path = machine.0.join("bin").join(program);
            let log = machine.0.join("log");
            let text = format!(
                "#!/bin/sh\necho \"{program} $*\" >>{}\n{line}\n",
                log.display()
            );
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        machine
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }

    /// Runs a script there, with the machine's directories instead of this one's. One that hangs is ended.
    fn run(&self, script: &str, words: &[&str]) -> Output {
        let dir = self.0.display();
        let script = ["/etc/", "/var/cache/", "/run/systemd/"]
            .iter()
            .fold(script.to_owned(), |script, path| {
                script.replace(path, &format!("{dir}{path}"))
            });
        let path = std::env::var("PATH").unwrap();
        Command::new("timeout")
            .args(["60", "sh", "-c", &script, "script"])
            .args(words)
            .env("PATH", format!("{dir}/bin:{path}"))
            .output()
            .unwrap()
    }

    /// What was called there so far.
    fn log(&self) -> String {
        fs::read_to_string(self.0.join("log")).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_machine_tells_how_the_package_is_there() {
    for (dpkg, expected) in [
        ("echo installed 1-1", "installed 1-1 - inactive amd64\n"),
        (
            "echo half-configured 1-1",
            "half-configured 1-1 - inactive amd64\n",
        ),
        ("echo config-files 1-1", "config-files - - inactive amd64\n"),
        ("exit 1", "not-installed - - inactive amd64\n"),
    ] {
        let stubs = [
            ("dpkg-query", dpkg),
            ("systemctl", "echo inactive; exit 3"),
            ("dpkg", "echo amd64"),
        ];
        let said = Machine::new("facts", &stubs).run(HOST, &["facts", "totoro-node"]);
        assert_eq!(text(&said.stdout), expected, "{}", text(&said.stderr));
    }
}

#[test]
fn an_installation_that_apt_skipped_is_none() {
    let stubs = [
        ("dpkg-query", "echo installed 1-1"),
        ("dpkg-deb", "echo 1-2"),
    ];
    let said = Machine::new("skipped", &stubs).run(HOST, &["install", "totoro-node", "x.deb"]);
    assert_eq!(
        text(&said.stderr),
        "apt did not install 1-2: 1-1 is there\n"
    );
    assert!(!said.status.success());
}

#[test]
fn the_way_back_starts_nothing_that_did_not_run() {
    for (state, restarts) in [("active", true), ("inactive", false)] {
        let machine = Machine::new("back", &[]);
        let said = machine.run(HOST, &["back", "totoro-node", "1-1", state]);
        assert!(said.status.success(), "{}", text(&said.stderr));
        let log = machine.log();
        assert!(log.contains("totoro-node_1-1.deb"), "{log}");
        let restarted = log.contains("systemctl restart totoro-node.service");
        assert_eq!(restarted, restarts, "{state}: {log}");
    }
}

#[test]
fn a_removal_knows_the_units_settings_and_outlives_broken_ones() {
    let pins = "TOTORO_NODE_PIN_ROOT=/elsewhere\n";
    for (default, node, expected, complaint) in [
        (pins, "", "pins /elsewhere\n", ""),
        // What node.toml says is lost; what the variables say is not.
        (
            pins,
            "broken",
            "pins /elsewhere\n",
            "node.toml can't be read",
        ),
        (
            "TOTORO_NODE_XDP=wrong\n",
            "",
            "pins default\n",
            "default/totoro-node can't be read",
        ),
        (
            "TOTORO_NODE_XDP='\n",
            "broken",
            "pins default\n",
            "node.toml can't be read",
        ),
        (
            "no setting\nTOTORO_NODE_PIN_ROOT=/elsewhere\n",
            "",
            "pins /elsewhere\n",
            "not found",
        ),
    ] {
        let machine = Machine::new("prerm", &[("totoro-node", NODE)]);
        machine.write("etc/default/totoro-node", default);
        machine.write("etc/totoro/node.toml", node);
        let said = machine.run(PRERM, &["remove"]);
        let stderr = text(&said.stderr);
        assert_eq!(text(&said.stdout), expected, "{default}{node}: {stderr}");
        assert!(
            said.status.success() && stderr.contains(complaint),
            "{stderr}"
        );
        assert!(!complaint.is_empty() || stderr.is_empty(), "{stderr}");
    }
}

#[test]
fn a_removal_fails_where_the_node_refuses_it() {
    let stubs = [("totoro-node", "[ \"$3\" != uninstall ]")];
    let said = Machine::new("refused", &stubs).run(PRERM, &["remove"]);
    assert!(!said.status.success());
}

#[test]
fn health_and_preflight_have_the_units_settings() {
    let doctor = "[ \"$TOTORO_NODE_PIN_ROOT\" = /elsewhere ]";
    let stubs = [
        ("totoro-node", doctor),
        ("systemctl", "echo active"),
        (
            "dpkg-deb",
            "mkdir -p $3/usr/bin; cp ${0%/*}/totoro-node $3/usr/bin",
        ),
    ];
    let machine = Machine::new("health", &stubs);
    machine.write(
        "etc/default/totoro-node",
        "TOTORO_NODE_PIN_ROOT=/elsewhere\n",
    );
    for words in [
        ["health", "totoro-node", "1"],
        ["preflight", "totoro-node", "x.deb"],
    ] {
        let said = machine.run(HOST, &words);
        assert!(said.status.success(), "{words:?}: {}", text(&said.stderr));
    }
}

#[test]
fn what_is_not_well_is_said_after_the_patience() {
    for (doctor, complaint) in [
        // Nothing but good lines, and yet not well: the journal is what tells.
        ("echo 'pins OK here'; exit 1", ""),
        ("sleep 1; echo 'pins BAD'; exit 1", "pins BAD\n"),
        ("exec sleep 600", "its doctor said nothing in time\n"),
    ] {
        let stubs = [
            ("totoro-node", doctor),
            (
                "systemctl",
                "[ \"$1\" != show ] || exec echo 0; echo active",
            ),
            ("journalctl", "echo the journal"),
        ];
        let (machine, begun) = (Machine::new("patience", &stubs), Instant::now());
        let said = machine.run(HOST, &["health", "totoro-node", "3"]);
        assert_eq!(text(&said.stderr), format!("{complaint}the journal\n"));
        assert!(!said.status.success());
        // Whole seconds of the clock.
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(2), "{doctor}: {took:?}");
    }
}

#[test]
fn what_is_started_again_and_again_is_not_waited_for() {
    let stubs = [
        (
            "systemctl",
            "[ \"$1\" != show ] || exec echo 5; echo activating; exit 3",
        ),
        ("journalctl", "echo the journal"),
    ];
    let machine = Machine::new("again", &stubs);
    let said = machine.run(HOST, &["health", "totoro-node", "60"]);
    assert_eq!(
        text(&said.stderr),
        "totoro-node.service is activating\nthe journal\n"
    );
    assert!(!said.status.success());
    let looked = machine.log().matches("systemctl is-active").count();
    assert_eq!(looked, 1, "{}", machine.log());
}
