//! Counts panics of the runtime's threads: tokio catches those of its tasks, so a node can lose one
//! without a test noticing. A test's own thread is not counted, it fails by itself.

use std::panic::{set_hook, take_hook};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

static COUNT: AtomicUsize = AtomicUsize::new(0);
static INSTALLED: Once = Once::new();

/// Begins to count, unless that has begun.
pub fn watch() {
    INSTALLED.call_once(|| {
        let shown = take_hook();
        set_hook(Box::new(move |panic| {
            if std::thread::current().name().is_some_and(|name| name.starts_with("tokio")) {
                COUNT.fetch_add(1, Ordering::Relaxed);
            }
            shown(panic);
        }));
    });
}

/// Returns how many there were since [`watch`].
pub fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}
