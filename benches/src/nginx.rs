//! nginx on loopback: HTTP, and TLS with HTTP/1.1 and HTTP/2, by a certificate of the moment.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{Background, run};
use crate::rivals::{free_port, is_open};

/// How long it may take to serve.
const SOON: Duration = Duration::from_secs(10);

/// Is an nginx that serves one directory.
#[derive(Debug)]
pub struct Nginx {
    /// Its master process.
    pub process: Background,
    /// The port of plain HTTP.
    pub http_port: u16,
    /// The port of TLS.
    pub tls_port: u16,
    /// The file with its certificate.
    pub certificate: PathBuf,
}

impl Nginx {
    /// Serves a directory, with nginx's own files in `room`.
    ///
    /// # Errors
    /// When no certificate can be made, or it does not serve in time.
    pub fn start(nginx: &Path, openssl: &Path, served: &Path, room: &Path) -> io::Result<Self> {
        let own = room.join("nginx");
        std::fs::create_dir_all(&own)?;
        let mut certify = Command::new(openssl);
        certify.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        certify.args(["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-keyout"]);
        let certificate = own.join("certificate.pem");
        certify.arg(own.join("key.pem")).arg("-out").arg(&certificate);
        run(&mut certify)?;
        let (http_port, tls_port) = (free_port()?, free_port()?);
        let config = own.join("nginx.conf");
        std::fs::write(&config, configuration(served, http_port, tls_port))?;
        let mut command = Command::new(nginx);
        command.arg("-e").arg(own.join("error.log")).arg("-p").arg(&own).arg("-c").arg(&config);
        let mut process = Background::start(&mut command)?;
        process.until("nginx", SOON, || is_open(http_port) && is_open(tls_port))?;
        Ok(Self { process, http_port, tls_port, certificate })
    }

    /// Returns the address of a file over TLS.
    pub fn tls_url(&self, name: &str) -> String {
        format!("https://127.0.0.1:{}/{name}", self.tls_port)
    }

    /// Returns the address of a file over plain HTTP.
    pub fn http_url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.http_port)
    }
}

/// How many files a worker keeps open: with more than it may have, it answers that the server failed.
const OPEN_FILES_MAX: usize = 15_000;

/// As a careful user would configure it: one worker a core, `sendfile`, connections that are kept.
fn configuration(served: &Path, http_port: u16, tls_port: u16) -> String {
    // As root its workers would be nobody, who sees no private directory.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    format!(
        "daemon off; pid nginx.pid; {user} worker_processes auto; error_log error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on;
  keepalive_requests 100000000; keepalive_timeout 600s;
  open_file_cache max={OPEN_FILES_MAX} inactive=600s; open_file_cache_valid 600s;
  default_type application/octet-stream;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  server {{
    listen 127.0.0.1:{http_port}; listen 127.0.0.1:{tls_port} ssl http2;
    ssl_certificate certificate.pem; ssl_certificate_key key.pem; ssl_protocols TLSv1.3;
    root {};
  }}
}}
",
        served.display()
    )
}
