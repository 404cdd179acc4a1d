//! What the driver (`drive`) and the bench agree on.
#![no_std]

/// Places of the driver's map: the first destination port.
pub const FIRST: u32 = 0;
/// How many ports from there on.
pub const COUNT: u32 = 1;
/// How many sources, from [`SOURCE`] on: every other address.
pub const SOURCES: u32 = 2;
/// Where it stands.
pub const STATE: u32 = 3;
/// Places of the map.
pub const PLACES: usize = 4;

/// The first source, as a number.
pub const SOURCE: u32 = u32::from_be_bytes([10, 0, 0, 0]);

/// The smallest frame that the driver takes: Ethernet, IPv4 without options, ports.
pub const SHORTEST: usize = 14 + 20 + 4;
