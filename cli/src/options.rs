//! Options, values and help texts that several commands share.

use std::time::Duration;

use clap::{Args, ValueEnum};
use reqwest::Url;

pub(crate) const AFTER_HELP: &str = "\
Exit codes:
    0  success (with --wait and for watch: the job is COMPLETED)
    1  the job FAILED: stderr has the reasons; get and transcribe print the text of its completed chunks
       (doctor: a check is FAULT)
    2  wrong usage or files, or the service rejected the request (4xx)
    3  no such job or dead letter
    4  the service answers with 5xx or limits requests (429), or the service, S3, a queue or the table cannot be used
    5  the time limit (--timeout) was reached; the job continues
   74  the result could not be written
  130  interrupted (Ctrl-C); a submitted job continues

Only the result is written to stdout. Progress and errors are written to stderr. With --json the result is one
JSON document (for watch, one on each line). After an error, the last line of stderr is
{\"error\":{\"code\",\"message\",..}}.

Commands that call AWS themselves (--bucket, load and the operator's commands) use the AWS SDK's variables:
AWS_REGION, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_PROFILE and others.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
    Srt,
    Vtt,
}

#[derive(Debug, Args)]
pub(crate) struct Waiting {
    /// Wait until the job ends, and show the progress of each chunk.
    #[arg(long)]
    pub(crate) wait: bool,

    /// Longest time to wait, with --wait: 90s, 10m, 2h. Default: 10m. If transcribe divides a recording into chunks,
    /// its default is at least the length of all local files together.
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = duration)]
    timeout: Option<Duration>,
}

impl Waiting {
    /// The longest time to wait for recordings of this length.
    pub(crate) fn limit(&self, recordings: Duration) -> Duration {
        self.timeout.unwrap_or_else(|| recordings.max(Duration::from_mins(10)))
    }
}

pub(crate) fn url(text: &str) -> Result<Url, String> {
    let url =
        Url::parse(text).map_err(|error| format!("is not a URL such as https://api.example.com: {error}"))?;
    if matches!(url.scheme(), "http" | "https") {
        Ok(url)
    } else {
        Err("must begin with http:// or https://".to_owned())
    }
}

pub(crate) fn first_of_list(text: &str) -> Result<String, &'static str> {
    let first = text.split(',').map(str::trim).find(|name| !name.is_empty());
    first.map(str::to_owned).ok_or("is empty: expected the name of a bucket")
}

pub(crate) fn duration(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "expected a time such as 90s, 10m or 2h";
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "s" | "" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(EXPECTED),
    };
    // Hours up to u32::MAX stay far from the end of the clock.
    let number: u32 = number.parse().map_err(|_| EXPECTED)?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_mins(10)));
        assert_eq!(duration("2h"), Ok(Duration::from_hours(2)));
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        for bad in ["", "m", "-1s", "1.5m", "10 m", "99999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_bucket_is_taken() {
        assert_eq!(first_of_list("one, two"), Ok("one".to_owned()));
        assert_eq!(first_of_list(",two"), Ok("two".to_owned()));
        assert!(first_of_list(" , ").is_err());
    }
}
