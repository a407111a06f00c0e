//! One member of etcd: its connection, and what its failures say about a request.

use std::error::Error as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream::Stream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::error::chain;

/// Asks a member that sees no leader to say so at once. Without it a request waits there for one.
const REQUIRE_LEADER: (&str, &str) = ("hasleader", "true");

/// Name of the header that carries a token.
const TOKEN: &str = "token";

pub(super) type Token = MetadataValue<Ascii>;

/// What became of a request.
#[derive(Debug)]
pub(super) enum Failure {
    /// Certainly not done: the member was not reached, or cannot do it now. Another one may.
    Away(String),
    /// Certainly not done: the token has expired, or one is needed.
    Token(String),
    /// Certainly not done, and no member will do it.
    Refused(String),
    /// Sent, and how it ended is not known.
    Lost(String),
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    endpoint: Endpoint,
    /// The connection, once there was one. It connects again by itself, except where a request timed out on it:
    /// the system notices a host that is gone only after minutes.
    channel: Mutex<Option<Channel>>,
}

impl Member {
    pub(super) fn new(name: String, endpoint: Endpoint) -> Self {
        Self { name, endpoint, channel: Mutex::new(None) }
    }

    /// One request, one answer.
    pub(super) async fn call<Q, A>(
        &self,
        method: &'static str,
        message: Q,
        token: Option<&Token>,
        limit: Duration,
    ) -> Result<A, Failure>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.ready(limit).await?;
        let request = labelled(message, token);
        let path = PathAndQuery::from_static(method);
        let answer = grpc.unary(request, path, ProstCodec::<Q, A>::default());
        match timeout(limit, answer).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(classify(&status)),
            Err(_) => {
                self.disconnect();
                Err(Failure::Lost(format!("no answer within {limit:?}")))
            }
        }
    }

    /// A stream of requests, a stream of answers. The limit is for its beginning.
    pub(super) async fn stream<Q, A>(
        &self,
        method: &'static str,
        messages: impl Stream<Item = Q> + Send + 'static,
        token: Option<&Token>,
        limit: Duration,
    ) -> Result<Streaming<A>, Failure>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.ready(limit).await?;
        let request = labelled(messages, token);
        let path = PathAndQuery::from_static(method);
        let answers = grpc.streaming(request, path, ProstCodec::<Q, A>::default());
        match timeout(limit, answers).await {
            Ok(Ok(answers)) => Ok(answers.into_inner()),
            Ok(Err(status)) => Err(classify(&status)),
            Err(_) => Err(Failure::Lost(format!("no stream within {limit:?}"))),
        }
    }

    async fn ready(&self, limit: Duration) -> Result<Grpc<Channel>, Failure> {
        let mut grpc = Grpc::new(self.channel(limit).await?);
        let why = match timeout(limit, grpc.ready()).await {
            Ok(Ok(())) => return Ok(grpc),
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("not ready within {limit:?}"),
        };
        self.disconnect();
        Err(Failure::Away(why))
    }

    /// Connecting is a step of its own, so that a request that waited for a connection is known not to be sent.
    async fn channel(&self, limit: Duration) -> Result<Channel, Failure> {
        if let Some(channel) = self.slot().as_ref() {
            return Ok(channel.clone());
        }
        match timeout(limit, self.endpoint.connect()).await {
            Ok(Ok(channel)) => {
                *self.slot() = Some(channel.clone());
                Ok(channel)
            }
            Ok(Err(error)) => Err(Failure::Away(chain(&error))),
            Err(_) => Err(Failure::Away(format!("no connection within {limit:?}"))),
        }
    }

    fn disconnect(&self) {
        *self.slot() = None;
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Channel>> {
        // Nothing panics while it is held, and a stale connection would do no harm.
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn labelled<T>(message: T, token: Option<&Token>) -> Request<T> {
    let mut request = Request::new(message);
    let (name, value) = REQUIRE_LEADER;
    request.metadata_mut().insert(name, Token::from_static(value));
    if let Some(token) = token {
        request.metadata_mut().insert(TOKEN, token.clone());
    }
    request
}

/// What a status says. In doubt a request is lost: a write counted as not done that was done would be written
/// twice.
fn classify(status: &Status) -> Failure {
    // A status with a source was made here, of a failure of the transport; one without came from the member.
    let mut source = status.source();
    if source.is_some() {
        while let Some(error) = source {
            if error.is::<ConnectError>() {
                return Failure::Away(chain(error));
            }
            source = error.source();
        }
        return Failure::Lost(chain(status));
    }
    let text = status.message().to_owned();
    let says = |words: &str| text.contains(words);
    match status.code() {
        Code::Unauthenticated => Failure::Token(text),
        // Auth was enabled, or a user changed, since the token was got (or not got).
        Code::InvalidArgument if says("user name is empty") || says("revision of auth store is old") => {
            Failure::Token(text)
        }
        Code::InvalidArgument
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::NotFound
        | Code::AlreadyExists
        | Code::OutOfRange
        | Code::Unimplemented => Failure::Refused(text),
        // Too many requests, or the quota of its database; both are found before a write is proposed or when it is
        // applied to nothing.
        Code::ResourceExhausted => Failure::Away(text),
        // Said by the check that REQUIRE_LEADER asks for, before anything else.
        Code::Unavailable if says("etcdserver: no leader") => Failure::Away(text),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Failure::Lost(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_certain_counts_as_not_done() {
        let lost = [
            Status::unavailable("etcdserver: request timed out"),
            Status::unavailable("etcdserver: request timed out, possibly due to previous leader failure"),
            Status::unavailable("etcdserver: server stopped"),
            Status::deadline_exceeded("context deadline exceeded"),
            Status::internal("stream terminated by RST_STREAM"),
            Status::unknown("raft: stopped"),
            Status::cancelled("h2 protocol error"),
            Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset))),
        ];
        for status in lost {
            assert!(matches!(classify(&status), Failure::Lost(_)), "{status}");
        }
        let away = [
            Status::unavailable("etcdserver: no leader"),
            Status::resource_exhausted("etcdserver: mvcc: database space exceeded"),
            Status::resource_exhausted("etcdserver: too many requests"),
            Status::from_error(Box::new(ConnectError("refused".into()))),
        ];
        for status in away {
            assert!(matches!(classify(&status), Failure::Away(_)), "{status}");
        }
        let token = [
            Status::unauthenticated("etcdserver: invalid auth token"),
            Status::invalid_argument("etcdserver: user name is empty"),
            Status::invalid_argument("etcdserver: revision of auth store is old"),
        ];
        for status in token {
            assert!(matches!(classify(&status), Failure::Token(_)), "{status}");
        }
        let denied = Status::permission_denied("etcdserver: permission denied");
        assert!(matches!(classify(&denied), Failure::Refused(_)));
    }
}
