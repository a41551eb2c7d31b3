//! File systems in files, mounted for the time of a work. It takes root and the programs that make them.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::run;

/// How long an image is; it takes as much of the disk as is written to it.
const IMAGE_LEN: u64 = 4 << 30;

/// Is a mounted image, which is gone when it is dropped.
#[derive(Debug)]
pub struct Image {
    /// Where it is mounted.
    pub mount: PathBuf,
    image: PathBuf,
}

impl Image {
    /// Makes and mounts a file system of a kind, `xfs` or `btrfs`, with its image in `room`.
    ///
    /// # Errors
    /// When the programs, the privilege or the kernel's support are missing.
    pub fn mount(kind: &str, room: &Path) -> io::Result<Self> {
        let (image, mount) = (room.join(format!("{kind}.img")), room.join(kind));
        File::create(&image)?.set_len(IMAGE_LEN)?;
        let made = run(mkfs(kind).arg(&image));
        let made = made.and_then(|_| std::fs::create_dir(&mount)).and_then(|()| {
            let mut command = Command::new("mount");
            run(command.args(["-o", "loop"]).arg(&image).arg(&mount))
        });
        match made {
            Ok(_) => Ok(Self { mount, image }),
            Err(error) => {
                std::fs::remove_file(&image).ok();
                std::fs::remove_dir(&mount).ok();
                Err(error)
            }
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Who still has a file open in it ends soon.
        let unmounted = run(Command::new("umount").arg(&self.mount))
            .or_else(|_| run(Command::new("umount").arg("--lazy").arg(&self.mount)));
        if unmounted.is_ok() {
            std::fs::remove_dir(&self.mount).ok();
            std::fs::remove_file(&self.image).ok();
        }
    }
}

fn mkfs(kind: &str) -> Command {
    let name = format!("mkfs.{kind}");
    // It may be where only administrators look.
    let path = ["/usr/sbin", "/sbin"].map(|at| Path::new(at).join(&name));
    let found = path.into_iter().find(|path| path.is_file());
    let mut command = Command::new(found.unwrap_or(name.into()));
    // All of them know this one.
    command.arg("-q");
    command
}
