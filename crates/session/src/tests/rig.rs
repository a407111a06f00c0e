//! A session with a client and two simulated servers.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pangea_base::{Lsn, Position, Timeline};
use pangea_consistency::{History, Reach};
use pangea_pgwire::requests::Requests;
use pangea_pgwire::startup::{CancelKey, Startup, Version, parse_first_packet};
use pangea_pgwire::{ErrorFields, SqlState, message};
use pangea_sql::{Batch, Catalog, CatalogBuilder, CatalogTable, classify};

use super::engine::{CHANNEL, Database, Engine, Role};
use super::program::Rng;
use super::server::Server;
use super::wire;
use crate::leg::{Expect, Hold};
use crate::{
    Access, Environment, Leg, ParseNumbers, ServerState, Session, SessionOptions, SharedOptions, Welcome,
    own_question,
};

/// The catalogue of the classifier's own tests, taken from a PostgreSQL 18.
static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let mut builder = CatalogBuilder::new();
    for line in include_str!("../../../sql/tests/data/catalog.tsv").lines() {
        let mut columns = line.split('\t');
        let table = CatalogTable::ALL[columns.next().unwrap().parse::<usize>().unwrap()];
        let plain = |column: &str| match column {
            "\\N" => None,
            _ => Some(column.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\")),
        };
        let row: Vec<Option<String>> = columns.map(plain).collect();
        let row: Vec<Option<&str>> = row.iter().map(Option::as_deref).collect();
        builder.add_row(table, &row).unwrap();
    }
    builder.build()
});

thread_local! {
    static CLASSIFIED: RefCell<HashMap<String, Arc<Batch>>> = RefCell::new(HashMap::new());
}

/// What the session can ask.
#[derive(Debug)]
pub(super) struct World {
    /// How far the standby is.
    pub(super) replayed: Rc<Cell<u64>>,
    /// Whether that is known.
    pub(super) lag_is_known: bool,
    /// How new the catalogue is.
    pub(super) catalog: u64,
    /// The timelines of the local server.
    pub(super) history: History,
    /// How stale it is at most.
    pub(super) staleness: Option<Duration>,
    pub(super) primary: bool,
    /// Durability is `sync`.
    pub(super) commits_elsewhere: bool,
    /// Leaves to use the primary that were given and not given back.
    pub(super) users: i32,
    /// Transaction blocks on the primary that the session has told of.
    pub(super) blocks: i32,
}

impl Environment for World {
    fn classify(&mut self, text: &str) -> Arc<Batch> {
        CLASSIFIED.with_borrow_mut(|known| {
            let batch = known.entry(text.to_owned());
            batch.or_insert_with_key(|text| Arc::new(classify(text, &CATALOG))).clone()
        })
    }

    fn catalog_covers(&mut self, position: Position) -> bool {
        self.catalog >= position.lsn.0
    }

    fn catalog_version(&self) -> u64 {
        0
    }

    fn reach(&self, position: Position) -> Reach {
        self.history.judge(position, self.lag_is_known.then(|| Lsn(self.replayed.get())))
    }

    fn is_primary(&self) -> bool {
        self.primary
    }

    fn timeline(&self) -> Option<Timeline> {
        Some(self.history.current())
    }

    fn staleness(&self) -> Option<Duration> {
        self.staleness
    }

    fn commits_elsewhere(&self) -> bool {
        self.commits_elsewhere
    }

    fn enter_primary(&mut self) -> bool {
        self.users += 1;
        true
    }

    fn leave_primary(&mut self) {
        self.users -= 1;
    }

    fn block_begins(&mut self) {
        self.blocks += 1;
    }

    fn block_ends(&mut self) {
        self.blocks -= 1;
    }
}

