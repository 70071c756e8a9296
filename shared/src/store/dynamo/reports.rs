//! The workers' reports: one item for each worker, all in one partition, which no index contains.

use crate::domain::clock::Timestamp;
use crate::domain::worker_state::{REPORT_TTL, WorkerState};
use crate::store::StoreError;
use crate::store::item::{Item, number, text};

use super::{DynamoStore, unavailable};

const PARTITION: &str = "workers";

impl DynamoStore {
    pub(super) async fn write_report(&self, state: &WorkerState) -> Result<(), StoreError> {
        let json = serde_json::to_string(state).map_err(|error| StoreError::Corrupt(error.to_string()))?;
        let expires = state.reported.plus(REPORT_TTL);
        let item = Item::from([
            ("jobId".to_owned(), text(PARTITION)),
            ("item".to_owned(), text(format!("worker#{}", state.name))),
            ("state".to_owned(), text(json)),
            ("ttl".to_owned(), number(expires.unix())),
        ]);
        let put = self.client.put_item().table_name(&self.table).set_item(Some(item));
        put.send().await.map(drop).map_err(unavailable)
    }

    pub(super) async fn read_reports(&self, now: Timestamp) -> Result<Vec<WorkerState>, StoreError> {
        let answer = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("jobId = :workers")
            .expression_attribute_values(":workers", text(PARTITION))
            .send()
            .await
            .map_err(unavailable)?;
        // A page of 1 MB has a thousand reports. One that cannot be read is of a newer version.
        let read = |item: &Item| serde_json::from_str::<WorkerState>(item.get("state")?.as_s().ok()?).ok();
        let reports = answer.items().iter().filter_map(read);
        Ok(reports.filter(|report| report.is_current(now)).collect())
    }
}
