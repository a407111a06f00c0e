//! The supervisor's socket: the WAN emulator's controls, and regions that come and go.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::Method;
use pangea_base::RegionId;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use crate::error::ClusterError;
use crate::http::{HttpError, call, call_within, json};
use crate::layout::Layout;
use crate::manifest::RegionEntry;
use crate::supervised::Supervised;
use crate::wan::{Change, Link, LinkStatus, Wan, WanError};

/// Longest wait for a region to be added or removed: its process may take a minute to stop.
const REGION_TIMEOUT: Duration = Duration::from_secs(90);

/// What to do to a link.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinkChange {
    /// One end.
    pub from: RegionId,
    /// The other.
    pub to: RegionId,
    /// Only from the first to the second, instead of both ways.
    #[serde(default)]
    pub one_way: bool,
    /// What is changed by `set`.
    #[serde(default)]
    pub change: Change,
}

/// Asks the supervisor of a cluster: `show`, `cut`, `restore` or `set`.
///
/// # Errors
/// When there is no supervisor, or it refuses.
pub async fn admin_call(
    layout: &Layout,
    what: &str,
    change: Option<&LinkChange>,
) -> Result<Vec<LinkStatus>, HttpError> {
    let body = change.and_then(|change| serde_json::to_vec(change).ok());
    let method = if body.is_some() { Method::POST } else { Method::GET };
    call(&layout.admin_socket(), method, &format!("/v1/wan/{what}"), body).await
}

/// A region that is to be removed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RegionRemoval {
    /// The region.
    pub region: RegionId,
    /// The primary, which takes its place where it is the one that the cluster began with.
    pub primary: RegionId,
    /// Whether its directory is removed as well.
    pub delete: bool,
}

/// A region that was removed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RegionRemoved {
    /// Where its data lie; `None` when they were removed, too.
    pub kept: Option<PathBuf>,
}

/// Has the supervisor make a region's files and start its process; where that was begun before it goes on with it.
///
/// # Errors
/// When there is no supervisor, or it refuses.
pub async fn add_region(layout: &Layout, region: &RegionId) -> Result<RegionEntry, HttpError> {
    let body = Some(json(region)?);
    call_within(REGION_TIMEOUT, &layout.admin_socket(), Method::POST, "/v1/region/add", body).await
}

/// Has the supervisor stop a region's process and forget it.
///
/// # Errors
/// When there is no supervisor, or it refuses.
pub async fn remove_region(layout: &Layout, removal: &RegionRemoval) -> Result<RegionRemoved, HttpError> {
    let body = Some(json(removal)?);
    call_within(REGION_TIMEOUT, &layout.admin_socket(), Method::POST, "/v1/region/remove", body).await
}

/// Listens on `path`. The caller holds the supervisor's lock, so a socket that is there is nobody's.
pub(crate) fn start(path: &Path, supervised: &Arc<Supervised>) -> Result<JoinHandle<()>, ClusterError> {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(ClusterError::file("remove", path)(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(ClusterError::file("listen on", path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(ClusterError::file("set the mode of", path))?;
    let router = Router::new()
        .route("/v1/wan/show", get(show))
        .route("/v1/wan/cut", post(cut))
        .route("/v1/wan/restore", post(restore))
        .route("/v1/wan/set", post(set))
        .with_state(supervised.wan.clone())
        .merge(
            Router::new()
                .route("/v1/region/add", post(add))
                .route("/v1/region/remove", post(remove))
                // Who drops the cluster without stopping it is to have its processes ended all the same.
                .with_state(Arc::downgrade(supervised)),
        );
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the admin socket is closed");
        }
    }))
}

type Answer = Result<Json<Vec<LinkStatus>>, (StatusCode, String)>;
type Emulator = State<Option<Arc<Wan>>>;

async fn show(State(wan): Emulator) -> Answer {
    Ok(Json(emulator(wan.as_ref())?.status()))
}

async fn cut(State(wan): Emulator, Json(request): Json<LinkChange>) -> Answer {
    apply(wan.as_ref(), &request, |link| {
        link.cut();
        Ok(())
    })
}

async fn restore(State(wan): Emulator, Json(request): Json<LinkChange>) -> Answer {
    apply(wan.as_ref(), &request, |link| {
        link.restore();
        Ok(())
    })
}

async fn set(State(wan): Emulator, Json(request): Json<LinkChange>) -> Answer {
    apply(wan.as_ref(), &request, |link| link.set(request.change))
}

/// Does it to one or both directions and answers with what they are now.
fn apply(
    wan: Option<&Arc<Wan>>,
    request: &LinkChange,
    act: impl Fn(&Link) -> Result<(), WanError>,
) -> Answer {
    let wan = emulator(wan)?;
    let refused = |error: WanError| (StatusCode::BAD_REQUEST, error.to_string());
    let mut ends = vec![(&request.from, &request.to)];
    if !request.one_way {
        ends.push((&request.to, &request.from));
    }
    for (from, to) in &ends {
        act(&wan.link(from, to).map_err(refused)?).map_err(refused)?;
    }
    let touched =
        |status: &LinkStatus| ends.iter().any(|(from, to)| status.from == **from && status.to == **to);
    Ok(Json(wan.status().into_iter().filter(touched).collect()))
}

fn emulator(wan: Option<&Arc<Wan>>) -> Result<&Wan, (StatusCode, String)> {
    let problem = "this cluster runs without an emulated WAN: start it with `pangea up --wan aws`";
    wan.map(Arc::as_ref).ok_or_else(|| (StatusCode::CONFLICT, problem.to_owned()))
}

type Refusal = (StatusCode, String);

async fn add(
    State(supervised): State<Weak<Supervised>>,
    Json(region): Json<RegionId>,
) -> Result<Json<RegionEntry>, Refusal> {
    let supervised = supervised.upgrade().ok_or_else(ending)?;
    to_the_end(async move { supervised.add(&region).await }).await
}

async fn remove(
    State(supervised): State<Weak<Supervised>>,
    Json(removal): Json<RegionRemoval>,
) -> Result<Json<RegionRemoved>, Refusal> {
    let supervised = supervised.upgrade().ok_or_else(ending)?;
    to_the_end(async move { supervised.remove(&removal).await }).await
}

/// Does it to the end though whoever asks goes away.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, ClusterError>> + Send + 'static,
) -> Result<Json<T>, Refusal> {
    match tokio::spawn(work).await {
        Ok(done) => done.map(Json).map_err(|error| refused(&error)),
        Err(_) => Err(ending()),
    }
}

fn ending() -> Refusal {
    (StatusCode::CONFLICT, "the cluster is being stopped: start it again with `pangea up`".to_owned())
}

fn refused(error: &ClusterError) -> Refusal {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    (StatusCode::CONFLICT, format!("{error}{}", source.unwrap_or_default()))
}
