//! `totoro`: see [`totoro_client::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    totoro_client::cli::main()
}
