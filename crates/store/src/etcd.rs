//! The store in etcd: two keys below a prefix, whose versions are etcd's modification revisions.
//!
//! A load is one read-only transaction over both keys, which etcd answers linearizably. A write is one transaction
//! that compares modification revisions. It is sent once: if it is not answered, or answered with an error that
//! leaves the outcome open, the caller gets [`StoreError::Unknown`]; another member is tried only while the write has
//! certainly not begun. Each attempt has a third of the request timeout, so that a member that hangs leaves time for
//! two others; the member that answered last is asked first.
//!
//! [`Etcd::changed`] watches, from the revision of a load of its own, so that compaction cannot hide anything. A
//! member that hangs or is cut off from the majority says nothing; therefore it loads again every
//! [`RECHECK_INTERVAL`].
//!
//! It speaks gRPC, over tonic, with a few messages written by hand. Rejected: etcd's JSON gateway, which needs less
//! code here but is off wherever etcd 3.4 is configured by a file, and with `client-cert-auth` needs server
//! certificates that are client certificates too; and the crate etcd-client, which needs `protoc` to build and
//! leaves to its user what is most of this module (failover, renewal of tokens, lost or not).

mod login;
mod member;
mod rpc;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::error::chain;
use crate::{Document, Key, Outcome, Snapshot, StoreError, Version, Write};
use login::{Login, Pass};
use member::{Failure, Member};
use rpc::{
    Compare, CompareTarget, PutRequest, RangeRequest, Request, RequestOp, TxnRequest, TxnResponse,
    WatchCreateRequest, WatchRequest, WatchResponse,
};

/// Attempts that fit into the request timeout if each of them times out.
const ATTEMPTS: u32 = 3;

/// Shortest request timeout: below it an attempt is shorter than a round trip over an ocean.
pub(crate) const REQUEST_TIMEOUT_MS_MIN: u64 = 100;

/// Members that are configured at most. etcd recommends up to seven.
pub(crate) const MEMBERS_MAX: usize = 32;

/// How long a watch is trusted: the longest that a change goes unnoticed when the member watched has stopped
/// answering, request timeout aside. Costs two reads a second for each caller that waits.
const RECHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Pause after a load or a watch failed.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Finds out that a host is gone while nothing is asked of it.
const TCP_KEEPALIVE: Duration = Duration::from_secs(10);

/// [`crate::StoreConfig::Etcd`], borrowed.
pub(crate) struct Options<'a> {
    pub(crate) endpoints: &'a [String],
    pub(crate) prefix: &'a str,
    pub(crate) ca: Option<&'a Path>,
    pub(crate) cert: Option<&'a Path>,
    pub(crate) key: Option<&'a Path>,
    pub(crate) user: Option<&'a str>,
    pub(crate) password_file: Option<&'a Path>,
    pub(crate) request_timeout: Duration,
}

pub(crate) struct Etcd {
    members: Vec<Member>,
    /// Index of the member that is asked first. Only ever below the number of members.
    preferred: AtomicUsize,
    prefix: String,
    login: Option<Login>,
    request_timeout: Duration,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members: Vec<_> = self.members.iter().map(|member| &member.name).collect();
        f.debug_struct("Etcd")
            .field("members", &members)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// Whether a request that was lost may be made again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Harmless,
    Never,
}

/// What is left of the request timeout.
#[derive(Clone, Copy)]
struct Budget {
    deadline: Instant,
    attempt: Duration,
}

impl Budget {
    /// The limit of the next step; `None` when the time is over.
    fn limit(self) -> Option<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left.min(self.attempt))
    }

    /// As `limit`, inside an attempt.
    fn step(self) -> Result<Duration, Failure> {
        self.limit().ok_or_else(|| Failure::Away("no time left".to_owned()))
    }
}

impl Etcd {
    pub(crate) fn open(options: &Options<'_>) -> Result<Self, StoreError> {
        let invalid = |why: String| Err(StoreError::Invalid(why));
        let count = options.endpoints.len();
        if count == 0 || count > MEMBERS_MAX {
            return invalid(format!(
                "{count} etcd endpoints are configured, 1 to {MEMBERS_MAX} are possible"
            ));
        }
        if options.request_timeout < Duration::from_millis(REQUEST_TIMEOUT_MS_MIN) {
            return invalid(format!("request_timeout_ms is less than {REQUEST_TIMEOUT_MS_MIN}"));
        }
        let login = match (options.user, options.password_file) {
            (Some(user), Some(password_file)) => Some(Login::new(user, password_file)?),
            (None, None) => None,
            _ => return invalid("user and password_file go together".to_owned()),
        };
        let tls = tls(options)?;
        let member = |name: &String| {
            let endpoint = endpoint(name, tls.as_ref())
                .map_err(|why| StoreError::Invalid(format!("etcd endpoint {name:?}: {why}")))?;
            Ok(Member::new(name.clone(), endpoint))
        };
        let members = options.endpoints.iter().map(member).collect::<Result<_, _>>()?;
        Ok(Self {
            members,
            preferred: AtomicUsize::new(0),
            prefix: options.prefix.to_owned(),
            login,
            request_timeout: options.request_timeout,
        })
    }

