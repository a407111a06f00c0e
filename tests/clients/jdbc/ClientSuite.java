import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.net.URI;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.SQLWarning;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Timestamp;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.Properties;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.PGStatement;
import org.postgresql.copy.CopyManager;
import org.postgresql.util.PSQLException;

/**
 * pgjdbc against a region's endpoint: server-prepared statements, batches, portals with a fetch size, COPY.
 * Every test runs from the primary region's endpoint and from a secondary's; ../cluster.py sets the variables.
 */
public final class ClientSuite {
    private static final int TEST_TIMEOUT_S = 60;

    private interface Body {
        void run(Session session) throws Exception;
    }

    private record Test(String name, Body body) {}

    private static final List<Test> TESTS = List.of(
        new Test("insert, select, generated keys", ClientSuite::generatedKeys),
        new Test("statements prepared on the server", ClientSuite::serverPrepared),
        new Test("batches", ClientSuite::batches),
        new Test("a failing batch", ClientSuite::failingBatch),
        new Test("fetch size", ClientSuite::fetchSize),
        new Test("transactions and savepoints", ClientSuite::savepoints),
        new Test("autosave after an error", ClientSuite::autosave),
        new Test("read-only connections", ClientSuite::readOnly),
        new Test("isolation levels", ClientSuite::isolation),
        new Test("COPY", ClientSuite::copy),
        new Test("types", ClientSuite::types),
        new Test("ten megabytes both ways", ClientSuite::largeValues),
        new Test("large objects", ClientSuite::largeObjects),
        new Test("errors carry SQLSTATE", ClientSuite::errors),
        new Test("refused connections carry SQLSTATE", ClientSuite::refused),
        new Test("warnings", ClientSuite::warnings),
        new Test("LISTEN and NOTIFY", ClientSuite::notifications),
        new Test("cancel and query timeout", ClientSuite::cancel),
        new Test("TLS", ClientSuite::tls),
        new Test("simple query mode", ClientSuite::simpleMode),
        new Test("catalogue metadata", ClientSuite::metadata),
        new Test("read your own writes", ClientSuite::readYourOwnWrites));

    /** An endpoint, the connections a test opened there, and a table name nobody else uses. */
    private static final class Session implements AutoCloseable {
        private final URI uri;
        private final List<Connection> opened = new ArrayList<>();
        final String table = "t_" + UUID.randomUUID().toString().replace("-", "").substring(0, 12);

        Session(URI uri) {
            this.uri = uri;
        }

        /** @param settings names and values in turn; `host` and `database` replace the endpoint's own */
        Connection connect(String... settings) throws SQLException {
            String[] login = uri.getUserInfo().split(":", 2);
            Properties properties = new Properties();
            properties.setProperty("user", login[0]);
            properties.setProperty("password", login[1]);
            String host = uri.getHost();
            String database = uri.getPath().substring(1);
            for (int i = 0; i < settings.length; i += 2) {
                switch (settings[i]) {
                    case "host" -> host = settings[i + 1];
                    case "database" -> database = settings[i + 1];
                    default -> properties.setProperty(settings[i], settings[i + 1]);
                }
            }
            String url = "jdbc:postgresql://" + host + ":" + uri.getPort() + "/" + database;
            Connection connection = DriverManager.getConnection(url, properties);
            opened.add(connection);
            return connection;
        }

