//! SCRAM-SHA-256, as server and as client (RFC 5802, RFC 7677; PostgreSQL documentation, section 53.3.1).
//!
//! As server it proves a client against the verifier that PostgreSQL keeps in `pg_authid`; no password is ever
//! known to it. Nonces are input: this module has no randomness of its own.
//!
//! Channel binding (`SCRAM-SHA-256-PLUS`) is not offered.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// The mechanism's name.
pub const MECHANISM: &str = "SCRAM-SHA-256";

/// Bytes of randomness in a nonce, before it is written in base64: PostgreSQL's `SCRAM_RAW_NONCE_LEN`.
pub const NONCE_LEN: usize = 18;

/// Most iterations that a client accepts from a server: beyond it, the server is asking for a denial of service.
pub const ITERATIONS_MAX: u32 = 10_000_000;

type Key = [u8; 32];

/// Why an exchange fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// The other side's message does not have the form that RFC 5802 gives it.
    #[error("malformed SCRAM message")]
    Malformed,
    /// The client asks for channel binding, which was not offered.
    #[error("unexpected SCRAM channel-binding type in client-first message")]
    ChannelBinding,
    /// A nonce does not go on from the one that was sent.
    #[error("invalid SCRAM response: nonce mismatch")]
    Nonce,
    /// The proof is wrong: not that password, or not that server.
    #[error("SCRAM proof does not match")]
    Proof,
}

/// What is stored of a password: `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verifier({} iterations, ..)", self.iterations)
    }
}

impl Verifier {
    /// Makes the verifier of a password.
    #[must_use]
    pub fn new(password: &str, salt: &[u8], iterations: u32) -> Self {
        let salted = salted_password(password, salt, iterations);
        let stored_key = Sha256::digest(hmac(&salted, &[b"Client Key"])).into();
        Self { iterations, salt: salt.to_vec(), stored_key, server_key: hmac(&salted, &[b"Server Key"]) }
    }

    /// Reads `pg_authid.rolpassword`; `None` when it is not a SCRAM verifier (an MD5 hash, say).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (head, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let key = |text: &str| BASE64.decode(text).ok()?.try_into().ok();
        Some(Self {
            iterations: iterations.parse().ok()?,
            salt: BASE64.decode(salt).ok()?,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }

    /// A verifier that no password matches, for a role that does not exist or may not use a password, so that
    /// the exchange looks the same (PostgreSQL's "doomed" authentication). `secret` makes the salt stable.
    #[must_use]
    pub fn mock(role: &str, secret: &[u8]) -> Self {
        let salt = hmac(secret, &[b"mock salt", role.as_bytes()])[..16].to_vec();
        let key = |label: &[u8]| hmac(secret, &[label, role.as_bytes()]);
        Self { iterations: 4096, salt, stored_key: key(b"mock stored"), server_key: key(b"mock server") }
    }
}

impl std::fmt::Display for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = |bytes: &[u8]| BASE64.encode(bytes);
        write!(f, "SCRAM-SHA-256${}:{}$", self.iterations, code(&self.salt))?;
        write!(f, "{}:{}", code(&self.stored_key), code(&self.server_key))
    }
}

/// The server's side: waits for the client's proof.
#[derive(Debug)]
pub struct ServerExchange {
    verifier: Verifier,
    /// `client-first-message-bare,server-first-message,`, the begin of the auth message.
    auth_message: String,
    /// The base64 of the client's gs2 header, which its final message must repeat.
    binding: String,
    nonce: String,
}

