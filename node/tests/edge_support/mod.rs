//! Servers for the edge's tests: a real S3 server and a web server over a directory, each behind a
//! front that injects faults. All listen on a port of the system's choice and end when dropped.

pub(crate) mod blobs;
pub(crate) mod dead;
pub(crate) mod fault;
pub(crate) mod front;
pub(crate) mod place;
pub(crate) mod tls;
