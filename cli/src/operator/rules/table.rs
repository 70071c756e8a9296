//! The table and its indexes.

use super::{DEPLOY, Finding};

#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) status: String,
    pub(crate) keys: Keys,
    pub(crate) indexes: Vec<Index>,
    pub(crate) on_demand: bool,
    /// Whether its key belongs to the account. Otherwise AWS uses a key of its own.
    pub(crate) own_key: bool,
    /// Whether deletion protection is on.
    pub(crate) protected: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) partition: String,
    pub(crate) sort: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Index {
    pub(crate) name: String,
    /// AWS always has it. Some emulators (ministack) have none for indexes of a stack.
    pub(crate) status: Option<String>,
    pub(crate) keys: Keys,
    pub(crate) projection: Projection,
}

#[derive(Clone, Debug)]
pub(crate) enum Projection {
    All,
    KeysOnly,
    Include(Vec<String>),
}

/// The keys of the table, and the keys and required attributes of each index.
const TABLE_KEYS: (&str, &str) = ("jobId", "item");
const INDEXES: [(&str, (&str, &str), &[&str]); 2] = [
    (
        "userId-jobStatus",
        ("userId", "jobStatusTime"),
        &["jobStatus", "submittedTime", "completedTime", "chunkCount", "metadata"],
    ),
    ("openJobs", ("openShard", "nextCheckTime"), &[]),
];
const TTL_ATTRIBUTE: &str = "ttl";

pub(crate) fn table(name: &str, table: &Table, emulator: bool) -> Vec<Finding> {
    let mut findings = vec![one_table(name, table)];
    for (index, keys, needed) in INDEXES {
        let check = format!("index {index}");
        let found = table.indexes.iter().find(|found| found.name == index);
        findings.push(found.map_or_else(
            || Finding::fault(&check, format!("{name} has no such index"), format!("{DEPLOY}.")),
            |found| one_index(&check, found, keys, needed),
        ));
    }
    findings.extend([billing(table), encryption(table, emulator), deletion_protection(table, emulator)]);
    findings
}

fn billing(table: &Table) -> Finding {
    const CHECK: &str = "table billing";
    if table.on_demand {
        return Finding::ok(CHECK, "on demand");
    }
    let detail = "provisioned capacity: calls above it are throttled";
    Finding::warning(CHECK, detail, format!("{DEPLOY}, or set the billing mode to PAY_PER_REQUEST."))
}

fn encryption(table: &Table, emulator: bool) -> Finding {
    const CHECK: &str = "table encryption";
    if table.own_key {
        return Finding::ok(CHECK, "with a key of this account");
    }
    let detail = "not with a key of this account";
    if emulator {
        return Finding::on_emulator(CHECK, detail, "encryption");
    }
    let remedy = format!("{DEPLOY}: the use of a key that AWS owns is not logged.");
    Finding::warning(CHECK, detail, remedy)
}

fn deletion_protection(table: &Table, emulator: bool) -> Finding {
    const CHECK: &str = "table protection";
    match table.protected {
        true => Finding::ok(CHECK, "deletion protection is on"),
        false if emulator => Finding::ok(CHECK, "off, which is fine on an emulator"),
        false => Finding::warning(
            CHECK,
            "deletion protection is off: one call can delete the table",
            "Deploy infra/data.yaml with DeletionProtection=true, at least in production.",
        ),
    }
}

pub(crate) fn recovery(on: bool, emulator: bool) -> Finding {
    const CHECK: &str = "table recovery";
    if on {
        return Finding::ok(CHECK, "to any second of the last 35 days");
    }
    let detail = "point-in-time recovery is off: deleted data cannot be restored";
    if emulator {
        return Finding::on_emulator(CHECK, detail, "point-in-time recovery");
    }
    Finding::warning(CHECK, detail, format!("{DEPLOY}, or switch it on."))
}

