//! Pure decisions, the same on the host and in the kernel: no maps, no clock, no helpers.

pub mod admit;
pub mod answered;
pub mod banned;
pub mod bucket;
pub mod checksum;
pub mod known;
pub mod near;
pub mod pool;
pub mod prefix;
pub mod stamp;
pub mod waiting;
