//! The desk with a kernel and a disk that fail when they are told to.

mod clocks;
mod durable;
mod failing;
mod fake;
mod kicking;
mod living;
mod machine;
mod offline;
mod quiet;
mod races;
mod refusing;
mod strays;
mod waiting;
mod websocket;
mod world;
