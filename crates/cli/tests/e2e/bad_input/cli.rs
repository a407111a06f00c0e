//! `pangea up` where it cannot work.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::{Pangea, US, in_scratch, make_file, snapshot};

#[test]
fn a_port_in_use() {
    in_scratch(async |scratch| {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port().to_string();
        let data_dir = scratch.join("data");
        let pangea = Pangea::new(&data_dir);
        let run = pangea.run(&["up", "--wan", "off", "--port-base", &port, "--regions", US]).await;
        run.refused(&[&port, "is in use", "--port-base"]);
        assert!(!data_dir.join(US).join("pgdata").exists());
        // With another one it works.
        drop(taken);
        pangea.up_well().await.connect().await.expect("SELECT 1", 1).await;
    });
}

#[test]
fn data_of_another_version_or_of_somebody_else() {
    in_scratch(async |scratch| {
        let data_dir = scratch.join("data");
        let pangea = Pangea::new(&data_dir);
        let session = pangea.up_well().await.connect().await;
        session.run("CREATE TABLE kept (id int); INSERT INTO kept VALUES (7)").await;
        drop(session);
        pangea.down().await;

        let pgdata = data_dir.join(US).join("pgdata");
        let version = std::fs::read_to_string(pgdata.join("PG_VERSION")).unwrap();
        std::fs::write(pgdata.join("PG_VERSION"), "13\n").unwrap();
        refused_and_untouched(&pangea, &pgdata, &["PostgreSQL 13", "--pg-bin", "nothing was touched"]).await;
        std::fs::write(pgdata.join("PG_VERSION"), version).unwrap();

        let aside = data_dir.join("aside");
        std::fs::rename(&pgdata, &aside).unwrap();
        make_file(&pgdata.join("thesis.tex"), "twelve years of work");
        std::fs::set_permissions(&pgdata, std::fs::Permissions::from_mode(0o755)).unwrap();
        refused_and_untouched(&pangea, &pgdata, &["was not touched", "pgdata"]).await;
        std::fs::remove_dir_all(&pgdata).unwrap();
        std::fs::rename(&aside, &pgdata).unwrap();

        pangea.up_well().await.connect().await.expect("SELECT id FROM kept", 7).await;
    });
}

async fn refused_and_untouched(pangea: &Pangea, dir: &Path, said: &[&str]) {
    let before = snapshot(dir);
    pangea.up(&[]).await.refused(said);
    assert_eq!(snapshot(dir), before, "{} was touched", dir.display());
}

#[test]
fn a_directory_that_is_not_ours() {
    in_scratch(async |scratch| {
        let data_dir = scratch.join("data");
        make_file(&data_dir.join("thesis.tex"), "twelve years of work");
        make_file(&data_dir.join("us-east-1/pgdata/PG_VERSION"), "15\n");
        let pangea = Pangea::new(&data_dir);
        refused_and_untouched(&pangea, &data_dir, &["not touched", "--data-dir"]).await;
        let run = pangea.run(&["down", "--delete"]).await;
        run.refused(&["no cluster", "--data-dir"]);
        assert_eq!(run.code, Some(3));
        assert!(data_dir.join("thesis.tex").exists());
        // A file where a directory should be.
        let file = scratch.join("file");
        make_file(&file, "a file");
        Pangea::new(&file).up(&[]).await.refused(&["file"]);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "a file");
    });
}

#[test]
fn no_usable_postgresql() {
    in_scratch(async |scratch| {
        let data_dir = scratch.join("data");
        let pangea = Pangea::new(&data_dir);
        let bin = scratch.join("bin");
        std::fs::create_dir(&bin).unwrap();
        let name = bin.to_str().unwrap().to_owned();
        let arguments = ["--pg-bin", name.as_str()];
        pangea.up(&arguments).await.refused(&["has no postgres", "--pg-bin", &name]);
        pangea.up(&["--pg-bin", "/nonexistent"]).await.refused(&["/nonexistent has no postgres"]);

        for program in ["initdb", "pg_basebackup", "pg_rewind", "pg_waldump", "pg_controldata"] {
            make_file(&bin.join(program), "#!/bin/sh\n");
        }
        let postgres = bin.join("postgres");
        for (script, said) in [
            ("echo 'postgres (PostgreSQL) 13.23'", "13.23"),
            ("echo 'postgres (PostgreSQL) 99.1'", "99.1"),
            ("echo 'mysqld 8'", "cannot learn the version"),
            ("exit 1", "cannot learn the version"),
        ] {
            make_file(&postgres, &format!("#!/bin/sh\n{script}\n"));
            std::fs::set_permissions(&postgres, std::fs::Permissions::from_mode(0o755)).unwrap();
            pangea.up(&arguments).await.refused(&[said, &name]);
        }
        make_file(&postgres, "no program");
        pangea.up(&arguments).await.refused(&["cannot learn the version"]);
        assert!(!data_dir.exists(), "nothing is made for options that cannot work");
    });
}

#[test]
fn impossible_options() {
    in_scratch(async |scratch| {
        let data_dir = scratch.join("data");
        let pangea = Pangea::new(&data_dir);
        let missing = scratch.join("missing.toml");
        for (arguments, said) in [
            (&["up", "--regions", "a,a"][..], "twice"),
            (&["up", "--regions", "A B"], "--regions"),
            (&["up", "--regions", "a,b,c,d,e,f,g,h,i,j,k,l"], "1 to 11"),
            (&["up", "--readers", "4"], "--readers"),
            (&["up", "--regions", "moon,mars", "--wan", "aws"], "--wan off"),
            (&["up", "--wan", missing.to_str().unwrap()], "missing.toml"),
            (&["up", "--port-base", "65530"], "--port-base"),
            (&["status"], "no cluster"),
            (&["psql", "moon"], "no cluster"),
            (&["region", "run", "--config", missing.to_str().unwrap()], "missing.toml"),
        ] {
            pangea.run(arguments).await.refused(&[said]);
        }
        let deep = scratch.join("x".repeat(100));
        Pangea::new(&deep).up(&[]).await.refused(&["107", "--data-dir"]);
        assert!(!deep.exists());
    });
}
