//! Noticing Ctrl-C, so that what is half written can go before the process does.

#[cfg(target_os = "linux")]
use blobmesh_simulations::netns::{error::Error, stop::Stop};

/// Knows whether a signal asked for the end. Where none can be caught the system ends the process, and a
/// directory `.blobmesh-sim-…` may be left.
#[derive(Debug)]
pub(super) struct Interrupt {
    #[cfg(target_os = "linux")]
    stop: Option<Stop>,
}

impl Interrupt {
    /// Catches SIGINT, SIGTERM and SIGHUP from now on.
    pub(super) fn on_signals() -> Self {
        #[cfg(target_os = "linux")]
        return Self { stop: Stop::on_signals().ok() };
        #[cfg(not(target_os = "linux"))]
        Self {}
    }

    /// Returns the number of the signal that came, if one did.
    pub(super) fn signal(&self) -> Option<u8> {
        #[cfg(target_os = "linux")]
        if let Some(Err(Error::Interrupted { signal })) = self.stop.as_ref().map(Stop::check) {
            return u8::try_from(signal).ok();
        }
        None
    }
}
