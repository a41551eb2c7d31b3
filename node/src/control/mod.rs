//! What users and programs of this machine ask of a node, and how the request travels.
//!
//! [`api`] holds the requests and answers. The same [`api::Request`] is served by a running node over
//! its Unix socket, and in process by a command that found no running node.

pub mod api;
