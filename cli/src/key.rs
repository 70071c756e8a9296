//! `longhand key new`: an API key, and its line for the file that the api reads.

use longhand_shared::api_key::{KeyDigest, KeyEntry, new_key};
use serde_json::json;
use uuid::Uuid;

use crate::Context;
use crate::args::{KeyCommand, KeyNew};
use crate::error::Failure;
use crate::output;

pub(crate) fn run(context: &Context, command: KeyCommand) -> Result<(), Failure> {
    let KeyCommand::New(KeyNew { user, id, operator }) = command;
    let key = new_key();
    let id = id.unwrap_or_else(|| Uuid::now_v7().to_string());
    let entry = KeyEntry { id, sha256: KeyDigest::of(key.reveal()), user, operator };
    let line = serde_json::to_string(&entry).expect("only strings and a boolean");
    if context.json {
        return output::print(&json!({ "key": key.reveal(), "entry": entry }).to_string()).map(drop);
    }
    output::note("the key, for its user alone, shown this once; then its line for LONGHAND_API_KEYS_FILE:");
    output::print(&format!("{}\n{line}", key.reveal())).map(drop)
}
