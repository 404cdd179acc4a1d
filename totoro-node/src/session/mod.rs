//! Sessions and leases: who is on, who has which port.
//!
//! Pure parts ([`model`], [`ports`], [`policy`], [`coalesce`]) decide; [`Desk`] applies what they
//! decide to kernel, store and memory, in the order that each case needs.

mod apply;
mod body;
pub mod coalesce;
mod desk;
mod ending;
mod login;
pub mod model;
pub mod policy;
pub mod ports;
mod proxy;
mod report;
mod tick;

pub use body::check_login;
pub use desk::{Desk, Rules, Tools, stored_pool};
pub use report::{BanLine, Report, SessionLine};
