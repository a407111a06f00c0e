//! Proving who a client is: SCRAM-SHA-256 against the verifier in the region's own `pg_authid`, which replicates.
//!
//! No password and no verifier is kept: each log-in asks the server, so a changed password counts at once.

use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use pangea_pgwire::frame::{HEADER_LEN, frontend_header};
use pangea_pgwire::scram::{MECHANISM, NONCE_LEN, ScramError, ServerExchange, Verifier};
use pangea_pgwire::startup::Startup;
use pangea_pgwire::{ErrorFields, SqlState, build, message};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};

use crate::admin::AdminConnection;
use crate::stream::Stream;

/// Longest wait of a new client for the region's own server.
const SERVER_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause before it is asked again.
const SERVER_PAUSE: Duration = Duration::from_millis(50);

/// Why a client does not get in.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It is told.
    Told(Box<ErrorFields>),
    /// It is gone.
    Gone,
}

impl From<ErrorFields> for Refusal {
    fn from(error: ErrorFields) -> Self {
        Self::Told(Box::new(error))
    }
}

impl From<std::io::Error> for Refusal {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

/// What `pg_authid` says of a role.
enum Role {
    Verifier(Verifier),
    /// No such role, no password, an MD5 password, or an expired one: the reason is for the log only.
    Unusable(&'static str),
}

const ROLE_SQL: &str = "SELECT rolpassword, coalesce(rolvaliduntil < pg_catalog.now(), false) \
     FROM pg_catalog.pg_authid WHERE rolname = $1";

/// Runs the exchange. On success the server's own AuthenticationOk is still to be sent.
pub(crate) async fn scram(
    client: &mut Stream,
    input: &mut BytesMut,
    startup: &Startup,
    admin: &AdminConnection,
    mock_secret: &[u8],
) -> Result<(), Refusal> {
    let user = startup.user();
    let role = look_up(admin, user).await?;
    let (verifier, doomed) = match role {
        Role::Verifier(verifier) => (verifier, None),
        Role::Unusable(why) => (Verifier::mock(user, mock_secret), Some(why)),
    };
    let mut out = BytesMut::new();
    build::authentication_sasl(&mut out, &[MECHANISM]);
    client.write_all(&out).await?;

    let body = password_message(client, input).await?;
    let (mechanism, client_first) =
        message::sasl_initial_response(&body).map_err(|_| violation("invalid SASL message"))?;
    if mechanism != MECHANISM.as_bytes() {
        return Err(violation("client selected an invalid SASL authentication mechanism").into());
    }
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).map_err(|_| internal("could not generate random nonce"))?;
    let (exchange, server_first) =
        ServerExchange::start(verifier, client_first, &nonce).map_err(|error| refusal(error, user))?;
    out.clear();
    build::authentication_sasl_continue(&mut out, server_first.as_bytes());
    client.write_all(&out).await?;

    let body = password_message(client, input).await?;
    let server_final = exchange.finish(&body).map_err(|error| {
        tracing::info!(user, reason = doomed.unwrap_or("wrong password"), "log-in refused");
        refusal(error, user)
    })?;
    if let Some(reason) = doomed {
        tracing::info!(user, reason, "log-in refused");
        return Err(refusal(ScramError::Proof, user).into());
    }
    out.clear();
    build::authentication_sasl_final(&mut out, server_final.as_bytes());
    client.write_all(&out).await?;
    Ok(())
}

async fn look_up(admin: &AdminConnection, user: &str) -> Result<Role, Refusal> {
    let deadline = Instant::now() + SERVER_TIMEOUT;
    let rows = loop {
        match admin.query(ROLE_SQL, &[&user]).await {
            Ok(rows) => break rows,
            // It starts again when the primary moves, and after a crash.
            Err(_) if Instant::now() < deadline => sleep(SERVER_PAUSE).await,
            Err(error) => {
                tracing::warn!(%error, "cannot read pg_authid");
                let text = "the region's database server is not available";
                return Err(ErrorFields::fatal(SqlState::CANNOT_CONNECT_NOW, text)
                    .with_detail("Its roles cannot be read, so nobody can be authenticated.")
                    .with_hint("Try again in a moment, or connect to another region.")
                    .into());
            }
        }
    };
    let Some(row) = rows.first() else { return Ok(Role::Unusable("no such role")) };
    let password: Option<&str> = row.get(0);
    Ok(match (password.map(Verifier::parse), row.get(1)) {
        (None, _) => Role::Unusable("role has no password"),
        (Some(None), _) => Role::Unusable("password is not stored as SCRAM-SHA-256"),
        (_, true) => Role::Unusable("password has expired"),
        (Some(Some(verifier)), false) => Role::Verifier(verifier),
    })
}

/// The body of the client's next message, which has to be a SASL response.
async fn password_message(client: &mut Stream, input: &mut BytesMut) -> Result<BytesMut, Refusal> {
    loop {
        let header = frontend_header(input).map_err(|error| violation(&error.to_string()))?;
        match header {
            Some(header) if header.tag != b'p' => {
                let text = format!("expected SASL response, got message type {}", header.tag);
                return Err(violation(&text).into());
            }
            Some(header) if input.len() >= header.frame_len() => {
                let mut frame = input.split_to(header.frame_len());
                frame.advance(HEADER_LEN);
                return Ok(frame);
            }
            _ => {}
        }
        if client.read_buf(input).await? == 0 {
            return Err(Refusal::Gone);
        }
    }
}

fn refusal(error: ScramError, user: &str) -> ErrorFields {
    match error {
        ScramError::Proof => ErrorFields::fatal(
            SqlState::INVALID_PASSWORD,
            format!("password authentication failed for user \"{user}\""),
        ),
        ScramError::Malformed | ScramError::ChannelBinding | ScramError::Nonce => {
            violation(&error.to_string())
        }
    }
}

fn violation(text: &str) -> ErrorFields {
    ErrorFields::fatal(SqlState::PROTOCOL_VIOLATION, text)
}

fn internal(text: &str) -> ErrorFields {
    ErrorFields::fatal(SqlState::INTERNAL_ERROR, text)
}
