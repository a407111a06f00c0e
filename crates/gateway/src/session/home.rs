//! Where a session begins: the connection to its home server.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use pangea_base::Epoch;
use pangea_pgwire::startup::Startup;
use pangea_pgwire::{ErrorFields, SqlState};
use pangea_session::Access;
use tokio::time::{Instant, sleep, timeout_at};

use crate::endpoint::{Endpoint, unreachable};
use crate::links::{Kind, Route};
use crate::position::PositionWatch;
use crate::shared::Shared;
use crate::stream::Stream;

use super::PRIMARY_PAUSE;

/// Longest wait of a statement, or of a new client, for a primary that is away or being moved.
pub(crate) const PRIMARY_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a session begins.
pub(super) struct Home {
    pub(super) access: Access,
    pub(super) epoch: Epoch,
    pub(super) reader: Reader,
    pub(super) primary_route: Route,
    pub(super) entered: Option<Entered>,
}

/// Leave to use the primary, given back when it is dropped.
pub(super) struct Entered(Option<Arc<Shared>>);

impl Entered {
    /// The session gives it back.
    pub(super) fn hand_over(mut self) {
        self.0 = None;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.gate.leave();
        }
    }
}

/// Which servers sessions on an endpoint use.
pub(super) fn access(shared: &Shared, endpoint: Endpoint) -> Access {
    match endpoint {
        Endpoint::Cluster if shared.is_primary() => Access::Primary,
        Endpoint::Cluster => Access::Split,
        Endpoint::Writer => Access::Primary,
        Endpoint::Reader => Access::Local,
    }
}

/// Start-up messages for the local server and for the primary.
pub(super) fn startups(
    access: Access,
    local: &Route,
    primary: &Route,
    client: &Startup,
) -> (Startup, Startup) {
    let (mut local, mut primary) =
        (local.startup(client, Kind::Session), primary.startup(client, Kind::Session));
    if access == Access::Local {
        super::read_only(&mut local);
        super::read_only(&mut primary);
    }
    (local, primary)
}

/// Connects a new client to its home server. While the primary is being moved, or is away, it is waited for.
pub(super) async fn open_home(shared: &Arc<Shared>, endpoint: Endpoint) -> Result<Home, ErrorFields> {
    let deadline = Instant::now() + PRIMARY_TIMEOUT;
    loop {
        let epoch = shared.gate.now().epoch;
        let access = access(shared, endpoint);
        let mut entered = None;
        if access == Access::Primary {
            let _ = timeout_at(deadline, shared.gate.entered())
                .await
                .ok()
                .filter(|got| *got)
                .ok_or_else(moving)?;
            entered = Some(Entered(Some(shared.clone())));
            if shared.gate.now().epoch != epoch {
                continue;
            }
        }
        let (primary_route, local_route) = (shared.primary_route(), shared.local_route());
        let home = if access == Access::Primary { &primary_route } else { &local_route };
        let opened = match access {
            Access::Local => open_reader(shared.clone()).await,
            Access::Split | Access::Primary => {
                let (route, position) = (local_route.clone(), shared.position.clone());
                home.open().await.map(|stream| Reader { stream, route, position })
            }
        };
        match opened {
            Ok(reader) => return Ok(Home { access, epoch, reader, primary_route, entered }),
            // Before the topology is known nobody can say whether there is anything to wait for.
            Err(error) if Instant::now() >= deadline || epoch == Epoch(0) => {
                return Err(unreachable(home, &error));
            }
            Err(_) => {
                drop(entered);
                sleep(PRIMARY_PAUSE).await;
            }
        }
    }
}

/// A connection to a server that serves reads.
pub(super) struct Reader {
    pub(super) stream: Stream,
    pub(super) route: Route,
    pub(super) position: Arc<PositionWatch>,
}

/// A connection to the next reader that takes one; without any, to the region's own server.
pub(super) async fn open_reader(shared: Arc<Shared>) -> io::Result<Reader> {
    for (route, position) in shared.readers_in_turn() {
        match route.open().await {
            Ok(stream) => return Ok(Reader { stream, route, position }),
            Err(error) => tracing::debug!(%error, "a reader does not take a session"),
        }
    }
    let (route, position) = (shared.local_route(), shared.position.clone());
    Ok(Reader { stream: route.open().await?, route, position })
}

/// The error of a statement that has waited for the primary in vain.
pub(super) fn moving() -> ErrorFields {
    let text = format!("the primary did not become available within {} s", PRIMARY_TIMEOUT.as_secs());
    ErrorFields::error(SqlState::CANNOT_CONNECT_NOW, text)
        .with_detail("Nothing was executed.")
        .with_hint("Try again. `pangea status` tells which region is primary and what keeps it.")
}