impl ServerExchange {
    /// Takes the client-first-message; returns the exchange and the server-first-message.
    ///
    /// # Errors
    /// When the message is malformed or asks for channel binding.
    pub fn start(
        verifier: Verifier,
        client_first: &[u8],
        nonce: &[u8; NONCE_LEN],
    ) -> Result<(Self, String), ScramError> {
        let text = std::str::from_utf8(client_first).map_err(|_| ScramError::Malformed)?;
        // "y" is a client that could bind but saw no offer; there was none.
        let (flag, rest) = text.split_once(',').ok_or(ScramError::Malformed)?;
        match flag {
            "n" | "y" => {}
            _ if flag.starts_with("p=") => return Err(ScramError::ChannelBinding),
            _ => return Err(ScramError::Malformed),
        }
        let (authzid, bare) = rest.split_once(',').ok_or(ScramError::Malformed)?;
        if !authzid.is_empty() {
            return Err(ScramError::Malformed);
        }
        let mut attributes = bare.split(',');
        // The user name is the start-up packet's; what stands here is ignored, as in PostgreSQL.
        attributes.next().filter(|a| a.starts_with("n=")).ok_or(ScramError::Malformed)?;
        let client_nonce =
            attributes.next().and_then(|a| a.strip_prefix("r=")).ok_or(ScramError::Malformed)?;
        if client_nonce.is_empty() || !client_nonce.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ScramError::Malformed);
        }
        let nonce = format!("{client_nonce}{}", BASE64.encode(nonce));
        let server_first = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        let auth_message = format!("{bare},{server_first},");
        let binding = BASE64.encode(format!("{flag},,"));
        Ok((Self { verifier, auth_message, binding, nonce }, server_first))
    }

    /// Takes the client-final-message; returns the server-final-message when the proof is right.
    ///
    /// # Errors
    /// When the message is malformed or the proof is wrong.
    pub fn finish(self, client_final: &[u8]) -> Result<String, ScramError> {
        let text = std::str::from_utf8(client_final).map_err(|_| ScramError::Malformed)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(ScramError::Malformed)?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next().and_then(|a| a.strip_prefix("c=")).ok_or(ScramError::Malformed)?;
        if binding != self.binding {
            return Err(ScramError::ChannelBinding);
        }
        let nonce = attributes.next().and_then(|a| a.strip_prefix("r=")).ok_or(ScramError::Malformed)?;
        if nonce != self.nonce {
            return Err(ScramError::Nonce);
        }
        let proof: Key =
            BASE64.decode(proof).ok().and_then(|p| p.try_into().ok()).ok_or(ScramError::Malformed)?;
        let message = [self.auth_message.as_bytes(), without_proof.as_bytes()];
        let client_key = xor(proof, hmac(&self.verifier.stored_key, &message));
        let stored_key: Key = Sha256::digest(client_key).into();
        if !bool::from(stored_key.ct_eq(&self.verifier.stored_key)) {
            return Err(ScramError::Proof);
        }
        Ok(format!("v={}", BASE64.encode(hmac(&self.verifier.server_key, &message))))
    }
}

/// The client's side, after its first message.
#[derive(Debug)]
pub struct ClientExchange {
    bare: String,
    nonce: String,
}

/// The client's side, after its proof.
#[derive(Debug)]
pub struct ClientProof {
    server_signature: Key,
}

impl ClientExchange {
    /// Returns the exchange and the client-first-message.
    #[must_use]
    pub fn start(nonce: &[u8; NONCE_LEN]) -> (Self, String) {
        let nonce = BASE64.encode(nonce);
        let bare = format!("n=,r={nonce}");
        let first = format!("n,,{bare}");
        (Self { bare, nonce }, first)
    }

    /// Takes the server-first-message; returns the client-final-message.
    ///
    /// # Errors
    /// When the message is malformed, its nonce is not ours, or it asks for more than [`ITERATIONS_MAX`].
    pub fn prove(self, password: &str, server_first: &[u8]) -> Result<(ClientProof, String), ScramError> {
        let text = std::str::from_utf8(server_first).map_err(|_| ScramError::Malformed)?;
        let mut attributes = text.split(',');
        let mut attribute = |prefix| attributes.next().and_then(|a| a.strip_prefix(prefix));
        let nonce = attribute("r=").ok_or(ScramError::Malformed)?;
        let salt = attribute("s=").and_then(|s| BASE64.decode(s).ok()).ok_or(ScramError::Malformed)?;
        let iterations: u32 = attribute("i=").and_then(|i| i.parse().ok()).ok_or(ScramError::Malformed)?;
        if !(1..=ITERATIONS_MAX).contains(&iterations) {
            return Err(ScramError::Malformed);
        }
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(ScramError::Nonce);
        }
        let without_proof = format!("c={},r={nonce}", BASE64.encode("n,,"));
        let message = format!("{},{text},{without_proof}", self.bare);
        let salted = salted_password(password, &salt, iterations);
        let client_key = hmac(&salted, &[b"Client Key"]);
        let stored_key: Key = Sha256::digest(client_key).into();
        let proof = xor(client_key, hmac(&stored_key, &[message.as_bytes()]));
        let server_signature = hmac(&hmac(&salted, &[b"Server Key"]), &[message.as_bytes()]);
        Ok((ClientProof { server_signature }, format!("{without_proof},p={}", BASE64.encode(proof))))
    }
}

