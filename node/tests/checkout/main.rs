//! Trees come out of a store as they are described, or not at all; and nothing else is touched.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fresh;
mod hostile;
mod odd;
mod race;
mod support;
mod switch;
