//! A small HTTP client over unix sockets.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use pangea_base::RegionId;
use pangea_node::RegionStatus;
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

pub(crate) async fn call<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<Vec<u8>>,
) -> Result<T, HttpError> {
    let exchange = |problem: String| HttpError::Exchange { socket: socket.to_owned(), problem };
    tokio::time::timeout(TIMEOUT, call_unbounded(socket, method, path, body))
        .await
        .unwrap_or_else(|_| Err(exchange(format!("none within {TIMEOUT:?}"))))
}

async fn call_unbounded<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<Vec<u8>>,
) -> Result<T, HttpError> {
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
    serde_json::from_slice(&bytes).map_err(|error| exchange(error.to_string()))
}
