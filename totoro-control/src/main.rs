//! `totoro-control`: the server and the operator's commands.

use std::process::ExitCode;

// glibc's allocator took a quarter of the server's time under load: docs/benchmarks.md.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    totoro_control::cli::main()
}
