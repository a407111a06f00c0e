//! The files and directories that a configuration names, as the region's process will find them: as its OS user, and
//! from its data directory.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::SystemTime;

use nix::unistd::{AccessFlags, User, eaccess, geteuid};
use pangea_agent::PgBin;
use pangea_base::RegionId;
use pangea_gateway::{TlsFault, TlsFile, TlsFiles, check_tls};

use super::document::Document;
use super::problem::Problem;
use crate::privileges::{self, OS_USER_DEFAULT};

/// Longest path of a socket: `sun_path` has 108 bytes, the last of them zero.
const SOCKET_PATH_LEN_MAX: usize = 107;

/// What a configuration is looked at for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// Somebody wants to know.
    Check,
    /// A region starts.
    Start,
}

/// Looks as the user that the region's process becomes.
pub(super) fn check_as_user(document: &Document<'_>, occasion: Occasion) -> Vec<Problem> {
    let named = document.get::<String>("os_user");
    let user = named.as_deref().unwrap_or(OS_USER_DEFAULT);
    match privileges::as_user(user, || check(document, occasion)) {
        Ok(problems) => problems,
        Err(error) => {
            // The rest cannot be known.
            vec![document.error("os_user", error.to_string(), "or start the process as that user")]
        }
    }
}

pub(super) fn check(document: &Document<'_>, occasion: Occasion) -> Vec<Problem> {
    let Some(data_dir) = document.get::<PathBuf>("data_dir").filter(|path| path.is_absolute()) else {
        // What is wrong with it is told elsewhere; without it relative paths lead nowhere.
        return Vec::new();
    };
    let place = Place { document, data_dir, user: user_name() };
    let mut problems = place.data_dir();
    problems.extend(place.tls(occasion));
    problems.extend(place.initial_password());
    problems.extend(place.store());
    problems.extend(place.pg_bin());
    problems
}

fn user_name() -> String {
    let (id, found) = (geteuid(), User::from_uid(geteuid()).ok().flatten());
    found.map_or_else(|| id.to_string(), |user| user.name)
}

struct Place<'a> {
    document: &'a Document<'a>,
    data_dir: PathBuf,
    user: String,
}

