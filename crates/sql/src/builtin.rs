//! What `pg_catalog` does not say about its own functions, relations and settings.
//!
//! `provolatile` speaks of planning, not of servers. A volatile function may be harmless on a
//! standby (`random`), and a stable one may fail there or describe the wrong server
//! (`txid_current`, `pg_stat_get_*`). The lists below are the difference. Whatever is volatile
//! and not listed goes to the primary, so a new version of PostgreSQL can only make us slower,
//! unless it adds a *stable* function about the server's own state.

/// What using a function or relation means for the statement that does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Traits {
    /// Must run on the primary.
    pub(crate) primary: bool,
    /// Reads state of the server's session.
    pub(crate) session: bool,
    /// Leaves state on the server's session.
    pub(crate) pins: bool,
    /// May leave there what its name does not tell.
    pub(crate) holds: bool,
    /// Reads what no replay can make on another connection: positions of sequences, statements, cursors.
    pub(crate) private: bool,
}

impl Traits {
    /// Must run on the primary, nothing more.
    pub(crate) const PRIMARY: Self =
        Self { primary: true, session: false, pins: false, holds: false, private: false };

    /// A function or operator that somebody has written.
    pub(crate) fn written(volatile: bool) -> Self {
        Self { primary: volatile, holds: volatile, ..Self::default() }
    }

    /// What is true of either.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            primary: self.primary || other.primary,
            session: self.session || other.session,
            pins: self.pins || other.pins,
            holds: self.holds || other.holds,
            private: self.private || other.private,
        }
    }
}

/// Volatile, and as good on a standby. Sizes are those of the same files.
const HARMLESS_VOLATILE: &[&str] = &[
    "array_sample",
    "array_shuffle",
    "clock_timestamp",
    "gen_random_uuid",
    "pg_database_size",
    "pg_indexes_size",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_relation_size",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "pg_table_size",
    "pg_total_relation_size",
    "random",
    "random_normal",
    "timeofday",
    "uuidv4",
    "uuidv7",
];

/// Stable or immutable, yet refused by a standby, run arbitrary SQL, or describe the server they
/// run on: its transactions, files, configuration, network address, slots.
const PRIMARY_THOUGH_STABLE: &[&str] = &[
    "database_to_xml",
    "database_to_xml_and_xmlschema",
    "database_to_xmlschema",
    "inet_server_addr",
    "inet_server_port",
    "pg_available_extension_versions",
    "pg_available_extensions",
    "pg_conf_load_time",
    "pg_config",
    "pg_current_snapshot",
    "pg_current_xact_id",
    "pg_current_xact_id_if_assigned",
    "pg_event_trigger_ddl_commands",
    "pg_event_trigger_dropped_objects",
    "pg_event_trigger_table_rewrite_oid",
    "pg_event_trigger_table_rewrite_reason",
    "pg_extension_update_paths",
    "pg_get_replication_slots",
    "pg_is_in_recovery",
    "pg_postmaster_start_time",
    "pg_replication_origin_oid",
    "pg_tablespace_databases",
    "pg_tablespace_location",
    "pg_walfile_name",
    "pg_walfile_name_offset",
    "schema_to_xml",
    "schema_to_xml_and_xmlschema",
    "schema_to_xmlschema",
    "table_to_xml",
    "table_to_xml_and_xmlschema",
    "table_to_xmlschema",
    "txid_current",
    "txid_current_if_assigned",
    "txid_current_snapshot",
];

/// Stable families that describe the server they run on.
const PRIMARY_PREFIXES: &[&str] = &["pg_stat_", "pg_get_shmem_", "pg_get_aios", "pg_get_loaded_"];

/// About the server's session. `current_setting` is here for arguments the walk cannot judge.
const SESSION_STATE: &[&str] = &[
    "current_setting",
    "currval",
    "inet_client_addr",
    "inet_client_port",
    "lastval",
    "pg_backend_pid",
    "pg_cursor",
    "pg_get_backend_memory_contexts",
    "pg_is_other_temp_schema",
    "pg_listening_channels",
    "pg_my_temp_schema",
    "pg_prepared_statement",
    "pg_replication_origin_session_is_setup",
    "pg_replication_origin_session_progress",
    "pg_show_all_settings",
];

