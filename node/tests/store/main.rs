//! The store as its users see it: what it promises, and what it makes of every ruin it may find.

#![allow(clippy::cast_possible_truncation, reason = "small values of the tests' own making")]

mod add;
mod batch;
mod evict;
mod export;
mod full;
mod kill;
mod packs;
mod partial;
mod recovery;
mod small;
mod support;
