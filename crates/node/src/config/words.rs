//! Words of pgbouncer.ini, for operators who know them, and what they are called here.

/// The word, and what to do instead.
const WORDS: &[(&str, &str)] = &[
    ("listen_addr", "write listen.cluster, listen.reader and listen.writer, as in \"0.0.0.0:6432\""),
    ("listen_port", "write listen.cluster, listen.reader and listen.writer, as in \"0.0.0.0:6432\""),
    ("auth_type", "write client_auth"),
    ("auth_file", "leave it out: passwords are checked against PostgreSQL's own"),
    ("auth_user", "leave it out: passwords are checked against PostgreSQL's own"),
    ("auth_query", "leave it out: passwords are checked against PostgreSQL's own"),
    ("max_client_conn", "write clients_max"),
    ("client_login_timeout", "write authentication_timeout_s, in seconds"),
    ("client_tls_ca_file", "write tls.ca"),
    ("client_tls_cert_file", "write tls.cert"),
    ("client_tls_key_file", "write tls.key"),
    ("client_tls_sslmode", "leave it out: TLS is offered to all clients"),
    ("pool_mode", "write it into the table [pool]; statement pooling there is none"),
    ("default_pool_size", "write it into the table [pool]"),
    ("pool_size", "write it into [pool.users.NAME]; for all users, default_pool_size into the table [pool]"),
    ("max_db_connections", "write it into the table [pool]"),
    ("max_user_connections", "write it into the table [pool]"),
    ("client_idle_timeout", "write client_idle_timeout_s into the table [pool], in seconds"),
    ("idle_transaction_timeout", "write idle_transaction_timeout_s into the table [pool], in seconds"),
    ("query_wait_timeout", "write query_wait_timeout_s into the table [pool], in seconds"),
    ("server_idle_timeout", "write server_idle_timeout_s into the table [pool], in seconds"),
    ("server_lifetime", "write server_lifetime_s into the table [pool], in seconds"),
    ("max_prepared_statements", "leave it out: 200 are kept on each server connection"),
    ("server_reset_query", "leave it out: what a session has set is undone where it matters"),
    ("logfile", "leave it out: the log goes to standard error"),
    ("user", "write os_user"),
];

/// What a word of PgBouncer's is here.
pub(super) fn instead_of(word: &str) -> Option<&'static str> {
    WORDS.iter().find(|(known, _)| *known == word).map(|(_, instead)| *instead)
}

#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    WORDS.iter().map(|(word, _)| *word)
}