fn one_table(name: &str, table: &Table) -> Finding {
    if !is_keyed(&table.keys, TABLE_KEYS) {
        let detail = format!("{name} has the keys {}, not {}", shown(&table.keys), pair(TABLE_KEYS));
        let remedy =
            format!("Keys cannot be changed: {DEPLOY} under another name, and correct LONGHAND_TABLE.");
        return Finding::fault("table", detail, remedy);
    }
    match table.status.as_str() {
        "ACTIVE" => Finding::ok("table", format!("{name} is ACTIVE, keys {}", pair(TABLE_KEYS))),
        "UPDATING" => Finding::warning("table", format!("{name} is UPDATING"), "Run doctor again later."),
        other => Finding::fault(
            "table",
            format!("{name} is {other}"),
            "Wait until it is ACTIVE. Restore a table that is archived or being deleted.",
        ),
    }
}

fn one_index(check: &str, index: &Index, keys: (&str, &str), needed: &[&str]) -> Finding {
    if !is_keyed(&index.keys, keys) {
        let detail = format!("it has the keys {}, not {}", shown(&index.keys), pair(keys));
        return Finding::fault(check, detail, format!("Delete the index, then: {DEPLOY}."));
    }
    let held: &[String] = match &index.projection {
        Projection::All | Projection::KeysOnly => &[],
        Projection::Include(attributes) => attributes,
    };
    let all = matches!(index.projection, Projection::All);
    let missing: Vec<_> =
        needed.iter().copied().filter(|name| !all && !held.iter().any(|held| held == name)).collect();
    if !missing.is_empty() {
        let detail = format!("it lacks {}, which listings show", missing.join(", "));
        return Finding::fault(check, detail, format!("Delete the index, then: {DEPLOY}."));
    }
    if let Some(status) = index.status.as_deref().filter(|status| *status != "ACTIVE") {
        let remedy = "Wait until it is ACTIVE: until then listings and the sweeper miss jobs.";
        return Finding::fault(check, format!("it is {status}"), remedy);
    }
    let status = index.status.as_deref().unwrap_or("exists");
    Finding::ok(check, format!("{status}, keys {}", pair(keys)))
}

fn is_keyed(keys: &Keys, (partition, sort): (&str, &str)) -> bool {
    keys.partition == partition && keys.sort == sort
}

fn shown(keys: &Keys) -> String {
    pair((&keys.partition, &keys.sort))
}

fn pair((partition, sort): (&str, &str)) -> String {
    format!("{partition} + {}", if sort.is_empty() { "none" } else { sort })
}

