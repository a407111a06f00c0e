-- Version 2. What regions know of one another, for SQL: from the file that the region process writes beside the data
-- once or more a second. Older than a few seconds, it tells names and no numbers (LAG-IS-NEVER-GUESSED).
CREATE SCHEMA IF NOT EXISTS pangea;
GRANT USAGE ON SCHEMA pangea TO PUBLIC;

CREATE OR REPLACE FUNCTION pangea.status(
    OUT region text, OUT role text, OUT epoch bigint, OUT reachable boolean, OUT "position" pg_lsn,
    OUT durability_lag interval, OUT rpo_lag interval, OUT replay_lag interval)
RETURNS SETOF record LANGUAGE sql STABLE SECURITY DEFINER PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.region, r.role, r.epoch, known.fresh AND r.reachable, CASE WHEN known.fresh THEN r."position" END,
        CASE WHEN known.fresh THEN make_interval(secs => r.durability_lag_s) END,
        CASE WHEN known.fresh THEN make_interval(secs => r.durability_lag_s) END,
        CASE WHEN known.fresh THEN make_interval(secs => r.replay_lag_s) END
    FROM (SELECT pg_read_file('pangea.status', 0, 1000000, true)::json AS file) f,
        LATERAL (SELECT abs(extract(epoch FROM clock_timestamp()) - (f.file ->> 'at')::numeric) < 5 AS fresh) known,
        LATERAL json_to_recordset(f.file -> 'regions') r(region text, role text, epoch bigint, reachable boolean,
            "position" pg_lsn, durability_lag_s float8, replay_lag_s float8)
$$;

CREATE OR REPLACE FUNCTION pg_catalog.aurora_global_db_status(
    OUT aws_region text, OUT highest_lsn_written bigint, OUT durability_lag_in_msec float8,
    OUT rpo_lag_in_msec float8, OUT last_lag_calculation_time timestamptz, OUT feedback_epoch bigint,
    OUT feedback_xmin bigint)
RETURNS SETOF record LANGUAGE sql STABLE SECURITY DEFINER PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.region, (r.received - '0/0'::pg_lsn)::bigint,
        CASE WHEN r.role = 'primary' THEN -1 WHEN known.fresh THEN r.durability_lag_s * 1000 END,
        CASE WHEN r.role = 'primary' THEN -1 WHEN known.fresh THEN r.durability_lag_s * 1000 END,
        to_timestamp((f.file ->> 'at')::float8), NULL::bigint, NULL::bigint
    FROM (SELECT pg_read_file('pangea.status', 0, 1000000, true)::json AS file) f,
        LATERAL (SELECT abs(extract(epoch FROM clock_timestamp()) - (f.file ->> 'at')::numeric) < 5 AS fresh) known,
        LATERAL json_to_recordset(f.file -> 'regions') r(region text, role text, received pg_lsn,
            durability_lag_s float8)
$$;

CREATE OR REPLACE FUNCTION pg_catalog.aurora_global_db_instance_status(
    OUT server_id text, OUT session_id text, OUT aws_region text, OUT durable_lsn bigint,
    OUT highest_lsn_rcvd bigint, OUT feedback_epoch bigint, OUT feedback_xmin bigint,
    OUT oldest_read_view_lsn bigint, OUT visibility_lag_in_msec float8)
RETURNS SETOF record LANGUAGE sql STABLE SECURITY DEFINER PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.region, CASE WHEN r.role = 'primary' THEN 'MASTER_SESSION_ID' ELSE r.region END, r.region,
        (r.received - '0/0'::pg_lsn)::bigint, (r.received - '0/0'::pg_lsn)::bigint, NULL::bigint, NULL::bigint,
        (r."position" - '0/0'::pg_lsn)::bigint,
        CASE WHEN known.fresh THEN r.replay_lag_s * 1000 END
    FROM (SELECT pg_read_file('pangea.status', 0, 1000000, true)::json AS file) f,
        LATERAL (SELECT abs(extract(epoch FROM clock_timestamp()) - (f.file ->> 'at')::numeric) < 5 AS fresh) known,
        LATERAL json_to_recordset(f.file -> 'regions') r(region text, role text, "position" pg_lsn,
            received pg_lsn, replay_lag_s float8)
$$;
