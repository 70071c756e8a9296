//! The table and its indexes.

use aws_sdk_dynamodb::types::{
    BillingMode, ContinuousBackupsDescription, IndexStatus, KeySchemaElement, KeyType,
    PointInTimeRecoveryStatus, ProjectionType, SseStatus, TableDescription, TimeToLiveDescription,
    TimeToLiveStatus,
};
use longhand_shared::service::aws;

use super::finding::{DEPLOY, Finding, fault, listed, ok, undescribed, warning};
use crate::operator::aws::{Aws, DescribeError, Described, describe};

/// `bool`: whether the table is in an emulator.
type Check = fn(&TableDescription, bool) -> Finding;

const CHECKS: [(&str, Check); 6] = [
    ("table", table),
    ("index userId-jobStatus", |table, _| index(table, "userId-jobStatus", "userId + jobStatusTime", &SHOWN)),
    ("index openJobs", |table, _| index(table, "openJobs", "openShard + nextCheckTime", &[])),
    ("table billing", billing),
    ("table encryption", encryption),
    ("table protection", protection),
];

const TABLE_KEYS: &str = "jobId + item";

/// The attributes of the index that listings show.
const SHOWN: [&str; 5] = ["jobStatus", "submittedTime", "completedTime", "chunkCount", "metadata"];

pub(super) async fn check(aws: &Aws, name: Option<&str>) -> Vec<Finding> {
    let Some(name) = name else { return Vec::new() };
    let client = aws::dynamodb(&aws.config);
    let emulator = aws.is_emulator("DYNAMODB");
    let what = format!("table {name}");
    let finding = |check: &str, permission, found: Described<Finding>| {
        found.unwrap_or_else(|why| undescribed(why, &what, "LONGHAND_TABLE", permission)).of(check)
    };
    let (table, ttl, backups) = futures::join!(
        describe(client.describe_table().table_name(name).send()),
        describe(client.describe_time_to_live().table_name(name).send()),
        describe(client.describe_continuous_backups().table_name(name).send()),
    );
    let empty = || DescribeError::Unreachable("the answer is empty".to_owned());
    let mut findings = match table.and_then(|answer| answer.table.ok_or_else(empty)) {
        Ok(table) => CHECKS.iter().map(|(name, check)| check(&table, emulator).of(*name)).collect(),
        Err(why) => vec![finding("table", "dynamodb:DescribeTable", Err(why))],
    };
    let ttl = ttl.map(|answer| self::ttl(answer.time_to_live_description, emulator));
    let recovery = backups.map(|answer| recovery(answer.continuous_backups_description.as_ref(), emulator));
    findings.push(finding("ttl", "dynamodb:DescribeTimeToLive", ttl));
    findings.push(finding("table recovery", "dynamodb:DescribeContinuousBackups", recovery));
    findings
}

fn table(table: &TableDescription, _: bool) -> Finding {
    let name = table.table_name().unwrap_or_default();
    let keys = keys(table.key_schema());
    if keys != TABLE_KEYS {
        return fault(format!("{name} has the keys {keys}, not {TABLE_KEYS}")).remedy(format!(
            "Keys cannot be changed: {DEPLOY} under another name, and correct LONGHAND_TABLE."
        ));
    }
    match table.table_status().map_or("", |status| status.as_str()) {
        "ACTIVE" => ok(format!("{name} is ACTIVE, keys {keys}")),
        "UPDATING" => warning(format!("{name} is UPDATING")).remedy("Run doctor again later."),
        other => fault(format!("{name} is {other}"))
            .remedy("Wait until it is ACTIVE. Restore a table that is archived or being deleted."),
    }
}

fn index(table: &TableDescription, name: &str, keys: &str, needed: &[&str]) -> Finding {
    let Some(index) = table.global_secondary_indexes().iter().find(|it| it.index_name() == Some(name)) else {
        let table = table.table_name().unwrap_or_default();
        return fault(format!("{table} has no such index")).remedy(format!("{DEPLOY}."));
    };
    let remedy = format!("Delete the index, then: {DEPLOY}.");
    let found = self::keys(index.key_schema());
    if found != keys {
        return fault(format!("it has the keys {found}, not {keys}")).remedy(remedy);
    }
    let projection = index.projection();
    let all = projection.and_then(|projection| projection.projection_type()) == Some(&ProjectionType::All);
    let held = projection.map_or(&[][..], |projection| projection.non_key_attributes());
    let missing = listed(needed.iter().filter(|name| !all && !held.iter().any(|held| held == **name)));
    if !missing.is_empty() {
        return fault(format!("it lacks {missing}, which listings show")).remedy(remedy);
    }
    // Some emulators (ministack) report no status for indexes of a stack.
    match index.index_status().map(IndexStatus::as_str) {
        None => ok(format!("exists, keys {keys}")),
        Some("ACTIVE") => ok(format!("ACTIVE, keys {keys}")),
        Some(other) => fault(format!("it is {other}"))
            .remedy("Wait until it is ACTIVE: until then listings and the sweeper miss jobs."),
    }
}

