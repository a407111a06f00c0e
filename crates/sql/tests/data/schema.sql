-- The database that the tables of statements speak about.
CREATE SCHEMA app;
CREATE TABLE t (id int PRIMARY KEY, v text, n int);
INSERT INTO t SELECT i, 'v' || i, i FROM generate_series(1, 10) i;
CREATE TABLE app.t2 (id int, t_id int);
CREATE TABLE dup (a int);
CREATE UNLOGGED TABLE app.dup (a int);
CREATE UNLOGGED TABLE u (a int);
CREATE TABLE parted (k int) PARTITION BY LIST (k);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE half (k int) PARTITION BY LIST (k);
CREATE TABLE half_mid PARTITION OF half FOR VALUES IN (1, 2) PARTITION BY LIST (k);
CREATE UNLOGGED TABLE half_leaf PARTITION OF half_mid FOR VALUES IN (1);
CREATE SEQUENCE sq;
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE ft (a int) SERVER nowhere;

CREATE FUNCTION writer() RETURNS int LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO t VALUES (100, 'x'); RETURN 1; END $$;
CREATE FUNCTION swallower() RETURNS int LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO t VALUES (101, 'x'); RETURN 1; EXCEPTION WHEN OTHERS THEN RETURN -1; END $$;
CREATE FUNCTION reader() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM t';
CREATE FUNCTION add2(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 2';
CREATE FUNCTION with_default(bigint DEFAULT nextval('sq')) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION plain_default(int DEFAULT 7) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION overloaded(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION overloaded(text) RETURNS text LANGUAGE sql VOLATILE AS 'SELECT $1';
CREATE FUNCTION rows_of(int) RETURNS SETOF t LANGUAGE sql STABLE AS 'SELECT * FROM t WHERE id > $1';
CREATE FUNCTION touch(t) RETURNS int LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO t VALUES (102, 'x'); RETURN 1; END $$;
CREATE FUNCTION app.writer2() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1';
CREATE FUNCTION app.md5(text) RETURNS text LANGUAGE sql VOLATILE AS 'SELECT $1';
CREATE FUNCTION app.pure(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE PROCEDURE proc() LANGUAGE sql AS 'INSERT INTO t VALUES (103)';
CREATE FUNCTION sum_bad_step(int, int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT $1 + $2';
CREATE FUNCTION sum_good_step(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2';
CREATE AGGREGATE sum_bad(int) (SFUNC = sum_bad_step, STYPE = int, INITCOND = '0');
CREATE AGGREGATE sum_good(int) (SFUNC = sum_good_step, STYPE = int, INITCOND = '0');
CREATE OPERATOR ### (LEFTARG = int, RIGHTARG = int, FUNCTION = sum_bad_step);
CREATE OPERATOR ##+ (LEFTARG = int, RIGHTARG = int, FUNCTION = sum_good_step);

CREATE FUNCTION checker(int) RETURNS bool LANGUAGE sql VOLATILE AS 'SELECT $1 > 0';
CREATE DOMAIN d_good AS int CHECK (VALUE > 0);
CREATE DOMAIN d_bad AS int CHECK (checker(VALUE));
CREATE DOMAIN d_below AS d_bad;
CREATE TYPE pair AS (a int, b int);
CREATE FUNCTION to_pair(int) RETURNS pair LANGUAGE sql VOLATILE AS 'SELECT ROW($1, $1)::pair';
CREATE CAST (int AS pair) WITH FUNCTION to_pair(int);

CREATE VIEW v_plain AS SELECT id, v FROM t WHERE id < 5;
CREATE VIEW v_nested AS SELECT v.id, r.n FROM v_plain v, (SELECT reader() AS n) r;
CREATE VIEW v_writer AS SELECT writer() AS w;
CREATE VIEW v_over_writer AS SELECT * FROM t WHERE EXISTS (SELECT 1 FROM v_writer);
CREATE VIEW app.v_over_over AS SELECT count(*) FROM v_over_writer;
CREATE VIEW v_activity AS SELECT pid FROM pg_stat_activity;
CREATE VIEW v_lock AS SELECT * FROM t FOR UPDATE;
CREATE VIEW v_advisory AS SELECT pg_try_advisory_lock(1);
CREATE VIEW v_domain AS SELECT id::d_below FROM t;
CREATE VIEW v_unlogged AS SELECT * FROM u;
CREATE MATERIALIZED VIEW mv AS SELECT * FROM t;

CREATE TABLE rls_good (tenant text);
ALTER TABLE rls_good ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON rls_good USING (tenant = current_setting('app.tenant', true));
CREATE TABLE rls_bad (tenant text);
ALTER TABLE rls_bad ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON rls_bad USING (writer() = 1);
CREATE TABLE rls_deep (id int);
ALTER TABLE rls_deep ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON rls_deep FOR SELECT USING (id IN (SELECT id FROM v_over_writer));
CREATE TABLE rls_write (id int);
ALTER TABLE rls_write ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON rls_write FOR INSERT WITH CHECK (writer() = 1);
