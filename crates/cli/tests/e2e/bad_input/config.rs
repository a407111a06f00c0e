//! Configurations that are wrong, before and when a region is run with them.

use std::path::{Path, PathBuf};

use crate::support::{Pangea, Run, US, in_scratch};

#[test]
fn configurations() {
    in_scratch(async |scratch| {
        let data_dir = scratch.join("data");
        let pangea = Pangea::new(&data_dir);
        pangea.up_well().await;
        pangea.down().await;
        let good = data_dir.join(US).join("region.toml");
        let text = std::fs::read_to_string(&good).unwrap();
        let write = |name: &str, text: &str| {
            let path = scratch.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        // The one that `up` has written.
        let run = check(&pangea, &[], &[&good]).await.ended(0);
        assert_eq!(run.out, format!("{}: ok\n", good.display()));

        // Everything at once, with its place.
        let key = "tls/key.pem";
        let (first, rest) = text.split_once('\n').unwrap();
        let wrong =
            format!("{first}\nclients_maxx = 5\nlisten_port = 1\nauthentication_timeout_s = 0\n{rest}")
                .replace("\nauthentication_timeout_s = 60", "")
                .replace(key, "tls/gone.pem");
        let wrong = write("wrong.toml", &wrong);
        let run = check(&pangea, &[], &[&good, &wrong]).await.ended(2);
        let file = wrong.display();
        for said in [
            format!("{}: ok\n", good.display()),
            format!("{file}:2:1: error: clients_maxx: unknown key; did you mean clients_max?\n"),
            format!("{file}:3:1: error: listen_port: unknown key; that is PgBouncer's word"),
            format!("{file}:4:28: error: authentication_timeout_s: is 0;"),
            "error: tls.key: cannot read a private key from".to_owned(),
            format!("{file}: 4 errors\n"),
        ] {
            assert!(run.out.contains(&said), "no {said:?} in {}", run.out);
        }
        let json = check(&pangea, &["--json"], &[&good, &wrong]).await.ended(2).json();
        assert_eq!((&json[0]["ok"], &json[1]["ok"]), (&true.into(), &false.into()), "{json}");
        let problem = &json[1]["problems"][0];
        assert_eq!((&problem["key"], &problem["line"]), (&"clients_maxx".into(), &2.into()), "{json}");
        assert_eq!(problem["severity"], "error");

        // `region run` says the same and touches nothing.
        let run = pangea.run(&["region", "run", "--config", wrong.to_str().unwrap()]).await.ended(2);
        run.refused(&["clients_max?", "listen_port", "authentication_timeout_s", "gone.pem"]);

        // Warnings do not count.
        let open = text
            .replace("client_auth = \"scram\"", "client_auth = \"trust\"")
            .replace("127.0.0.1", "0.0.0.0");
        let open = write("open.toml", &open);
        let run = check(&pangea, &[], &[&open]).await.ended(0);
        assert!(run.out.contains("warning: client_auth: trust lets everybody in"), "{}", run.out);

        let missing = scratch.join("missing.toml");
        let run = check(&pangea, &[], &[&missing]).await.ended(2);
        assert!(run.out.contains("cannot read it"), "{}", run.out);
    });
}

/// As root the region's process is somebody else, whom the directory may be closed to.
#[test]
fn directories_that_the_user_cannot_enter() {
    use std::os::unix::fs::PermissionsExt as _;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    in_scratch(async |scratch| {
        let data_dir = scratch.join("data");
        let pangea = Pangea::new(&data_dir);
        pangea.up_well().await;
        pangea.down().await;
        let region = data_dir.join(US);
        let text = std::fs::read_to_string(region.join("region.toml")).unwrap();
        let outside = scratch.join("region.toml");
        std::fs::write(&outside, &text).unwrap();
        nix::unistd::chown(&region, Some(0.into()), Some(0.into())).unwrap();
        std::fs::set_permissions(&region, std::fs::Permissions::from_mode(0o700)).unwrap();
        let run = check(&pangea, &[], &[&outside]).await.ended(2);
        assert!(run.out.contains("error: data_dir: the OS user postgres cannot enter"), "{}", run.out);
        assert!(run.out.contains("tls.key"), "{}", run.out);
        std::fs::write(
            &outside,
            format!("os_user = \"nobody-of-pangea\"\n{text}").replace("\nos_user = \"postgres\"", ""),
        )
        .unwrap();
        let run = check(&pangea, &[], &[&outside]).await.ended(2);
        assert!(run.out.contains(":1:11: error: os_user: "), "{}", run.out);
    });
}

async fn check(pangea: &Pangea, options: &[&str], files: &[&PathBuf]) -> Run {
    let files = files.iter().map(|path: &&PathBuf| Path::to_str(path).unwrap());
    let arguments: Vec<&str> =
        ["config", "check"].into_iter().chain(options.iter().copied()).chain(files).collect();
    pangea.run(&arguments).await
}
