//! Tells the status over HTTP on a unix socket in the region's private directory.

use std::path::Path;
use std::sync::Arc;

use axum::{Json, Router, extract::State, routing::get};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use crate::region::{NodeError, Region};
use crate::status::RegionStatus;

/// Listens on `path`, taking the place of a socket that an earlier process left.
pub(crate) fn start(path: &Path, region: Arc<Region>) -> Result<JoinHandle<()>, NodeError> {
    let failed = |source| NodeError::StatusSocket { path: path.to_owned(), source };
    // The caller holds the region's lock: whoever listened here is gone.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let router = Router::new().route("/v1/status", get(status)).with_state(region);
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the status socket is closed");
        }
    }))
}

async fn status(State(region): State<Arc<Region>>) -> Json<RegionStatus> {
    Json(region.status())
}
