//! What sessions notice of a switchover.

use futures_util::future::{join, join_all};

use super::{primary_at, settled, switch};
use crate::support::{AP, EU, Lab, Session, US, eventually};

/// A session in each region.
async fn everywhere(lab: &Lab) -> Vec<Session> {
    join_all([US, EU, AP].map(|region| lab.connect(region))).await
}

pub(super) async fn go_on(lab: &Lab) {
    primary_at(lab, US).await;
    let mut sessions = everywhere(lab).await;
    sessions[0].run("CREATE TABLE work (id serial PRIMARY KEY, note text)").await;
    for region in [EU, AP] {
        lab.replicated(region, "SELECT to_regclass('work')").await;
    }
    let mut statements = Vec::new();
    for session in &sessions {
        session
            .run("SET work_mem = '7MB'; SET application_name = 'kept'; SET search_path = pg_catalog, public")
            .await;
        session.run("PREPARE add AS INSERT INTO work (note) VALUES ($1)").await;
        statements.push(session.prepare("INSERT INTO work (note) VALUES ($1) RETURNING id").await.unwrap());
    }
    for (round, to) in [EU, AP, US].into_iter().enumerate() {
        switch(lab, to).await;
        for (region, (session, statement)) in
            [US, EU, AP].into_iter().zip(sessions.iter_mut().zip(&statements))
        {
            if let Err(error) = session.query_one(statement, &[&"by the protocol"]).await {
                panic!(
                    "{region}, primary in {to}: {error:?}; the connection ended with {}",
                    session.end().await
                );
            }
            session.run("EXECUTE add('by SQL')").await;
            session.expect("SHOW work_mem", "7MB").await;
            session.expect("SHOW application_name", "kept").await;
            session.expect("SELECT current_setting('search_path')", "pg_catalog, public").await;
            // On the primary, too, where the write goes.
            let there = "INSERT INTO work (note) SELECT current_setting('work_mem') RETURNING note";
            session.expect(there, "7MB").await;
        }
        let rows = (round + 1) * sessions.len() * 3;
        for session in &sessions {
            session.run("BEGIN; INSERT INTO work (note) VALUES ('undone'); ROLLBACK").await;
            let seen = eventually("what other sessions wrote arrives", async || {
                let seen: usize = session.text("SELECT count(*) FROM work").await.parse().unwrap();
                (seen >= rows).then_some(seen)
            });
            assert_eq!(seen.await, rows);
        }
    }
    sessions[0].run("DROP TABLE work").await;
}

/// The server process of a session that is under way is started at the next primary before that is one.
pub(super) async fn under_way_are_begun_ahead(lab: &Lab) {
    primary_at(lab, US).await;
    let databases = [US, EU, AP].map(|region| lab.at(region).named("ahead"));
    let sessions = join_all(databases.iter().map(|database| database.connect())).await;
    sessions[0].run("CREATE TABLE early (process int)").await;
    for session in &sessions {
        session.run("BEGIN; INSERT INTO early VALUES (0)").await;
    }
    let target = lab.server(EU).connect().await;
    let commit_when_begun = async {
        // The session of that region reads on its server, too.
        let expected = sessions.len() + 1;
        let begun = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ahead'";
        eventually("sessions are begun ahead", async || {
            (target.text(begun).await.parse() == Ok(expected)).then_some(())
        })
        .await;
        let processes = "SELECT array_agg(pid) FROM pg_stat_activity
            WHERE application_name = 'ahead' AND pg_is_in_recovery()";
        let processes = target.text(processes).await;
        for session in &sessions {
            session.run("COMMIT").await;
        }
        processes
    };
    let (run, processes) =
        join(lab.pangea(&["switchover", "--to", EU, "--timeout", "20s"]), commit_when_begun).await;
    run.ended(0);
    settled(lab, EU).await;
    for session in &sessions {
        session.run("INSERT INTO early VALUES (pg_backend_pid())").await;
    }
    let ahead = format!("SELECT count(DISTINCT process) FROM early WHERE process = ANY ('{processes}')");
    sessions[1].expect(&ahead, sessions.len()).await;
    sessions[0].run("DROP TABLE early").await;
}

pub(super) async fn see_their_writes_and_sequences_do_not_repeat(lab: &Lab) {
    primary_at(lab, US).await;
    let sessions = everywhere(lab).await;
    sessions[0].run("CREATE TABLE seen (region int, n int); CREATE SEQUENCE ticket CACHE 1").await;
    let mut tickets = Vec::new();
    for to in [EU, US] {
        for (region, session) in sessions.iter().enumerate() {
            tickets.push(session.text("SELECT nextval('ticket')").await.parse::<i64>().unwrap());
            session.run(&format!("INSERT INTO seen VALUES ({region}, {})", tickets.len())).await;
        }
        switch(lab, to).await;
        for (region, session) in sessions.iter().enumerate() {
            let own = format!("SELECT max(n) FROM seen WHERE region = {region}");
            session.expect(&own, tickets.len() - sessions.len() + region + 1).await;
            session.run(&format!("INSERT INTO seen VALUES ({region}, {})", 100 + region)).await;
            session.expect(&own, 100 + region).await;
            session.run(&format!("DELETE FROM seen WHERE n = {}", 100 + region)).await;
            session.expect(&own, tickets.len() - sessions.len() + region + 1).await;
        }
    }
    for session in &sessions {
        tickets.push(session.text("SELECT nextval('ticket')").await.parse().unwrap());
    }
    assert!(tickets.windows(2).all(|pair| pair[0] < pair[1]), "{tickets:?}");
    sessions[0].run("DROP TABLE seen; DROP SEQUENCE ticket").await;
}

pub(super) async fn that_cannot_be_carried_over_are_told(lab: &Lab) {
    primary_at(lab, US).await;
    let mut tied = Vec::new();
    for region in [US, EU, AP] {
        for state in [
            "CREATE TEMP TABLE mine (n int)",
            "LISTEN orders",
            "CREATE TEMP TABLE mine (n int); INSERT INTO mine VALUES (1)",
        ] {
            let session = lab.connect(region).await;
            session.run(state).await;
            tied.push((format!("{region}: {state}"), session));
        }
    }
    let free = everywhere(lab).await;
    switch(lab, EU).await;
    for (what, session) in &mut tied {
        let end = session.end().await;
        assert!(end.starts_with("57P0"), "{what}: ended with {end}");
    }
    for session in &free {
        session.run("CREATE TABLE after_all (n int)").await;
        session.run("DROP TABLE after_all").await;
    }
}

pub(super) async fn locks_are_free_after_the_move(lab: &Lab) {
    primary_at(lab, US).await;
    let mut holder = lab.connect(AP).await;
    holder.run("SELECT pg_advisory_lock(4711)").await;
    let other = lab.connect(EU).await;
    other.expect("SELECT pg_try_advisory_lock(4711)", "f").await;
    switch(lab, EU).await;
    // Whoever held it must not believe that it still does.
    let end = holder.end().await;
    assert!(end.starts_with("57P0"), "{end}");
    let other = lab.connect(EU).await;
    other.expect("SELECT pg_try_advisory_lock(4711)", "t").await;
    other.expect("SELECT pg_advisory_unlock(4711)", "t").await;
    // A lock of a transaction ends with it, and is no tie.
    let session = lab.connect(AP).await;
    session.run("BEGIN; SELECT pg_advisory_xact_lock(4712); COMMIT").await;
    switch(lab, US).await;
    session.expect("SELECT pg_try_advisory_xact_lock(4712)", "t").await;
}
