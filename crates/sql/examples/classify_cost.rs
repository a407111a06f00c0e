//! What the answer for one statement costs: known by its text, known by its shape, not known.
//!
//! `cargo run --release -p pangea-sql --example classify_cost`

#![allow(clippy::print_stdout, clippy::expect_used, reason = "a measurement run by hand")]

#[allow(dead_code, reason = "made for the tests")]
#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pangea_sql::{Cache, Catalog, classify};

/// Texts of one kind; each round asks for all of them.
const TEXTS: usize = 2_000;

/// The best part of so many rounds counts: the machine may do other things.
const ROUNDS: usize = 50;

/// Texts in one part.
const PART: usize = 50;

/// How the gateway asks.
fn ask(cache: &mut Cache, catalog: &Catalog, text: &str) {
    if black_box(cache.get(text)).is_none() {
        cache.insert(text, Arc::new(classify(text, catalog)));
    }
}

fn measure(name: &str, texts: &[String], catalog: &Catalog, cache: &mut Cache, clear: bool) {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        for part in texts.chunks_exact(PART) {
            let begin = Instant::now();
            for text in part {
                if clear {
                    cache.clear();
                }
                ask(cache, catalog, text);
            }
            best = best.min(begin.elapsed());
        }
    }
    println!("{name:<44} {:>8} ns", best.as_nanos() / PART as u128);
}

/// As many different values as there are texts, of as many lengths as pgbench has.
fn texts(make: impl Fn(u64) -> String) -> Vec<String> {
    (0..TEXTS as u64).map(|number| make(number.wrapping_mul(2_654_435_761) % 1_000_000 + 1)).collect()
}

fn main() {
    let catalog = support::catalog(&support::read_rows());
    let select = |id: u64| format!("SELECT v FROM t WHERE id = {id};");
    let same = vec!["SELECT v FROM t WHERE id = $1;".to_owned(); TEXTS];
    let update = |id: u64| format!("UPDATE t SET n = n + {} WHERE id = {id};", id % 5000);
    let insert = |id: u64| {
        format!("INSERT INTO t (id, v, n) VALUES ({id}, 'name of {id}', {}, CURRENT_TIMESTAMP);", id % 5000)
    };
    let uncertain = |id: u64| format!("SELECT v FROM t WHERE id = {id} AND v = E'x';");
    let rows = |id: u64| {
        let rows: Vec<String> =
            (id..id + 100).map(|id| format!("({id}, 'a name of some length', -1.5)")).collect();
        format!("INSERT INTO t (id, v, n) VALUES {}", rows.join(", "))
    };
    let few = |texts: Vec<String>| texts.into_iter().take(200).collect::<Vec<_>>();
    let mut cache = Cache::new(32 << 20);
    measure("hit by text, select", &same, &catalog, &mut cache, false);
    measure("hit by shape, select", &texts(select), &catalog, &mut cache, false);
    measure("hit by shape, update", &texts(update), &catalog, &mut cache, false);
    measure("hit by shape, insert", &texts(insert), &catalog, &mut cache, false);
    measure("hit by shape, insert of 100 rows", &few(texts(rows)), &catalog, &mut cache, false);
    measure("miss, select", &few(texts(select)), &catalog, &mut cache, true);
    measure("miss, update", &few(texts(update)), &catalog, &mut cache, true);
    measure("miss, insert", &few(texts(insert)), &catalog, &mut cache, true);
    measure("miss, no shape", &few(texts(uncertain)), &catalog, &mut cache, true);
    measure("miss, insert of 100 rows", &few(texts(rows)).split_off(150), &catalog, &mut cache, true);
}
