//! `longhand key new`: creates an API key and its entry for the api.

use clap::{Args, Subcommand};
use longhand_shared::UserId;
use longhand_shared::service::api_key::{KeyDigest, KeyEntry, MAX_ID_BYTES, new_key};
use serde_json::json;
use uuid::Uuid;

use crate::context::Context;
use crate::error::Failure;
use crate::options::AFTER_HELP;
use crate::output;

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    #[command(
        about = "Print a new API key and its entry for LONGHAND_API_KEYS_FILE. The key cannot be shown again",
        after_help = AFTER_HELP
    )]
    New(KeyNew),
}

#[derive(Debug, Args)]
pub(crate) struct KeyNew {
    /// The user that the key acts for.
    #[arg(long, value_name = "USER")]
    pub(crate) user: UserId,

    /// The key's name in the file. Generated when not given.
    #[arg(long, value_name = "NAME", value_parser = key_id)]
    pub(crate) id: Option<String>,

    /// Allow the key to act for all users.
    #[arg(long)]
    pub(crate) operator: bool,
}

pub(crate) fn run(context: &Context, command: KeyCommand) -> Result<(), Failure> {
    let KeyCommand::New(KeyNew { user, id, operator }) = command;
    let key = new_key();
    let id = id.unwrap_or_else(|| Uuid::now_v7().to_string());
    let entry = KeyEntry { id, sha256: KeyDigest::of(key.reveal()), user, operator };
    let line = serde_json::to_string(&entry).expect("only strings and a boolean");
    if context.json {
        return output::print(&json!({ "key": key.reveal(), "entry": entry }).to_string()).map(drop);
    }
    output::note(
        "The first line is the key. Give it to its user: it is not shown again. Add the second line to \
         LONGHAND_API_KEYS_FILE or, on AWS, to apiKeys in the secret.",
    );
    output::print(&format!("{}\n{line}", key.reveal())).map(drop)
}

fn key_id(text: &str) -> Result<String, String> {
    if (1..=MAX_ID_BYTES).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(format!("must have 1 to {MAX_ID_BYTES} bytes"))
    }
}
