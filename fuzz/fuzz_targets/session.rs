//! A session that is fed with anything by everybody: no panic, no endless loop, and memory stays bounded.
//!
//! The input is a list of events. The first byte of each says who speaks; `length` bytes follow. Half of the
//! servers' bytes are made into frames, so that more than the first header is reached.
#![no_main]

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use libfuzzer_sys::fuzz_target;
use pangea_base::{Position, Timeline};
use pangea_consistency::Reach;
use pangea_pgwire::startup::{Startup, Version};
use pangea_pgwire::{ErrorFields, SqlState, build};
use pangea_session::{Access, Environment, Held, Leg, Session, SessionOptions, UNIT_LEN_MAX};
use pangea_sql::{Batch, Catalog, classify};

/// Bytes that one event adds to one side's output at most, beyond what was put in.
const OUTPUT_PER_EVENT_MAX: usize = 1 << 20;

thread_local! {
    static CLASSIFIED: RefCell<HashMap<String, Arc<Batch>>> = RefCell::new(HashMap::new());
}

/// An environment that answers what the input says.
struct World(u8);

impl Environment for World {
    fn classify(&mut self, text: &str) -> Arc<Batch> {
        CLASSIFIED.with_borrow_mut(|known| {
            if known.len() > 10_000 {
                known.clear();
            }
            let batch = known.entry(text.to_owned());
            batch.or_insert_with_key(|text| Arc::new(classify(text, &Catalog::default()))).clone()
        })
    }

    fn catalog_version(&self) -> u64 {
        u64::from(self.0 & 3)
    }

    fn catalog_covers(&mut self, _: Position) -> bool {
        self.0 & 4 == 0
    }

    fn reach(&self, _: Position) -> Reach {
        match self.0 >> 3 & 3 {
            0 => Reach::Lost,
            1 => Reach::Behind,
            _ => Reach::Reached,
        }
    }

    fn is_primary(&self) -> bool {
        self.0 & 32 != 0
    }

    fn timeline(&self) -> Option<Timeline> {
        (self.0 & 8 == 0).then_some(Timeline(1))
    }

    fn staleness(&self) -> Option<Duration> {
        (self.0 & 16 == 0).then(|| Duration::from_secs(u64::from(self.0)))
    }

    fn commits_elsewhere(&self) -> bool {
        self.0 & 64 != 0
    }

    fn enter_primary(&mut self) -> bool {
        self.0 & 128 == 0
    }

    fn leave_primary(&mut self) {}

    fn block_begins(&mut self) {}

    fn block_ends(&mut self) {}
}

fn startup() -> Startup {
    let parameters = vec![("user".to_owned(), "u".to_owned())];
    Startup { version: Version { major: 3, minor: 0 }, parameters }
}

/// Bytes as they are, or as the body of a frame whose tag is their first byte.
fn said(event: u8, bytes: &[u8], tags: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    match bytes.split_first() {
        Some((tag, body)) if event & 0x80 == 0 => {
            build::frame(&mut out, tags[usize::from(*tag) % tags.len()], |out| out.put_slice(body));
        }
        _ => out.put_slice(bytes),
    }
    out
}

fn feed(session: &mut Session, event: u8, bytes: &[u8]) {
    let error = || ErrorFields::fatal(SqlState::CONNECTION_FAILURE, "gone");
    match event & 0x0f {
        0..=4 if session.takes_client_input() => {
            session.client_input().extend_from_slice(&said(event, bytes, b"QPBEDCSHdcfFX"));
        }
        5..=7 if session.takes_server_input(Leg::Local) => {
            session.server_input(Leg::Local).extend_from_slice(&said(event, bytes, b"ZTDC12EGNSAKHIstn3V"));
        }
        8..=10 if session.takes_server_input(Leg::Primary) => {
            session.server_input(Leg::Primary).extend_from_slice(&said(event, bytes, b"ZTDC12EGNSAKHIstn3V"));
        }
        11 if session.wants_primary() => session.primary_opened(),
        12 if session.wants_primary() => session.primary_failed(&error()),
        13 => session.give_up_waiting(),
        14 => drop(session.cancel_waiting()),
        15 => match bytes.first() {
            Some(0) => session.client_closed(),
            Some(1) => session.server_closed(Leg::Primary, &error()),
            Some(2) => session.server_closed(Leg::Local, &error()),
            Some(3) => session.primary_moved(|_| {}),
            Some(byte @ 4..=6) => {
                session.hold_primary([Held::Nothing, Held::Blocks, Held::All][usize::from(byte - 4)]);
            }
            Some(byte) => session.set_on_hold(byte & 1 == 1),
            None => {}
        },
        _ => {}
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&access, mut rest)) = input.split_first() else { return };
    let access = [Access::Split, Access::Local, Access::Primary][usize::from(access) % 3];
    let (local_startup, primary_startup) = (startup(), startup());
    let mut session =
        Session::new(SessionOptions { access, local_startup, primary_startup, shared: None });
    while let [event, length, world, after @ ..] = rest {
        let (bytes, next) = after.split_at(usize::from(*length).min(after.len()));
        rest = next;
        feed(&mut session, *event, bytes);
        session.advance(&mut World(*world));
        assert!(session.client_input().len() <= UNIT_LEN_MAX + 2 * OUTPUT_PER_EVENT_MAX, "BOUNDED");
        for leg in [Leg::Local, Leg::Primary] {
            assert!(session.server_output(leg).len() <= OUTPUT_PER_EVENT_MAX, "BOUNDED");
            session.server_output(leg).clear();
        }
        assert!(session.client_output().len() <= OUTPUT_PER_EVENT_MAX, "BOUNDED");
        session.client_output().clear();
        let _ = (session.busy(), session.waits_for(), session.client_key());
        if session.is_over() {
            return;
        }
    }
});
