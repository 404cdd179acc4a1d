//! The node's daemon and its commands; see `totoro_node::cli`.

fn main() -> std::process::ExitCode {
    totoro_node::cli::main()
}
