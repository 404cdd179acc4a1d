//! Decisions about logins and proxies. Pure: the caller brings the clock and what it knows, so the
//! node (grade `kernel`) and the control plane (grade `callback`) decide alike.

mod login;
mod proxy;
mod standing;

pub use login::{Action, Brought, Owner, login};
pub use proxy::{Asked, Choice, Held, MAX_NAME, choose_port, read_proxy, user_denied};
pub use standing::{Applied, Standing, Voucher, standing};
