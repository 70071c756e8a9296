//! Process statistics, with the names of Prometheus' own client libraries, and the peak memory.
//!
//! No crate does this here: the usual one has more code than this module, and counters of the `metrics`
//! crate are integers, while CPU seconds have decimals.

use std::fmt::Write;
use std::fs;

/// The unit of CPU time in `/proc`. It is 100 in user space on all Linux systems.
const TICKS_PER_SECOND: f64 = 100.0;

/// The lines for `/metrics`. Unknown values are left out; all are unknown on systems other than Linux.
pub(super) fn render() -> String {
    let mut text = String::new();
    let mut line = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n\n")
                .expect("writing to a string cannot fail");
        }
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let system = fs::read_to_string("/proc/stat").unwrap_or_default();
    // The count includes the open directory itself.
    let files = fs::read_dir("/proc/self/fd").ok().and_then(|open| u32::try_from(open.count()).ok());
    let bytes = |field| number_after(&status, field).map(|kilobytes| kilobytes * 1024.0);
    let cpu = stat_field(&stat, 14).zip(stat_field(&stat, 15)).map(|(user, kernel)| user + kernel);
    let started = number_after(&system, "btime").zip(stat_field(&stat, 22));

    line("process_resident_memory_bytes", "gauge", "Resident memory, in bytes", bytes("VmRSS:"));
    line("process_peak_resident_memory_bytes", "gauge", "Peak resident memory, in bytes", bytes("VmHWM:"));
    line(
        "process_cpu_seconds_total",
        "counter",
        "User and system CPU time, in seconds",
        cpu.map(|ticks| ticks / TICKS_PER_SECOND),
    );
    line(
        "process_start_time_seconds",
        "gauge",
        "Start time of the process, in seconds since 1970",
        started.map(|(boot, ticks)| boot + ticks / TICKS_PER_SECOND),
    );
    line("process_open_fds", "gauge", "Open file descriptors", files.map(f64::from));
    line(
        "process_max_fds",
        "gauge",
        "Maximum number of open file descriptors",
        number_after(&limits, "Max open files"),
    );
    text
}

/// The first number on the line that begins with `field`.
fn number_after(text: &str, field: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A field of `/proc/self/stat`, counted from 1. The second field is the program's name in brackets, which
/// may contain spaces and brackets.
fn stat_field(stat: &str, field: usize) -> Option<f64> {
    stat.rsplit(')').next()?.split_whitespace().nth(field - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_after_a_name_with_brackets() {
        let stat = "12 (a) b (c)) S 1 12 12 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 987654 1 2";
        assert_eq!(stat_field(stat, 14), Some(250.0));
        assert_eq!(stat_field(stat, 15), Some(50.0));
        assert_eq!(stat_field(stat, 22), Some(987_654.0));
        assert_eq!(stat_field("", 22), None);
        let status = "VmPeak:\t  9 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(number_after(status, "VmHWM:"), Some(2048.0));
        assert_eq!(
            number_after("Max open files            1024      4096  files", "Max open files"),
            Some(1024.0)
        );
        assert_eq!(number_after("Max open files  unlimited", "Max open files"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn values_of_this_process_are_plausible() {
        let text = render();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            line.unwrap_or_else(|| panic!("no {name}: {text}")).parse::<f64>().expect("a number")
        };
        let (now, peak) =
            (value("process_resident_memory_bytes"), value("process_peak_resident_memory_bytes"));
        assert!(now > 100_000.0 && peak >= now, "{now} {peak}");
        assert!(value("process_open_fds") >= 3.0 && value("process_open_fds") <= value("process_max_fds"));
        assert!(value("process_cpu_seconds_total") >= 0.0);
        let now = crate::Timestamp::now().unix();
        let started = crate::Timestamp::from_unix(0)
            .plus(std::time::Duration::from_secs_f64(value("process_start_time_seconds")))
            .unix();
        // The system's boot time may differ by a clock correction.
        assert!((started - now).abs() < 24 * 3600, "started {started}, now {now}");
    }
}
