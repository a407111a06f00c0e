//! The region's own PostgreSQL servers, on their unix sockets.

use std::io;
use std::path::{Path, PathBuf};

use pangea_pgwire::startup::CancelKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::stream::Stream;

/// Where a server listens: PostgreSQL names its socket by its port.
pub(crate) fn socket_path(dir: &Path) -> PathBuf {
    dir.join(".s.PGSQL.5432")
}

/// Opens a connection to the server whose socket is in `dir`.
pub(crate) async fn connect(dir: &Path) -> io::Result<Stream> {
    UnixStream::connect(socket_path(dir)).await.map(Stream::Unix)
}

/// Passes a cancel request on and waits until the server has taken it: it closes the connection then.
pub(crate) async fn cancel(mut server: Stream, key: &CancelKey) -> io::Result<()> {
    let mut packet = bytes::BytesMut::new();
    key.write_request(&mut packet);
    server.write_all(&packet).await?;
    let mut nothing = [0; 1];
    server.read(&mut nothing).await.map(|_| ())
}

/// Settings of the connections that the gateway opens for itself, as superuser.
pub(crate) fn admin_config(dir: &Path, database: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host_path(dir).user("postgres").dbname(database).application_name("pangea");
    config
}