impl Place<'_> {
    /// The file or directory that a key names.
    fn path(&self, key: &str) -> Option<PathBuf> {
        Some(self.data_dir.join(self.document.get::<PathBuf>(key)?))
    }

    fn data_dir(&self) -> Vec<Problem> {
        let (dir, user) = (&self.data_dir, &self.user);
        let error = |text: String, remedy: String| self.document.error("data_dir", text, remedy);
        let shown = dir.display();
        let mut problems = Vec::new();
        match std::fs::metadata(dir) {
            Ok(found) if !found.is_dir() => {
                problems.push(error(format!("{shown} is no directory"), "name a directory".to_owned()));
            }
            Ok(_) => {
                if let Err(errno) = eaccess(dir, AccessFlags::X_OK | AccessFlags::W_OK) {
                    let text = format!("the OS user {user} cannot enter {shown} and write there: {errno}");
                    problems.push(error(text, format!("chown {user} {shown}; chmod 700 {shown}")));
                }
            }
            Err(found) if found.kind() == std::io::ErrorKind::NotFound => {
                let remedy = format!("install -d -o {user} -m 700 {shown}");
                problems.push(error(format!("{shown} does not exist"), remedy));
            }
            Err(found) => {
                let text = format!("the OS user {user} cannot reach {shown}: {found}");
                problems.push(error(text, "let it enter the directories above (chmod o+x)".to_owned()));
            }
        }
        let readers = self.document.get::<u8>("readers").unwrap_or_default();
        let deepest = if readers > 0 { format!("run/reader{readers}") } else { "run/uplink".to_owned() };
        let socket = dir.join(deepest).join(".s.PGSQL.5432");
        let length = socket.as_os_str().len();
        if length > SOCKET_PATH_LEN_MAX {
            let text = format!(
                "{} has {length} bytes, and sockets have at most {SOCKET_PATH_LEN_MAX}",
                socket.display()
            );
            problems.push(error(text, "choose a shorter one".to_owned()));
        }
        problems
    }

    fn tls(&self, occasion: Occasion) -> Vec<Problem> {
        let mut problems = Vec::new();
        let (Some(ca), Some(cert), Some(key)) =
            (self.path("tls.ca"), self.path("tls.cert"), self.path("tls.key"))
        else {
            return ["tls.ca", "tls.cert", "tls.key"].iter().filter_map(|key| self.readable(key)).collect();
        };
        if let Ok(found) = std::fs::metadata(&key)
            && found.mode() & 0o007 != 0
        {
            let text = format!("{} is open to all users of this machine", key.display());
            problems.push(self.document.warning("tls.key", text, format!("chmod 600 {}", key.display())));
        }
        let names = (self.document.get::<String>("cluster"), self.document.get::<RegionId>("region"));
        let (Some(cluster), Some(region)) = names else { return problems };
        for found in check_tls(&TlsFiles { ca, cert, key }, &cluster, &region, SystemTime::now()) {
            let at = match found.file {
                TlsFile::Ca => "tls.ca",
                TlsFile::Cert => "tls.cert",
                TlsFile::Key => "tls.key",
            };
            let remedy = match found.fault {
                TlsFault::Unusable => format!("name a PEM file that the OS user {} can read", self.user),
                TlsFault::Mismatched => "name the key that the certificate was made for".to_owned(),
                TlsFault::Refused => {
                    format!("have the cluster's authority sign one for {region}.{cluster}.pangea.internal")
                }
                TlsFault::Untimely | TlsFault::EndsSoon => "renew it, and restart the region".to_owned(),
            };
            let grave = match found.fault {
                TlsFault::Unusable | TlsFault::Mismatched | TlsFault::Refused => true,
                TlsFault::Untimely => occasion == Occasion::Check,
                TlsFault::EndsSoon => false,
            };
            problems.push(match grave {
                true => self.document.error(at, found.text, remedy),
                false => self.document.warning(at, found.text, remedy),
            });
        }
        problems
    }

    /// It is read once. Whoever has removed it afterwards was right to.
    fn initial_password(&self) -> Option<Problem> {
        let name = |key| self.document.get::<RegionId>(key);
        let made = self.data_dir.join("pgdata").join("PG_VERSION").exists();
        if made || name("region") != name("primary") {
            return None;
        }
        self.readable("initial_password_file")
    }

    fn store(&self) -> Vec<Problem> {
        let files = ["store.ca", "store.cert", "store.key", "store.password_file"];
        let mut problems: Vec<Problem> = files.iter().filter_map(|key| self.readable(key)).collect();
        if let Some(path) = self.path("store.path") {
            let dir = path.parent().unwrap_or(&self.data_dir);
            if !dir.is_dir() {
                let text = format!("its directory {} does not exist", dir.display());
                let remedy = format!("create it: install -d -o {} -m 700 {}", self.user, dir.display());
                problems.push(self.document.error("store.path", text, remedy));
            } else if path.is_dir() {
                let text = format!("{} is a directory", path.display());
                problems.push(self.document.error("store.path", text, "name a file in it"));
            }
        }
        problems
    }

    /// Only where one is named: a machine that checks a configuration need not have PostgreSQL.
    fn pg_bin(&self) -> Option<Problem> {
        let error = PgBin::find(Some(&self.path("pg_bin")?)).err()?;
        let remedy = "name a directory with the programs of PostgreSQL, or leave it out";
        Some(self.document.error("pg_bin", error.to_string(), remedy))
    }

    /// What is wrong with a file that has to be read.
    fn readable(&self, key: &str) -> Option<Problem> {
        let path = self.path(key)?;
        let found = File::open(&path).and_then(|file| file.metadata());
        let (path, user) = (path.display(), &self.user);
        match found {
            Ok(found) if found.is_file() => None,
            Ok(_) => Some(self.document.error(key, format!("{path} is no file"), "name a file")),
            Err(error) => {
                let text = format!("the OS user {user} cannot read {path}: {error}");
                Some(self.document.error(key, text, format!("name a file that {user} can read")))
            }
        }
    }
}
