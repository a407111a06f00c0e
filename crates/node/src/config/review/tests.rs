use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::*;

/// A good configuration of region `a`, with what comes before the first section and what comes last.
fn good(first: &str, last: &str) -> String {
    format!(
        "cluster = 'orders'\nregion = 'a'\nprimary = 'a'\ndata_dir = '/d'\n{first}\n\
         [store]\nkind = 'embedded'\npath = 's'\n\
         [listen]\ncluster = '127.0.0.1:1'\nreader = '127.0.0.1:2'\nwriter = '127.0.0.1:3'\nlink = '127.0.0.1:4'\n\
         [tls]\nca = 'ca.pem'\ncert = 'cert.pem'\nkey = 'key.pem'\n{last}\n"
    )
}

/// What is wrong with what a file says.
fn said(text: &str) -> Vec<String> {
    let mut problems = review(text, |_| Vec::new()).1;
    problems.sort_by_key(|problem| (problem.line, problem.column));
    problems.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn says(text: &str, expected: &[&str]) {
    let said = said(text);
    let all =
        said.len() == expected.len() && said.iter().zip(expected).all(|(said, text)| said.contains(text));
    assert!(all, "{said:#?}");
}

#[test]
fn a_good_one() {
    let (config, problems) = review(&good("", ""), |_| Vec::new());
    assert_eq!(problems, []);
    assert_eq!(config.unwrap().region.as_str(), "a");
}

#[test]
fn every_mistake_in_the_form_is_told_at_once() {
    let first = "clients_maxx = 5\nlisten_port = 6432\nreaders = 300\nclient_auth = 'md5'\nos_user = 5\n\
                 authentication_timeout_s = '60'\naddresses = ['10.0.0.1', 'here']\ncert = 'x'\nfrobnicate = 1";
    let last = "[failover]\nlease_ttl_ms = 5\n[failover.policy]\nobservers_min = 0\nautomatic = 'on'\n\
                [dns]\nzone = 'db.example.com'\n[[peers]]\nregion = 'B'\nlink = 'b:1'\n[[peers]]\nregion = 'c'\n";
    says(
        &good(first, last),
        &[
            "5:1: error: clients_maxx: unknown key; did you mean clients_max?",
            "6:1: error: listen_port: unknown key; that is PgBouncer's word: write listen.cluster",
            "7:11: error: readers: is 300; write a number from its range: 0 to 255",
            "8:15: error: client_auth: is \"md5\"; write scram or trust",
            "9:11: error: os_user: is a whole number, and a string is needed; write it in quotes",
            "10:28: error: authentication_timeout_s: is a string, and a whole number is needed; write it without",
            "11:26: error: addresses[1]: is \"here\"; write an IP address",
            "12:1: error: cert: unknown key; did you mean tls.cert?",
            "13:1: error: frobnicate: unknown key; remove it; known here are addresses, ",
            "failover.lease_ttl_ms: is 5; write a number from its range: 600 to 600000",
            "failover.policy.observers_min: is 0; write a number from its range: 1 to 255",
            "failover.policy.automatic: is a string, and true or false is needed; write it without quotes",
            "error: dns.listen: is missing; add it: Where it listens",
            "peers[0].region: is \"B\"; use 1 to 48 lower-case",
            "peers[0].link: is \"b:1\"; write an IP address and a port",
            "error: peers[1].link: is missing; add it: Address of its link listener",
        ],
    );
}

#[test]
fn missing_and_misplaced_sections() {
    says(
        "cluster = 'orders'\nprimary = 'a'\ndata_dir = '/d'\ntls = 5\npeers = 'b'\n[store]\npath = 's'\n[lissten]\n",
        &[
            "error: region: is missing; add it: Name of this region",
            "4:7: error: tls: is a whole number, and a section is needed; write a section [tls]",
            "5:9: error: peers: is a string, and a list is needed",
            "store.kind: is missing; write embedded or etcd",
            "lissten: unknown key; did you mean listen?",
        ],
    );
    says(
        &good("", "[peers]\nregion = 'b'\n"),
        &["peers: is a section, and a list is needed; write [[peers]]"],
    );
    let etcd = good("", "").replace("'embedded'\npath = 's'", "'redis'");
    says(&etcd, &["store.kind: is \"redis\"; write embedded or etcd"]);
}

#[test]
fn every_contradiction_is_told_at_once_and_beside_mistakes_of_form() {
    let first = "client_auth = 'trust'\nreadres = 1";
    let last = "[dns]\nlisten = '0.0.0.0:4'\nzone = '.'\n[read_consistency]\nlevel = 'fast'\ntimeout = '2h'\n\
                [[peers]]\nregion = 'a'\nlink = '127.0.0.1:4'\n[[peers]]\nregion = 'b'\nlink = '10.0.0.2:4'\n\
                [[peers]]\nregion = 'b'\nlink = '10.0.0.2:4'\n";
    let text = good(first, last)
        .replace("primary = 'a'", "primary = 'z'")
        .replace("'127.0.0.1:2'", "'0.0.0.0:1'")
        .replace("'/d'", "'d'")
        .replace("'orders'", "'my orders'");
    let mut problems = review(&text, |_| Vec::new()).1;
    problems.sort_by_key(|problem| (problem.line, problem.column));
    let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    let expected = [
        "cluster",
        "primary",
        "data_dir",
        "client_auth",
        "readres",
        "listen.reader",
        "dns.listen",
        "dns.zone",
        "read_consistency.level",
        "read_consistency.timeout",
        "peers[0].region",
        "peers[0].link",
        "peers[2].region",
        "peers[2].link",
    ];
    assert_eq!(keys, expected, "{problems:#?}");
    let warnings = problems.iter().filter(|problem| problem.severity == Severity::Warning);
    assert_eq!(warnings.map(|problem| problem.key.as_str()).collect::<Vec<_>>(), ["client_auth"]);
}

#[test]
fn pools() {
    let last = "[pool]\npool_mode = 'statement'\ndefault_pool_size = 0\nmax_db_connections = -1\n\
                idle_transaction_timeout = 5\npool_size = 5\nclient_idle_timeout_s = '5'\n\
                [pool.users]\nreports = 'session'\n\
                [pool.users.app]\npool_size = 0\npool_mode = 'none'\nmax = 1\n";
    says(
        &good("", last),
        &[
            "pool.pool_mode: is \"statement\"; write session or transaction",
            "pool.default_pool_size: is 0; write a number from its range: at least 1",
            "pool.max_db_connections: is -1; write a number from its range: at least 0",
            "pool.idle_transaction_timeout: unknown key; that is PgBouncer's word: write idle_transaction_timeout_s",
            "pool.pool_size: unknown key; that is PgBouncer's word: write it into [pool.users.NAME]",
            "pool.client_idle_timeout_s: is a string, and a whole number is needed; write it without quotes",
            "pool.users.reports: is a string, and a section is needed; write a section [pool.users.reports]",
            "pool.users.app.pool_size: is 0; write a number from its range: at least 1",
            "pool.users.app.pool_mode: is \"none\"; write session or transaction",
            "pool.users.app.max: unknown key; remove it; known here are ",
        ],
    );
    let last = "[pool]\nmax_db_connections = 10\nmax_user_connections = 0\ndefault_pool_size = 11\n\
                [pool.users.app]\npool_size = 12\n[pool.users.b]\npool_size = 10\n";
    says(
        &good("", last),
        &[
            "warning: pool.default_pool_size: 11 is never reached: pool.max_db_connections is 10; lower it, or raise",
            "warning: pool.users.app.pool_size: 12 is never reached: ",
        ],
    );
}

#[test]
fn etcd() {
    let etcd = "kind = 'etcd'\nendpoints = ['http://a:2379', 'https://b:2379', 'c']\nuser = 'u'\ncert = 'c'\n\
                request_timeout_ms = 5";
    says(
        &good("", "").replace("kind = 'embedded'\npath = 's'", etcd),
        &[
            "store.endpoints[1]: is \"https://b:2379\": https needs `ca`",
            "store.endpoints[2]: is \"c\": ",
            "store.user: is of no use without store.password_file",
            "store.cert: is of no use without store.key",
            "store.cert: is of no use without store.ca",
            "store.request_timeout_ms: is 5",
        ],
    );
}

#[test]
fn warnings_do_not_keep_a_region_from_running() {
    let text = good("client_auth = 'trust'", "").replace("127.0.0.1:1", "0.0.0.0:1");
    let (config, problems) = review(&text, |_| Vec::new());
    assert!(config.is_some());
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].to_string().contains("warning: client_auth: trust lets everybody in"),
        "{problems:?}"
    );
    assert!(problems[0].problem.contains("listen.cluster (0.0.0.0:1)"), "{problems:?}");
}

