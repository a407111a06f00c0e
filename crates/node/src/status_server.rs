//! Tells the status over HTTP on a unix socket in the region's private directory.

use std::path::Path;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use pangea_control::{SwitchoverRequest, TopologyChange};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use crate::control::{ControlStatus, FailoverRequest, SwitchoverAnswer};
use crate::region::{NodeError, Region};
use crate::reload::Reloaded;
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
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/control", get(control))
        .route("/v1/switchover", post(switchover))
        .route("/v1/failover", post(failover))
        .route("/v1/change", post(change))
        .route("/v1/reload", post(reload))
        .route("/v1/rebuild", post(rebuild))
        .with_state(region);
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the status socket is closed");
        }
    }))
}

async fn status(State(region): State<Arc<Region>>) -> Json<RegionStatus> {
    Json(region.status())
}

async fn control(State(region): State<Arc<Region>>) -> Json<ControlStatus> {
    Json(region.control().status(region.name()))
}

async fn switchover(
    State(region): State<Arc<Region>>,
    Json(request): Json<SwitchoverRequest>,
) -> Json<SwitchoverAnswer> {
    Json(region.control().switchover(&request))
}

async fn failover(
    State(region): State<Arc<Region>>,
    Json(request): Json<FailoverRequest>,
) -> Result<String, (StatusCode, String)> {
    region.control().failover(&request).map_err(|why| (StatusCode::CONFLICT, why))
}

async fn change(
    State(region): State<Arc<Region>>,
    Json(change): Json<TopologyChange>,
) -> Result<(), (StatusCode, String)> {
    region.control().change(change).map_err(|why| (StatusCode::CONFLICT, why))
}

async fn reload(State(region): State<Arc<Region>>) -> Result<Json<Reloaded>, (StatusCode, String)> {
    region.reload().map(Json).map_err(|why| (StatusCode::CONFLICT, why))
}

async fn rebuild(State(region): State<Arc<Region>>) -> Result<(), (StatusCode, String)> {
    region.control().rebuild().map_err(|why| (StatusCode::CONFLICT, why))
}
