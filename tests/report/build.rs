//! Which compiler builds this, and with it what is measured.

use std::process::Command;

fn main() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(rustc).arg("--version").output();
    let version = said.map_or_else(
        |_| "unknown".into(),
        |said| String::from_utf8_lossy(&said.stdout).trim().to_owned(),
    );
    println!("cargo::rustc-env=TOTORO_RUSTC={version}");
    println!("cargo::rerun-if-changed=build.rs");
}
