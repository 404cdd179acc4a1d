//! Decisions about logins and proxies. Pure: the caller brings the clock and what it knows, so the
//! node (grade `kernel`) and the control plane (grade `callback`) decide alike.

mod body;
mod leases;
mod login;
mod named;
mod proxy;
mod room;
mod standing;
mod tenant;

pub use body::{
    Granted, LOGIN_META, check_login, check_text, client_of, rewritten, ticket_of, unreadable,
    with_key,
};
pub use leases::{
    Holder, Lease, LeaseTold, Leases, Opened, Patience, Plan, PortId, Ports, Summed, Waiting, Wish,
    parse_key, record_key,
};
pub use login::{Action, Brought, Owner, login};
pub use named::Named;
pub use proxy::{Asked, Avoided, Choice, Held, MAX_NAME, choose_port, read_proxy, user_denied};
pub use room::{lease_room, session_room, tenant_room};
pub use standing::{Applied, Standing, Voucher, standing};
pub use tenant::{PUBLIC, SeenTicket, invite_of, site, source, tenant_of};
