//! `totoro-pages DIR`: man pages (`DIR/man`) and shell completions (`DIR/completions/<shell>`) of both
//! daemons and the client. A program of its own, so that none of them carries what makes them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::Shell;

/// The shells whose completions Debian has a place for.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

fn main() -> Result<()> {
    let dir = std::env::args_os()
        .nth(1)
        .context("usage: totoro-pages DIR")?;
    let dir = PathBuf::from(dir);
    for command in commands() {
        write(command, &dir).with_context(|| format!("write under {}", dir.display()))?;
    }
    Ok(())
}

/// The command lines.
fn commands() -> [Command; 3] {
    [
        totoro_node::cli::command(),
        totoro_control::cli::command(),
        totoro_client::cli::command(),
    ]
}

/// Writes both of one command.
fn write(command: Command, dir: &Path) -> Result<()> {
    let man = dir.join("man");
    fs::create_dir_all(&man)?;
    // A page of its own for each command: `man totoro-node-invite-create`.
    clap_mangen::generate_to(command.clone(), &man)?;
    let name = command.get_name().to_owned();
    for shell in SHELLS {
        let at = dir.join("completions").join(shell.to_string());
        fs::create_dir_all(&at)?;
        clap_complete::generate_to(shell, &mut command.clone(), &name, at)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_every_shell_its_completions() {
        let dir = std::env::temp_dir().join(format!("totoro-pages-{}", std::process::id()));
        for command in commands() {
            write(command, &dir).unwrap();
        }
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        for page in [
            "totoro-node",
            "totoro-node-invite-create",
            "totoro-control-serve",
            "totoro",
            "totoro-connect",
        ] {
            assert!(
                read(&format!("man/{page}.1")).contains(".SH SYNOPSIS"),
                "{page}"
            );
        }
        for file in [
            "bash/totoro-node.bash",
            "zsh/_totoro-node",
            "fish/totoro-control.fish",
            "zsh/_totoro",
        ] {
            assert!(
                read(&format!("completions/{file}")).contains("totoro"),
                "{file}"
            );
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
