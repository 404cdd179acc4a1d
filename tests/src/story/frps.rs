//! What frps is started with, as its unit has it.

const UNIT: &str = include_str!("../../../deploy/totoro-frps.service");

/// The variables of its environment.
pub fn environment() -> impl Iterator<Item = (&'static str, &'static str)> {
    UNIT.lines()
        .filter_map(|line| line.strip_prefix("Environment="))
        .flat_map(str::split_whitespace)
        .filter_map(|one| one.split_once('='))
}
