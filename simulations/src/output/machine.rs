//! What the machine says of a run: its commit and its memory.

use std::process::{Command, Stdio};

/// Returns the commit of this program: `BLOBMESH_COMMIT` at its build, else that of the checkout
/// which the command runs in, marked `-dirty` where files differ, else `unknown`.
pub fn commit() -> String {
    match option_env!("BLOBMESH_COMMIT") {
        Some(commit) if !commit.is_empty() => commit.to_owned(),
        Some(_) | None => checked_out().unwrap_or_else(|| "unknown".to_owned()),
    }
}

fn checked_out() -> Option<String> {
    let arguments = ["describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"];
    let output = Command::new("git").args(arguments).stdin(Stdio::null()).output().ok()?;
    let commit = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !commit.trim().is_empty()).then(|| commit.trim().to_owned())
}

/// Returns the most memory that this process had so far; none where the system does not tell.
pub fn memory_peak_bytes() -> Option<u64> {
    peak_in(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn peak_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_from_linux_status() {
        assert_eq!(peak_in("VmPeak:\t  9 kB\nVmHWM:\t   1234 kB\n"), Some(1234 * 1024));
        assert_eq!(peak_in("VmPeak:\t  9 kB\n"), None);
        assert_eq!(peak_in("VmHWM:\t 99999999999999999999 kB\n"), None);
    }
}
