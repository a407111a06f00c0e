//! A connection that is waited for.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pangea_pgwire::ErrorFields;
use tokio::sync::oneshot;

use super::{Lease, PoolClient, PooledServer, Profile, Turn, connect};
use crate::links::is_quiet;

/// A place in the queue of a pool, and what comes of it: it is polled for a connection. Nothing of it is a future on the
/// heap before a connection has to be opened: with more clients than connections each transaction has one.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(super) client: PoolClient,
    pub(super) wait: Wait,
}

/// What is waited for.
pub(super) enum Wait {
    /// That it is this one's turn.
    Turn(oneshot::Receiver<Turn>),
    /// That a connection is opened.
    Opening(Pin<Box<dyn Future<Output = Result<PooledServer, ErrorFields>> + Send>>),
}

impl fmt::Debug for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Turn(_) => "Turn",
            Self::Opening(_) => "Opening",
        })
    }
}

impl Wait {
    /// For a connection in a place that there is.
    pub(super) fn opening(profile: &Arc<Profile>, lease: Lease) -> Self {
        let profile = profile.clone();
        Self::Opening(Box::pin(async move {
            let (stream, state, welcome) = connect::open(&profile.route, &profile.startup).await?;
            *profile.welcome() = Some(Arc::new(welcome));
            Ok(PooledServer { stream, state, lease })
        }))
    }
}

impl Future for Ticket {
    type Output = Result<PooledServer, ErrorFields>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let lease = match &mut self.wait {
                Wait::Opening(opening) => return opening.as_mut().poll(cx),
                Wait::Turn(turn) => match ready!(Pin::new(turn).poll(cx)) {
                    Ok(Turn::Server(mut server)) => match is_quiet(&mut server.stream) {
                        true => return Poll::Ready(Ok(server)),
                        false => server.lease,
                    },
                    Ok(Turn::Place(lease)) => lease,
                    Err(_) => return Poll::Ready(Err(self.client.waited())),
                },
            };
            self.wait = Wait::opening(&self.client.profile, lease);
        }
    }
}