fn billing(table: &TableDescription, _: bool) -> Finding {
    // Absent for a table with provisioned capacity.
    let mode = table.billing_mode_summary().and_then(|billing| billing.billing_mode());
    warning("provisioned capacity: calls above it are throttled")
        .remedy(format!("{DEPLOY}, or set the billing mode to PAY_PER_REQUEST."))
        .unless(mode == Some(&BillingMode::PayPerRequest), "on demand")
}

fn encryption(table: &TableDescription, emulator: bool) -> Finding {
    const NOT_OWN: &str = "not with a key of this account";
    // Absent if the key belongs to AWS.
    let status = table.sse_description().and_then(|encryption| encryption.status());
    let own = matches!(status, Some(SseStatus::Enabled | SseStatus::Enabling | SseStatus::Updating));
    warning(NOT_OWN)
        .remedy(format!("{DEPLOY}. Until then AWS owns the key, and its use is not logged."))
        .on_emulator(emulator, NOT_OWN, "encryption")
        .unless(own, "with a key of this account")
}

fn protection(table: &TableDescription, emulator: bool) -> Finding {
    warning("deletion protection is off: one call can delete the table")
        .remedy("Deploy with DELETION_PROTECTION=true in the parameter file, at least in production.")
        .unless(emulator, "off, which is fine on an emulator")
        .unless(table.deletion_protection_enabled() == Some(true), "deletion protection is on")
}

fn recovery(backups: Option<&ContinuousBackupsDescription>, emulator: bool) -> Finding {
    const OFF: &str = "point-in-time recovery is off: deleted data cannot be restored";
    let recovery = backups.and_then(|backups| backups.point_in_time_recovery_description());
    let status = recovery.and_then(|recovery| recovery.point_in_time_recovery_status());
    warning(OFF)
        .remedy(format!("{DEPLOY}, or switch it on."))
        .on_emulator(emulator, OFF, "point-in-time recovery")
        .unless(status == Some(&PointInTimeRecoveryStatus::Enabled), "to any second of the last 35 days")
}

fn ttl(description: Option<TimeToLiveDescription>, emulator: bool) -> Finding {
    const REMEDY: &str = "Turn TTL on for the attribute ttl, as in infra/data.yaml.";
    let off = fault("off: transcripts are kept forever").remedy(REMEDY);
    let on = [Some(TimeToLiveStatus::Enabled), Some(TimeToLiveStatus::Enabling)];
    let on = description.filter(|ttl| on.contains(&ttl.time_to_live_status));
    match on.and_then(|ttl| ttl.attribute_name).as_deref() {
        Some("ttl") => ok("items expire by ttl"),
        Some(other) => fault(format!("items expire by {other}, which no item has")).remedy(REMEDY),
        None => off.on_emulator(emulator, "off: items do not expire", "TTL"),
    }
}

