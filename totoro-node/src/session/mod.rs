//! Sessions and leases: who is on, who has which port.
//!
//! Pure parts ([`model`], [`ports`], [`policy`], [`coalesce`]) decide; [`Desk`] applies what they
//! decide to kernel, store and memory, in the order that each case needs.

mod align;
mod apply;
mod bans;
mod canary;
pub mod coalesce;
mod commits;
mod compare;
mod desk;
mod ending;
mod ends;
mod enforce;
mod failures;
mod find;
mod gate;
mod hints;
mod index;
mod invites;
mod kept;
mod login;
mod mended;
pub mod model;
mod passed;
pub mod policy;
pub mod ports;
mod proxy;
mod reclock;
mod refused;
mod report;
mod sessions;
mod settle;
mod shown;
mod signatures;
mod spent;
mod strays;
mod tick;

#[cfg(test)]
mod tests;

pub use bans::BanLine;
pub use compare::Online;
pub use desk::{Desk, Rules, Tools};
pub use gate::Gate;
pub use kept::stored_pool;
pub use mended::Mended;
pub use report::{Report, SessionLine};
pub use strays::Proxied;
pub use totoro_api::decide::check_login;
