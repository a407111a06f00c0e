// node-postgres: a pure JavaScript driver with its own protocol code, SCRAM and type parsing.
// Every test runs from the primary region's endpoint and from a secondary's; see ../cluster.py for the variables.
'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const { once } = require('node:events');
const { Readable } = require('node:stream');
const { pipeline } = require('node:stream/promises');
const { test } = require('node:test');
const pg = require('pg');
const copyStreams = require('pg-copy-streams');
const Cursor = require('pg-cursor');

const TEST_TIMEOUT_MS = 60_000;
const endpoints = Object.values(JSON.parse(process.env.PANGEA_ENDPOINTS));
const roles = { primary: endpoints[0], secondary: endpoints[endpoints.length - 1] };
const ca = process.env.PANGEA_CA && fs.readFileSync(process.env.PANGEA_CA, 'utf8');

// The settings of an endpoint, overridden by `changes`.
function settings(uri, changes) {
  const parts = new URL(uri);
  return {
    host: parts.hostname,
    port: Number(parts.port),
    user: decodeURIComponent(parts.username),
    password: decodeURIComponent(parts.password),
    database: parts.pathname.slice(1),
    ...changes,
  };
}

// Declares `name` for each role; `body` gets a connecting function and an unused identifier. What it opened is
// closed, then the table of that name dropped: an open transaction may hold a lock on it.
function check(name, body) {
  for (const [role, uri] of Object.entries(roles)) {
    test(`${name} [${role}]`, { timeout: TEST_TIMEOUT_MS }, async (t) => {
      const opened = [];
      const table = `t_${crypto.randomBytes(6).toString('hex')}`;
      const connect = async (changes) => {
        const client = new pg.Client(settings(uri, changes));
        await client.connect();
        opened.push(client);
        return client;
      };
      try {
        await body({ t, connect, table, uri });
      } finally {
        for (const client of opened) await client.end();
        const janitor = new pg.Client(settings(uri));
        await janitor.connect();
        await janitor.query(`SET lock_timeout = '10s'; DROP TABLE IF EXISTS ${table} CASCADE`);
        await janitor.end();
      }
    });
  }
}

check('parameterised statements and RETURNING', async ({ connect, table }) => {
  const client = await connect();
  await client.query(`CREATE TABLE ${table} (id serial PRIMARY KEY, name text, j jsonb, a int[], b bytea, n numeric)`);
  const written = await client.query(
    `INSERT INTO ${table} (name, j, a, b, n) VALUES ($1, $2, $3, $4, $5) RETURNING id`,
    ['snow ☃', { deep: [1, null] }, [1, null, 3], Buffer.from([0, 255]), '1.50'],
  );
  assert.equal(written.command, 'INSERT');
  assert.deepEqual(written.rows, [{ id: 1 }]);
  const { rows, fields } = await client.query(`SELECT * FROM ${table} WHERE id = $1`, [1]);
  assert.deepEqual(rows, [
    { id: 1, name: 'snow ☃', j: { deep: [1, null] }, a: [1, null, 3], b: Buffer.from([0, 255]), n: '1.50' },
  ]);
  assert.deepEqual(fields.map((field) => field.name), ['id', 'name', 'j', 'a', 'b', 'n']);
});

check('several statements in one string give several results', async ({ connect, table }) => {
  const client = await connect();
  const results = await client.query(
    `CREATE TABLE ${table} (id int); INSERT INTO ${table} VALUES (1), (2); SELECT count(*)::int AS n FROM ${table}`,
  );
  assert.deepEqual(results.map((result) => result.command), ['CREATE', 'INSERT', 'SELECT']);
  assert.deepEqual(results[2].rows, [{ n: 2 }]);
});

check('transactions and savepoints', async ({ connect, table }) => {
  const client = await connect();
  await client.query(`CREATE TABLE ${table} (id int PRIMARY KEY)`);
  await client.query('BEGIN');
  assert.equal((await client.query(`SELECT * FROM ${table}`)).rowCount, 0);
  await client.query('SAVEPOINT before');
  await client.query(`INSERT INTO ${table} VALUES ($1)`, [1]);
  await assert.rejects(client.query(`INSERT INTO ${table} VALUES ($1)`, [1]), { code: '23505', table });
  await assert.rejects(client.query('SELECT 1'), { code: '25P02' });
  await client.query('ROLLBACK TO SAVEPOINT before');
  await client.query(`INSERT INTO ${table} VALUES (2)`);
  await client.query('COMMIT');
  assert.deepEqual((await client.query(`SELECT id FROM ${table}`)).rows, [{ id: 2 }]);
});

