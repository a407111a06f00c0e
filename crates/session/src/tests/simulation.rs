//! Random programs against one server that runs the same bytes.
//!
//! What is said arrives in random pieces, servers work in random order, the standby replays when it likes. The
//! client must hear what it would hear from a single PostgreSQL (PASS-THROUGH, READ-YOUR-WRITES), and the primary
//! must execute what that one executes (AT-MOST-ONCE). A failure prints its seed and the shortest part of the
//! program that still fails; `PANGEA_SEED=<seed>` with [`one_seed`] runs it again, `PANGEA_SEEDS=<count>` runs more.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Bytes, BytesMut};

use super::engine::{Database, Engine, Role};
use super::program::{Rng, Step, program, program_of_few_texts};
use super::rig::{Rig, startup};
use super::server::Server;
use super::wire;
use crate::{Access, Leg};

/// Programs that every run of the tests tries.
const SEEDS: u64 = 1500;

/// Orders of events that are tried with each program while a failing one is made shorter.
const ORDERS: u64 = 6;

/// Actions after which a run that does not come to rest is a failure.
const ACTIONS_MAX: usize = 200_000;

/// A process that notifies something now and then.
const STRANGER: u32 = 99;

/// What may happen next.
const ACTIONS: [fn(&mut Run) -> bool; 9] = [
    Run::client_writes,
    Run::local_works,
    Run::primary_works,
    |run| run.server_is_heard(Leg::Local),
    |run| run.server_is_heard(Leg::Primary),
    Run::standby_replays,
    Run::catalog_is_read,
    Run::primary_is_opened,
    Run::gate_opens,
];

/// Whose the servers are.
#[derive(Debug, Clone, Copy)]
enum Servers {
    /// The session's alone.
    Own,
    /// Other sessions' too.
    Shared(Access),
    /// The session's alone, and the primary in a region that moves the primary again and again.
    Moving,
    /// The same, of other sessions too.
    SharedMoving(Access),
    /// Other sessions' too, and programs are of few texts.
    SharedFewTexts(Access),
}

/// A session under way.
struct Run {
    rig: Rig,
    rng: Rng,
    /// When the listener works.
    listener_rng: Rng,
    /// Written by the client, not arrived yet.
    unsaid: BytesMut,
}

impl Run {
    fn client_writes(&mut self) -> bool {
        if self.unsaid.is_empty() || !self.rig.session.takes_client_input() {
            return false;
        }
        let len = self.piece(self.unsaid.len());
        let piece = self.unsaid.split_to(len);
        self.rig.session.client_input().extend_from_slice(&piece);
        true
    }

    fn local_works(&mut self) -> bool {
        self.rig.local.step()
    }

    fn primary_works(&mut self) -> bool {
        self.rig.primary_works()
    }

    /// The region of the primary has let nothing new begin there: what it has held back it refuses, or passes on.
    fn gate_opens(&mut self) -> bool {
        if !self.rig.relay.as_ref().is_some_and(|relay| relay.is_closed) {
            return false;
        }
        if self.rng.one_in(4) || !self.rig.refuse() {
            let Some(relay) = &mut self.rig.relay else { return true };
            relay.is_closed = false;
            relay.pass(&mut self.rig.primary.input);
        }
        true
    }

    fn server_is_heard(&mut self, leg: Leg) -> bool {
        let server = match leg {
            Leg::Local => &mut self.rig.local,
            Leg::Primary => &mut self.rig.primary,
        };
        if server.output.is_empty() || !self.rig.session.takes_server_input(leg) {
            return false;
        }
        let mut output = std::mem::take(&mut server.output);
        let len = self.piece(output.len());
        let piece = output.split_to(len);
        match leg {
            Leg::Local => self.rig.local.output = output,
            Leg::Primary => self.rig.primary.output = output,
        }
        self.rig.session.server_input(leg).extend_from_slice(&piece);
        true
    }

    fn standby_replays(&mut self) -> bool {
        let replayed = &self.rig.world.replayed;
        let next = self.rig.database.borrow().after(replayed.get());
        next.is_some_and(|next| {
            replayed.set(next);
            true
        })
    }

    fn catalog_is_read(&mut self) -> bool {
        let replayed = self.rig.world.replayed.get();
        std::mem::replace(&mut self.rig.world.catalog, replayed) != replayed
    }

    fn primary_is_opened(&mut self) -> bool {
        let wanted = self.rig.session.wants_primary();
        if wanted {
            self.rig.open(Leg::Primary);
        }
        wanted
    }

