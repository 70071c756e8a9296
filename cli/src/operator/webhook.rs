//! `longhand webhook secret`: prints the secret with which a user verifies webhooks.

use longhand_shared::service::settings::{Reader, environment};
use longhand_shared::webhook::signature::MasterSecrets;
use serde_json::json;

use crate::context::Context;
use crate::error::Failure;
use crate::options::AFTER_HELP;
use crate::output;
use clap::{Args, Subcommand};
use longhand_shared::UserId;

#[derive(Debug, Subcommand)]
pub(crate) enum WebhookCommand {
    #[command(
        about = "Print the secret with which a user verifies webhooks. Set LONGHAND_WEBHOOK_SECRET to the workers' value",
        after_help = AFTER_HELP
    )]
    Secret(WebhookSecret),
}

#[derive(Debug, Args)]
pub(crate) struct WebhookSecret {
    /// The user.
    #[arg(long, value_name = "USER")]
    user: UserId,

    #[arg(long, help = "Print the secret that is derived from LONGHAND_WEBHOOK_SECRET_PREVIOUS")]
    previous: bool,
}

pub(crate) fn run(context: &Context, command: &WebhookCommand) -> Result<(), Failure> {
    let WebhookCommand::Secret(args) = command;
    let secret = secret(args, &environment)?;
    output::print_either(context.json, &json!({ "userId": args.user, "secret": secret }), &secret)
}

/// Reads the master secret from the environment: other users of the machine can read command lines.
fn secret(args: &WebhookSecret, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, Failure> {
    let mut reader = Reader::new(lookup);
    let secrets = MasterSecrets::read(&mut reader);
    let secrets = reader.finish(Some(secrets)).map_err(|faults| Failure::usage(faults.to_string()))?;
    let secrets = secrets.ok_or_else(|| Failure::usage("LONGHAND_WEBHOOK_SECRET is not set"))?;
    let master = if args.previous {
        secrets.previous.ok_or_else(|| Failure::usage("LONGHAND_WEBHOOK_SECRET_PREVIOUS is not set"))?
    } else {
        secrets.current
    };
    Ok(master.of(&args.user).reveal())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret_of(previous: bool, environment: &[(&str, &str)]) -> Result<String, String> {
        let lookup = |name: &str| {
            let found = environment.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let args = WebhookSecret { user: "ana".parse().expect("a user"), previous };
        secret(&args, &lookup).map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn the_secret_is_derived_from_the_environment() {
        let now = ("LONGHAND_WEBHOOK_SECRET", "0123456789abcdef0123456789abcdef");
        let before = ("LONGHAND_WEBHOOK_SECRET_PREVIOUS", "an-older-one-that-is-long-enough");
        let current = secret_of(false, &[now, before]).expect("set");
        assert_eq!(current, "whsec_gg270zGpCjqfFLIZD8W81LxfmduNE/wuQ/3Fvfg5tAU=");
        assert_ne!(secret_of(true, &[now, before]).expect("set"), current);
        assert!(secret_of(true, &[now]).expect_err("not set").contains("_PREVIOUS is not set"));
        assert!(secret_of(false, &[]).expect_err("not set").contains("LONGHAND_WEBHOOK_SECRET is not set"));
        let short = secret_of(false, &[("LONGHAND_WEBHOOK_SECRET", "tooshort")]).expect_err("short");
        assert!(short.contains("at least 32 bytes") && !short.contains("tooshort"), "{short}");
    }
}
