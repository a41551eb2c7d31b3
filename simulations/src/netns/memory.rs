//! Memory that a run is going to fill, touched before it begins.
//!
//! A virtual machine gives memory that was free for some seconds back to its host, and the first write to it after that
//! takes up to 2 s for each GiB, many times what the copy takes. All hosts of a lab share that machine: sixteen nodes that
//! store a blob of 256 MiB at once would wait 8 s for memory which sixteen machines have each for itself.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use rustix::fs::MemfdFlags;

use super::{error::Error, stop::Stop};

/// How many bytes are written between two looks at the stop.
const STEP_BYTES: usize = 1 << 20;

/// How many times what a run fills is touched. Linux reports a sixteenth of all free memory every two seconds, whatever
/// part of it was used last, so that of as much as is needed nothing is left half-way.
const TIMES: u64 = 4;

/// Has this machine hold memory for a run that fills `bytes` bytes: fills a file of several times that in memory and lets
/// it go. It takes at most three quarters of what may be had.
///
/// # Errors
/// [`Error::Interrupted`], and [`Error::System`] on a kernel without files in memory.
pub(super) fn touch(bytes: u64, stop: &Stop) -> Result<(), Error> {
    let file = rustix::fs::memfd_create("touched", MemfdFlags::CLOEXEC);
    let file = file.map_err(io::Error::from).map_err(Error::system("make a file in memory"))?;
    let (mut file, step) = (File::from(file), vec![0; STEP_BYTES]);
    let bytes = bytes.saturating_mul(TIMES).min(available() / 4 * 3);
    for _ in 0..bytes / STEP_BYTES as u64 {
        stop.check()?;
        if file.write_all(&step).is_err() {
            // Less is had than was said: the run will find out what that means.
            break;
        }
    }
    Ok(())
}

/// Returns how many bytes of memory can be had without swapping, and within the group of processes that this one is of;
/// zero where the kernel does not tell.
fn available() -> u64 {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let machine = available_in(&read(Path::new("/proc/meminfo")));
    let groups = read(Path::new("/proc/self/cgroup"));
    let group = Path::new("/sys/fs/cgroup").join(group_in(&groups).trim_start_matches('/'));
    machine.min(left_in(&read(&group.join("memory.max")), &read(&group.join("memory.current"))))
}

fn available_in(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0).saturating_mul(1 << 10)
}

/// Returns the path of the group of version 2.
fn group_in(groups: &str) -> &str {
    groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default()
}

/// Returns what a group may have beyond what it has; where it has no bound, as much as there is.
fn left_in(max: &str, current: &str) -> u64 {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    number(max).map_or(u64::MAX, |max| max.saturating_sub(number(current).unwrap_or(max)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_units_of_1024_bytes() {
        assert_eq!(available_in("MemFree: 9 kB\nMemAvailable:    24 kB\n"), 24 << 10);
        assert_eq!(available_in("MemFree: 9 kB\n"), 0);
    }

    #[test]
    fn group_with_a_bound_has_what_is_left_of_it() {
        assert_eq!(group_in("1:name=x:/a\n0::/system.slice/b\n"), "/system.slice/b");
        assert_eq!(left_in("100\n", "30\n"), 70);
        assert_eq!(left_in("100\n", "130\n"), 0);
        assert_eq!(left_in("100\n", ""), 0);
        assert_eq!(left_in("max\n", "30\n"), u64::MAX);
        assert_eq!(left_in("", ""), u64::MAX);
    }
}