/// A session and everything around it. Servers work only when told to.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) session: Session,
    pub(super) world: World,
    pub(super) database: Rc<RefCell<Database>>,
    pub(super) local: Server,
    pub(super) primary: Server,
    /// Connections to the primary succeed.
    pub(super) primary_is_up: bool,
    /// Written by the session and not looked at by the test, by leg.
    sent: [BytesMut; 2],
    heard: BytesMut,
    /// The token that the client was told last.
    pub(super) token: String,
    pub(super) greeting: String,
    /// Between the session and the primary, when that is in another region.
    pub(super) relay: Option<Relay>,
    /// Servers that sessions share, besides the two that were used last; by leg.
    spare: [Vec<(Server, Box<ServerState>)>; 2],
    /// What goes with the one that was used last, while nobody uses it.
    free: [Option<Box<ServerState>>; 2],
    parse_numbers: ParseNumbers,
    /// What is listened to for the session.
    pub(super) channels: BTreeSet<Bytes>,
    /// What the listener has to say: a notification, or that all channels are heard.
    unheard: VecDeque<Option<Bytes>>,
    /// Notifications that it has heard, or that were before it listened.
    listened: usize,
    /// The listener works only when told to.
    pub(super) is_deaf: bool,
    rng: Rng,
}

/// What stands between a session and a primary in another region.
#[derive(Debug)]
pub(super) struct Relay {
    requests: Requests,
    /// Nothing new may begin.
    pub(super) is_closed: bool,
    /// The server waits for its start-up message.
    begins: bool,
    from_client: BytesMut,
}

impl Relay {
    fn new(begun: bool) -> Self {
        let mut requests = Requests::behind_startup();
        if begun {
            requests.answered(b'Z', b"I");
        }
        Self { requests, is_closed: false, begins: !begun, from_client: BytesMut::new() }
    }

    pub(super) fn pass(&mut self, to_server: &mut BytesMut) {
        if self.begins
            && let Some((_, len)) = parse_first_packet(&self.from_client).unwrap()
        {
            self.begins = false;
            to_server.extend_from_slice(&self.from_client.split_to(len));
        }
        if !self.begins {
            let question = own_question(&self.from_client).filter(|_| self.requests.is_quiet());
            let passed = match question {
                Some(len) => self.requests.pass(&self.from_client[..len], true),
                None => self.requests.pass(&self.from_client, !self.is_closed),
            };
            to_server.extend_from_slice(&self.from_client.split_to(passed));
        }
    }
}

/// What other sessions do on servers that they share, in the form of [`wire::extended`].
const INTRUSIONS: &[&str] = &[
    "P - SET application_name = other; B - -; E - 0; S",
    "P - SET work_mem = other; B - -; E - 0; S",
    "P - RESET ALL; B - -; E - 0; S",
    "P p SELECT id FROM t; B - p; E - 0; S",
    "P q SELECT 1; C S q; S",
    "P n1 SELECT 1/0; B - n1; E - 0; S",
    "P - BEGIN; B - -; E - 0; S; P - SET work_mem = gone; B - -; E - 0; S; P - ROLLBACK; B - -; E - 0; S",
    "P n2 SELECT 1; S; P - DEALLOCATE n2; B - -; E - 0; S",
    "P - PREPARE p AS SELECT 1; B - -; E - 0; S",
    "P - DISCARD ALL; B - -; E - 0; S",
    "P - SELECT 1; B - -; E - 0; S",
];

/// Other servers of a role that sessions share.
const SPARE: usize = 2;

pub(super) fn startup() -> Startup {
    let parameters = vec![("user".to_owned(), "ann".to_owned())];
    Startup { version: Version { major: 3, minor: 0 }, parameters }
}

/// A lost connection, as the gateway reports it.
pub(super) fn lost() -> ErrorFields {
    ErrorFields::fatal(SqlState::CONNECTION_FAILURE, "server closed the connection unexpectedly")
}

impl Rig {
    /// A session that has begun.
    pub(super) fn new() -> Self {
        Self::with(Access::Split)
    }

    /// A session that has begun and set its level.
    pub(super) fn at(level: &str) -> Self {
        let mut rig = Self::new();
        rig.given(&[&format!("SET pangea.read_consistency = '{level}'")]);
        rig
    }

