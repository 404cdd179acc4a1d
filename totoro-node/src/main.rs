//! The node's daemon and its commands; see `totoro_node::cli`.

#![expect(
    unsafe_code,
    reason = "jemalloc finds its options by a symbol's name, and who gives a symbol a name promises that \
              nothing else has it"
)]

// glibc's allocator puts what lives long between what goes with each request: of a full node's heap 40 %
// were holes, which no trimming gives back (docs/benchmarks.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What jemalloc reads when it starts: one arena, since the daemon is to be small and each would have
/// its own free pages; and those go back after a second (by its default, ten).
// SAFETY: jemalloc looks for a pointer to a C string under this name, and declares it weak for us to define.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &[u8; 30] = b"narenas:1,dirty_decay_ms:1000\0";

fn main() -> std::process::ExitCode {
    totoro_node::cli::main()
}
