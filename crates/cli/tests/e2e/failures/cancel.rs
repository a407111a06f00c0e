//! Cancel requests: they reach the right server, and never another query.

use std::time::Duration;

use pangea_lab::wan::Change;

use crate::support::{EU, Lab, Raw, Session, US, cancel, code, id};

const ROUNDS: u32 = 50;

/// A session whose server processes have this name.
async fn named(lab: &Lab, region: &str, name: &str) -> Session {
    lab.at(region).named(name).connect().await
}

/// Makes the table by another session: one that has just made a table reads on the primary for a while.
async fn patience(lab: &Lab) {
    lab.connect(US).await.run("CREATE TABLE IF NOT EXISTS patience (id int); DELETE FROM patience").await;
    lab.replicated(EU, "SELECT count(*) FROM patience").await;
}

/// Starts a statement that sleeps, cancels it when the server of `works_in` does so, and goes on at once.
async fn rounds(lab: &Lab, works_in: &str, name: &str, statement: &str) {
    patience(lab).await;
    let session = named(lab, EU, name).await;
    let token = session.cancel_token();
    for round in 0..ROUNDS {
        let request = async {
            lab.sleeping(works_in, name).await;
            cancel(&token, lab.entry(EU).cluster).await;
        };
        let (outcome, ()) = futures_util::join!(session.simple_query(statement), request);
        assert_eq!(code(&outcome.unwrap_err()), "57014", "round {round}");
        // At once, alternately here and there.
        if round % 2 == 0 {
            session.expect("SELECT count(*) FROM patience", 0).await;
        } else {
            // Not in one string: the session reads on the primary after one that mixes transaction control.
            for statement in ["BEGIN", "INSERT INTO patience VALUES (1)", "ROLLBACK"] {
                session.run(statement).await;
            }
        }
    }
    session.expect("SELECT count(*) FROM patience", 0).await;
}

pub(super) async fn of_a_query_on_the_local_server(lab: &Lab) {
    rounds(lab, EU, "cancel_local", "SELECT pg_sleep(100)").await;
}

pub(super) async fn of_a_statement_on_the_primary(lab: &Lab) {
    rounds(lab, US, "cancel_primary", "INSERT INTO patience SELECT 1 FROM pg_sleep(100)").await;
}

/// The key of the session's server process there is still on its way when the request comes.
pub(super) async fn of_the_first_statement_on_a_distant_primary(lab: &Lab) {
    let set_delay = |delay_ms| {
        for (from, to) in [(EU, US), (US, EU)] {
            let change = Change { delay_ms: Some(delay_ms), ..Change::default() };
            lab.cluster.wan().unwrap().link(&id(from), &id(to)).unwrap().set(change).unwrap();
        }
    };
    patience(lab).await;
    set_delay(300.0);
    let session = named(lab, EU, "cancel_first").await;
    let token = session.cancel_token();
    let request = async {
        lab.sleeping(US, "cancel_first").await;
        cancel(&token, lab.entry(EU).cluster).await;
    };
    let statement = session.simple_query("INSERT INTO patience SELECT 1 FROM pg_sleep(10)");
    let (outcome, ()) = futures_util::join!(statement, request);
    set_delay(5.0);
    assert_eq!(outcome.map_err(|error| code(&error)).unwrap_err(), "57014");
    session.expect("SELECT count(*) FROM patience", 0).await;
}

pub(super) async fn that_races_with_the_end_of_its_query(lab: &Lab) {
    patience(lab).await;
    let session = named(lab, EU, "cancel_race").await;
    let token = session.cancel_token();
    let statements = [
        "SELECT pg_sleep(0.01)",
        "INSERT INTO patience SELECT 1 FROM pg_sleep(0.01)",
        "SELECT count(*) FROM generate_series(1, 10000)",
        "DELETE FROM patience",
    ];
    for round in 0..4 * ROUNDS {
        let statement = statements[round as usize % statements.len()];
        let request = async {
            tokio::time::sleep(Duration::from_micros(u64::from(round % 25) * 1000)).await;
            cancel(&token, lab.entry(EU).cluster).await;
        };
        let (outcome, ()) = futures_util::join!(session.simple_query(statement), request);
        if let Err(error) = outcome {
            assert_eq!(code(&error), "57014", "{statement}");
        }
        // The request has been answered: whatever comes now is not its business.
        session.expect("SELECT 'still here'", "still here").await;
        session.run("INSERT INTO patience VALUES (1)").await;
        session.run("BEGIN; DELETE FROM patience; COMMIT").await;
    }
}

pub(super) async fn of_one_session_never_hits_another(lab: &Lab) {
    const SHORT: &str = "pg_sleep(2)";
    patience(lab).await;
    let a = named(lab, EU, "cancel_a").await;
    let (b, c) = (named(lab, EU, "cancel_b").await, named(lab, EU, "cancel_c").await);
    let d = named(lab, US, "cancel_d").await;
    let token = a.cancel_token();
    for (works_in, statement) in [
        (EU, "SELECT pg_sleep(100)".to_owned()),
        (US, "INSERT INTO patience SELECT 1 FROM pg_sleep(100)".to_owned()),
    ] {
        let (read, write) =
            (format!("SELECT {SHORT}"), format!("INSERT INTO patience SELECT 1 FROM {SHORT}"));
        let request = async {
            lab.sleeping(works_in, "cancel_a").await;
            lab.sleeping(EU, "cancel_b").await;
            lab.sleeping(US, "cancel_c").await;
            lab.sleeping(US, "cancel_d").await;
            cancel(&token, lab.entry(EU).cluster).await;
        };
        let (cancelled, (), b_done, c_done, d_done) = futures_util::join!(
            a.simple_query(&statement),
            request,
            b.simple_query(&read),
            c.simple_query(&write),
            d.simple_query(&write),
        );
        assert_eq!(code(&cancelled.unwrap_err()), "57014");
        for done in [b_done, c_done, d_done] {
            done.unwrap();
        }
    }
}

pub(super) async fn with_a_key_that_nobody_has(lab: &Lab) {
    let session = lab.connect(EU).await;
    let sleeping = session.simple_query("SELECT pg_sleep(1)");
    let request = async {
        for process in 0..50_u32 {
            let mut raw = Raw::dial(lab.entry(EU).cluster).await;
            let mut packet = vec![0, 0, 0, 16, 4, 210, 22, 46];
            packet.extend_from_slice(&process.to_be_bytes());
            packet.extend_from_slice(&[0xde, 0xad, 0xbe, 0xef]);
            raw.send(&packet).await;
            assert_eq!(raw.byte().await, None, "a cancel request is never answered");
        }
    };
    let (done, ()) = futures_util::join!(sleeping, request);
    done.unwrap();
}