    pub(super) fn with(access: Access) -> Self {
        let database = Database::shared();
        let replayed = Rc::new(Cell::new(database.borrow().newest().0));
        let (local_startup, primary_startup) = (startup(), startup());
        let options = SessionOptions { access, local_startup, primary_startup, shared: None };
        let catalog = database.borrow().newest().0;
        let local = Engine::new(Role::Standby(replayed.clone()), database.clone(), 11);
        let primary = Engine::new(Role::Primary, database.clone(), 22);
        let mut rig = Self {
            session: Session::new(options),
            world: World {
                replayed,
                lag_is_known: true,
                catalog,
                history: History::new(Timeline(1)),
                staleness: None,
                primary: false,
                commits_elsewhere: false,
                users: 0,
                blocks: 0,
            },
            local: Server::new(local),
            primary: Server::new(primary),
            database,
            primary_is_up: true,
            sent: [BytesMut::new(), BytesMut::new()],
            heard: BytesMut::new(),
            token: String::new(),
            relay: None,
            greeting: String::new(),
            spare: [Vec::new(), Vec::new()],
            parse_numbers: ParseNumbers::default(),
            channels: BTreeSet::new(),
            unheard: VecDeque::new(),
            listened: 0,
            is_deaf: false,
            free: [None, None],
            rng: Rng(1),
        };
        rig.settle();
        rig.greeting = rig.heard();
        rig.sent(Leg::Local);
        rig
    }

    /// A session that shares its servers with others, which leave on them what they like.
    pub(super) fn shared(access: Access, seed: u64) -> Self {
        let mut rig = Self::with(access);
        let (local, local_state, _) = rig.begun_server(Leg::Local, 100);
        let (primary, primary_state, _) = rig.begun_server(Leg::Primary, 200);
        let welcome = Arc::new(rig.begun_server(access.home(), 300).2);
        for leg in [Leg::Local, Leg::Primary] {
            for number in 0..SPARE {
                let (server, state, _) = rig.begun_server(leg, 400 + u32::try_from(number).unwrap());
                rig.spare[leg.index()].push((server, state));
            }
        }
        rig.free = [Some(local_state), Some(primary_state)];
        (rig.local, rig.primary, rig.rng) = (local, primary, Rng(seed));
        // As the server calls itself that programs are compared with.
        let client_key = CancelKey { process: 11, secret: vec![9; 4] };
        let shared = SharedOptions {
            welcome,
            client_key,
            application_name: None,
            parse_numbers: rig.parse_numbers.clone(),
        };
        let (local_startup, primary_startup) = (startup(), startup());
        let options = SessionOptions { access, local_startup, primary_startup, shared: Some(shared) };
        rig.session = Session::new(options);
        rig.settle();
        rig.heard();
        rig
    }

    /// A server that has answered what a gateway asks of new connections.
    fn begun_server(&self, leg: Leg, process: u32) -> (Server, Box<ServerState>, Welcome) {
        let role = match leg {
            Leg::Local => Role::Standby(self.world.replayed.clone()),
            Leg::Primary => Role::Primary,
        };
        let mut server = Server::new(Engine::new(role, self.database.clone(), process));
        startup().write(&mut server.input);
        pangea_pgwire::build::query(&mut server.input, crate::own::START_SQL);
        while server.step() {}
        let mut output = server.output.split();
        let (mut parameters, mut start) = (Vec::new(), Vec::new());
        while let Some(frame) = wire::take_frame(&mut output) {
            let body = &frame[pangea_pgwire::frame::HEADER_LEN..];
            match frame[0] {
                b'S' => {
                    let (name, value) = message::parameter_status(body).unwrap();
                    parameters.push((frame.slice_ref(name), frame.slice_ref(value)));
                }
                b'D' => start.push(
                    message::first_column(body).map(|value| frame.slice_ref(value)).unwrap_or_default(),
                ),
                _ => {}
            }
        }
        let state = ServerState::new(Some(CancelKey { process, secret: vec![1; 4] }), &start);
        let state = Box::new(state);
        (server, state, Welcome { parameters, start })
    }

