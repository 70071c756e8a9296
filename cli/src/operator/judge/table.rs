//! The table and its indexes.

use super::{DEPLOY, Finding};

/// A table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) status: String,
    pub(crate) keys: Keys,
    pub(crate) indexes: Vec<Index>,
    /// Whether each call is paid for, and none is throttled by a capacity that somebody guessed.
    pub(crate) on_demand: bool,
    /// Whether it is encrypted with a key of the account. AWS encrypts with one of its own otherwise.
    pub(crate) own_key: bool,
    /// Whether it cannot be deleted.
    pub(crate) protected: bool,
}

/// Partition key and sort key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) partition: String,
    pub(crate) sort: String,
}

/// A global secondary index.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    pub(crate) name: String,
    /// AWS always has one; some emulators (ministack) have none for a stack's indexes.
    pub(crate) status: Option<String>,
    pub(crate) keys: Keys,
    pub(crate) projection: Projection,
}

/// What an index holds beside keys.
#[derive(Clone, Debug)]
pub(crate) enum Projection {
    All,
    KeysOnly,
    Include(Vec<String>),
}

/// The keys of the table, and of each index with what it must hold.
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

/// The table and both its indexes.
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
    let detail = "by provisioned capacity: what exceeds it is throttled";
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
    let remedy = format!("{DEPLOY}: with a key that AWS owns, its use shows nowhere.");
    Finding::warning(CHECK, detail, remedy)
}

fn deletion_protection(table: &Table, emulator: bool) -> Finding {
    const CHECK: &str = "table protection";
    match table.protected {
        true => Finding::ok(CHECK, "it cannot be deleted"),
        false if emulator => Finding::ok(CHECK, "none, as an emulator's table needs none"),
        false => Finding::warning(
            CHECK,
            "anybody who may delete it can, by one call",
            "Deploy infra/data.yaml with DeletionProtection=true, unless this is no production.",
        ),
    }
}

/// Whether the table can be restored to any moment of the last days.
pub(crate) fn recovery(on: bool, emulator: bool) -> Finding {
    const CHECK: &str = "table recovery";
    if on {
        return Finding::ok(CHECK, "to any moment of the last 35 days, at most");
    }
    let detail = "point-in-time recovery is off: what is deleted by mistake is gone";
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
        "UPDATING" => {
            Finding::warning("table", format!("{name} is UPDATING"), "Look again when that is done.")
        }
        other => Finding::fault(
            "table",
            format!("{name} is {other}"),
            "Wait until it is ACTIVE; a table that is archived or being deleted has to be restored.",
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
        let detail = format!("it leaves out {}, which a listing shows", missing.join(", "));
        return Finding::fault(check, detail, format!("Delete the index, then: {DEPLOY}."));
    }
    if let Some(status) = index.status.as_deref().filter(|status| *status != "ACTIVE") {
        let remedy = "Wait until it is ACTIVE; until then listings and the sweeper see only a part.";
        return Finding::fault(check, format!("it is {status}"), remedy);
    }
    let status = index.status.as_deref().unwrap_or("there");
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

/// The attribute by which items expire, `None` when they do not.
pub(crate) fn ttl(attribute: Option<&str>, emulator: bool) -> Finding {
    let remedy = format!("Switch TTL on, by the attribute {TTL_ATTRIBUTE}, as infra/data.yaml has it.");
    match attribute {
        Some(TTL_ATTRIBUTE) => Finding::ok("ttl", format!("items expire by {TTL_ATTRIBUTE}")),
        Some(other) => Finding::fault("ttl", format!("items expire by {other}, which no item has"), remedy),
        None if emulator => Finding::on_emulator("ttl", "off: items do not expire", "TTL"),
        None => Finding::fault("ttl", "off: transcripts are kept for ever", remedy),
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

    fn planted(plant: impl FnOnce(&mut Table)) -> (String, Verdict, String) {
        let mut described = good_table();
        plant(&mut described);
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
        assert_eq!(planted(|table| table.status = "DELETING".to_owned()), fault("table", "jobs is DELETING"));
        assert_eq!(
            planted(|table| table.keys = keys("jobId", "")),
            fault("table", "jobs has the keys jobId + none, not jobId + item")
        );
        assert_eq!(
            planted(|table| drop(table.indexes.pop())),
            fault("index openJobs", "jobs has no such index")
        );
        assert_eq!(
            planted(|table| table.indexes[0].keys.sort = "jobStatus".to_owned()),
            fault(by_user, "it has the keys userId + jobStatus, not userId + jobStatusTime")
        );
        assert_eq!(
            planted(|table| table.indexes[0].projection = Projection::Include(vec!["jobStatus".to_owned()])),
            fault(
                by_user,
                "it leaves out submittedTime, completedTime, chunkCount, metadata, which a listing shows"
            )
        );
        assert_eq!(planted(|table| table.indexes[0].projection = Projection::KeysOnly).1, Verdict::Fault);
        assert_eq!(
            planted(|table| table.indexes[1].status = Some("CREATING".to_owned())),
            fault("index openJobs", "it is CREATING")
        );
        assert_eq!(planted(|table| table.status = "UPDATING".to_owned()).1, Verdict::Warning);
    }

    #[test]
    fn what_somebody_should_look_at_is_a_warning() {
        let warned = |plant: fn(&mut Table)| {
            let (check, verdict, _) = planted(plant);
            assert_eq!(verdict, Verdict::Warning, "{check}");
            check
        };
        assert_eq!(warned(|table| table.on_demand = false), "table billing");
        assert_eq!(warned(|table| table.own_key = false), "table encryption");
        assert_eq!(warned(|table| table.protected = false), "table protection");
        assert_eq!(recovery(false, false).verdict, Verdict::Warning);
    }

    #[test]
    fn expiry_that_is_off_is_a_fault_but_on_an_emulator() {
        assert_eq!(ttl(None, false).verdict, Verdict::Fault);
        assert_eq!(ttl(Some("expires"), true).verdict, Verdict::Fault);
        assert_eq!(ttl(None, true).verdict, Verdict::Warning);
    }

    #[test]
    fn what_an_emulator_does_not_apply_says_so() {
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