#[test]
fn broken_toml_is_all_that_is_told_of() {
    let said = said("cluster = \nregion = 'a'\nregion = 'b'\n");
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].starts_with("1:") && said[1].starts_with("3:"), "{said:?}");
}

/// A directory with the files that [`good`] names.
fn made(names: &[&str], days: std::ops::Range<i64>) -> TempDir {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let dir = TempDir::new().unwrap();
    let write = |name: &str, text: String| {
        fs::write(dir.path().join(name), text).unwrap();
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
    };
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let authority_key = KeyPair::generate().unwrap();
    write("ca.pem", authority.self_signed(&authority_key).unwrap().pem());
    let mut own =
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    // The crate's own word for a date, by way of its defaults: days from now.
    let day = |days: i64| {
        std::time::SystemTime::now()
            .checked_add(std::time::Duration::from_secs(400 * 86_400))
            .and_then(|later| {
                later.checked_sub(std::time::Duration::from_secs(u64::try_from(400 - days).unwrap() * 86_400))
            })
            .unwrap()
            .into()
    };
    (own.not_before, own.not_after) = (day(days.start), day(days.end));
    let key = KeyPair::generate().unwrap();
    write("cert.pem", own.signed_by(&key, &Issuer::new(authority, authority_key)).unwrap().pem());
    write("key.pem", key.serialize_pem());
    dir
}