/// Those of them that tell what only the very connection knows on which the session has made it.
const PRIVATE_STATE: &[&str] =
    &["currval", "lastval", "pg_cursor", "pg_listening_channels", "pg_prepared_statement"];

/// Relations of `pg_catalog` that do.
const PRIVATE_RELATIONS: &[&str] = &["pg_cursors", "pg_prepared_statements"];

/// Leave state on the server's session that a replay cannot make elsewhere. `set_config` is here
/// for uses nested in a query; alone at the top it is a replayable `SET`.
const PINNING: &[&str] = &[
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_replication_origin_session_setup",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "set_config",
    "setseed",
];

/// Relations of `pg_catalog` about one server or one session, or refused by a standby.
/// `pg_sequences` reads the sequences themselves, whose cached values lag differently.
const PRIMARY_RELATIONS: &[&str] = &[
    "pg_aios",
    "pg_available_extension_versions",
    "pg_available_extensions",
    "pg_config",
    "pg_dsm_registry_allocations",
    "pg_file_settings",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_locks",
    "pg_prepared_xacts",
    "pg_replication_origin_status",
    "pg_replication_slots",
    "pg_sequences",
    "pg_shmem_allocations",
    "pg_shmem_allocations_numa",
];

/// Families of relations about one server. (`pg_stats` and `pg_statistic` are data, and match
/// neither.)
const PRIMARY_RELATION_PREFIXES: &[&str] = &["pg_stat_", "pg_statio_", "pg_wait_"];

/// Relations of `pg_catalog` about the server's session.
const SESSION_RELATIONS: &[&str] =
    &["pg_backend_memory_contexts", "pg_cursors", "pg_prepared_statements", "pg_settings"];

/// Settings whose value is the same on every server of the cluster: made by the session (and
/// replayed), by the client's start-up packet, by `ALTER ROLE/DATABASE … SET` (replicated), or
/// by initdb. `transaction_read_only` and `in_hot_standby` are not here: answered by a standby,
/// they would make a driver that asks for a writable server turn away from one that is.
const SESSION_SETTINGS: &[&str] = &[
    "application_name",
    "array_nulls",
    "backslash_quote",
    "block_size",
    "bytea_output",
    "check_function_bodies",
    "client_encoding",
    "client_min_messages",
    "constraint_exclusion",
    "data_checksums",
    "datestyle",
    "default_tablespace",
    "default_text_search_config",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "escape_string_warning",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "integer_datetimes",
    "intervalstyle",
    "lc_collate",
    "lc_ctype",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lock_timeout",
    "max_identifier_length",
    "max_index_keys",
    "plan_cache_mode",
    "quote_all_identifiers",
    "role",
    "row_security",
    "search_path",
    "segment_size",
    "server_encoding",
    "server_version",
    "server_version_num",
    "session_authorization",
    "session_replication_role",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
    "timezone_abbreviations",
    "transaction_deferrable",
    "transaction_isolation",
    "transaction_timeout",
    "transform_null_equals",
    "wal_block_size",
    "xmlbinary",
    "xmloption",
];

/// A function of `pg_catalog` with the volatility (`i`, `s` or `v`) the catalogue gives it.
pub(crate) fn function(name: &str, volatility: char) -> Traits {
    let session = SESSION_STATE.contains(&name);
    let pins = PINNING.contains(&name);
    let volatile = volatility != 'i' && volatility != 's';
    let primary = session
        || pins
        || (volatile && !HARMLESS_VOLATILE.contains(&name))
        || PRIMARY_THOUGH_STABLE.contains(&name)
        || PRIMARY_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    Traits { primary, session, pins, holds: pins, private: PRIVATE_STATE.contains(&name) }
}

/// A table or view of `pg_catalog`.
pub(crate) fn relation(name: &str) -> Traits {
    let session = SESSION_RELATIONS.contains(&name);
    let primary = session
        || PRIMARY_RELATIONS.contains(&name)
        || PRIMARY_RELATION_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let private = PRIVATE_RELATIONS.contains(&name);
    Traits { primary, session, pins: false, holds: false, private }
}

/// Whether reading a setting gives the same answer on every server. Names with a dot are an
/// application's own (or an extension's), and come from the session or from the catalogue.
pub(crate) fn is_session_setting(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.contains('.') || SESSION_SETTINGS.contains(&name.as_str())
}
