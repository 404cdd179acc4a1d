//! Random worlds, and random packets that fit them.

mod packet;
mod times;
mod world;

pub use packet::Packets;
pub use times::Clock;
pub use world::Scene;

use fastrand::Rng;

/// One of several.
pub(crate) fn one_of<T: Copy>(dice: &mut Rng, of: &[T]) -> T {
    of[dice.usize(..of.len())]
}

/// True once in `n` times.
pub(crate) fn once_in(dice: &mut Rng, n: u32) -> bool {
    dice.u32(..n) == 0
}
