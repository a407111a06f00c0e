//! placeholder
use crate::shared::Shared;
use crate::stream::Stream;
use bytes::BytesMut;
use pangea_pgwire::startup::Startup;
use std::sync::Arc;
pub(crate) async fn run(shared: Arc<Shared>, stream: Stream, input: BytesMut, startup: Startup) {
    let route = shared.primary_route();
    crate::endpoint::relay(shared, stream, input, startup, route, crate::links::Kind::Session).await;
}
