//! A blobmesh node: it does what the engine of `blobmesh-protocol` decides.
//!
//! The crate never prints, never reads the environment and decides no policy. libp2p types stay in
//! [`swarm`], sled in one file of [`store`], HTTP clients in [`edge`].

pub mod config;
pub mod control;
pub mod discovery;
pub mod edge;
pub mod identity;
pub mod mesh;
pub mod secret_file;
pub mod store;
pub mod swarm;