check('named prepared statements', async ({ connect, table }) => {
  const client = await connect();
  await client.query(`CREATE TABLE ${table} (id int, name text)`);
  for (let n = 0; n < 20; n++) {
    await client.query({ name: 'put', text: `INSERT INTO ${table} VALUES ($1, $2)`, values: [n, `name ${n}`] });
    const found = await client.query({ name: 'get', text: `SELECT name FROM ${table} WHERE id = $1`, values: [n] });
    assert.deepEqual(found.rows, [{ name: `name ${n}` }]);
  }
});

check('queries queued without waiting keep their order', async ({ connect, table }) => {
  const client = await connect();
  const queued = [client.query(`CREATE TABLE ${table} (id int)`)];
  for (let n = 0; n < 50; n++) {
    queued.push(client.query(`INSERT INTO ${table} VALUES ($1)`, [n]));
    queued.push(client.query(`SELECT count(*)::int AS n FROM ${table}`));
  }
  const results = await Promise.all(queued);
  for (let n = 0; n < 50; n++) assert.deepEqual(results[2 * n + 2].rows, [{ n: n + 1 }]);
});

check('errors carry SQLSTATE and fields', async ({ connect }) => {
  const client = await connect();
  await assert.rejects(client.query('SELEC 1'), { code: '42601', position: '1', severity: 'ERROR' });
  await assert.rejects(client.query('SELECT 1 / $1::int', [0]), { code: '22012' });
  await assert.rejects(client.query('SELECT * FROM nowhere'), { code: '42P01' });
  await assert.rejects(client.query('SELECT $1::int', ['x']), { code: '22P02' });
  assert.deepEqual((await client.query('SELECT 1 AS one')).rows, [{ one: 1 }]);
});

check('refused connections carry SQLSTATE', async ({ connect, table }) => {
  await assert.rejects(connect({ password: 'wrong' }), { code: '28P01' });
  await assert.rejects(connect({ user: table }), { code: '28P01' });
  await assert.rejects(connect({ database: table }), { code: '3D000' });
});

check('notices', async ({ connect }) => {
  const client = await connect();
  const heard = [];
  client.on('notice', (notice) => heard.push([notice.severity, notice.message]));
  await client.query("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$");
  assert.deepEqual(heard, [['NOTICE', 'one'], ['WARNING', 'two']]);
});

check('LISTEN and NOTIFY', async ({ connect, table }) => {
  const [listener, notifier] = [await connect(), await connect()];
  await listener.query(`LISTEN ${table}`);
  const heard = once(listener, 'notification');
  await notifier.query('SELECT pg_notify($1, $2)', [table, 'hello']);
  const [{ channel, payload }] = await heard;
  assert.deepEqual({ channel, payload }, { channel: table, payload: 'hello' });
  // The sender of another session is named as the primary knows it; one's own notifications are one's own.
  const own = once(listener, 'notification');
  await listener.query('SELECT pg_notify($1, $2)', [table, 'mine']);
  assert.equal((await own)[0].processId, listener.processID);
});

check('portals fetched piecemeal', async ({ connect, table }) => {
  const client = await connect();
  const cursor = client.query(new Cursor('SELECT g FROM generate_series(1, $1::int) AS g', [250]));
  const seen = [];
  for (let rows = await cursor.read(100); rows.length > 0; rows = await cursor.read(100)) {
    seen.push(...rows.map((row) => row.g));
  }
  assert.equal(seen.length, 250);
  await cursor.close();
  const abandoned = client.query(new Cursor('SELECT g FROM generate_series(1, 1000) AS g'));
  assert.equal((await abandoned.read(10)).length, 10);
  await abandoned.close();
  await client.query(`CREATE TABLE ${table} (id int)`);
  const writing = client.query(new Cursor(`INSERT INTO ${table} SELECT generate_series(1, 5) RETURNING id`));
  assert.equal((await writing.read(100)).length, 5);
  await writing.close();
});

