//! Users, services and witnesses on plain sockets.

pub(crate) mod aside;
pub(crate) mod capture;
pub(crate) mod crowd;
pub(crate) mod kinds;
mod packet;
pub(crate) mod service;
pub(crate) mod spans;
pub(crate) mod truth;
