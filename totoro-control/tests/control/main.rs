//! The control plane as its clients see it: the real binary on loopback, spoken to over HTTP. One
//! test program, so that it is linked once.

mod abuse;
mod admins;
mod audit;
mod backup;
mod batches;
mod callback;
mod commands;
mod connections;
mod constant;
mod crowd;
mod described;
mod doctor;
mod durability;
mod enrolment;
mod events;
mod faults;
mod fuzzed;
mod hygiene;
mod invites;
mod ledger;
mod lender;
mod listing;
mod metrics;
mod misfits;
mod nodes;
mod operator;
mod pages;
mod power;
mod repeats;
mod streams;
mod support;
mod systemd;
mod tickets;
mod tls;