check('COPY in both directions', async ({ connect, table }) => {
  const client = await connect();
  await client.query(`CREATE TABLE ${table} (id int, name text)`);
  const lines = Array.from({ length: 5000 }, (_, n) => `${n}\tname ${n}\n`);
  const incoming = client.query(copyStreams.from(`COPY ${table} FROM STDIN`));
  await pipeline(Readable.from(lines), incoming);
  assert.equal(incoming.rowCount, 5000);
  const parts = [];
  for await (const part of client.query(copyStreams.to(`COPY (SELECT * FROM ${table} ORDER BY id) TO STDOUT`))) {
    parts.push(part);
  }
  assert.equal(Buffer.concat(parts).toString(), lines.join(''));
  await assert.rejects(pipeline(Readable.from(['x\ty\n']), client.query(copyStreams.from(`COPY ${table} FROM STDIN`))), {
    code: '22P02',
  });
  assert.equal((await client.query(`SELECT FROM ${table}`)).rowCount, 5000);
});

check('cancel by a second connection', async ({ connect, uri }) => {
  const client = await connect();
  const sleeping = client.query('SELECT pg_sleep(30)');
  const { port, host } = settings(uri);
  setTimeout(() => {
    const canceller = new pg.Connection();
    canceller.on('connect', () => canceller.cancel(client.processID, client.secretKey));
    canceller.on('error', () => {});
    canceller.connect(port, host);
  }, 300);
  await assert.rejects(sleeping, { code: '57014' });
  assert.equal((await client.query('SELECT 1')).rowCount, 1);
});

check('ten megabytes both ways', async ({ connect, table }) => {
  const client = await connect();
  await client.query(`CREATE TABLE ${table} (b bytea)`);
  const payload = crypto.randomBytes(10 << 20);
  const written = await client.query(`INSERT INTO ${table} VALUES ($1) RETURNING b`, [payload]);
  assert.ok(written.rows[0].b.equals(payload));
  assert.ok((await client.query(`SELECT b FROM ${table}`)).rows[0].b.equals(payload));
});

check('TLS verified to the name', async ({ t, connect }) => {
  if (!ca) return t.skip('PANGEA_CA is not set');
  const client = await connect({ host: 'localhost', ssl: { ca } });
  assert.ok(client.connection.stream.authorized);
  await assert.rejects(connect({ host: 'localhost', ssl: true }), /certificate|self-signed/);
});

check('isolation levels and read-only transactions', async ({ connect, table }) => {
  const client = await connect();
  for (const level of ['read committed', 'repeatable read', 'serializable']) {
    await client.query(`BEGIN ISOLATION LEVEL ${level}`);
    assert.equal((await client.query('SHOW transaction_isolation')).rows[0].transaction_isolation, level);
    await client.query('COMMIT');
  }
  await client.query('BEGIN READ ONLY');
  await assert.rejects(client.query(`CREATE TABLE ${table} (id int)`), { code: '25006' });
  await client.query('ROLLBACK');
});

check('settings at start-up and after', async ({ connect }) => {
  const client = await connect({ application_name: 'suite', options: '-c search_path=pg_catalog', statement_timeout: 200 });
  assert.equal((await client.query('SHOW application_name')).rows[0].application_name, 'suite');
  assert.equal((await client.query('SHOW search_path')).rows[0].search_path, 'pg_catalog');
  await assert.rejects(client.query('SELECT pg_sleep(30)'), { code: '57014' });
});

check('pool', async ({ connect, table, uri }) => {
  const client = await connect();
  await client.query(`CREATE TABLE ${table} (id int)`);
  const pool = new pg.Pool(settings(uri, { max: 4, options: '-c pangea.read_consistency=global' }));
  try {
    await Promise.all(
      Array.from({ length: 40 }, async (_, n) => {
        await pool.query(`INSERT INTO ${table} VALUES ($1)`, [n]);
        assert.equal((await pool.query(`SELECT FROM ${table} WHERE id = $1`, [n])).rowCount, 1);
      }),
    );
    assert.equal((await pool.query(`SELECT FROM ${table}`)).rowCount, 40);
  } finally {
    await pool.end();
  }
});

check('read your own writes', async ({ connect, table }) => {
  const client = await connect();
  await client.query(`CREATE TABLE ${table} (id int PRIMARY KEY, v text)`);
  const missed = [];
  for (let n = 0; n < 200; n++) {
    await client.query(`INSERT INTO ${table} VALUES ($1, $2)`, [n, `v${n}`]);
    const { rows } = await client.query(`SELECT v FROM ${table} WHERE id = $1`, [n]);
    if (rows[0]?.v !== `v${n}`) missed.push(n);
  }
  assert.deepEqual(missed, []);
});
