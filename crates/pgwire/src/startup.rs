//! The first packet of a connection: start-up, SSLRequest, GSSENCRequest, CancelRequest. It has no tag.

use bytes::{BufMut, BytesMut};

/// Longest first packet, length field included: PostgreSQL's `MAX_STARTUP_PACKET_LENGTH`.
pub const PACKET_LEN_MAX: usize = 10_000;

/// Newest protocol version that is spoken: 3.2 (PostgreSQL 18), which allows longer cancel keys.
pub const VERSION_MAX: Version = Version { major: 3, minor: 2 };

const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// Longest secret of a cancel key (protocol 3.2).
pub const CANCEL_SECRET_LEN_MAX: usize = 256;

/// A protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 3 for every server since 7.4.
    pub major: u16,
    /// 0 or 2.
    pub minor: u16,
}

/// What a client's first packet asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstPacket {
    /// Begin a session.
    Startup(Startup),
    /// Go on with TLS.
    SslRequest,
    /// Go on with GSSAPI encryption.
    GssEncRequest,
    /// Stop what another connection is doing.
    Cancel(CancelKey),
}

/// A start-up message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// The version that the client asks for.
    pub version: Version,
    /// Parameters in the client's order: `user`, `database`, `options`, `replication` and run-time settings.
    pub parameters: Vec<(String, String)>,
}

/// What a server gives a session, and a cancel request repeats.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    /// Process id.
    pub process: u32,
    /// 4 bytes in protocol 3.0, up to 256 in 3.2.
    pub secret: Vec<u8>,
}

impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelKey({}, ..)", self.process)
    }
}

/// A first packet that cannot be one. The texts are PostgreSQL's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// Length field out of range.
    #[error("invalid length of startup packet")]
    Length,
    /// No protocol that is spoken here.
    #[error("unsupported frontend protocol {}.{}: server supports 3.0 to 3.2", .0.major, .0.minor)]
    Version(Version),
    /// Names and values are not pairs of C strings with a terminator, or are not UTF-8.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    /// A parameter is given twice. PostgreSQL would take the last; whoever reads the first is deceived.
    #[error("startup packet gives parameter \"{0}\" more than once")]
    Repeated(String),
    /// A start-up message names no user.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
}

/// Reads a first packet. `Ok(None)` while it is incomplete; else the packet and how many bytes it took.
///
/// # Errors
/// When it cannot become a first packet, however many bytes follow.
pub fn parse_first_packet(bytes: &[u8]) -> Result<Option<(FirstPacket, usize)>, StartupError> {
    let Some(length) = bytes.first_chunk::<4>().map(|b| u32::from_be_bytes(*b) as usize) else {
        return Ok(None);
    };
    if !(8..=PACKET_LEN_MAX).contains(&length) {
        return Err(StartupError::Length);
    }
    if bytes.len() < length {
        return Ok(None);
    }
    let code = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    let body = &bytes[8..length];
    let packet = match code {
        SSL_REQUEST => FirstPacket::SslRequest,
        GSSENC_REQUEST => FirstPacket::GssEncRequest,
        CANCEL_REQUEST => FirstPacket::Cancel(parse_cancel(body)?),
        _ => FirstPacket::Startup(parse_startup(code, body)?),
    };
    Ok(Some((packet, length)))
}

