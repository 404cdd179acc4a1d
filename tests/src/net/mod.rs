//! Hand-made users and services, on plain sockets.

pub mod backend;
pub mod burst;
pub mod syn;
pub mod user;

/// Size of the page, bytes.
pub const PAGE: usize = 1 << 20;

/// The page: the same everywhere, and not compressible to a pattern that a bug could mimic.
#[must_use]
pub fn page() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(PAGE)
    .collect()
}