impl ClientProof {
    /// Takes the server-final-message: the server must have proved that it knows the verifier.
    ///
    /// # Errors
    /// When it has not.
    pub fn check(self, server_final: &[u8]) -> Result<(), ScramError> {
        let signature = server_final
            .strip_prefix(b"v=")
            .and_then(|s| BASE64.decode(s).ok())
            .ok_or(ScramError::Malformed)?;
        if bool::from(signature.ct_eq(&self.server_signature)) { Ok(()) } else { Err(ScramError::Proof) }
    }
}

/// SaltedPassword of RFC 5802. A password that SASLprep refuses is used as it is, as PostgreSQL does.
fn salted_password(password: &str, salt: &[u8], iterations: u32) -> Key {
    let prepared = stringprep::saslprep(password).unwrap_or(password.into());
    pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(prepared.as_bytes(), salt, iterations)
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn xor(mut left: Key, right: Key) -> Key {
    left.iter_mut().zip(right).for_each(|(l, r)| *l ^= r);
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs both sides against one another.
    fn exchange(verifier: Verifier, password: &str) -> Result<(), ScramError> {
        let (client, first) = ClientExchange::start(&[1; NONCE_LEN]);
        let (server, challenge) = ServerExchange::start(verifier, first.as_bytes(), &[2; NONCE_LEN])?;
        let (proof, last) = client.prove(password, challenge.as_bytes())?;
        proof.check(server.finish(last.as_bytes())?.as_bytes())
    }

    #[test]
    fn the_right_password_and_no_other() {
        let verifier = Verifier::new("pencil", b"salt", 10);
        assert_eq!(exchange(verifier.clone(), "pencil"), Ok(()));
        assert_eq!(exchange(verifier, "pencil "), Err(ScramError::Proof));
        assert_eq!(exchange(Verifier::mock("ann", b"secret"), ""), Err(ScramError::Proof));
    }

    #[test]
    fn the_text_of_postgresql_is_read_and_written() {
        let text = Verifier::new("\u{2168}", b"0123456789abcdef", 4096).to_string();
        let verifier = Verifier::parse(&text).unwrap();
        assert_eq!(verifier.to_string(), text);
        // SASLprep maps ROMAN NUMERAL NINE to "IX".
        assert_eq!(exchange(verifier, "IX"), Ok(()));
        for bad in ["", "md5abc", "SCRAM-SHA-256$x:y$z:w", "SCRAM-SHA-256$1:AA==$AA==:AA=="] {
            assert_eq!(Verifier::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn rfc_7677_example() {
        // The salt and keys of RFC 7677, section 3; the nonces there are text, not base64 of random bytes.
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = Verifier::new("pencil", &salt, 4096);
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned();
        let server_first = format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let server = ServerExchange {
            verifier,
            auth_message: format!("n=user,r=rOprNGfwEbeRWgbNEkqO,{server_first},"),
            binding: "biws".to_owned(),
            nonce: nonce.clone(),
        };
        let last = format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        let answer = server.finish(last.as_bytes()).unwrap();
        assert_eq!(answer, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn malformed_messages_are_refused() {
        let verifier = || Verifier::new("x", b"salt", 1);
        let start = |text: &str| ServerExchange::start(verifier(), text.as_bytes(), &[0; NONCE_LEN]).err();
        assert_eq!(start("p=tls-unique,,n=,r=a"), Some(ScramError::ChannelBinding));
        for bad in ["", "n", "n,", "n,,", "n,,r=a", "n,,n=", "n,,n=,r=", "x,,n=,r=a", "n,a=u,n=,r=a"] {
            assert_eq!(start(bad), Some(ScramError::Malformed), "{bad:?}");
        }
        let (client, _) = ClientExchange::start(&[1; NONCE_LEN]);
        assert_eq!(client.prove("x", b"r=other,s=AAAA,i=1").err(), Some(ScramError::Nonce));
        let (client, _) = ClientExchange::start(&[1; NONCE_LEN]);
        assert_eq!(client.prove("x", b"r=o,s=AAAA,i=4294967295").err(), Some(ScramError::Malformed));
    }
}