    pub(crate) async fn load(&self) -> Result<Snapshot, StoreError> {
        Ok(self.read().await?.0)
    }

    pub(crate) async fn write(&self, write: &Write) -> Result<Outcome, StoreError> {
        let compare = |&(key, version): &(Key, Version)| {
            let mod_revision = i64::try_from(version.0).map_err(|_| {
                StoreError::Invalid(format!("{key} cannot have version {}: that is no revision", version.0))
            })?;
            let target = CompareTarget::Mod.into();
            Ok(Compare { target, key: self.key(key), mod_revision: Some(mod_revision) })
        };
        let put = |(key, value): &(Key, Vec<u8>)| {
            let put = PutRequest { key: self.key(*key), value: value.clone() };
            RequestOp { request: Some(Request::Put(put)) }
        };
        let request = TxnRequest {
            compare: write.expect.iter().map(compare).collect::<Result<_, _>>()?,
            success: write.put.iter().map(put).collect(),
        };
        let answer = self.transact(&request, Repeat::Never).await?;
        Ok(if answer.succeeded { Outcome::Done } else { Outcome::Conflict })
    }

    /// Returns when the store differs from `seen`; never, while it cannot be read.
    pub(crate) async fn changed(&self, seen: &Snapshot) {
        loop {
            match self.read().await {
                Ok((now, _)) if !now.same_versions(seen) => return,
                Ok((_, revision)) => {
                    match timeout(RECHECK_INTERVAL, self.watch(revision.saturating_add(1))).await {
                        Ok(Ok(())) => return,
                        Ok(Err(reason)) => {
                            tracing::debug!(reason, "a watch of etcd ended");
                            sleep(RETRY_PAUSE).await;
                        }
                        Err(_) => {}
                    }
                }
                // Whoever called loads next, and is told.
                Err(_) => sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// Both documents and the revision of the store they were read at.
    async fn read(&self) -> Result<(Snapshot, i64), StoreError> {
        let range = |key| RequestOp { request: Some(Request::Range(RangeRequest { key: self.key(key) })) };
        let request = TxnRequest { compare: Vec::new(), success: Key::ALL.map(range).into() };
        let answer = self.transact(&request, Repeat::Harmless).await?;
        let strange = |what: &str| StoreError::Invalid(format!("the answer of etcd has {what}"));
        if answer.responses.len() != Key::ALL.len() {
            return Err(strange("another number of parts than the request"));
        }
        let mut snapshot = Snapshot::default();
        for (key, response) in Key::ALL.into_iter().zip(answer.responses) {
            let range = response.range.ok_or_else(|| strange("no range for a range"))?;
            let Some(found) = range.kvs.into_iter().next() else { continue };
            let version = u64::try_from(found.mod_revision).map_err(|_| strange("a negative revision"))?;
            snapshot.set(key, Document { version: Version(version), value: found.value });
        }
        let header = answer.header.ok_or_else(|| strange("no header"))?;
        Ok((snapshot, header.revision))
    }

    /// Returns at the first event of a key since `start_revision`; the error says why there will be none.
    async fn watch(&self, start_revision: i64) -> Result<(), String> {
        let Some((_, member)) = self.in_order().next() else { return Err("no member".to_owned()) };
        let create =
            |key| WatchRequest { create: Some(WatchCreateRequest { key: self.key(key), start_revision }) };
        // A half-closed stream is one that some proxies end.
        let requests = stream::iter(Key::ALL.map(create)).chain(stream::pending());
        let limit = self.attempt_timeout();
        let said = |failure: Failure| format!("{failure:?}");
        let pass = match &self.login {
            Some(login) => Some(login.pass(member, None, limit).await.map_err(said)?),
            None => None,
        };
        let token = pass.as_ref().and_then(Pass::token);
        let mut answers =
            member.stream::<_, WatchResponse>(rpc::WATCH, requests, token, limit).await.map_err(said)?;
        loop {
            match answers.message().await {
                Ok(Some(answer)) if !answer.events.is_empty() => return Ok(()),
                Ok(Some(answer)) if answer.canceled => return Err(answer.cancel_reason),
                Ok(Some(_)) => {}
                Ok(None) => return Err("closed".to_owned()),
                Err(status) => return Err(chain(&status)),
            }
        }
    }

    /// One transaction, with failover between members.
    async fn transact(&self, request: &TxnRequest, repeat: Repeat) -> Result<TxnResponse, StoreError> {
        let budget =
            Budget { deadline: Instant::now() + self.request_timeout, attempt: self.attempt_timeout() };
        let mut reasons = Vec::new();
        for (at, member) in self.in_order() {
            if budget.limit().is_none() {
                break;
            }
            let reason = match self.attempt(member, request, budget).await {
                Ok(answer) => {
                    self.preferred.store(at, Relaxed);
                    return Ok(answer);
                }
                Err(Failure::Refused(why) | Failure::Token(why)) => {
                    return Err(StoreError::Invalid(format!("etcd at {} refuses: {why}", member.name)));
                }
                Err(Failure::Lost(why)) if repeat == Repeat::Never => {
                    self.avoid(at);
                    return Err(StoreError::Unknown(format!("etcd at {}: {why}", member.name)));
                }
                Err(Failure::Away(why) | Failure::Lost(why)) => why,
            };
            self.avoid(at);
            reasons.push(format!("etcd at {}: {reason}", member.name));
        }
        Err(StoreError::Unavailable(reasons.join("; ")))
    }

    /// One member, with a new token if the present one has expired.
    async fn attempt(
        &self,
        member: &Member,
        request: &TxnRequest,
        budget: Budget,
    ) -> Result<TxnResponse, Failure> {
        let Some(login) = &self.login else {
            return member.call(rpc::TXN, request.clone(), None, budget.step()?).await;
        };
        let pass = login.pass(member, None, budget.step()?).await?;
        match member.call(rpc::TXN, request.clone(), pass.token(), budget.step()?).await {
            Err(Failure::Token(_)) => {}
            // Users have been enabled since, and etcd took the name in the client certificate for one.
            Err(Failure::Refused(_)) if pass == Pass::NotNeeded => {}
            other => return other,
        }
        let renewed = login.pass(member, Some(&pass), budget.step()?).await?;
        member.call(rpc::TXN, request.clone(), renewed.token(), budget.step()?).await
    }

    /// Every member with its index, the preferred one first.
    fn in_order(&self) -> impl Iterator<Item = (usize, &Member)> {
        let first = self.preferred.load(Relaxed);
        self.members.iter().enumerate().cycle().skip(first).take(self.members.len())
    }

    /// The next request does not begin with this member.
    fn avoid(&self, at: usize) {
        self.preferred.store((at + 1) % self.members.len(), Relaxed);
    }

    fn attempt_timeout(&self) -> Duration {
        self.request_timeout / ATTEMPTS
    }

    fn key(&self, key: Key) -> Vec<u8> {
        format!("{}{}", self.prefix, key.name()).into_bytes()
    }
}

/// What `https` endpoints are reached with, if there is an authority.
fn tls(options: &Options<'_>) -> Result<Option<ClientTlsConfig>, StoreError> {
    let read = |path: &Path| {
        std::fs::read(path)
            .map_err(|error| StoreError::Invalid(format!("cannot read {}: {error}", path.display())))
    };
    let Some(ca) = options.ca else {
        return match (options.cert, options.key) {
            (None, None) => Ok(None),
            _ => Err(StoreError::Invalid("a client certificate without `ca` is never used".to_owned())),
        };
    };
    let authority = read(ca)?;
    // Without this a file of something else is an authority that signed nothing.
    if !matches!(CertificateDer::pem_slice_iter(&authority).next(), Some(Ok(_))) {
        return Err(StoreError::Invalid(format!("{} holds no certificate", ca.display())));
    }
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority));
    match (options.cert, options.key) {
        (Some(cert), Some(key)) => Ok(Some(tls.identity(Identity::from_pem(read(cert)?, read(key)?)))),
        (None, None) => Ok(Some(tls)),
        _ => Err(StoreError::Invalid("`cert` and `key` go together".to_owned())),
    }
}

/// Whether a member can be named like this.
pub(crate) fn check_endpoint(name: &str, with_authority: bool) -> Result<(), String> {
    let tls = with_authority.then(ClientTlsConfig::new);
    endpoint(name, tls.as_ref()).map(drop)
}

fn endpoint(name: &str, tls: Option<&ClientTlsConfig>) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(name.to_owned()).map_err(|error| chain(&error))?;
    let endpoint = endpoint.tcp_keepalive(Some(TCP_KEEPALIVE));
    let uri = endpoint.uri();
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    if host.is_empty() || !matches!(uri.path(), "" | "/") {
        return Err("expected http://host:port or https://host:port".to_owned());
    }
    match (uri.scheme_str(), tls) {
        (Some("http"), _) => Ok(endpoint),
        (Some("https"), Some(tls)) => {
            endpoint.tls_config(tls.clone().domain_name(host)).map_err(|error| chain(&error))
        }
        (Some("https"), None) => Err("https needs `ca`".to_owned()),
        _ => Err("expected http://host:port or https://host:port".to_owned()),
    }
}