/// `partition key + sort key`.
fn keys(schema: &[KeySchemaElement]) -> String {
    let name =
        |kind: KeyType| schema.iter().find(|it| it.key_type == kind).map(|it| it.attribute_name.as_str());
    format!("{} + {}", name(KeyType::Hash).unwrap_or_default(), name(KeyType::Range).unwrap_or("none"))
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::{
        BillingModeSummary, ContinuousBackupsStatus, GlobalSecondaryIndexDescription,
        PointInTimeRecoveryDescription, Projection, SseDescription, TableStatus,
    };

    use super::super::finding::Verdict;
    use super::super::finding::tests::{Fault, Ok, Warning};
    use super::*;

    fn schema(partition: &str, sort: &str) -> Vec<KeySchemaElement> {
        let key = |name: &str, kind| {
            KeySchemaElement::builder().attribute_name(name).key_type(kind).build().expect("complete")
        };
        vec![key(partition, KeyType::Hash), key(sort, KeyType::Range)]
    }

    fn projection(kind: ProjectionType, attributes: &[&str]) -> Projection {
        let attributes = attributes.iter().map(|name| (*name).to_owned()).collect();
        Projection::builder().projection_type(kind).set_non_key_attributes(Some(attributes)).build()
    }

    fn good_table() -> TableDescription {
        let index = |name: &str, keys, projection| {
            let index =
                GlobalSecondaryIndexDescription::builder().index_name(name).set_key_schema(Some(keys));
            index.projection(projection).index_status(IndexStatus::Active).build()
        };
        let listed = projection(ProjectionType::Include, &SHOWN);
        let keys_only = projection(ProjectionType::KeysOnly, &[]);
        TableDescription::builder()
            .table_name("jobs")
            .table_status(TableStatus::Active)
            .set_key_schema(Some(schema("jobId", "item")))
            .global_secondary_indexes(index("userId-jobStatus", schema("userId", "jobStatusTime"), listed))
            .global_secondary_indexes(index("openJobs", schema("openShard", "nextCheckTime"), keys_only))
            .billing_mode_summary(
                BillingModeSummary::builder().billing_mode(BillingMode::PayPerRequest).build(),
            )
            .sse_description(SseDescription::builder().status(SseStatus::Enabled).build())
            .deletion_protection_enabled(true)
            .build()
    }

    /// The checks that are not ok after this change.
    fn found(change: impl FnOnce(&mut TableDescription), emulator: bool) -> Vec<(&'static str, Finding)> {
        let mut table = good_table();
        change(&mut table);
        let outcomes = CHECKS.iter().map(|(name, check)| (*name, check(&table, emulator)));
        outcomes.filter(|(_, outcome)| outcome.verdict != Ok).collect()
    }

    fn indexes(table: &mut TableDescription) -> &mut Vec<GlobalSecondaryIndexDescription> {
        table.global_secondary_indexes.as_mut().expect("two indexes")
    }

    #[test]
    fn equivalent_tables_are_ok() {
        assert_eq!(found(|_| (), false), []);
        let all = projection(ProjectionType::All, &[]);
        assert_eq!(found(|table| indexes(table)[0].projection = Some(all), false), []);
        assert_eq!(found(|table| indexes(table)[1].index_status = None, false), []);
    }

    #[test]
    fn each_fault_of_a_table_is_found() {
        type Change = fn(&mut TableDescription);
        let by_user = "index userId-jobStatus";
        let faults: [(Change, &str, Verdict, &str); 10] = [
            (|table| table.table_status = Some(TableStatus::Deleting), "table", Fault, "jobs is DELETING"),
            (|table| table.table_status = Some(TableStatus::Updating), "table", Warning, "jobs is UPDATING"),
            (
                |table| table.key_schema.as_mut().expect("two keys").truncate(1),
                "table",
                Fault,
                "jobs has the keys jobId + none, not jobId + item",
            ),
            (|table| drop(indexes(table).pop()), "index openJobs", Fault, "jobs has no such index"),
            (
                |table| indexes(table)[0].key_schema = Some(schema("userId", "jobStatus")),
                by_user,
                Fault,
                "it has the keys userId + jobStatus, not userId + jobStatusTime",
            ),
            (
                |table| {
                    let some = projection(ProjectionType::Include, &["jobStatus", "metadata"]);
                    indexes(table)[0].projection = Some(some);
                },
                by_user,
                Fault,
                "it lacks submittedTime, completedTime, chunkCount, which listings show",
            ),
            (
                |table| indexes(table)[1].index_status = Some(IndexStatus::Creating),
                "index openJobs",
                Fault,
                "it is CREATING",
            ),
            (
                |table| table.billing_mode_summary = None,
                "table billing",
                Warning,
                "provisioned capacity: calls above it are throttled",
            ),
            (
                |table| table.sse_description = None,
                "table encryption",
                Warning,
                "not with a key of this account",
            ),
            (
                |table| table.deletion_protection_enabled = None,
                "table protection",
                Warning,
                "deletion protection is off: one call can delete the table",
            ),
        ];
        for (change, check, verdict, detail) in faults {
            let found = found(change, false);
            let [(name, outcome)] = &found[..] else { panic!("{check}: {found:?}") };
            assert_eq!((*name, outcome.verdict, outcome.detail.as_str()), (check, verdict, detail));
            assert!(outcome.remedy.as_ref().is_some_and(|remedy| remedy.ends_with('.')), "{outcome:?}");
        }
    }

    #[test]
    fn differences_of_an_emulator_are_named() {
        let found =
            found(|table| (table.sse_description, table.deletion_protection_enabled) = (None, None), true);
        let outcomes = [found[0].1.clone(), ttl(None, true), recovery(None, true)];
        assert_eq!((found.len(), found[0].0), (1, "table encryption"));
        for outcome in outcomes {
            assert!(outcome.remedy.is_some_and(|remedy| remedy.starts_with("Nothing to do on an emulator")));
        }
    }

    #[test]
    fn expiry_and_recovery_are_checked() {
        let ttl = |attribute: &str, status| {
            let ttl = TimeToLiveDescription::builder().attribute_name(attribute).time_to_live_status(status);
            ttl.build()
        };
        let on = TimeToLiveStatus::Enabled;
        assert_eq!(super::ttl(Some(ttl("ttl", on.clone())), false).verdict, Ok);
        assert_eq!(super::ttl(Some(ttl("ttl", TimeToLiveStatus::Disabled)), false).verdict, Fault);
        assert_eq!(super::ttl(Some(ttl("expires", on)), true).verdict, Fault);
        assert_eq!(super::ttl(None, false).verdict, Fault);
        let recovery_on = PointInTimeRecoveryDescription::builder()
            .point_in_time_recovery_status(PointInTimeRecoveryStatus::Enabled);
        let backups = ContinuousBackupsDescription::builder()
            .continuous_backups_status(ContinuousBackupsStatus::Enabled)
            .point_in_time_recovery_description(recovery_on.build());
        assert_eq!(recovery(backups.build().ok().as_ref(), false).verdict, Ok);
        assert_eq!(recovery(None, false).verdict, Warning);
    }
}
