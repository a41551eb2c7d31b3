//! The mDNS daemon: tells it what to announce and turns what it hears into candidates.
//!
//! `mdns-sd` runs a thread of its own and talks by channels. It drops the receiver of a browse that is
//! read too slowly, its cache has no bound, and it can die; in each of these cases it is started anew.

use std::time::{Duration, Instant};

use mdns_sd::{IfKind, Metrics, Receiver, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::sync::{mpsc, oneshot};

use super::announcement::{self, Own, SERVICE};
use super::candidates::Candidates;
use super::{Candidate, DiscoveryConfig, DiscoveryError, Interfaces};

/// How many records the daemon may hold of others before it is started anew. A node has about six.
pub const CACHED_RECORDS_MAX: i64 = 16_384;

/// How often the daemon looks for new interfaces, in seconds; its default finds a late one after 5 s.
const IP_CHECK_SECONDS: u32 = 1;
/// How often the size of its cache is asked for.
const CACHE_CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// How long the daemon may take for an answer or a farewell.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// The pause before a daemon that failed is started anew.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Starts the daemon and the task that listens to it; returns the name that is announced.
pub(super) fn start(
    config: DiscoveryConfig,
    candidates: mpsc::Sender<Candidate>,
    stops: mpsc::Receiver<oneshot::Sender<()>>,
) -> Result<String, DiscoveryError> {
    if config.port == 0 {
        return Err(DiscoveryError::NoPort);
    }
    let own = Own::new(config.mesh, config.peer).map_err(DiscoveryError::Random)?;
    let plan = Plan { own, port: config.port, interfaces: config.interfaces };
    let name = plan.own.name.clone();
    let running = plan.start()?;
    // The task owns the daemon: it ends with the discovery or with the receiver of candidates.
    tokio::spawn(
        Task { plan, candidates, stops, known: Candidates::new(Instant::now()) }.run(running),
    );
    Ok(name)
}

/// What the daemon is told each time it is started.
struct Plan {
    own: Own,
    port: u16,
    interfaces: Interfaces,
}

/// A daemon that announces and browses.
struct Running {
    daemon: ServiceDaemon,
    found: Receiver<ServiceEvent>,
}

impl Plan {
    fn start(&self) -> Result<Running, mdns_sd::Error> {
        let daemon = ServiceDaemon::new()?;
        self.set_up(&daemon).inspect_err(|_| {
            daemon.shutdown().ok();
        })
    }

    fn set_up(&self, daemon: &ServiceDaemon) -> Result<Running, mdns_sd::Error> {
        daemon.set_ip_check_interval(IP_CHECK_SECONDS)?;
        let mut service = self.service()?;
        if let Interfaces::Only(ips) = &self.interfaces {
            let kinds: Vec<_> = ips.iter().map(|ip| IfKind::Addr(*ip)).collect();
            daemon.disable_interface(IfKind::All)?;
            daemon.enable_interface(kinds.clone())?;
            service.set_interfaces(kinds);
        }
        daemon.register(service)?;
        Ok(Running { daemon: daemon.clone(), found: daemon.browse(SERVICE)? })
    }

    fn service(&self) -> Result<ServiceInfo, mdns_sd::Error> {
        let host = format!("{}.local.", self.own.name);
        let properties = self.own.properties();
        let mut service =
            ServiceInfo::new(SERVICE, &self.own.name, &host, "", self.port, &properties[..])?
                .enable_addr_auto();
        // Probing takes 0.75 s and guards against names in use; 64 random bits are in use by nobody.
        service.set_requires_probe(false);
        Ok(service)
    }

    fn fullname(&self) -> String {
        format!("{}.{SERVICE}", self.own.name)
    }
}

struct Task {
    plan: Plan,
    candidates: mpsc::Sender<Candidate>,
    stops: mpsc::Receiver<oneshot::Sender<()>>,
    known: Candidates,
}

/// Why a daemon is no longer listened to.
enum End {
    Failed,
    Stopped(Option<oneshot::Sender<()>>),
}

impl Task {
    async fn run(mut self, first: Running) {
        let mut running = Some(first);
        loop {
            let end = match &running {
                Some(daemon) => self.listen(daemon).await,
                None => self.pause().await,
            };
            if let Some(daemon) = running.take() {
                self.farewell(&daemon).await;
            }
            if let End::Stopped(done) = end {
                if let Some(done) = done {
                    done.send(()).ok();
                }
                return;
            }
            running = match self.plan.start() {
                Ok(daemon) => Some(daemon),
                Err(error) => {
                    tracing::debug!(%error, "mDNS does not start");
                    None
                }
            };
        }
    }

    /// Listens until the daemon fails or discovery is stopped.
    async fn listen(&mut self, running: &Running) -> End {
        let mut check_at = Instant::now() + CACHE_CHECK_INTERVAL;
        loop {
            self.report();
            let wake = self.known.wakes_at().map_or(check_at, |at| at.min(check_at));
            tokio::select! {
                event = running.found.recv_async() => match event {
                    Ok(event) => self.on_event(event),
                    Err(_) => return End::Failed,
                },
                done = self.stops.recv() => return End::Stopped(done),
                () = self.candidates.closed() => return End::Stopped(None),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            if Instant::now() >= check_at {
                check_at = Instant::now() + CACHE_CHECK_INTERVAL;
                match cached_records(&running.daemon).await {
                    Some(records) if records <= CACHED_RECORDS_MAX => {}
                    records => {
                        tracing::debug!(records, "mDNS is started anew: its cache is too large");
                        return End::Failed;
                    }
                }
            }
        }
    }

    async fn pause(&mut self) -> End {
        tokio::select! {
            () = tokio::time::sleep(RESTART_PAUSE) => End::Failed,
            done = self.stops.recv() => End::Stopped(done),
            () = self.candidates.closed() => End::Stopped(None),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is non-exhaustive")]
    fn on_event(&mut self, event: ServiceEvent) {
        match event {
            ServiceEvent::ServiceResolved(service) => {
                if let Some(candidate) = self.plan.own.read(&service) {
                    tracing::debug!(name = candidate.name, "neighbour announced");
                    self.known.found(candidate, Instant::now());
                }
            }
            ServiceEvent::ServiceRemoved(_, fullname) => {
                if let Some(name) = announcement::name_of(&fullname) {
                    self.known.lost(name);
                }
            }
            _ => {}
        }
    }

    fn report(&mut self) {
        while let Some(candidate) = self.known.next(Instant::now()) {
            // One without room is reported again soon enough.
            self.candidates.try_send(candidate).ok();
        }
    }

    async fn farewell(&self, running: &Running) {
        if let Ok(answer) = running.daemon.unregister(&self.plan.fullname()) {
            tokio::time::timeout(ANSWER_TIMEOUT, answer.recv_async()).await.ok();
        }
        if let Ok(answer) = running.daemon.shutdown() {
            tokio::time::timeout(ANSWER_TIMEOUT, answer.recv_async()).await.ok();
        }
    }
}

/// Asks how many records the daemon holds; none when it does not answer.
async fn cached_records(daemon: &ServiceDaemon) -> Option<i64> {
    let answer = daemon.get_metrics().ok()?;
    let metrics: Metrics =
        tokio::time::timeout(ANSWER_TIMEOUT, answer.recv_async()).await.ok()?.ok()?;
    Some(metrics.iter().filter(|(key, _)| key.starts_with("cached-")).map(|(_, count)| count).sum())
}