/// What is wrong with the files of [`good`] in a directory.
fn found(dir: &TempDir, first: &str, occasion: Occasion) -> Vec<String> {
    let text = good(first, "").replace("'/d'", &format!("'{}'", dir.path().display()));
    let problems = review(&text, |document| surroundings::check(document, occasion)).1;
    problems.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn finds(found: &[String], expected: &[&str]) {
    let all =
        found.len() == expected.len() && found.iter().zip(expected).all(|(found, text)| found.contains(text));
    assert!(all, "{found:#?}");
}

const NAME: &str = "a.orders.pangea.internal";

#[test]
fn certificates() {
    let check = |dir: &TempDir| found(dir, "", Occasion::Check);
    finds(&check(&made(&[NAME], -1..90)), &[]);
    finds(&check(&made(&[NAME], -1..5)), &["warning: tls.cert: the certificate expires in "]);
    finds(
        &check(&made(&["b.orders.pangea.internal"], -1..90)),
        &["error: tls.cert: the certificate is not for a."],
    );
    finds(&check(&made(&[NAME], 5..90)), &["error: tls.cert: the certificate is not valid yet"]);
    let expired = made(&["elsewhere"], -9..-3);
    finds(
        &check(&expired),
        &["error: tls.cert: the certificate has expired 3 days ago", "is not for a.orders"],
    );
    // Time alone does not keep a region down.
    let told = found(&made(&[NAME], -9..-3), "", Occasion::Start);
    finds(&told, &["warning: tls.cert: the certificate has expired"]);

    let (one, other) = (made(&[NAME], -1..90), made(&[NAME], -1..90));
    fs::copy(other.path().join("key.pem"), one.path().join("key.pem")).unwrap();
    finds(&check(&one), &["error: tls.key: "]);
    fs::copy(other.path().join("ca.pem"), one.path().join("ca.pem")).unwrap();
    finds(&check(&one), &["tls.key: ", "tls.cert: the certificate is not signed by the authority in tls.ca"]);
    fs::write(one.path().join("ca.pem"), "nothing").unwrap();
    fs::remove_file(one.path().join("cert.pem")).unwrap();
    fs::set_permissions(one.path().join("key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    finds(
        &check(&one),
        &["warning: tls.key: ", "error: tls.ca: ", "error: tls.cert: cannot read certificates"],
    );
}

#[test]
fn files_and_directories() {
    let dir = made(&[NAME], -1..90);
    let first = "pg_bin = 'bin'\ninitial_password_file = 'password'";
    finds(&found(&dir, first, Occasion::Check), &["initial_password_file: the OS user ", "pg_bin: "]);
    // It is not read again once there are data.
    fs::create_dir(dir.path().join("pgdata")).unwrap();
    fs::write(dir.path().join("pgdata/PG_VERSION"), "15\n").unwrap();
    finds(&found(&dir, "initial_password_file = 'password'", Occasion::Check), &[]);
    fs::create_dir(dir.path().join("s")).unwrap();
    finds(&found(&dir, "", Occasion::Check), &["store.path: "]);

    let gone = good("", "").replace("'/d'", "'/nonexistent/d'");
    let problems = review(&gone, |document| surroundings::check(document, Occasion::Check)).1;
    let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["data_dir", "tls.ca", "tls.cert", "tls.key", "store.path"], "{problems:#?}");
    let long = good("", "").replace("'/d'", &format!("'/{}'", "x".repeat(100)));
    let problems = review(&long, |document| surroundings::check(document, Occasion::Check)).1;
    assert!(problems.iter().any(|problem| problem.problem.contains("at most 107")), "{problems:#?}");
}