    /// The session gets the connection that it wants.
    pub(super) fn open(&mut self, leg: Leg) {
        let Some(state) = self.free[leg.index()].take() else {
            return match leg {
                Leg::Local => self.session.local_opened(),
                Leg::Primary => self.session.primary_opened(),
            };
        };
        // Another one than last time, or the same; and another session may have used it meanwhile.
        let spares = self.spare[leg.index()].len();
        let mut chosen = state;
        if self.rng.one_in(2) {
            let at = self.rng.below(spares);
            let (mut server, mut state) = self.spare[leg.index()].swap_remove(at);
            std::mem::swap(self.server(leg), &mut server);
            std::mem::swap(&mut chosen, &mut state);
            self.spare[leg.index()].push((server, state));
        }
        if self.rng.one_in(2) {
            chosen = self.intrude(leg, chosen);
        }
        self.session.attach(leg, chosen);
    }

    /// Another session uses the server and leaves on it what sessions leave.
    fn intrude(&mut self, leg: Leg, state: Box<ServerState>) -> Box<ServerState> {
        let access = if leg == Leg::Local { Access::Local } else { Access::Primary };
        let process = 1000 + u32::try_from(self.rng.below(1000)).unwrap();
        let welcome = Arc::new(self.begun_server(leg, 0).2);
        let client_key = CancelKey { process, secret: vec![8; 4] };
        let shared = SharedOptions {
            welcome,
            client_key,
            application_name: None,
            parse_numbers: self.parse_numbers.clone(),
        };
        let (local_startup, primary_startup) = (startup(), startup());
        let options = SessionOptions { access, local_startup, primary_startup, shared: Some(shared) };
        let mut session = Session::new(options);
        let mut state = Some(state);
        let count = 1 + self.rng.below(3);
        for _ in 0..count {
            let said = wire::extended(self.rng.pick(INTRUSIONS));
            session.client_input().extend_from_slice(&said);
        }
        loop {
            session.advance(&mut self.world);
            session.client_output().clear();
            if (session.wants_primary() || session.wants_local())
                && let Some(state) = state.take()
            {
                session.attach(leg, state);
                continue;
            }
            let said = session.server_output(leg).split();
            let server = self.server(leg);
            server.input.extend_from_slice(&said);
            while server.step() {}
            let answer = server.output.split();
            if said.is_empty() && answer.is_empty() {
                break;
            }
            session.server_input(leg).extend_from_slice(&answer);
        }
        match session.release(leg).or(state) {
            Some(state) => state,
            // It is kept from others, and ends with its session.
            None => {
                let (server, state, _) = self.begun_server(leg, process);
                *self.server(leg) = server;
                state
            }
        }
    }

    /// The primary is in another region from now on.
    pub(super) fn with_relay(mut self) -> Self {
        self.session.set_primary_may_refuse(true);
        self.relay = Some(Relay::new(self.session.shares_servers()));
        self
    }

    /// A server handles one message; whether there was one.
    fn works(&mut self, leg: Leg) -> bool {
        match leg {
            Leg::Local => self.local.step(),
            Leg::Primary => self.primary_works(),
        }
    }

    /// The primary handles one message; whether there was one.
    pub(super) fn primary_works(&mut self) -> bool {
        let before = self.primary.output.len();
        let worked = self.primary.step();
        if let Some(relay) = &mut self.relay {
            let mut said = BytesMut::from(&self.primary.output[before..]);
            while let Some(frame) = wire::take_frame(&mut said) {
                relay.requests.answered(frame[0], &frame[pangea_pgwire::frame::HEADER_LEN..]);
            }
            relay.pass(&mut self.primary.input);
        }
        worked
    }

