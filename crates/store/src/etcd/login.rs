//! A user of etcd and the token it has got.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;

use super::member::{Failure, Member, Token};
use super::rpc::{AUTHENTICATE, AuthenticateRequest, AuthenticateResponse};
use crate::StoreError;

/// What etcd says to a user while it asks nobody for one. As with etcd's own client, that is no error.
const NOT_ENABLED: &str = "authentication is not enabled";

pub(super) struct Login {
    user: String,
    password_file: PathBuf,
    pass: Mutex<Option<Pass>>,
}

/// What the last authentication gave.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Pass {
    Token(Token),
    /// etcd asks nobody for a token.
    NotNeeded,
}

impl Pass {
    pub(super) fn token(&self) -> Option<&Token> {
        match self {
            Self::Token(token) => Some(token),
            Self::NotNeeded => None,
        }
    }
}

impl Login {
    pub(super) fn new(user: &str, password_file: &Path) -> Result<Self, StoreError> {
        read_password(password_file).map_err(StoreError::Invalid)?;
        Ok(Self { user: user.to_owned(), password_file: password_file.to_owned(), pass: Mutex::new(None) })
    }

    /// The present pass, or a new one from `member` if there is none or it is the `expired` one: whoever comes while
    /// another renews it gets what that one got.
    pub(super) async fn pass(
        &self,
        member: &Member,
        expired: Option<&Pass>,
        limit: Duration,
    ) -> Result<Pass, Failure> {
        let renew = async {
            let mut pass = self.pass.lock().await;
            match &*pass {
                Some(present) if Some(present) != expired => Ok(present.clone()),
                _ => {
                    *pass = None;
                    let new = self.authenticate(member, limit).await?;
                    Ok(pass.insert(new).clone())
                }
            }
        };
        let late = |_| Failure::Away(format!("no authentication within {limit:?}"));
        timeout(limit, renew).await.map_err(late)?
    }

    async fn authenticate(&self, member: &Member, limit: Duration) -> Result<Pass, Failure> {
        let password = read_password(&self.password_file).map_err(Failure::Refused)?;
        let request = AuthenticateRequest { name: self.user.clone(), password };
        match member.call::<_, AuthenticateResponse>(AUTHENTICATE, request, None, limit).await {
            Ok(answer) => match Token::try_from(answer.token) {
                Ok(token) => Ok(Pass::Token(token)),
                Err(_) => Err(Failure::Refused("the token is no text".to_owned())),
            },
            Err(Failure::Refused(why)) if why.contains(NOT_ENABLED) => Ok(Pass::NotNeeded),
            // Nothing was written: the request proper has not been sent.
            Err(Failure::Lost(why)) => Err(Failure::Away(why)),
            Err(other) => Err(other),
        }
    }
}

/// Read where it is used, on the runtime: a line of a local file.
fn read_password(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read the password from {}: {error}", path.display()))?;
    Ok(text
        .strip_suffix('\n')
        .map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line))
        .to_owned())
}
