//! Requests made so many at once, and how long each one takes.

use std::future::Future;
use std::io;
use std::time::Instant;

use serde::Serialize;
use tokio::task::JoinSet;

use crate::stats::Percentiles;

/// Is what some requests took that were made so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Level {
    /// How many were under way at once.
    pub at_once: usize,
    /// How many there were.
    pub requests: usize,
    /// From the first to the end of the last.
    pub seconds: f64,
    /// What each took, in milliseconds; none where they were not timed one by one.
    pub waits_ms: Option<Percentiles>,
}

impl Level {
    /// Makes the level of some requests from the seconds that each took.
    pub fn of(at_once: usize, seconds: f64, waits_s: &[f64]) -> Self {
        let waits_ms = Percentiles::of(waits_s.iter().map(|wait| wait * 1e3));
        Self { at_once, requests: waits_s.len(), seconds, waits_ms }
    }

    /// Returns how many requests ended in a second.
    pub fn rate(&self) -> f64 {
        let requests = u32::try_from(self.requests).map_or(f64::NAN, f64::from);
        requests / self.seconds
    }
}

/// Has each of some clients ask for its share of `wanted`, one after the other, all clients at once.
///
/// # Errors
/// The first error of a request.
pub async fn ask_all<C, W, F>(
    clients: Vec<C>,
    wanted: &[W],
    ask: impl Fn(C, W) -> F + Clone + Send + 'static,
) -> io::Result<Level>
where
    C: Send + 'static,
    W: Clone + Send + 'static,
    F: Future<Output = io::Result<C>> + Send,
{
    let at_once = clients.len();
    let shares: Vec<Vec<W>> = (0..at_once)
        .map(|first| wanted.iter().skip(first).step_by(at_once).cloned().collect())
        .collect();
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for (mut client, share) in clients.into_iter().zip(shares) {
        let ask = ask.clone();
        tasks.spawn(async move {
            let mut waits = Vec::with_capacity(share.len());
            for wanted in share {
                let asked = Instant::now();
                client = ask(client, wanted).await?;
                waits.push(asked.elapsed().as_secs_f64());
            }
            io::Result::Ok(waits)
        });
    }
    let mut waits = Vec::with_capacity(wanted.len());
    while let Some(own) = tasks.join_next().await {
        waits.extend(own.map_err(io::Error::other)??);
    }
    Ok(Level::of(at_once, started.elapsed().as_secs_f64(), &waits))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn each_is_asked_for_once_and_in_turn_by_each_client() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let clients = vec![(0, Arc::clone(&asked)), (1, Arc::clone(&asked))];
        let ask = |client: (usize, Arc<Mutex<Vec<_>>>), wanted| async move {
            client.1.lock().unwrap().push((client.0, wanted));
            Ok(client)
        };
        let level = block_on(ask_all(clients, &[10, 11, 12, 13, 14], ask)).unwrap();
        assert_eq!((level.at_once, level.requests), (2, 5));
        let mut asked = asked.lock().unwrap().clone();
        asked.sort_unstable();
        assert_eq!(asked, [(0, 10), (0, 12), (0, 14), (1, 11), (1, 13)]);
    }

    #[test]
    fn request_that_fails_fails_all() {
        let ask = |(), wanted: u8| async move {
            if wanted == 3 { Err(io::Error::other("three")) } else { Ok(()) }
        };
        let failed = block_on(ask_all(vec![(), ()], &[1, 2, 3, 4], ask)).unwrap_err();
        assert_eq!(failed.to_string(), "three");
    }

    #[test]
    fn rate_is_of_all_and_waits_are_in_milliseconds() {
        let level = Level::of(10, 0.5, &[0.001, 0.002, 0.004, 0.003]);
        assert!((level.rate() - 8.0).abs() < 1e-9);
        assert!((level.waits_ms.unwrap().max - 4.0).abs() < 1e-9);
    }
}
