//! Names that say whose a namespace or directory is, and the removal of what nobody owns.
//!
//! A lab's namespaces are `blobmesh-PID-TAG-ROLE` and its directory is `blobmesh-sim-PID-TAG`. One
//! whose process is gone is a left-over of a run that was killed or told to keep its lab. A process
//! id that is in use again only delays the removal.

use std::{fs, io, path::Path, process::Command, time::Duration};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::{command, error::Error, stop::Stop, tools::Tools};

/// Where `ip netns` keeps the names of namespaces.
pub(crate) const NAMESPACE_DIRECTORY: &str = "/run/netns";

const NAMESPACE_PREFIX: &str = "blobmesh-";
const DIRECTORY_PREFIX: &str = "blobmesh-sim-";

/// How long killed processes may take to be gone, and how long one command may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Returns the name of a namespace.
pub(crate) fn namespace_name(pid: u32, tag: &str, role: &str) -> String {
    format!("{NAMESPACE_PREFIX}{pid}-{tag}-{role}")
}

/// Returns what the name of a lab's directory starts with; a random tag follows.
pub(crate) fn directory_prefix(pid: u32) -> String {
    format!("{DIRECTORY_PREFIX}{pid}-")
}

/// Returns the random tag of a lab's directory.
pub(crate) fn tag_of(directory: &Path) -> String {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit('-').next().unwrap_or_default().to_owned()
}

/// Removes the namespaces and directories whose process is gone.
///
/// # Errors
/// Those of the commands, and [`Error::File`] when a directory cannot be read. Failing to remove a
/// single left-over is not an error of the lab that comes after it.
pub(crate) fn sweep(tools: &Tools, stop: &Stop) -> Result<(), Error> {
    for name in names_in(Path::new(NAMESPACE_DIRECTORY))? {
        if owner(&name, NAMESPACE_PREFIX).is_some_and(is_gone) {
            let _best_effort = remove_namespace(tools, &name, stop);
        }
    }
    let temporary = std::env::temp_dir();
    for name in names_in(&temporary)? {
        if owner(&name, DIRECTORY_PREFIX).is_some_and(is_gone) {
            let _best_effort = fs::remove_dir_all(temporary.join(name));
        }
    }
    Ok(())
}

/// Kills the processes of a namespace, waits until they are gone, and removes it.
///
/// # Errors
/// Those of the commands, and [`Error::Late`] when processes do not die.
pub(crate) fn remove_namespace(tools: &Tools, name: &str, stop: &Stop) -> Result<(), Error> {
    if !Path::new(NAMESPACE_DIRECTORY).join(name).exists() {
        return Ok(());
    }
    let what = format!("the end of the processes in {name}");
    stop.until(&what, LIMIT, Duration::from_millis(20), || {
        let pids = pids_in(tools, name, stop)?;
        for pid in &pids {
            // One that ended by itself meanwhile is what we want.
            let _gone = kill_process(*pid, Signal::KILL);
        }
        Ok(pids.is_empty().then_some(()))
    })?;
    let mut command = Command::new(&tools.ip);
    command.args(["netns", "delete", name]);
    command::run(command, b"", LIMIT, stop)?.success().map(drop)
}

fn pids_in(tools: &Tools, name: &str, stop: &Stop) -> Result<Vec<Pid>, Error> {
    let mut command = Command::new(&tools.ip);
    command.args(["netns", "pids", name]);
    let output = command::run(command, b"", LIMIT, stop)?.success()?.stdout;
    Ok(output.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)).collect())
}

/// Returns the process a name belongs to; none for a name that is not ours.
fn owner(name: &str, prefix: &str) -> Option<Pid> {
    let (pid, tag) = name.strip_prefix(prefix)?.split_once('-')?;
    let digits = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || tag.is_empty() {
        return None;
    }
    Pid::from_raw(pid.parse().ok()?)
}

fn is_gone(pid: Pid) -> bool {
    test_kill_process(pid) == Err(rustix::io::Errno::SRCH)
}

/// Lists a directory; one that does not exist is empty.
fn names_in(directory: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("list", directory)(error)),
    };
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_is_read_from_our_names_only() {
        let ours = namespace_name(4321, "aB3dE6", "n1");
        assert_eq!(owner(&ours, NAMESPACE_PREFIX), Pid::from_raw(4321));
        for foreign in [
            "",
            "blobmesh-",
            "blobmesh-4321",
            "blobmesh-4321-",
            "blobmesh-0-aB3dE6-n1",
            "blobmesh--1-aB3dE6-n1",
            "blobmesh-+1-aB3dE6-n1",
            "blobmesh-sim-4321-aB3dE6",
            "blobmesh-99999999999999-aB3dE6-n1",
            "other-4321-aB3dE6-n1",
        ] {
            assert_eq!(owner(foreign, NAMESPACE_PREFIX), None, "{foreign:?}");
        }
    }

    #[test]
    fn directory_carries_owner_and_tag() {
        let name = format!("{}aB3dE6", directory_prefix(4321));
        assert_eq!(owner(&name, DIRECTORY_PREFIX), Pid::from_raw(4321));
        assert_eq!(tag_of(&Path::new("tmp").join(name)), "aB3dE6");
    }

    #[test]
    fn own_process_is_not_gone_and_a_reaped_child_is() {
        assert!(!is_gone(rustix::process::getpid()));
        let mut child = Command::new("true").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        child.wait().unwrap();
        assert!(is_gone(pid));
    }

    #[test]
    fn missing_directory_has_no_names() {
        let empty = tempfile::tempdir().unwrap();
        assert!(names_in(&empty.path().join("none")).unwrap().is_empty());
    }
}
