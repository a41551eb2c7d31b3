//! A blobmesh node: it does what the engine of `blobmesh-protocol` decides.
//!
//! The crate never prints, never reads the environment and decides no policy. libp2p types stay in
//! [`swarm`], sled in one file of [`store`], HTTP clients in [`edge`].

mod alarm;
mod compute;
pub mod config;
pub mod control;
mod delta;
pub mod discovery;
mod driver;
pub mod edge;
pub mod identity;
mod lane;
pub mod mesh;
mod node;
mod private_file;
pub mod secret_file;
mod service;
mod small;
mod stop;
pub mod store;
pub mod swarm;
mod transfer;
pub mod tree;

pub use node::Node;
pub use service::NodeService;
