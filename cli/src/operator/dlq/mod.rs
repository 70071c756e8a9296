//! `longhand dlq`: lists and redrives dead letters.

pub(crate) mod args;
mod browse;
mod redrive;
mod row;

use longhand_shared::Timestamp;
use serde_json::json;

use args::{Dlq, DlqList, DlqShow};
use browse::{browse, hidden, seen};
use row::{Row, clean, columns};

use super::aws::{Aws, DeadLetter};
use crate::context::Context;
use crate::error::{Exit, Failure};
use crate::output;

pub(crate) async fn run(context: &Context, command: Dlq) -> Result<(), Failure> {
    let aws = Aws::load().await;
    match command {
        Dlq::List(args) => list(context, &aws, &args).await,
        Dlq::Show(args) => show(context, &aws, &args).await,
        Dlq::Redrive(args) => redrive::run(context, &aws, &args).await,
    }
}

async fn list(context: &Context, aws: &Aws, args: &DlqList) -> Result<(), Failure> {
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let url = args.dlq.url()?;
    let dlq = aws.queue(&url);
    let hidden = hidden(&dlq).await?;
    let letters = browse(aws, &dlq, &url, |letters| letters.len() >= limit).await?;
    let now = Timestamp::now();
    let rows: Vec<_> =
        letters.iter().take(limit).map(|letter| Row::new(args.dlq.which, letter, now)).collect();
    if context.json {
        return output::print(&json!({ "messages": rows, "hidden": hidden }).to_string()).map(drop);
    }
    if !rows.is_empty() {
        let heading = columns(["MESSAGE ID", "JOB ID", "CHUNK", "RECEIVES", "AGE", "REASON"]);
        let lines: Vec<_> = std::iter::once(heading).chain(rows.iter().map(Row::line)).collect();
        output::print(&lines.join("\n"))?;
    }
    output::note(format_args!(
        "longhand: {}",
        seen(args.dlq.which, rows.len(), letters.len() >= limit, hidden)
    ));
    Ok(())
}

async fn show(context: &Context, aws: &Aws, args: &DlqShow) -> Result<(), Failure> {
    let url = args.dlq.url()?;
    let dlq = aws.queue(&url);
    let hidden = hidden(&dlq).await?;
    let is_it = |letter: &DeadLetter| letter.delivery.message_id == args.message;
    let letters = browse(aws, &dlq, &url, |letters| letters.iter().any(is_it)).await?;
    let Some(letter) = letters.iter().find(|letter| is_it(letter)) else {
        let message = format!(
            "no dead letter {} among the {} that were read; {hidden} are hidden",
            args.message,
            letters.len()
        );
        return Err(Failure::new(Exit::NoSuchJob, "NO_SUCH_MESSAGE", message));
    };
    let row = Row::new(args.dlq.which, letter, Timestamp::now());
    if context.json {
        let document = json!({
            "message": row,
            "origin": letter.delivery.origin(),
            "attributes": letter.attributes,
            "system": letter.system,
            "body": letter.delivery.body,
        });
        return output::print(&document.to_string()).map(drop);
    }
    let mut lines = vec![
        format!("message   {}", row.message_id),
        format!("origin    {}", letter.delivery.origin()),
        format!("job       {}", row.job_id.as_deref().unwrap_or("-")),
        format!(
            "chunk     {}",
            row.chunk_number().map_or_else(|| "-".to_owned(), |number| number.to_string())
        ),
        format!("receives  {}", row.receive_count),
        format!("age       {}", row.age),
        format!("reason    {}", row.reason),
        format!("redrive   {}", if row.foreign { "refused: no worker could read it" } else { "possible" }),
    ];
    for (kind, all) in [("attribute", &letter.attributes), ("system", &letter.system)] {
        lines.extend(all.iter().map(|(name, value)| format!("{kind}  {name} = {value}")));
    }
    lines.push(format!("body      {}", letter.delivery.body));
    output::print(&lines.iter().map(|line| clean(line)).collect::<Vec<_>>().join("\n")).map(drop)
}