fn parse_cancel(body: &[u8]) -> Result<CancelKey, StartupError> {
    match body.split_first_chunk::<4>() {
        Some((process, secret)) if (4..=CANCEL_SECRET_LEN_MAX).contains(&secret.len()) => {
            Ok(CancelKey { process: u32::from_be_bytes(*process), secret: secret.to_vec() })
        }
        _ => Err(StartupError::Length),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves of a 32-bit code")]
fn parse_startup(code: u32, body: &[u8]) -> Result<Startup, StartupError> {
    let version = Version { major: (code >> 16) as u16, minor: code as u16 };
    if version.major != 3 {
        return Err(StartupError::Version(version));
    }
    let body = body.strip_suffix(&[0]).ok_or(StartupError::Layout)?;
    let mut parameters = Vec::new();
    if !body.is_empty() {
        let body = body.strip_suffix(&[0]).ok_or(StartupError::Layout)?;
        let text = std::str::from_utf8(body).map_err(|_| StartupError::Layout)?;
        let mut strings = text.split('\0');
        while let Some(name) = strings.next() {
            let value = strings.next().ok_or(StartupError::Layout)?;
            if name.is_empty() {
                return Err(StartupError::Layout);
            }
            if parameters.iter().any(|(known, _): &(String, String)| known == name) {
                return Err(StartupError::Repeated(name.to_owned()));
            }
            parameters.push((name.to_owned(), value.to_owned()));
        }
    }
    let startup = Startup { version, parameters };
    match startup.get("user") {
        Some(user) if !user.is_empty() => Ok(startup),
        _ => Err(StartupError::NoUser),
    }
}

impl Startup {
    /// The value of a parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The role; never empty.
    #[must_use]
    pub fn user(&self) -> &str {
        self.get("user").unwrap_or_default()
    }

    /// The database; the role's name when not given.
    #[must_use]
    pub fn database(&self) -> &str {
        self.get("database").filter(|name| !name.is_empty()).unwrap_or_else(|| self.user())
    }

    /// Whether it asks for a replication connection (physical or logical).
    #[must_use]
    pub fn is_replication(&self) -> bool {
        self.get("replication").is_some_and(|value| !matches!(value, "" | "false" | "off" | "no" | "0"))
    }

    /// A setting given through `options` as `-c name=value` or `--name=value`, the last one winning.
    ///
    /// Backslash escapes in other words of `options` are left alone: only plain words can name a setting.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        let mut found = self.get(name);
        let mut words = self.get("options").unwrap_or_default().split_ascii_whitespace();
        while let Some(word) = words.next() {
            let setting = match word {
                "-c" => words.next().unwrap_or_default(),
                _ => word.strip_prefix("--").or_else(|| word.strip_prefix("-c")).unwrap_or_default(),
            };
            if let Some((key, value)) = setting.split_once('=')
                && key.eq_ignore_ascii_case(name)
            {
                found = Some(value);
            }
        }
        found
    }

    /// Writes the message.
    pub fn write(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_u32(0);
        out.put_u32(u32::from(self.version.major) << 16 | u32::from(self.version.minor));
        for (name, value) in &self.parameters {
            put_cstr(out, name);
            put_cstr(out, value);
        }
        out.put_u8(0);
        patch_length(out, start);
    }
}

/// Writes an SSLRequest.
pub fn write_ssl_request(out: &mut BytesMut) {
    out.put_u32(8);
    out.put_u32(SSL_REQUEST);
}

impl CancelKey {
    /// Writes a CancelRequest.
    pub fn write_request(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_u32(0);
        out.put_u32(CANCEL_REQUEST);
        out.put_u32(self.process);
        out.put_slice(&self.secret);
        patch_length(out, start);
    }
}

fn put_cstr(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

#[expect(clippy::cast_possible_truncation, reason = "first packets are at most 10,000 bytes long")]
fn patch_length(out: &mut BytesMut, start: usize) {
    let length = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup(parameters: &[(&str, &str)]) -> Startup {
        let parameters = parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Startup { version: Version { major: 3, minor: 0 }, parameters }
    }

    fn written(startup: &Startup) -> BytesMut {
        let mut out = BytesMut::new();
        startup.write(&mut out);
        out
    }

    #[test]
    fn startup_round_trip_and_every_prefix_waits() {
        let sent = startup(&[("user", "ann"), ("database", "shop"), ("options", "-c geqo=off")]);
        let bytes = written(&sent);
        for len in 0..bytes.len() {
            assert_eq!(parse_first_packet(&bytes[..len]), Ok(None));
        }
        assert_eq!(parse_first_packet(&bytes), Ok(Some((FirstPacket::Startup(sent), bytes.len()))));
    }

    #[test]
    fn cancel_round_trip() {
        let key = CancelKey { process: 7, secret: vec![1; 32] };
        let mut out = BytesMut::new();
        key.write_request(&mut out);
        assert_eq!(parse_first_packet(&out), Ok(Some((FirstPacket::Cancel(key), out.len()))));
    }

    #[test]
    fn lengths_and_layouts_that_cannot_be() {
        assert_eq!(parse_first_packet(&[0x40, 0, 0, 0]), Err(StartupError::Length));
        assert_eq!(parse_first_packet(&[0, 0, 0, 7]), Err(StartupError::Length));
        assert_eq!(parse_first_packet(b"\0\0\0\x09\0\x03\0\0x"), Err(StartupError::Layout));
        assert_eq!(parse_first_packet(b"\0\0\0\x09\0\x03\0\0\0"), Err(StartupError::NoUser));
        let two = Err(StartupError::Version(Version { major: 2, minor: 0 }));
        assert_eq!(parse_first_packet(b"\0\0\0\x09\0\x02\0\0\0"), two);
        assert_eq!(parse_first_packet(b"\0\0\0\x0c\0\x03\0\0ab\0\0"), Err(StartupError::Layout));
        let twice = written(&startup(&[("user", "a"), ("user", "postgres")]));
        assert_eq!(parse_first_packet(&twice), Err(StartupError::Repeated("user".to_owned())));
    }

    #[test]
    fn options_are_found_in_all_spellings() {
        let given = startup(&[("user", "u"), ("options", "-c a.b=1 --c.d=2 -cE=3 -c a.b=4")]);
        assert_eq!(given.option("a.b"), Some("4"));
        assert_eq!(given.option("c.d"), Some("2"));
        assert_eq!(given.option("e"), Some("3"));
        assert_eq!(given.option("f"), None);
    }
}
