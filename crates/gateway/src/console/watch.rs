//! A session's side of the console: it notes what it does, and obeys.
//!
//! Noting is cheap, for it is done with every message: a look at the session's state, and stores to counters that
//! nobody else writes when that has changed.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pangea_pgwire::{ErrorFields, SqlState};
use pangea_session::{Activity, Answers, Leg, Session};
use tokio::time::{Sleep, sleep, timeout};

use super::clients::{Client, Linked, Registered};
use super::idle::{Overstay, Rest};
use super::stats::Counter;

/// What a session is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Something may be paused, resumed or to be connected anew.
    Look,
    Kill,
    /// Its client has waited long enough for the end of a pause.
    GiveUp,
}

/// Watches one session.
pub(crate) struct Watch {
    registered: Registered,
    patience_longest: Duration,
    /// When what the client waits for was asked. Times are microseconds since it connected.
    query_began: Option<u64>,
    /// What the client has been answered last has left a transaction open.
    in_transaction: bool,
    /// The client has asked for nothing since, and others are told since when.
    rests: bool,
    transaction_began: Option<u64>,
    wait_began: Option<u64>,
    activity: Activity,
    servers: [(Linked, Option<u32>); 2],
    paused: bool,
    /// The session may begin nothing.
    on_hold: bool,
    /// It is at rest as well, and has said so.
    held: bool,
    reconnects: u64,
    /// Ends the wait for the end of a pause.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    /// `longest` is how long clients wait for the end of a pause.
    pub(crate) fn new(registered: Registered, longest: Duration) -> Self {
        let now = registered.client.now();
        registered.client.set_activity(Activity::Waiting, now);
        let paused = registered.is_paused();
        let reconnects = registered.client.reconnects();
        Self {
            registered,
            patience_longest: longest,
            query_began: None,
            in_transaction: false,
            rests: false,
            transaction_began: None,
            wait_began: Some(now),
            activity: Activity::Waiting,
            servers: [(Linked::No, None); 2],
            paused,
            on_hold: false,
            held: false,
            reconnects,
            patience: None,
        }
    }

    fn client(&self) -> &Arc<Client> {
        &self.registered.client
    }

    /// Notes what the session has done. Called before its output is written.
    pub(crate) fn look(&mut self, session: &mut Session) {
        let answers = session.take_answers_told();
        if answers.all > 0 {
            self.answered(answers, session);
        }
        // It has just begun, or has sent what nothing answers: the rest of a COPY that has failed.
        if !self.rests && session.has_begun() && !asks_for_more(session) {
            self.rest(self.client().now());
        }
        let activity = session.activity();
        if activity != self.activity {
            self.turn(activity);
        }
        for leg in [Leg::Local, Leg::Primary] {
            let (open, wanted) = match leg {
                Leg::Local => (session.local_is_open(), session.wants_local()),
                Leg::Primary => (session.primary_is_open(), session.wants_primary()),
            };
            let linked = match (open, wanted) {
                (true, _) => Linked::Open,
                (false, true) => Linked::Opening,
                (false, false) => Linked::No,
            };
            let now = (linked, session.server_process(leg));
            if std::mem::replace(&mut self.servers[leg as usize], now) != now {
                self.client().set_server(leg, now.0, now.1);
            }
        }
    }

    fn answered(&mut self, answers: Answers, session: &Session) {
        let now = self.client().now();
        let counters = &self.registered.client.counters;
        counters.add(Counter::Queries, answers.all);
        if let Some(began) = self.query_began {
            counters.add(Counter::QueryTime, now.saturating_sub(began));
        }
        if answers.outside > 0 {
            counters.add(Counter::Transactions, answers.outside);
            if let Some(began) = self.transaction_began {
                counters.add(Counter::TransactionTime, now.saturating_sub(began));
            }
        }
        // A pipeline goes on: what follows is timed from here.
        let more = asks_for_more(session);
        self.query_began = more.then_some(now);
        self.in_transaction = answers.in_transaction;
        if !more {
            self.rest(now);
        }
        if answers.outside > 0 {
            self.transaction_began = (answers.in_transaction || more).then_some(now);
        }
    }

    /// Nothing is asked for from now on.
    fn rest(&mut self, since: u64) {
        self.rests = true;
        let in_transaction = self.in_transaction;
        self.client().set_rest(Some(Rest { since, in_transaction }));
    }

    /// Whether the client has asked for nothing for longer than it may.
    pub(crate) fn overstays(&mut self, session: &mut Session) -> Option<Overstay> {
        let overstay = self.registered.overstays()?;
        if session.client_output().is_empty() && !asks_for_more(session) {
            return Some(overstay);
        }
        // It is still taking what it has asked for.
        self.rest(self.client().now());
        None
    }