        @Override
        public void close() throws SQLException {
            for (Connection connection : opened) {
                connection.close();
            }
            try (Connection janitor = connect()) {
                execute(janitor, "SET lock_timeout = '10s'");
                execute(janitor, "DROP TABLE IF EXISTS " + table + " CASCADE");
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        List<String> uris = new ArrayList<>();
        Matcher matcher = Pattern.compile("\"(postgres(?:ql)?://[^\"]+)\"").matcher(System.getenv("PANGEA_ENDPOINTS"));
        while (matcher.find()) {
            uris.add(matcher.group(1));
        }
        int failed = 0;
        int passed = 0;
        for (String role : List.of("primary", "secondary")) {
            URI uri = URI.create(role.equals("primary") ? uris.get(0) : uris.get(uris.size() - 1));
            for (Test test : TESTS) {
                Throwable failure = outcome(test, uri);
                if (failure == null) {
                    passed++;
                } else {
                    failed++;
                    System.out.println("FAILED " + test.name + " [" + role + "]");
                    failure.printStackTrace(System.out);
                }
            }
        }
        System.out.println(passed + " passed, " + failed + " failed");
        System.exit(failed == 0 ? 0 : 1);
    }

    private static Throwable outcome(Test test, URI uri) {
        CompletableFuture<Throwable> result = new CompletableFuture<>();
        Thread thread = new Thread(() -> {
            try (Session session = new Session(uri)) {
                test.body.run(session);
                result.complete(null);
            } catch (Throwable failure) {
                result.complete(failure);
            }
        });
        thread.setDaemon(true);
        thread.start();
        try {
            return result.get(TEST_TIMEOUT_S, TimeUnit.SECONDS);
        } catch (Exception hung) {
            return hung;
        }
    }

    private static void generatedKeys(Session session) throws SQLException {
        Connection connection = session.connect();
        execute(connection, "CREATE TABLE " + session.table + " (id serial PRIMARY KEY, name text)");
        String insert = "INSERT INTO " + session.table + " (name) VALUES (?)";
        try (PreparedStatement put = connection.prepareStatement(insert, Statement.RETURN_GENERATED_KEYS)) {
            put.setString(1, "snow \u2603");
            equal(1, put.executeUpdate());
            ResultSet keys = put.getGeneratedKeys();
            keys.next();
            equal(1, keys.getInt("id"));
        }
        equal("snow \u2603", value(connection, "SELECT name FROM " + session.table + " WHERE id = ?", 1));
    }

    private static void serverPrepared(Session session) throws SQLException {
        Connection connection = session.connect("prepareThreshold", "1");
        execute(connection, "CREATE TABLE " + session.table + " (id int, name text)");
        try (PreparedStatement put = connection.prepareStatement("INSERT INTO " + session.table + " VALUES (?, ?)");
             PreparedStatement get = connection.prepareStatement("SELECT name FROM " + session.table + " WHERE id = ?")) {
            for (int n = 0; n < 20; n++) {
                put.setInt(1, n);
                put.setString(2, "name " + n);
                put.executeUpdate();
                get.setInt(1, n);
                ResultSet rows = get.executeQuery();
                equal(true, rows.next());
                equal("name " + n, rows.getString(1));
            }
            equal(true, get.unwrap(PGStatement.class).isUseServerPrepare());
        }
        // The driver re-prepares by itself when DDL has made a plan stale.
        execute(connection, "ALTER TABLE " + session.table + " ALTER COLUMN name TYPE varchar(99)");
        equal("name 3", value(connection, "SELECT name FROM " + session.table + " WHERE id = ?", 3));
    }

    private static void batches(Session session) throws SQLException {
        for (String rewrite : List.of("false", "true")) {
            Connection connection = session.connect("reWriteBatchedInserts", rewrite);
            execute(connection, "DROP TABLE IF EXISTS " + session.table);
            execute(connection, "CREATE TABLE " + session.table + " (id int, name text)");
            connection.setAutoCommit(false);
            try (PreparedStatement put = connection.prepareStatement("INSERT INTO " + session.table + " VALUES (?, ?)")) {
                for (int n = 0; n < 1000; n++) {
                    put.setInt(1, n);
                    put.setString(2, "name " + n);
                    put.addBatch();
                }
                equal(1000, put.executeBatch().length);
            }
            connection.commit();
            equal(499500L, value(connection, "SELECT sum(id) FROM " + session.table));
            connection.commit();
        }
    }

    private static void failingBatch(Session session) throws SQLException {
        Connection connection = session.connect();
        execute(connection, "CREATE TABLE " + session.table + " (id int PRIMARY KEY)");
        connection.setAutoCommit(false);
        try (Statement batch = connection.createStatement()) {
            for (int id : new int[] {1, 2, 1, 3}) {
                batch.addBatch("INSERT INTO " + session.table + " VALUES (" + id + ")");
            }
            BatchUpdateException failure = refusal(BatchUpdateException.class, batch::executeBatch);
            equal("23505", failure.getSQLState());
        }
        connection.rollback();
        equal(0L, value(connection, "SELECT count(*) FROM " + session.table));
    }

    private static void fetchSize(Session session) throws SQLException {
        Connection connection = session.connect();
        connection.setAutoCommit(false);
        try (PreparedStatement get = connection.prepareStatement("SELECT generate_series(1, ?)")) {
            get.setInt(1, 1050);
            get.setFetchSize(100);
            ResultSet rows = get.executeQuery();
            long sum = 0;
            while (rows.next()) {
                sum += rows.getInt(1);
            }
            equal(1050L * 1051 / 2, sum);
        }
        // A portal stays open across the first write of its transaction.
        execute(connection, "CREATE TABLE " + session.table + " AS SELECT generate_series(1, 500) AS id");
        connection.commit();
        try (Statement get = connection.createStatement()) {
            get.setFetchSize(10);
            ResultSet rows = get.executeQuery("SELECT id FROM " + session.table);
            rows.next();
            execute(connection, "DELETE FROM " + session.table);
            int seen = 1;
            while (rows.next()) {
                seen++;
            }
            equal(500, seen);
        }
        connection.commit();
        equal(0L, value(connection, "SELECT count(*) FROM " + session.table));
    }

    private static void savepoints(Session session) throws SQLException {
        Connection connection = session.connect();
        execute(connection, "CREATE TABLE " + session.table + " (id int PRIMARY KEY)");
        connection.setAutoCommit(false);
        equal(0L, value(connection, "SELECT count(*) FROM " + session.table));
        Savepoint before = connection.setSavepoint("before_any_write");
        execute(connection, "INSERT INTO " + session.table + " VALUES (1)");
        Savepoint unnamed = connection.setSavepoint();
        refusal(PSQLException.class, () -> execute(connection, "INSERT INTO " + session.table + " VALUES (1)"));
        PSQLException aborted = refusal(PSQLException.class, () -> execute(connection, "SELECT 1"));
        equal("25P02", aborted.getSQLState());
        connection.rollback(unnamed);
        equal(1L, value(connection, "SELECT count(*) FROM " + session.table));
        connection.rollback(before);
        connection.releaseSavepoint(before);
        execute(connection, "INSERT INTO " + session.table + " VALUES (7)");
        connection.commit();
        equal(7, value(connection, "SELECT id FROM " + session.table));
        execute(connection, "DELETE FROM " + session.table);
        connection.rollback();
        equal(1L, value(connection, "SELECT count(*) FROM " + session.table));
    }

    private static void autosave(Session session) throws SQLException {
        Connection connection = session.connect("autosave", "always");
        execute(connection, "CREATE TABLE " + session.table + " (id int PRIMARY KEY)");
        connection.setAutoCommit(false);
        execute(connection, "INSERT INTO " + session.table + " VALUES (1)");
        refusal(PSQLException.class, () -> execute(connection, "INSERT INTO " + session.table + " VALUES (1)"));
        execute(connection, "INSERT INTO " + session.table + " VALUES (2)");
        connection.commit();
        equal(2L, value(connection, "SELECT count(*) FROM " + session.table));
    }

    private static void readOnly(Session session) throws SQLException {
        // By default the driver does nothing about read-only in autocommit mode; `always` makes it SET SESSION.
        Connection connection = session.connect("readOnlyMode", "always");
        execute(connection, "CREATE TABLE " + session.table + " (id int)");
        for (boolean autocommit : new boolean[] {true, false}) {
            connection.setAutoCommit(autocommit);
            connection.setReadOnly(true);
            equal(0L, value(connection, "SELECT count(*) FROM " + session.table));
            PSQLException refused =
                refusal(PSQLException.class, () -> execute(connection, "INSERT INTO " + session.table + " VALUES (1)"));
            equal("25006", refused.getSQLState());
            if (!autocommit) {
                connection.rollback();
            }
            connection.setReadOnly(false);
        }
        execute(connection, "INSERT INTO " + session.table + " VALUES (1)");
        connection.commit();
    }

    private static void isolation(Session session) throws SQLException {
        Connection connection = session.connect();
        int[] levels = {
            Connection.TRANSACTION_READ_COMMITTED, Connection.TRANSACTION_REPEATABLE_READ, Connection.TRANSACTION_SERIALIZABLE
        };
        String[] names = {"read committed", "repeatable read", "serializable"};
        for (int i = 0; i < levels.length; i++) {
            connection.setTransactionIsolation(levels[i]);
            equal(levels[i], connection.getTransactionIsolation());
            connection.setAutoCommit(false);
            equal(names[i], value(connection, "SHOW transaction_isolation"));
            connection.commit();
            connection.setAutoCommit(true);
        }
    }

    private static void copy(Session session) throws Exception {
        Connection connection = session.connect();
        execute(connection, "CREATE TABLE " + session.table + " (id int, name text)");
        StringBuilder lines = new StringBuilder();
        for (int n = 0; n < 5000; n++) {
            lines.append(n).append("\tname ").append(n).append('\n');
        }
        CopyManager copies = connection.unwrap(PGConnection.class).getCopyAPI();
        equal(5000L, copies.copyIn("COPY " + session.table + " FROM STDIN", new StringReader(lines.toString())));
        StringWriter out = new StringWriter();
        equal(5000L, copies.copyOut("COPY (SELECT * FROM " + session.table + " ORDER BY id) TO STDOUT", out));
        equal(lines.toString(), out.toString());
        PSQLException refused = refusal(
            PSQLException.class, () -> copies.copyIn("COPY " + session.table + " FROM STDIN", new StringReader("x\ty\n")));
        equal("22P02", refused.getSQLState());
        equal(5000L, value(connection, "SELECT count(*) FROM " + session.table));
    }

    private static void types(Session session) throws SQLException {
        // With a threshold of -1 the driver asks for binary results at once.
        for (String threshold : List.of("0", "-1")) {
            Connection connection = session.connect("prepareThreshold", threshold);
            execute(connection, "DROP TABLE IF EXISTS " + session.table);
            execute(connection, "CREATE TABLE " + session.table
                + " (n numeric, b boolean, t timestamptz, u uuid, a int[], j jsonb, y bytea, d float8)");
            Timestamp moment = Timestamp.valueOf("2024-02-29 23:59:59.999999");
            UUID uuid = UUID.randomUUID();
            String insert = "INSERT INTO " + session.table + " VALUES (?, ?, ?, ?, ?, ?::jsonb, ?, ?)";
            try (PreparedStatement put = connection.prepareStatement(insert)) {
                put.setBigDecimal(1, new BigDecimal("12345678901234567890.123"));
                put.setBoolean(2, true);
                put.setTimestamp(3, moment);
                put.setObject(4, uuid);
                put.setArray(5, connection.createArrayOf("int4", new Integer[] {1, null, 3}));
                put.setString(6, "{\"k\": [1, null]}");
                put.setBytes(7, new byte[] {0, -1, '\\'});
                put.setDouble(8, 0.1);
                put.executeUpdate();
            }
            try (PreparedStatement get = connection.prepareStatement("SELECT * FROM " + session.table)) {
                ResultSet row = get.executeQuery();
                row.next();
                equal(new BigDecimal("12345678901234567890.123"), row.getBigDecimal(1));
                equal(true, row.getBoolean(2));
                equal(moment, row.getTimestamp(3));
                equal(moment.toInstant(), row.getObject(3, OffsetDateTime.class).withOffsetSameInstant(ZoneOffset.UTC).toInstant());
                equal(uuid, row.getObject(4));
                Array array = row.getArray(5);
                equal(Arrays.asList(1, null, 3), Arrays.asList((Object[]) array.getArray()));
                equal("{\"k\": [1, null]}", row.getString(6));
                equal(true, Arrays.equals(new byte[] {0, -1, '\\'}, row.getBytes(7)));
                equal(0.1, row.getDouble(8));
            }
        }
    }

    private static void largeValues(Session session) throws SQLException {
        Connection connection = session.connect();
        execute(connection, "CREATE TABLE " + session.table + " (b bytea)");
        byte[] payload = new byte[10 << 20];
        for (int i = 0; i < payload.length; i++) {
            payload[i] = (byte) (i * 31);
        }
        try (PreparedStatement put = connection.prepareStatement("INSERT INTO " + session.table + " VALUES (?)")) {
            put.setBytes(1, payload);
            put.executeUpdate();
        }
        equal(true, Arrays.equals(payload, (byte[]) value(connection, "SELECT b FROM " + session.table)));
    }

    private static void largeObjects(Session session) throws SQLException {
        Connection connection = session.connect();
        connection.setAutoCommit(false);
        var manager = connection.unwrap(PGConnection.class).getLargeObjectAPI();
        long oid = manager.createLO();
        byte[] payload = new byte[300_000];
        Arrays.fill(payload, (byte) 7);
        try (var large = manager.open(oid)) {
            large.write(payload);
        }
        connection.commit();
        try (var large = manager.open(oid)) {
            equal(true, Arrays.equals(payload, large.read(1_000_000)));
        }
        manager.unlink(oid);
        connection.commit();
    }

    private static void errors(Session session) throws SQLException {
        Connection connection = session.connect();
        execute(connection, "CREATE TABLE " + session.table + " (id int CONSTRAINT one_each PRIMARY KEY)");
        execute(connection, "INSERT INTO " + session.table + " VALUES (1)");
        PSQLException refused =
            refusal(PSQLException.class, () -> execute(connection, "INSERT INTO " + session.table + " VALUES (1)"));
        equal("23505", refused.getSQLState());
        equal("one_each", refused.getServerErrorMessage().getConstraint());
        equal("Key (id)=(1) already exists.", refused.getServerErrorMessage().getDetail());
        equal("42601", refusal(PSQLException.class, () -> execute(connection, "SELEC 1")).getSQLState());
        equal("22012", refusal(PSQLException.class, () -> value(connection, "SELECT 1 / ?", 0)).getSQLState());
        equal("42P01", refusal(PSQLException.class, () -> value(connection, "SELECT * FROM nowhere")).getSQLState());
        equal(1, value(connection, "SELECT 1"));
    }

    private static void refused(Session session) throws SQLException {
        equal("28P01", refusal(PSQLException.class, () -> session.connect("password", "wrong")).getSQLState());
        equal("28P01", refusal(PSQLException.class, () -> session.connect("user", session.table)).getSQLState());
        equal("3D000", refusal(PSQLException.class, () -> session.connect("database", session.table)).getSQLState());
    }

    private static void warnings(Session session) throws SQLException {
        try (Statement statement = session.connect().createStatement()) {
            statement.execute("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$");
            SQLWarning first = statement.getWarnings();
            equal("one", first.getMessage());
            equal("two", first.getNextWarning().getMessage());
        }
    }

    private static void notifications(Session session) throws SQLException {
        Connection listener = session.connect();
        execute(listener, "LISTEN " + session.table);
        execute(session.connect(), "NOTIFY " + session.table + ", 'hello'");
        PGNotification[] heard = listener.unwrap(PGConnection.class).getNotifications(10_000);
        equal(1, heard.length);
        equal(session.table, heard[0].getName());
        equal("hello", heard[0].getParameter());
    }

    private static void cancel(Session session) throws Exception {
        Connection connection = session.connect();
        try (Statement statement = connection.createStatement()) {
            CompletableFuture.runAsync(() -> {
                try {
                    Thread.sleep(300);
                    statement.cancel();
                } catch (Exception failure) {
                    throw new IllegalStateException(failure);
                }
            });
            PSQLException refused = refusal(PSQLException.class, () -> statement.execute("SELECT pg_sleep(30)"));
            equal("57014", refused.getSQLState());
            statement.setQueryTimeout(1);
            refused = refusal(PSQLException.class, () -> statement.execute("SELECT pg_sleep(30)"));
            equal("57014", refused.getSQLState());
        }
        equal(1, value(connection, "SELECT 1"));
    }

    private static void tls(Session session) throws SQLException {
        // `require` verifies nothing with this factory; verify-full needs the suite's own authority.
        Connection connection = session.connect("ssl", "true", "sslmode", "require");
        equal(1, value(connection, "SELECT 1"));
        String ca = System.getenv("PANGEA_CA");
        if (ca == null) {
            return;
        }
        connection = session.connect("host", "localhost", "sslmode", "verify-full", "sslrootcert", ca);
        equal(1, value(connection, "SELECT 1"));
        refusal(PSQLException.class, () -> session.connect(
            "host", "localhost", "sslmode", "verify-full", "sslrootcert", "/etc/ssl/certs/ca-certificates.crt"));
    }

    private static void simpleMode(Session session) throws SQLException {
        Connection connection = session.connect("preferQueryMode", "simple");
        execute(connection, "CREATE TABLE " + session.table + " (id int)");
        execute(connection, "INSERT INTO " + session.table + " VALUES (1); INSERT INTO " + session.table + " VALUES (2)");
        equal(2L, value(connection, "SELECT count(*) FROM " + session.table + " WHERE id > ?", 0));
    }

    private static void metadata(Session session) throws SQLException {
        Connection connection = session.connect();
        execute(connection, "CREATE TABLE " + session.table + " (id int PRIMARY KEY, name text NOT NULL)");
        DatabaseMetaData metadata = connection.getMetaData();
        ResultSet columns = metadata.getColumns(null, "public", session.table, null);
        columns.next();
        equal("id", columns.getString("COLUMN_NAME"));
        ResultSet keys = metadata.getPrimaryKeys(null, "public", session.table);
        keys.next();
        equal("id", keys.getString("COLUMN_NAME"));
    }

    private static void readYourOwnWrites(Session session) throws SQLException {
        Connection connection = session.connect();
        execute(connection, "CREATE TABLE " + session.table + " (id int PRIMARY KEY, v text)");
        int missed = 0;
        for (int n = 0; n < 200; n++) {
            execute(connection, "INSERT INTO " + session.table + " VALUES (" + n + ", 'v" + n + "')");
            Object found = value(connection, "SELECT v FROM " + session.table + " WHERE id = ?", n);
            if (!Objects.equals(found, "v" + n)) {
                missed++;
            }
        }
        equal(0, missed);
    }

    private static void execute(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    /** The first column of the first row, or null without one. */
    private static Object value(Connection connection, String sql, Object... parameters) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int i = 0; i < parameters.length; i++) {
                statement.setObject(i + 1, parameters[i]);
            }
            ResultSet rows = statement.executeQuery();
            return rows.next() ? rows.getObject(1) : null;
        }
    }

    private interface Refused {
        void run() throws Exception;
    }

    private static <E extends Exception> E refusal(Class<E> expected, Refused action) {
        try {
            action.run();
        } catch (Exception failure) {
            if (expected.isInstance(failure)) {
                return expected.cast(failure);
            }
            throw new AssertionError("expected " + expected.getSimpleName() + ", got " + failure, failure);
        }
        throw new AssertionError("expected " + expected.getSimpleName() + ", got none");
    }

    private static void equal(Object expected, Object found) {
        if (!Objects.equals(expected, found)) {
            throw new AssertionError("expected " + expected + ", found " + found);
        }
    }
}
