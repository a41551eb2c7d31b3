//! What figures were measured on: the machine, its file systems, and how busy it was.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// Describes the machine, with nothing that tells whose it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// The processor's own name.
    pub processor: String,
    /// How many threads run at once.
    pub cores: usize,
    /// The memory in MiB.
    pub memory_mib: u64,
    /// The kernel's release.
    pub kernel: String,
}

impl Machine {
    /// Looks at this machine.
    pub fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            processor: processor_of(&read("/proc/cpuinfo")),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory_mib(&read("/proc/meminfo")),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// Returns how many processes wanted a processor in the last minute, on average.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
}

/// Returns the clock tick in which `/proc` counts processor time.
pub fn ticks_per_s() -> f64 {
    u32::try_from(rustix::param::clock_ticks_per_second()).map_or(100.0, f64::from)
}

/// Returns the type of the file system of an existing path, such as `ext4` or `tmpfs`.
pub fn file_system(path: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    type_of(&mounts, &path).unwrap_or_else(|| "unknown".to_owned())
}

/// Returns how many bytes have gone over loopback since the machine started, headers included.
///
/// # Errors
/// When the kernel does not tell.
pub fn loopback_bytes() -> std::io::Result<u64> {
    let text = fs::read_to_string("/sys/class/net/lo/statistics/rx_bytes")?;
    text.trim().parse().map_err(std::io::Error::other)
}

/// Returns how many bytes fit into the file system of a path.
///
/// # Errors
/// When it cannot be asked.
pub fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let room = rustix::fs::statvfs(path)?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

/// Names the commit that the figures are of; `-changed` where the tree differs from it.
pub fn commit() -> String {
    let git = |args: &[&str]| {
        let output =
            Command::new("git").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(args).output();
        let output = output.ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=10", "HEAD"]) else {
        return "unknown".to_owned();
    };
    // Results are written into the tree, and change nothing that is measured.
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ":/", ":!results"]);
    if changed.is_none_or(|changed| !changed.is_empty()) {
        format!("{commit}-changed")
    } else {
        commit
    }
}

/// Is what all processors did since the machine started.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Processors {
    busy_ticks: f64,
}

impl Processors {
    /// Reads the counters. A machine without them has done nothing.
    pub fn now() -> Self {
        Self::read(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// Returns the processor seconds that anybody used since.
    pub fn busy_s_since(self, before: Self) -> f64 {
        (self.busy_ticks - before.busy_ticks) / ticks_per_s()
    }

    fn read(text: &str) -> Self {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
        let ticks = line.split_whitespace().map(|word| word.parse::<f64>().unwrap_or(0.0));
        // user, nice, system, idle, iowait, irq, softirq; what follows is others' or counted already.
        let is_busy = |column: &usize| !matches!(column, 3 | 4);
        let busy = ticks.take(7).enumerate().filter(|(column, _)| is_busy(column));
        Self { busy_ticks: busy.map(|(_, ticks)| ticks).sum() }
    }
}

fn processor_of(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim());
    name.unwrap_or("unknown").to_owned()
}

fn memory_mib(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// Finds the mount with the longest point above a path; the last one of several at one point hides the rest.
fn type_of(mounts: &str, path: &Path) -> Option<String> {
    let rows = mounts.lines().filter_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        let point = Path::new(mount.split_whitespace().nth(4)?);
        path.starts_with(point)
            .then(|| (point.components().count(), rest.split_whitespace().next()))
    });
    rows.max_by_key(|(depth, _)| *depth).and_then(|(_, name)| name).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_system_is_that_of_the_deepest_mount() {
        let mounts = "21 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                      22 21 0:20 / /dev/shm rw shared:3 - tmpfs tmpfs rw\n\
                      23 21 0:21 / /dev rw - devtmpfs devtmpfs rw\n";
        let of = |path| type_of(mounts, Path::new(path));
        assert_eq!(of("/dev/shm/x").as_deref(), Some("tmpfs"));
        assert_eq!(of("/dev/shmx").as_deref(), Some("devtmpfs"));
        assert_eq!(of("/home").as_deref(), Some("ext4"));
        assert_eq!(type_of("", Path::new("/home")), None);
    }

    #[test]
    fn mount_over_another_hides_it() {
        let mounts = "1 0 0:1 / /a rw - ext4 x rw\n2 0 0:2 / /a rw - tmpfs x rw\n";
        assert_eq!(type_of(mounts, Path::new("/a")).as_deref(), Some("tmpfs"));
    }

    #[test]
    fn busy_is_what_is_not_idle_nor_stolen() {
        let hz = ticks_per_s();
        let before = Processors::read("cpu  10 0 10 70 10 0 0 50 0 0\n");
        let text = format!("cpu  {} 0 10 700 90 0 0 99 0 0\ncpu0 1\n", 10.0 + 2.0 * hz);
        assert!((Processors::read(&text).busy_s_since(before) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn machine_is_read_from_what_the_kernel_says() {
        assert_eq!(processor_of("processor: 0\nmodel name\t: A B\nflags: x\n"), "A B");
        assert_eq!(processor_of(""), "unknown");
        assert_eq!(memory_mib("MemTotal:       2048 kB\nMemFree: 1 kB\n"), 2);
        assert_eq!(memory_mib("MemFree: 1 kB\n"), 0);
    }
}
