//! This machine: clock, descriptors, ports.

use std::net::TcpListener;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blobmesh_node::edge::{Finding, Verdict};

use super::{finding, with_hint};
use crate::address::socket_address;

/// 2026-01-01: this program is not older.
const CLOCK_MIN: Duration = Duration::from_secs(1_767_225_600);
/// 2100-01-01.
const CLOCK_MAX: Duration = Duration::from_secs(4_102_444_800);

/// A node with many peers and transfers stays below this many open files.
const DESCRIPTORS_WANTED: u64 = 4096;

/// Checks what needs no settings.
pub(super) fn check() -> Vec<Finding> {
    let mut findings = vec![check_clock(SystemTime::now())];
    findings.extend(check_descriptors());
    findings
}

fn check_clock(now: SystemTime) -> Finding {
    let plausible =
        now.duration_since(UNIX_EPOCH).is_ok_and(|since| (CLOCK_MIN..CLOCK_MAX).contains(&since));
    if plausible {
        return finding("clock", Verdict::Ok, "plausible; an edge with keys compares it exactly");
    }
    let wrong = finding("clock", Verdict::Fail, "the clock shows a year that cannot be");
    with_hint(wrong, "set it: signed requests and certificates depend on it")
}

#[cfg(unix)]
fn check_descriptors() -> Vec<Finding> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    vec![match limit {
        Some(limit) if limit < DESCRIPTORS_WANTED => {
            let few = finding("files", Verdict::Warn, format!("{limit} files may be open at once"));
            with_hint(
                few,
                format!("`ulimit -n {DESCRIPTORS_WANTED}` before a node with many peers"),
            )
        }
        Some(limit) => finding("files", Verdict::Ok, format!("{limit} files may be open at once")),
        None => finding("files", Verdict::Ok, "any number of files may be open at once"),
    }]
}

#[cfg(not(unix))]
fn check_descriptors() -> Vec<Finding> {
    Vec::new()
}

/// Checks that the addresses to listen on are free, unless the running node has them.
pub(super) fn check_ports(listen: &[String], running: bool) -> Vec<Finding> {
    if running {
        return vec![finding("listen", Verdict::Ok, "the running node listens")];
    }
    listen.iter().map(|address| check_port(address)).collect()
}

fn check_port(multiaddr: &str) -> Finding {
    let Some(address) = socket_address(multiaddr) else {
        return finding("listen", Verdict::Warn, format!("{multiaddr} cannot be checked"));
    };
    match TcpListener::bind(address) {
        Ok(_) => finding("listen", Verdict::Ok, format!("{multiaddr} is free")),
        Err(error) => {
            let taken = format!("{multiaddr} cannot be listened on: {error}");
            with_hint(
                finding("listen", Verdict::Fail, taken),
                "choose another --listen address, or port 0 for any",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_before_this_program_or_far_ahead_fails() {
        for (since, verdict) in [
            (Duration::ZERO, Verdict::Fail),
            (CLOCK_MIN - Duration::from_secs(1), Verdict::Fail),
            (CLOCK_MIN, Verdict::Ok),
            (CLOCK_MAX, Verdict::Fail),
        ] {
            assert_eq!(check_clock(UNIX_EPOCH + since).verdict, verdict, "{since:?}");
        }
    }

    #[test]
    fn taken_port_fails_and_a_free_one_does_not() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let address = format!("/ip4/127.0.0.1/tcp/{port}");
        assert_eq!(check_port(&address).verdict, Verdict::Fail);
        assert_eq!(check_port("/ip4/127.0.0.1/tcp/0").verdict, Verdict::Ok);
        let running = check_ports(&[address], true);
        assert_eq!(running[0].verdict, Verdict::Ok);
    }
}
