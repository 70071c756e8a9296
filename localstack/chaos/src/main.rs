//! `chaos`: load while faults are injected, then an audit. Needs the emulator: `make chaos` runs it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use longhand_chaos::outage::{self, Outage};
use longhand_chaos::poison::{self, Poison};
use longhand_chaos::report::{Report, summary};
use longhand_chaos::run::{self, Badness};
use longhand_chaos::world::Size;
use longhand_shared::service::shutdown;
use serde_json::{Value, json};

/// Submit jobs to the real programs while they are killed, the model fails and AWS calls are lost. Then audit the result.
/// Exits with 1 if a promise is broken.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kill processes while the model and AWS fail: one run for each seed.
    Run {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        badness: Badness,
    },
    /// The same, with apis and workers of 0.1.0 beside those of this version.
    Mixed {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        badness: Badness,
        /// The folder with the programs of 0.1.0, as `localstack/stack.py install old-programs` builds them.
        #[arg(long, value_parser = programs)]
        old: PathBuf,
    },
    /// Take the model down for some time: one run for each kind of outage.
    Outage {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        outage: Outage,
    },
    /// Let the model fail on one user's chunks: one run for each number of workers.
    Poison {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        poison: Poison,
    },
    /// All of these, except mixed.
    All {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        badness: Badness,
        #[command(flatten)]
        outage: Outage,
        #[command(flatten)]
        poison: Poison,
    },
}

fn programs(folder: &str) -> Result<PathBuf, String> {
    let folder = PathBuf::from(folder);
    match ["longhand-api", "longhand-worker"].iter().find(|name| !folder.join(name).is_file()) {
        Some(missing) => Err(format!("it has no {missing}: build it with `make chaos-mixed`")),
        None => Ok(folder),
    }
}

#[derive(Clone, Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    size: Size,
    /// Random seeds, separated by commas. Outages and poison use the first.
    #[arg(long, value_delimiter = ',', default_value = "1", num_args = 1..)]
    seed: Vec<u64>,
    /// Also write the report to this file, as JSON.
    #[arg(long)]
    report: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let stop = match shutdown::on_signal() {
        Ok(stop) => stop,
        Err(error) => return fail(&error, 1),
    };
    tokio::select! {
        code = scenarios(command) => code,
        // All processes are killed when they are dropped.
        () = stop.cancelled() => ExitCode::from(130),
    }
}

async fn scenarios(command: Command) -> ExitCode {
    let mut reports: Vec<Report> = Vec::new();
    let mut programs = None;
    let (common, badness, outage, poison) = match command {
        Command::Run { common, badness } => (common, Some(badness), None, None),
        Command::Mixed { common, badness, old } => {
            programs = Some(old);
            (common, Some(badness), None, None)
        }
        Command::Outage { common, outage } => (common, None, Some(outage), None),
        Command::Poison { common, poison } => (common, None, None, Some(poison)),
        Command::All { common, badness, outage, poison } => {
            (common, Some(badness), Some(outage), Some(poison))
        }
    };
    if let Some(badness) = badness {
        for seed in &common.seed {
            reports.push(printed(run::run(&common.size, &badness, *seed, programs.as_deref()).await));
        }
    }
    if let Some(outage) = outage {
        for how in &outage.how {
            reports.push(printed(outage::run(&common.size, &outage, *how, common.seed[0]).await));
        }
    }
    if let Some(poison) = poison {
        for workers in &poison.with_workers {
            let run = Box::pin(poison::run(&common.size, &poison, *workers, common.seed[0]));
            reports.push(printed(run.await));
        }
    }
    print(&summary(&reports));
    let good = reports.iter().all(Report::is_good);
    if let Some(path) = &common.report {
        let all: Vec<Value> = reports.iter().map(Report::json).collect();
        let text = format!("{:#}\n", json!({"asPromised": good, "scenarios": all}));
        if let Err(error) = std::fs::write(path, text) {
            return fail(&format!("{}: {error}", path.display()), 74);
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{error}");
    ExitCode::from(code)
}

fn printed(report: Report) -> Report {
    print(&report.text());
    report
}

fn print(text: &str) {
    // A closed pipe (`| head`) is not an error.
    let _ = writeln!(std::io::stdout(), "{text}");
}