    /// A few bytes, or all that there are.
    fn piece(&mut self, len: usize) -> usize {
        if self.rng.one_in(3) { len } else { 1 + self.rng.below(len.min(40)) }
    }

    /// One random thing happens.
    fn act(&mut self) -> bool {
        let action = ACTIONS[self.rng.below(ACTIONS.len())];
        let mut acted = action(self);
        self.rig.advance();
        if self.listener_rng.one_in(40) && self.rig.session.shares_servers() {
            self.rig.database.borrow_mut().notified.push(STRANGER);
        }
        if self.listener_rng.one_in(4) && self.rig.listener_works() {
            self.rig.advance();
            acted = true;
        }
        let closes = self.rng.one_in(30);
        if let Some(relay) = &mut self.rig.relay {
            relay.is_closed |= closes;
        }
        if self.rng.one_in(50) && self.rig.session.waits_for().is_some() {
            self.rig.session.give_up_waiting();
            self.rig.advance();
        }
        acted
    }

    /// Random things happen until nothing can.
    fn rest(&mut self) {
        for _ in 0..ACTIONS_MAX {
            if !self.act() && !ACTIONS.iter().any(|action| action(self)) && !self.rig.listener_works() {
                self.rig.advance();
                return;
            }
            self.rig.advance();
        }
        panic!("the session does not come to rest");
    }
}

fn frames(mut bytes: BytesMut) -> Vec<Bytes> {
    let mut frames: Vec<Bytes> = std::iter::from_fn(|| wire::take_frame(&mut bytes)).collect();
    assert!(bytes.is_empty(), "PASS-THROUGH: half a frame: {bytes:?}");
    frames.retain(|frame| {
        let standby = wire::show_backend(frame).starts_with("S:in_hot_standby");
        frame[0] != b'K' && !standby && !wire::is_token(frame)
    });
    // Parameters may be told at any time: what counts is what is known at the end of a unit.
    for unit in frames.split_mut(|frame| frame[0] == b'Z') {
        unit.sort_by_key(|frame| frame[0] == b'S');
    }
    frames
}

fn show(frames: &[Bytes]) -> String {
    frames.iter().map(|frame| wire::show_backend(frame)).collect::<Vec<_>>().join(" | ")
}

/// The text of a notification.
fn number_of(frame: &Bytes) -> usize {
    let text = frame.rsplit(|byte| *byte == 0).nth(1).unwrap_or_default();
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(usize::MAX)
}

/// One server that runs the program.
fn reference(steps: &[Step]) -> Server {
    let mut server = Server::new(Engine::new(Role::Primary, Database::shared(), 11));
    startup().write(&mut server.input);
    server.step();
    server.output.clear();
    for step in steps {
        server.input.extend_from_slice(&step.bytes);
    }
    while server.step() {}
    server
}

/// A session that runs the program.
fn simulate(steps: &[Step], order: u64, servers: Servers) -> Rig {
    let mut rig = match servers {
        Servers::Own => Rig::new(),
        Servers::Shared(access) | Servers::SharedFewTexts(access) => Rig::shared(access, order),
        Servers::Moving => Rig::new().with_relay(),
        Servers::SharedMoving(access) => Rig::shared(access, order).with_relay(),
    };
    (rig.primary_is_up, rig.is_deaf) = (false, true);
    let listener_rng = Rng(order + 1);
    let mut run = Run { rig, rng: Rng(order), listener_rng, unsaid: BytesMut::new() };
    for step in steps {
        run.unsaid.extend_from_slice(&step.bytes);
        if run.rng.one_in(2) {
            run.rest();
        } else {
            for _ in 0..run.rng.below(30) {
                run.act();
            }
        }
    }
    run.rest();
    run.rig
}

