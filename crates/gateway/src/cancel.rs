//! Cancel keys of the sessions of this gateway.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pangea_pgwire::startup::CancelKey;
use tokio::sync::{mpsc, oneshot};

/// Longest time that a cancel request is kept open while the session passes it on.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// A cancel request on its way. Dropping it tells the one who asked that it was delivered: as with PostgreSQL,
/// the connection of the request closes only then, so that the client's next statement cannot be hit by it.
pub(crate) type CancelRequest = oneshot::Sender<()>;

/// Which session a cancel key belongs to. The session itself decides which server is working for it right now,
/// so that a request reaches that server and never the statement of another session.
#[derive(Debug, Default, Clone)]
pub(crate) struct CancelRegistry {
    sessions: Arc<Mutex<HashMap<CancelKey, mpsc::Sender<CancelRequest>>>>,
}

/// Keeps a key registered.
#[derive(Debug)]
pub(crate) struct Registration {
    registry: CancelRegistry,
    key: CancelKey,
}

/// The session's end of its registration.
pub(crate) type CancelReceiver = mpsc::Receiver<CancelRequest>;

impl CancelRegistry {
    /// A channel over which a session is told of cancel requests. One at a time: a second request while one is
    /// under way asks for the same thing and waits.
    pub(crate) fn channel() -> (mpsc::Sender<CancelRequest>, CancelReceiver) {
        mpsc::channel(1)
    }

    /// Registers a session's key.
    pub(crate) fn register(&self, key: CancelKey, session: mpsc::Sender<CancelRequest>) -> Registration {
        self.lock().insert(key.clone(), session);
        Registration { registry: self.clone(), key }
    }

    /// Tells the session with this key and waits until it has passed the request on. An unknown key is ignored,
    /// as PostgreSQL does.
    pub(crate) async fn cancel(&self, key: &CancelKey) {
        let Some(session) = self.lock().get(key).cloned() else { return };
        let (request, delivered) = oneshot::channel();
        let deliver = async {
            if session.send(request).await.is_ok() {
                // An error means that the session dropped the request, which is how it says "delivered".
                let _ = delivered.await;
            }
        };
        let _ = tokio::time::timeout(DELIVERY_TIMEOUT, deliver).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<CancelKey, mpsc::Sender<CancelRequest>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.key);
    }
}
