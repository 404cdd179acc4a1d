//! `totoro-control`: the server and the operator's commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    totoro_control::cli::main()
}