fn check(steps: &[Step], order: u64, servers: Servers) {
    let mut expected = reference(steps);
    let mut rig = simulate(steps, order, servers);
    let (mut got, mut wanted) = (frames(rig.heard_bytes()), frames(expected.output.split()));
    if !matches!(servers, Servers::Own | Servers::Moving) {
        // They come when they come, of a LISTEN that was sent with the NOTIFY perhaps earlier.
        let is_told = |frame: &Bytes| frame[0] == b'A';
        let told = [&got, &wanted].map(|side| side.iter().filter(|frame| is_told(frame)).count());
        let heard = rig.database.borrow().notified.len();
        let numbers: Vec<usize> = got.iter().filter(|frame| is_told(frame)).map(number_of).collect();
        assert!(
            numbers.iter().all(|number| *number < heard),
            "nobody has notified that: {numbers:?} of {heard}"
        );
        assert!(numbers.is_sorted_by(|a, b| a < b), "told twice, or in another order: {numbers:?}");
        let ends = |step: &Step| ["UNLISTEN", "DISCARD"].iter().any(|word| step.text.contains(word));
        assert!(told[0] >= told[1] || steps.iter().any(ends), "a notification is lost: {told:?} of {heard}");
        got.retain(|frame| !is_told(frame));
        wanted.retain(|frame| !is_told(frame));
    }
    if let Some(at) = (0..got.len().max(wanted.len())).find(|&at| got.get(at) != wanted.get(at)) {
        let both_rows = [&got, &wanted].iter().all(|side| side.get(at).is_some_and(|frame| frame[0] == b'D'));
        let invariant = if both_rows { "READ-YOUR-WRITES" } else { "PASS-THROUGH" };
        panic!("{invariant}: frame {at} differs\n  got    {}\n  wanted {}", show(&got), show(&wanted));
    }
    let wanted = expected.engine.database.borrow();
    assert_eq!(rig.writes(), wanted.writes, "AT-MOST-ONCE: other writes were executed");
    assert_eq!(
        rig.database.borrow().newest().1,
        wanted.newest().1,
        "AT-MOST-ONCE: other data were committed"
    );
}

fn fails(steps: &[Step], order: u64, servers: Servers) -> Option<String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| check(steps, order, servers)));
    outcome.err().map(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

/// Leaves out steps as long as some order of events still fails.
fn shorten(mut steps: Vec<Step>, order: u64, servers: Servers) -> (Vec<Step>, String) {
    let first_failure = |steps: &[Step]| (0..ORDERS).find_map(|more| fails(steps, order + more, servers));
    let mut text = first_failure(&steps).unwrap_or_default();
    let mut at = 0;
    while at < steps.len() {
        let removed = steps.remove(at);
        match first_failure(&steps) {
            Some(failure) => (text, at) = (failure, 0),
            None => {
                steps.insert(at, removed);
                at += 1;
            }
        }
    }
    (steps, text)
}

fn run_seed(seed: u64, servers: Servers) {
    let write = if matches!(servers, Servers::SharedFewTexts(_)) { program_of_few_texts } else { program };
    let steps = write(&mut Rng(seed));
    if fails(&steps, seed, servers).is_some() {
        let (steps, text) = shorten(steps, seed, servers);
        let said: Vec<&str> = steps.iter().map(|step| step.text.as_str()).collect();
        panic!("seed {seed}, {servers:?}: {text}\n  program {said:#?}");
    }
}

/// A number from the environment, for longer runs by hand.
fn given(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(default)
}

fn run_seeds(servers: impl Fn(u64) -> Servers) {
    for seed in 0..given("PANGEA_SEEDS", SEEDS) {
        run_seed(seed, servers(seed));
    }
}

/// Sessions of both kinds that share servers.
fn access(seed: u64) -> Access {
    if seed.is_multiple_of(2) { Access::Split } else { Access::Primary }
}

#[test]
fn one_seed() {
    let shared = [Access::Split, Access::Primary];
    for servers in [Servers::Own, Servers::Moving]
        .into_iter()
        .chain(shared.map(Servers::Shared))
        .chain(shared.map(Servers::SharedMoving))
        .chain(shared.map(Servers::SharedFewTexts))
    {
        run_seed(given("PANGEA_SEED", 1), servers);
    }
}

#[test]
fn random_programs_are_answered_as_by_one_server() {
    run_seeds(|_| Servers::Own);
}

#[test]
fn random_programs_on_shared_servers_are_answered_as_by_one_server() {
    run_seeds(|seed| Servers::Shared(access(seed)));
}

#[test]
fn random_programs_are_answered_as_by_one_server_while_the_primary_moves() {
    run_seeds(|_| Servers::Moving);
}

#[test]
fn random_programs_on_shared_servers_are_answered_so_too() {
    run_seeds(|seed| Servers::SharedMoving(access(seed)));
}

#[test]
fn the_same_texts_again_and_again_are_answered_as_by_one_server() {
    run_seeds(|seed| Servers::SharedFewTexts(access(seed)));
}
