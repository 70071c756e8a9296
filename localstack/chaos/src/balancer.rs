//! nginx before the apis, with the local stack's own configuration, and a Redis between them.

use std::path::Path;

use tokio::process::Command;

/// What `make up SCALE=3` runs nginx with.
const TEMPLATE: &str = include_str!("../../nginx.conf.in");

/// nginx at `listen` before these apis; what it needs is put into `folder`.
pub(crate) fn nginx(folder: &Path, listen: &str, apis: &[String]) -> Command {
    std::fs::create_dir_all(folder).expect("a folder for nginx");
    let folder = folder.canonicalize().expect("its whole path");
    let servers: Vec<_> =
        apis.iter().map(|api| format!("        server {api} max_fails=1 fail_timeout=1s;")).collect();
    let text = TEMPLATE
        .replace("@FOLDER@", &folder.display().to_string())
        .replace("@LISTEN@", listen)
        .replace("@SERVERS@", &servers.join("\n"));
    let config = folder.join("nginx.conf");
    std::fs::write(&config, text).expect("its configuration is written");
    let mut command = Command::new("nginx");
    // Debian has it where not everybody looks.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin"));
    command.args(["-e", "stderr", "-p"]).arg(&folder).arg("-c").arg(&config);
    command
}

/// A Redis that keeps nothing.
pub(crate) fn redis(folder: &Path, listen: &str) -> Command {
    std::fs::create_dir_all(folder).expect("a folder for Redis");
    let (host, port) = listen.split_once(':').expect("host:port");
    let mut command = Command::new("redis-server");
    command.args(["--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--dir"]).arg(folder);
    command
}