    /// The region of the primary gives it nothing more of what the session has sent; whether it could.
    pub(super) fn refuse(&mut self) -> bool {
        // What it has said is heard first.
        let said = self.primary.output.split();
        self.session.server_input(Leg::Primary).extend_from_slice(&said);
        self.advance();
        while self.session.waits_to_be_notified() && self.listener_works() {
            self.advance();
        }
        let quiet = self.relay.as_ref().is_some_and(|relay| relay.requests.is_quiet());
        let (pinned, listening, hold) = self.session.bound_by_what_has_run();
        let bound = if self.session.shares_servers() { hold != Hold::No } else { pinned || listening };
        let ends = bound || self.session.primary.expects(Expect::Settings);
        if !quiet || !self.session.primary_is_open() || ends {
            return false;
        }
        ErrorFields::fatal(SqlState::CANNOT_CONNECT_NOW, "not primary")
            .write(self.session.server_input(Leg::Primary));
        self.session.advance(&mut self.world);
        let shares = self.session.shares_servers();
        self.relay = Some(Relay::new(shares));
        if shares {
            let (primary, state, _) = self.begun_server(Leg::Primary, 500);
            (self.primary, self.free[Leg::Primary.index()]) = (primary, Some(state));
        } else {
            self.primary = Server::new(Engine::new(Role::Primary, self.database.clone(), 24));
        }
        true
    }

    fn server(&mut self, leg: Leg) -> &mut Server {
        match leg {
            Leg::Local => &mut self.local,
            Leg::Primary => &mut self.primary,
        }
    }

    /// The listener hears what is wanted, or says something; whether it did.
    pub(super) fn listener_works(&mut self) -> bool {
        if let Some(channels) = self.session.take_wanted_channels() {
            self.channels.clone_from(channels);
            self.unheard.push_back(None);
            return true;
        }
        if !self.session.takes_notification() {
            return false;
        }
        match self.unheard.pop_front() {
            Some(Some(frame)) => self.session.notified(frame),
            Some(None) => self.session.channels_are_heard(),
            None => return false,
        }
        true
    }

    pub(super) fn advance(&mut self) {
        let database = self.database.borrow();
        let from = std::mem::replace(&mut self.listened, database.notified.len());
        if self.channels.contains(CHANNEL.as_bytes()) {
            self.unheard.extend(database.notifications(from).into_iter().map(Some));
        }
        drop(database);
        self.session.advance(&mut self.world);
        while !self.is_deaf && self.listener_works() {
            self.session.advance(&mut self.world);
        }
        self.collect();
        for leg in [Leg::Local, Leg::Primary] {
            if let Some(state) = self.session.release(leg) {
                assert!(!self.server(leg).engine.listens(), "it goes to others and listens");
                self.free[leg.index()] = Some(state);
            }
        }
    }

    /// Takes what the session has written to everybody.
    fn collect(&mut self) {
        if self.session.wants_primary() && self.primary_is_up {
            self.open(Leg::Primary);
        }
        if self.session.wants_local() {
            self.open(Leg::Local);
        }
        for leg in [Leg::Local, Leg::Primary] {
            if leg == Leg::Primary && self.session.wants_primary() {
                continue;
            }
            let bytes = self.session.server_output(leg).split();
            self.sent[leg.index()].extend_from_slice(&bytes);
            match self.relay.as_mut().filter(|_| leg == Leg::Primary) {
                Some(relay) => {
                    relay.from_client.extend_from_slice(&bytes);
                    relay.pass(&mut self.primary.input);
                }
                None => self.server(leg).input.extend_from_slice(&bytes),
            }
        }
        let bytes = self.session.client_output().split();
        self.heard.extend_from_slice(&bytes);
    }

    /// The client writes; no server answers yet.
    pub(super) fn say(&mut self, bytes: &[u8]) {
        self.session.client_input().extend_from_slice(bytes);
        self.advance();
    }

    /// The server handles all that it has got.
    pub(super) fn run(&mut self, leg: Leg) {
        while self.works(leg) {}
        let bytes = self.server(leg).output.split();
        self.session.server_input(leg).extend_from_slice(&bytes);
        self.advance();
    }

