//! The command of nginx, with the configuration of the local stack.

use std::path::Path;

use tokio::process::Command;

/// The configuration of `make up SCALE=3`.
const TEMPLATE: &str = include_str!("../../nginx.conf.in");

/// nginx at `listen` in front of these apis, with its files in `folder`.
pub(crate) fn nginx(folder: &Path, listen: &str, apis: &[String]) -> Command {
    std::fs::create_dir_all(folder).expect("a folder for nginx");
    let folder = folder.canonicalize().expect("an absolute path");
    let servers: Vec<_> =
        apis.iter().map(|api| format!("        server {api} max_fails=1 fail_timeout=1s;")).collect();
    let text = TEMPLATE
        .replace("@FOLDER@", &folder.display().to_string())
        .replace("@LISTEN@", listen)
        .replace("@SERVERS@", &servers.join("\n"));
    let config = folder.join("nginx.conf");
    std::fs::write(&config, text).expect("its configuration is written");
    let mut command = Command::new("nginx");
    // The folders of nginx on Debian, which are not in every PATH.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin"));
    command.args(["-e", "stderr", "-p"]).arg(&folder).arg("-c").arg(&config);
    command
}
