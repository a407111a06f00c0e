//! The supervisor's socket: the WAN emulator's controls.

use std::path::Path;
use std::sync::Arc;

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
use crate::http::{HttpError, call};
use crate::layout::Layout;
use crate::wan::{Change, Link, LinkStatus, Wan, WanError};

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

/// Listens on `path`. The caller holds the supervisor's lock, so a socket that is there is nobody's.
pub(crate) fn start(path: &Path, wan: Option<Arc<Wan>>) -> Result<JoinHandle<()>, ClusterError> {
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
        .with_state(wan);
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
        act(wan.link(from, to).map_err(refused)?).map_err(refused)?;
    }
    let touched =
        |status: &LinkStatus| ends.iter().any(|(from, to)| status.from == **from && status.to == **to);
    Ok(Json(wan.status().into_iter().filter(touched).collect()))
}

fn emulator(wan: Option<&Arc<Wan>>) -> Result<&Wan, (StatusCode, String)> {
    let problem = "this cluster runs without an emulated WAN: start it with `pangea up --wan aws`";
    wan.map(Arc::as_ref).ok_or_else(|| (StatusCode::CONFLICT, problem.to_owned()))
}
