//! From root to an ordinary user.

use nix::unistd::{Uid, User, getegid, geteuid, getgroups, setegid, seteuid, setgid, setgroups, setuid};

/// The user that servers run as when the configuration names none.
pub(crate) const OS_USER_DEFAULT: &str = "postgres";

/// Why the process cannot run as it should.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// There is no such user.
    #[error(
        "PostgreSQL does not run as root, and the OS user {0:?} does not exist: create it \
         (useradd --system {0}) or name another with --os-user"
    )]
    NoUser(String),
    /// The user is root again.
    #[error("PostgreSQL does not run as root: name an unprivileged OS user with --os-user, not {0:?}")]
    StillRoot(String),
    /// The system refuses.
    #[error("cannot become the OS user {user:?}")]
    Refused {
        /// The user.
        user: String,
        /// What the system says.
        source: nix::Error,
    },
}

/// The user that servers run as when the process is root.
///
/// # Errors
/// When there is no such user, or it is root.
pub fn lookup_user(name: &str) -> Result<User, PrivilegeError> {
    let found = User::from_name(name)
        .map_err(|source| PrivilegeError::Refused { user: name.to_owned(), source })?
        .ok_or_else(|| PrivilegeError::NoUser(name.to_owned()))?;
    if found.uid == Uid::from_raw(0) {
        return Err(PrivilegeError::StillRoot(name.to_owned()));
    }
    Ok(found)
}

/// Becomes `name` for good when the process is root, and does nothing otherwise.
pub(crate) fn drop_root(name: &str) -> Result<(), PrivilegeError> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let user = lookup_user(name)?;
    let refused = |source| PrivilegeError::Refused { user: name.to_owned(), source };
    // Groups before the user: afterwards the right to change them is gone.
    setgroups(&[user.gid]).map_err(refused)?;
    setgid(user.gid).map_err(refused)?;
    setuid(user.uid).map_err(refused)
}

/// Looks at something as `name` would see it when the process is root, and as who it is otherwise. Only for a
/// process with a single thread: all threads are that user meanwhile.
pub(crate) fn as_user<T>(name: &str, look: impl FnOnce() -> T) -> Result<T, PrivilegeError> {
    if !geteuid().is_root() {
        return Ok(look());
    }
    let user = lookup_user(name)?;
    let refused = |source| PrivilegeError::Refused { user: name.to_owned(), source };
    let (group, groups) = (getegid(), getgroups().map_err(refused)?);
    let back = || {
        seteuid(Uid::from_raw(0))?;
        setegid(group)?;
        setgroups(&groups)
    };
    let there = setgroups(&[user.gid]).and_then(|()| setegid(user.gid)).and_then(|()| seteuid(user.uid));
    let seen = there.map(|()| look());
    back().map_err(refused)?;
    seen.map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_user_names_the_option() {
        let error = lookup_user("no-such-user-of-pangea").unwrap_err().to_string();
        assert!(error.contains("--os-user"), "{error}");
        assert!(matches!(lookup_user("root"), Err(PrivilegeError::StillRoot(_))));
    }
}
