//! A small HTTP client over unix sockets.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use pangea_base::RegionId;
use pangea_control::{SwitchoverRequest, TopologyChange};
use pangea_node::{ControlStatus, FailoverRequest, RegionStatus, Reloaded, SwitchoverAnswer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::layout::Layout;

/// An answer takes microseconds; a process that is stuck must not make its caller stuck.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer: eleven regions' links are some tens of kilobytes.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nobody listens, or it is not for us.
    #[error("nothing answers on {socket}")]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The exchange failed.
    #[error("{socket} gave no usable answer: {problem}")]
    Exchange {
        /// The socket.
        socket: PathBuf,
        /// What happened.
        problem: String,
    },
    /// The answer is a refusal.
    #[error("{0}")]
    Refused(String),
}

/// The status of a region, asked of its process.
///
/// # Errors
/// When it does not answer.
pub async fn region_status(layout: &Layout, region: &RegionId) -> Result<RegionStatus, HttpError> {
    call(&layout.status_socket(region), Method::GET, "/v1/status", None).await
}

/// The control plane as a region sees it, asked of its process.
///
/// # Errors
/// When it does not answer.
pub async fn region_control(layout: &Layout, region: &RegionId) -> Result<ControlStatus, HttpError> {
    call(&layout.status_socket(region), Method::GET, "/v1/control", None).await
}

/// Asks a region, which has to be the primary, for a switchover.
///
/// # Errors
/// When it does not answer. A check that does not pass is an answer.
pub async fn request_switchover(
    layout: &Layout,
    region: &RegionId,
    request: &SwitchoverRequest,
) -> Result<SwitchoverAnswer, HttpError> {
    call(&layout.status_socket(region), Method::POST, "/v1/switchover", Some(json(request)?)).await
}

/// Asks a region to take over; its answer says what is known about what is lost.
///
/// # Errors
/// When it does not answer, or refuses.
pub async fn request_failover(
    layout: &Layout,
    region: &RegionId,
    request: &FailoverRequest,
) -> Result<String, HttpError> {
    let socket = layout.status_socket(region);
    let answer = exchange(&socket, Method::POST, "/v1/failover", Some(json(request)?)).await?;
    Ok(String::from_utf8_lossy(&answer).trim().to_owned())
}

/// Asks for a change of the topology, by way of any region. It is made later: look for it.
///
/// # Errors
/// When the region does not answer, or refuses.
pub async fn request_change(
    layout: &Layout,
    region: &RegionId,
    change: &TopologyChange,
) -> Result<(), HttpError> {
    let socket = layout.status_socket(region);
    exchange(&socket, Method::POST, "/v1/change", Some(json(change)?)).await.map(drop)
}

/// Asks a region to make the data of its server anew. It is done later: look for it.
///
/// # Errors
/// When the region does not answer, or refuses.
pub async fn request_rebuild(layout: &Layout, region: &RegionId) -> Result<(), HttpError> {
    exchange(&layout.status_socket(region), Method::POST, "/v1/rebuild", None).await.map(drop)
}

/// Has a region read its configuration again.
///
/// # Errors
/// When the region does not answer, or cannot use it.
pub async fn request_reload(layout: &Layout, region: &RegionId) -> Result<Reloaded, HttpError> {
    call(&layout.status_socket(region), Method::POST, "/v1/reload", None).await
}

pub(crate) fn json(value: &impl Serialize) -> Result<Vec<u8>, HttpError> {
    serde_json::to_vec(value).map_err(|error| HttpError::Refused(error.to_string()))
}

pub(crate) async fn call<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<Vec<u8>>,
) -> Result<T, HttpError> {
    call_within(TIMEOUT, socket, method, path, body).await
}

/// The same with patience for something that takes its time.
pub(crate) async fn call_within<T: DeserializeOwned>(
    longest: Duration,
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<Vec<u8>>,
) -> Result<T, HttpError> {
    let bytes = exchange_within(longest, socket, method, path, body).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| HttpError::Exchange { socket: socket.to_owned(), problem: error.to_string() })
}

/// The body of an answer, within [`TIMEOUT`].
async fn exchange(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<Vec<u8>>,
) -> Result<Bytes, HttpError> {
    exchange_within(TIMEOUT, socket, method, path, body).await
}

async fn exchange_within(
    longest: Duration,
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<Vec<u8>>,
) -> Result<Bytes, HttpError> {
    let late = |_| {
        let problem = format!("none within {longest:?}");
        Err(HttpError::Exchange { socket: socket.to_owned(), problem })
    };
    tokio::time::timeout(longest, exchange_unbounded(socket, method, path, body)).await.unwrap_or_else(late)
}

async fn exchange_unbounded(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<Vec<u8>>,
) -> Result<Bytes, HttpError> {
    let exchange = |problem: String| HttpError::Exchange { socket: socket.to_owned(), problem };
    let failed = |error: hyper::Error| exchange(error.to_string());
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| HttpError::Connect { socket: socket.to_owned(), source })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "pangea")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.unwrap_or_default())))
        .map_err(|error| exchange(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(failed)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    connection.abort();
    let bytes = body.map_err(|error| exchange(error.to_string()))?.to_bytes();
    if !status.is_success() {
        return Err(HttpError::Refused(String::from_utf8_lossy(&bytes).trim().to_owned()));
    }
    Ok(bytes)
}
