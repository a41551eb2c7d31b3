//! An edge that is a web server of others: Caddy, which speaks HTTP/1.1, 2 and 3.

use std::{
    fs::{self, File},
    net::TcpStream,
    os::unix::process::CommandExt as _,
    process::Stdio,
    time::Duration,
};

use super::{CERTIFICATE, Door, bucket, server};
use crate::netns::{
    command::Reaped, error::Error, inside::inside, lab::Host, process::Setting, tools,
};

/// How long it may take until it serves.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How often that is looked at.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// Serves the bucket on the TLS door of a host, by TCP and UDP; ends when dropped.
pub(in crate::netns) struct CaddyServer {
    _child: Reaped,
}

impl CaddyServer {
    /// Starts it, and returns once it takes connections.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where there is no Caddy, and those of files and commands.
    pub(in crate::netns) fn start(setting: Setting<'_>, host: &Host) -> Result<Self, Error> {
        let caddy = tools::caddy()?;
        let file = |name: &str, text: &str| {
            let path = setting.lab.path().join(name);
            fs::write(&path, text).map_err(Error::file("write", &path)).map(|()| path)
        };
        let certificate = file("caddy.pem", CERTIFICATE)?;
        let key = file("caddy.key", server::KEY)?;
        let (port, address, root) = (Door::Tls.port(), host.address, bucket(setting));
        let config = format!(
            "{{\n admin off\n auto_https off\n default_sni localhost\n \
             servers {{\n  protocols h1 h2 h3\n }}\n}}\n\
             https://:{port} {{\n bind {address}\n tls {certificate:?} {key:?}\n \
             root * {root:?}\n file_server\n}}\n"
        );
        let config = file("Caddyfile", &config)?;
        let log = setting.lab.path().join("caddy.log");
        let log = File::create(&log).map_err(Error::file("make", &log))?;
        let mut command = setting.lab.command(host, &caddy);
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(config);
        command.env("HOME", setting.lab.path()).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(log).process_group(0).spawn();
        let child = Reaped(child.map_err(Error::system("run caddy"))?);
        setting.stop.until("caddy to serve", START_LIMIT, LOOK_PAUSE, || {
            let connected = inside(host, || Ok(TcpStream::connect((address, port)).is_ok()))?;
            Ok(connected.then_some(()))
        })?;
        Ok(Self { _child: child })
    }
}