    /// Everybody works until nothing happens any more.
    pub(super) fn settle(&mut self) {
        loop {
            self.advance();
            let quiet = [Leg::Local, Leg::Primary].map(|leg| {
                let idle = !self.works(leg) && self.server(leg).output.is_empty();
                self.run(leg);
                idle
            });
            if quiet == [true, true] {
                return;
            }
        }
    }

    /// The standby replays everything.
    pub(super) fn replay(&mut self) {
        let newest = self.database.borrow().newest().0;
        self.world.replayed.set(newest);
        self.world.catalog = newest;
        self.advance();
    }

    /// Frames that the session has sent to a server since the last call.
    pub(super) fn sent(&mut self, leg: Leg) -> String {
        let mut bytes = self.sent[leg.index()].split();
        let mut shown = Vec::new();
        // A start-up message begins with its length, whose first byte is no tag.
        if bytes.first() == Some(&0) {
            let (_, len) = parse_first_packet(&bytes).unwrap().unwrap();
            let _ = bytes.split_to(len);
            shown.push("startup".to_owned());
        }
        while let Some(frame) = wire::take_frame(&mut bytes) {
            if !wire::is_greeting(&frame) {
                shown.push(wire::show_frontend(&frame));
            }
        }
        assert!(bytes.is_empty(), "half a frame was sent to the {leg:?} server: {bytes:?}");
        shown.join(" | ")
    }

    /// Frames that the client has got since the last call.
    pub(super) fn heard(&mut self) -> String {
        self.collect();
        let mut bytes = self.heard.split();
        let mut shown = Vec::new();
        while let Some(frame) = wire::take_frame(&mut bytes) {
            if wire::is_token(&frame) {
                self.token = wire::show_backend(&frame);
            } else {
                shown.push(wire::show_backend(&frame));
            }
        }
        assert!(bytes.is_empty(), "half a frame was sent to the client: {bytes:?}");
        shown.join(" | ")
    }

    /// The bytes that the client has got since the last call.
    pub(super) fn heard_bytes(&mut self) -> BytesMut {
        self.collect();
        self.heard.split()
    }

    /// The client says this, everybody works, and this is what the client hears.
    pub(super) fn ask(&mut self, bytes: &[u8]) -> String {
        self.say(bytes);
        self.settle();
        self.heard()
    }

    /// [`Self::ask`] with a Query; the standby then replays everything.
    pub(super) fn query(&mut self, text: &str) -> String {
        let heard = self.ask(&wire::query(text));
        self.replay();
        self.settle();
        heard + &self.heard()
    }

    /// Runs queries and forgets what was said.
    pub(super) fn given(&mut self, queries: &[&str]) {
        for query in queries {
            self.query(query);
        }
        self.sent(Leg::Local);
        self.sent(Leg::Primary);
    }

    /// Writes that were executed, in all.
    pub(super) fn writes(&self) -> Vec<String> {
        self.database.borrow().writes.clone()
    }

    /// The reader is gone; the next one has replayed nothing yet. Tells how far it is.
    pub(super) fn lose_reader(&mut self) -> u64 {
        let behind = 0x1000;
        self.world.replayed.set(behind);
        let engine = Engine::new(Role::Standby(self.world.replayed.clone()), self.database.clone(), 12);
        self.local = Server::new(engine);
        self.session.server_closed(Leg::Local, &lost());
        self.advance();
        behind
    }

    /// A connection closes.
    pub(super) fn close(&mut self, leg: Leg) {
        self.advance();
        self.session.server_closed(leg, &lost());
        if leg == Leg::Primary {
            self.primary = Server::new(Engine::new(Role::Primary, self.database.clone(), 23));
        }
        self.advance();
    }
}

/// Runs queries in order and checks what each is answered with.
pub(super) fn check(rig: &mut Rig, table: &[(&str, &str)]) {
    for (query, answer) in table {
        assert_eq!(rig.query(query), *answer, "{query}");
    }
}
