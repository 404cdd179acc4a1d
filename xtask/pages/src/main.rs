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

    /// A line's words as a shell makes them, from the program on: without what goes before it, after it,
    /// and what the line says of it behind three blanks.
    fn words(line: &str, program: &str) -> Vec<String> {
        let (mut words, mut word, mut quote, mut blanks) = (Vec::new(), String::new(), None, 0);
        for symbol in line.chars().chain([' ']) {
            blanks = if symbol == ' ' { blanks + 1 } else { 0 };
            match quote {
                None if blanks == 3 => break,
                None if symbol == ' ' && word.is_empty() => {}
                None if symbol == ' ' => words.push(std::mem::take(&mut word)),
                None if matches!(symbol, '"' | '\'') => quote = Some(symbol),
                Some(end) if symbol == end => quote = None,
                _ => word.push(symbol),
            }
        }
        let is_end = |word: &&String| ["|", ">", ">>", "<", "&&"].contains(&word.as_str());
        let own = words
            .split(|word| is_end(&word))
            .map(|part| part.iter().skip_while(|word| word.contains('=')))
            .find(|part| part.clone().next().is_some_and(|word| word == program));
        own.map(|own| own.cloned().collect()).unwrap_or_default()
    }

    #[test]
    fn every_command_has_examples_and_takes_them() {
        for program in commands() {
            let name = program.get_name().to_owned();
            let mut all = vec![(name.clone(), program.clone())];
            while let Some((path, command)) = all.pop() {
                let after = command.get_after_help().map(ToString::to_string);
                let mut after = after.unwrap_or_default();
                while let Some((line, rest)) = after.split_once("\\\n") {
                    after = format!("{line}{}", rest.trim_start());
                }
                let has_below = command.has_subcommands();
                assert!(has_below || after.starts_with("Examples:"), "{path}");
                let lines = after
                    .lines()
                    .skip(1)
                    .take_while(|line| line.starts_with("  "));
                for line in lines {
                    let words = words(line, &name);
                    assert!(words.len() > 1, "{path}: {line}");
                    let read = program.clone().try_get_matches_from(&words);
                    assert!(read.is_ok(), "{line}: {}", read.unwrap_err());
                }
                for below in command.get_subcommands() {
                    all.push((format!("{path} {}", below.get_name()), below.clone()));
                }
            }
        }
    }

    #[test]
    fn the_place_of_a_number_is_shown_as_it_is_written() {
        for program in ["totoro-node", "totoro-control"] {
            let mut program = commands()
                .into_iter()
                .find(|command| command.get_name() == program)
                .unwrap();
            program.build();
            let create = program
                .find_subcommand_mut("invite")
                .and_then(|invite| invite.find_subcommand_mut("create"))
                .unwrap();
            let help = create.render_long_help().to_string();
            for said in ["{n} in it is each one's number", "course {n}"] {
                assert!(help.contains(said), "{help}");
            }
        }
    }
}
