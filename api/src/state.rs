//! What the handlers share.

use std::sync::Arc;

use longhand_shared::domain::path::AudioSources;
use longhand_shared::domain::url::AllowedHosts;
use longhand_shared::lifecycle::Lifecycle;
use longhand_shared::queue::ChunkQueue;
use longhand_shared::store::JobStore;
use tokio_util::sync::CancellationToken;

use crate::auth::Auth;
use crate::cors::Origins;
use crate::limits::Limits;
use crate::rendered::Rendered;
use crate::signer::Signer;
use crate::tickets::Tickets;
use crate::waiting::Waiting;

/// The state of the router, which is cloned for each request.
pub(crate) type App = Arc<AppState>;

/// What the handlers share.
#[derive(Clone, Debug)]
pub struct AppState {
    /// Reads and changes jobs.
    pub lifecycle: Lifecycle,
    /// Where audio may be read from.
    pub sources: Arc<AudioSources>,
    /// The hosts that webhooks may be delivered to. Empty disables callbacks.
    pub callback_hosts: Arc<AllowedHosts>,
    /// Identifies callers.
    pub auth: Arc<Auth>,
    /// The limits of each user.
    pub limits: Arc<Limits>,
    /// The origins whose pages may call from a browser.
    pub origins: Origins,
    /// Deletes uploads from the first of the sources' buckets.
    pub s3: aws_sdk_s3::Client,
    /// Signs uploads into that bucket and reads of audio, for the endpoint where clients reach S3.
    pub upload_signer: Arc<Signer>,
    /// Signs and verifies tickets for audio and events.
    pub tickets: Tickets,
    /// The dead letters of the chunks' queue, for operators.
    pub dead_letters: Option<Arc<dyn ChunkQueue>>,
    /// The waits for a job's end, and the cache of results.
    pub waiting: Waiting,
    /// The JSON of these results.
    pub rendered: Rendered,
    /// Cancelled when the process was asked to stop. It still answers for a while, and tells load balancers to send
    /// requests elsewhere.
    pub stop: CancellationToken,
}

impl AppState {
    /// Reads jobs.
    pub(crate) fn store(&self) -> &dyn JobStore {
        self.lifecycle.store().as_ref()
    }
}
