//! A second reading of what the kernel programs decide: plain Rust, standard collections, whole
//! headers, no thought of speed. It shares the ABI's types with the programs and nothing else, so that
//! one mistake is not made twice; what differs is printed by `cargo xtask soak packets`.
//!
//! The kernel looks at its clock while it runs, at a moment that nobody is told. The model knows the
//! span in which it did ([`Span`]), and answers [`Unsure`] where the decision turns on the moment.

mod filter;
mod frame;
mod greeting;
mod idle;
mod lookup;
mod outbound;
mod time;
mod world;

pub use frame::Seen;
pub use lookup::Lookup;
pub use time::{Span, Unsure};
pub use world::{Cells, Timed, Told, World};

/// What a hook makes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whom the refusal is counted on, and why; `None` = it passes.
    pub refused: Option<Refusal>,
    /// The frame as it goes on, where it was changed.
    pub rewritten: Option<Vec<u8>>,
    /// What the daemon is told.
    pub told: Option<Told>,
}

/// A refusal, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The tenant; 0 = nobody's.
    pub tenant: u32,
    /// The reason's number.
    pub reason: u32,
}

impl Outcome {
    /// It goes on as it is.
    #[must_use]
    pub const fn passes() -> Self {
        Outcome {
            refused: None,
            rewritten: None,
            told: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn nothing_of_the_kernels_but_the_abi() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut uses = 0;
        for entry in std::fs::read_dir(dir).expect("sources") {
            let path = entry.expect("entry").path();
            let text = std::fs::read_to_string(&path).expect("read");
            // Spelled in two parts, so that this line is not found.
            for rest in text.split(concat!("totoro_", "ebpf::")).skip(1) {
                uses += 1;
                assert!(rest.starts_with("abi"), "{}: {rest:.20}", path.display());
            }
        }
        assert!(uses > 5, "{uses} uses were looked at");
    }
}
