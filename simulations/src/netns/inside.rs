//! Work of our own inside a host's network namespace, without another process.
//!
//! A socket belongs to the namespace in which it was made, whoever uses it later. So a thread of ours
//! enters the namespace, makes the socket and ends, and the socket speaks for the host from then on. A
//! thread that entered never does anything else: the rest of the process stays where it is.

use std::{fs::File, os::fd::AsFd as _, path::Path};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{error::Error, lab::Host, leftovers::NAMESPACE_DIRECTORY};

/// Runs `work` on a thread that sees the network of `host`, and returns what it returns.
///
/// # Errors
/// [`Error::File`] and [`Error::System`] when the namespace cannot be entered, and those of `work`.
pub fn inside<T: Send>(
    host: &Host,
    work: impl FnOnce() -> std::io::Result<T> + Send,
) -> Result<T, Error> {
    let path = Path::new(NAMESPACE_DIRECTORY).join(host.namespace());
    let namespace = File::open(&path).map_err(Error::file("open", &path))?;
    let result = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    result.map_err(Error::system(format!("work in the network of {}", host.name)))
}
