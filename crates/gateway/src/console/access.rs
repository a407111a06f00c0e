//! Who may use the console: superusers and the roles that the configuration names.

use pangea_pgwire::{ErrorFields, SqlState};

use crate::shared::Shared;

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// SHOW.
    Look,
    /// Every command.
    Administer,
}

const ROLE_SQL: &str = "SELECT rolcanlogin, rolsuper FROM pg_catalog.pg_roles WHERE rolname = $1";

/// What a role that has proved who it is may do.
pub(super) async fn of(shared: &Shared, user: &str) -> Result<Access, ErrorFields> {
    let rows = shared.admin.query(ROLE_SQL, &[&user]).await.map_err(|error| {
        ErrorFields::fatal(SqlState::CANNOT_CONNECT_NOW, "the region's database server is not available")
            .with_detail(format!("Whether \"{user}\" may use the console cannot be read: {error}"))
            .with_hint("Try again in a moment, or connect to another region.")
    })?;
    // The server is not connected to: what it would say to this role is said here.
    let Some(row) = rows.first() else {
        let text = format!("role \"{user}\" does not exist");
        return Err(ErrorFields::fatal(SqlState::INVALID_AUTHORIZATION, text)
            .with_hint("Connect to the console as a superuser or a role in admin_users or stats_users."));
    };
    if !row.get::<_, bool>(0) {
        let text = format!("role \"{user}\" is not permitted to log in");
        return Err(ErrorFields::fatal(SqlState::INVALID_AUTHORIZATION, text)
            .with_hint(format!("ALTER ROLE \"{user}\" LOGIN lets it.")));
    }
    let (config, superuser) = (&shared.config, row.get(1));
    decide(user, superuser, &config.admin_users, &config.stats_users).ok_or_else(|| refused(user))
}

fn decide(user: &str, superuser: bool, admins: &[String], watchers: &[String]) -> Option<Access> {
    let among = |users: &[String]| users.iter().any(|known| known == user);
    match (superuser || among(admins), among(watchers)) {
        (true, _) => Some(Access::Administer),
        (false, true) => Some(Access::Look),
        (false, false) => None,
    }
}

fn refused(user: &str) -> ErrorFields {
    let text = format!("permission denied for the console: role \"{user}\"");
    ErrorFields::fatal(SqlState::INSUFFICIENT_PRIVILEGE, text)
        .with_detail("The database \"pangea\" is the gateway's administration console.")
        .with_hint(
            "Connect as a superuser, have the role added to admin_users or stats_users in the region's configuration, or \
             connect to another database.",
        )
}

/// The error of a command that only administrators may give.
pub(super) fn only_administrators() -> ErrorFields {
    ErrorFields::error(
        SqlState::INSUFFICIENT_PRIVILEGE,
        "permission denied: only SHOW is allowed to this role",
    )
    .with_hint("Connect as a superuser, or have the role added to admin_users in the region's configuration.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superusers_and_named_roles_get_in() {
        let (admins, watchers) = (["ops".to_owned()], ["metrics".to_owned(), "ops".to_owned()]);
        let access = |user, superuser| decide(user, superuser, &admins, &watchers);
        assert_eq!(access("postgres", true), Some(Access::Administer));
        assert_eq!(access("metrics", true), Some(Access::Administer));
        assert_eq!(access("ops", false), Some(Access::Administer));
        assert_eq!(access("metrics", false), Some(Access::Look));
        assert_eq!(access("app", false), None);
    }
}