pub(crate) fn ttl(attribute: Option<&str>, emulator: bool) -> Finding {
    let remedy = format!("Turn TTL on for the attribute {TTL_ATTRIBUTE}, as in infra/data.yaml.");
    match attribute {
        Some(TTL_ATTRIBUTE) => Finding::ok("ttl", format!("items expire by {TTL_ATTRIBUTE}")),
        Some(other) => Finding::fault("ttl", format!("items expire by {other}, which no item has"), remedy),
        None if emulator => Finding::on_emulator("ttl", "off: items do not expire", "TTL"),
        None => Finding::fault("ttl", "off: transcripts are kept forever", remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::tests::only;
    use super::*;

    fn keys(partition: &str, sort: &str) -> Keys {
        Keys { partition: partition.to_owned(), sort: sort.to_owned() }
    }

    fn good_table() -> Table {
        let shown = ["jobStatus", "submittedTime", "completedTime", "chunkCount", "metadata"];
        let index = |name: &str, keys, projection| Index {
            name: name.to_owned(),
            status: Some("ACTIVE".to_owned()),
            keys,
            projection,
        };
        let include = Projection::Include(shown.map(str::to_owned).to_vec());
        Table {
            status: "ACTIVE".to_owned(),
            keys: keys("jobId", "item"),
            indexes: vec![
                index("userId-jobStatus", keys("userId", "jobStatusTime"), include),
                index("openJobs", keys("openShard", "nextCheckTime"), Projection::KeysOnly),
            ],
            on_demand: true,
            own_key: true,
            protected: true,
        }
    }

    fn with_fault(change: impl FnOnce(&mut Table)) -> (String, Verdict, String) {
        let mut described = good_table();
        change(&mut described);
        only(table("jobs", &described, false))
    }

    #[test]
    fn a_table_as_the_template_has_it_is_ok() {
        let mut all = table("jobs", &good_table(), false);
        all.extend([ttl(Some("ttl"), false), recovery(true, false)]);
        assert!(all.iter().all(|finding| finding.verdict == Verdict::Ok), "{all:?}");
        assert_eq!(all.len(), 3 + 3 + 2);
    }

    #[test]
    fn an_index_that_holds_everything_or_has_no_status_is_ok() {
        let mut described = good_table();
        described.indexes[0].projection = Projection::All;
        described.indexes[1].status = None;
        let all = table("jobs", &described, false);
        assert!(all.iter().all(|finding| finding.verdict == Verdict::Ok), "{all:?}");
    }

    #[test]
    fn each_fault_of_a_table_is_found() {
        let fault = |check: &str, detail: &str| (check.to_owned(), Verdict::Fault, detail.to_owned());
        let by_user = "index userId-jobStatus";
        assert_eq!(
            with_fault(|table| table.status = "DELETING".to_owned()),
            fault("table", "jobs is DELETING")
        );
        assert_eq!(
            with_fault(|table| table.keys = keys("jobId", "")),
            fault("table", "jobs has the keys jobId + none, not jobId + item")
        );
        assert_eq!(
            with_fault(|table| drop(table.indexes.pop())),
            fault("index openJobs", "jobs has no such index")
        );
        assert_eq!(
            with_fault(|table| table.indexes[0].keys.sort = "jobStatus".to_owned()),
            fault(by_user, "it has the keys userId + jobStatus, not userId + jobStatusTime")
        );
        assert_eq!(
            with_fault(
                |table| table.indexes[0].projection = Projection::Include(vec!["jobStatus".to_owned()])
            ),
            fault(
                by_user,
                "it lacks submittedTime, completedTime, chunkCount, metadata, which listings show"
            )
        );
        assert_eq!(with_fault(|table| table.indexes[0].projection = Projection::KeysOnly).1, Verdict::Fault);
        assert_eq!(
            with_fault(|table| table.indexes[1].status = Some("CREATING".to_owned())),
            fault("index openJobs", "it is CREATING")
        );
        assert_eq!(with_fault(|table| table.status = "UPDATING".to_owned()).1, Verdict::Warning);
    }

    #[test]
    fn minor_differences_are_warnings() {
        let warned = |change: fn(&mut Table)| {
            let (check, verdict, _) = with_fault(change);
            assert_eq!(verdict, Verdict::Warning, "{check}");
            check
        };
        assert_eq!(warned(|table| table.on_demand = false), "table billing");
        assert_eq!(warned(|table| table.own_key = false), "table encryption");
        assert_eq!(warned(|table| table.protected = false), "table protection");
        assert_eq!(recovery(false, false).verdict, Verdict::Warning);
    }

    #[test]
    fn missing_expiry_is_a_fault_except_on_an_emulator() {
        assert_eq!(ttl(None, false).verdict, Verdict::Fault);
        assert_eq!(ttl(Some("expires"), true).verdict, Verdict::Fault);
        assert_eq!(ttl(None, true).verdict, Verdict::Warning);
    }

    #[test]
    fn differences_of_an_emulator_are_named() {
        let bare = Table { own_key: false, protected: false, ..good_table() };
        let mut all = table("jobs", &bare, true);
        all.extend([ttl(None, true), recovery(false, true)]);
        let warned = all.iter().filter(|finding| finding.verdict != Verdict::Ok);
        let warned: Vec<_> = warned.map(|finding| finding.check.as_str()).collect();
        assert_eq!(warned, ["table encryption", "ttl", "table recovery"]);
        for finding in all {
            assert!(finding.remedy.is_none_or(|remedy| remedy.starts_with("Nothing to do on an emulator")));
        }
    }
}
