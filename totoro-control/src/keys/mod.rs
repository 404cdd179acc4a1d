//! Secrets: where they lie, how they are made, and how only their keyed hashes are kept.

mod files;
mod ring;
mod server;
mod text;

pub use files::{FileError, create_secret, read_secret};
pub use ring::{KeyRing, RingError};
pub use server::{Purpose, ServerSecret};
pub use text::{TokenKind, new_id, random, random_hex};
