//! A former primary becomes a standby.

use tokio::sync::watch;

use crate::create;
use crate::error::ServerError;
use crate::server::{Orders, Phase};
use crate::settings::ServerSpec;

/// Makes the data directory of a server that was primary, and is stopped, that of a standby.
pub(crate) async fn make_standby(
    spec: &ServerSpec,
    _orders: Orders,
    _phase: &watch::Sender<Phase>,
) -> Result<(), ServerError> {
    create::mark_standby(&spec.pgdata)
}