    fn turn(&mut self, activity: Activity) {
        let was_idle = std::mem::replace(&mut self.activity, activity) == Activity::Idle;
        let began = self.wait_began.take();
        let waits = activity == Activity::Waiting;
        // The clock is read for those only who wait, most never do; and who waits at once does so since the request.
        let now = match self.query_began {
            _ if !waits && began.is_none() => 0,
            Some(asked) if was_idle => asked,
            _ => self.client().now(),
        };
        if let Some(began) = began {
            self.client().counters.add(Counter::WaitTime, now.saturating_sub(began));
        }
        self.wait_began = waits.then_some(now);
        self.client().set_activity(activity, now);
    }

    /// So many bytes have come from the client.
    pub(crate) fn received(&mut self, bytes: usize) {
        self.client().counters.add(Counter::Received, bytes as u64);
        if self.query_began.is_none() {
            let now = self.client().now();
            self.query_began = Some(now);
            self.transaction_began.get_or_insert(now);
            self.client().requested(now);
        }
        if std::mem::take(&mut self.rests) {
            self.client().set_rest(None);
        }
    }

    /// So many bytes of the session's output have been written.
    pub(crate) fn sent(&mut self, bytes: usize) {
        if bytes > 0 {
            self.client().counters.add(Counter::Sent, bytes as u64);
        }
    }

    /// What the session is told next.
    pub(crate) fn poll_order(&mut self, cx: &mut Context<'_>) -> Poll<Order> {
        if let Some(patience) = &mut self.patience
            && patience.as_mut().poll(cx).is_ready()
        {
            self.patience = None;
            return Poll::Ready(Order::GiveUp);
        }
        // The client holds a sender: there is no end of nudges.
        if self.registered.nudges.poll_recv(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(if self.client().is_killed() { Order::Kill } else { Order::Look })
    }

    /// Whether [`Self::attend`] has something to do.
    pub(crate) fn wants_attention(&self, session: &Session) -> bool {
        self.on_hold != (self.paused && session.comes_to_rest())
            || (self.paused && !self.held && session.is_at_rest())
            || (self.wants_reconnect() && session.is_quiet())
            || (self.held && session.has_request()) != self.patience.is_some()
    }

    /// Whether connections to servers are to be replaced.
    fn wants_reconnect(&self) -> bool {
        self.reconnects != self.client().reconnects()
    }

    /// Looks at what is paused.
    pub(crate) fn take_notice(&mut self) {
        self.paused = self.registered.is_paused();
        self.held &= self.paused;
    }

    /// Keeps a session from beginning anything while its database is paused, and says whether its connections to servers are
    /// to be replaced. `cancelling` is whether it is on hold for another reason.
    pub(crate) fn attend(&mut self, session: &mut Session, cancelling: bool) -> bool {
        // What is open goes on; between transactions nothing begins, however much the client has sent ahead.
        let on_hold = self.paused && session.comes_to_rest();
        if std::mem::replace(&mut self.on_hold, on_hold) != on_hold {
            session.set_on_hold(on_hold || cancelling);
        }
        if self.paused && !self.held && session.is_at_rest() {
            // So that everything is counted when PAUSE answers.
            self.look(session);
            self.held = true;
            self.registered.hold();
        }
        let reconnect = self.wants_reconnect() && session.is_quiet();
        if reconnect {
            self.reconnects = self.client().reconnects();
        }
        if !(self.held && session.has_request()) {
            self.patience = None;
        } else if self.patience.is_none() {
            self.patience = Some(Box::pin(sleep(self.patience_longest)));
        }
        // State of which there is only one goes with its server: it stays.
        reconnect && !session.keeps_servers()
    }

    pub(crate) fn database(&self) -> String {
        self.client().identity.database.clone()
    }

    /// Whether the session may begin nothing.
    pub(crate) fn is_on_hold(&self) -> bool {
        self.on_hold
    }
}

/// Whether the client has asked for something that it has no answer to.
fn asks_for_more(session: &Session) -> bool {
    session.has_request() || session.owes_answer()
}

/// The error of a statement or client that has waited for the end of a pause in vain.
pub(crate) fn paused(database: &str, longest: Duration) -> ErrorFields {
    let text = format!("database \"{database}\" is paused");
    ErrorFields::error(SqlState::CANNOT_CONNECT_NOW, text)
        .with_detail(format!("It was waited for {} s. Nothing was executed.", longest.as_secs()))
        .with_hint("Try again, or have an administrator RESUME it on the console (psql pangea).")
}

/// The error of a session that was killed.
pub(crate) fn killed() -> ErrorFields {
    ErrorFields::terminated()
        .with_detail("An administrator has ended this session on the console of the gateway.")
        .with_hint("Connect again.")
}

/// Keeps a new client out while its database is paused.
pub(crate) async fn admitted(registered: &mut Registered, longest: Duration) -> Result<(), ErrorFields> {
    let database = registered.client.identity.database.clone();
    let resumed = async {
        while registered.is_paused() {
            registered.client.set_activity(Activity::Waiting, registered.client.now());
            registered.hold();
            registered.nudges.recv().await;
            if registered.client.is_killed() {
                return Err(killed());
            }
        }
        Ok(())
    };
    match timeout(longest, resumed).await {
        Ok(admitted) => admitted,
        Err(_) => Err(ErrorFields { severity: "FATAL", ..paused(&database, longest) }),
    }
}
