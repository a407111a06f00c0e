//! LISTEN where servers are shared.

use bytes::{Bytes, BytesMut};
use pangea_pgwire::{ErrorFields, SqlState};

use super::rig::Rig;
use super::wire::{self, extended};
use crate::{Access, Leg};

fn notification(channel: &str) -> Bytes {
    wire::frame(b'A', &[&7u32.to_be_bytes(), channel.as_bytes(), b"\0hello\0"]).freeze()
}

/// Who has notified what is told here.
fn processes(told: &[u8]) -> Vec<u32> {
    let mut told = BytesMut::from(told);
    let notified = std::iter::from_fn(|| wire::take_frame(&mut told)).filter(|frame| frame[0] == b'A');
    notified.map(|frame| u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]])).collect()
}

impl Rig {
    /// What the client hears when a channel is notified.
    fn hears(&mut self, channel: &str) -> String {
        self.session.notified(notification(channel));
        self.settle();
        self.heard()
    }

    fn wants(&self) -> Vec<&[u8]> {
        self.channels.iter().map(AsRef::as_ref).collect()
    }
}

#[test]
fn a_session_that_listens_keeps_no_connection() {
    for access in [Access::Primary, Access::Split] {
        let mut rig = Rig::shared(access, 1);
        assert_eq!(rig.hears("a"), "");
        assert_eq!(rig.ask(&wire::query("LISTEN a")), "C:LISTEN | Z:I");
        assert!(!rig.session.keeps_servers() && !rig.session.primary_is_open());
        assert_eq!(rig.wants(), [b"a"]);
        assert_eq!((rig.hears("a"), rig.hears("b")), ("A".to_owned(), String::new()));
        rig.given(&["LISTEN b", "UNLISTEN a"]);
        assert_eq!(rig.wants(), [b"b"]);
        assert_eq!((rig.hears("a"), rig.hears("b")), (String::new(), "A".to_owned()));
        rig.given(&["UNLISTEN *"]);
        assert!(rig.wants().is_empty() && !rig.session.primary_is_open());
        rig.given(&["LISTEN a", "DISCARD ALL"]);
        assert!(rig.wants().is_empty() && rig.hears("a").is_empty());
    }
}

/// What is on the server goes before another session gets the connection.
#[test]
fn a_connection_that_is_given_back_listens_to_nothing() {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.sent(Leg::Primary);
    rig.ask(&wire::query("LISTEN a"));
    let sent = rig.sent(Leg::Primary);
    assert!(sent.starts_with("Q:LISTEN a | position | Q:UNLISTEN \"a\" | Q:SELECT EXISTS"), "{sent}");
}

#[test]
fn a_notification_waits_for_the_end_of_the_transaction() {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.given(&["LISTEN a", "BEGIN"]);
    assert_eq!(rig.hears("a"), "");
    assert_eq!(rig.ask(&wire::query("SELECT 1")), "T | D:1 | C:SELECT 1 | Z:T");
    let told = rig.ask(&wire::query("COMMIT"));
    assert!(told.contains(" | A") && told.contains("C:COMMIT"), "{told}");
}

/// From the moment that LISTEN is committed, and only if it is.
#[test]
fn what_is_heard_while_listen_is_not_committed_depends_on_its_transaction() {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.given(&["BEGIN", "LISTEN a"]);
    assert_eq!(rig.hears("a"), "");
    assert!(rig.ask(&wire::query("COMMIT")).contains('A'));
    rig.given(&["BEGIN", "LISTEN b"]);
    assert_eq!(rig.wants(), [b"a", b"b"]);
    assert_eq!(rig.hears("b"), "");
    assert_eq!(rig.ask(&wire::query("ROLLBACK")), "C:ROLLBACK | Z:I");
    assert_eq!(rig.wants(), [b"a"]);
    rig.given(&["BEGIN", "SAVEPOINT s", "LISTEN b", "UNLISTEN a", "ROLLBACK TO s", "LISTEN c", "COMMIT"]);
    assert_eq!(rig.wants(), [b"a", b"c"]);
    assert!(!rig.session.primary_is_open());
}

#[test]
fn listen_runs_when_its_channel_is_heard() {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.sent(Leg::Primary);
    rig.is_deaf = true;
    assert_eq!(rig.ask(&wire::query("LISTEN a")), "");
    assert_eq!(rig.sent(Leg::Primary), "");
    rig.is_deaf = false;
    rig.settle();
    assert_eq!(rig.heard(), "C:LISTEN | Z:I");
}

#[test]
fn a_wait_for_the_listener_can_be_canceled_and_may_fail() {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.is_deaf = true;
    rig.say(&wire::query("LISTEN a"));
    assert!(rig.session.cancel_waiting());
    rig.settle();
    assert_eq!(rig.heard(), "E:57014 | Z:I");
    rig.say(&wire::query("LISTEN a"));
    let lost = ErrorFields::fatal(SqlState::CONNECTION_FAILURE, "no connection");
    rig.session.listener_lost(&lost);
    rig.is_deaf = false;
    rig.settle();
    assert_eq!(rig.heard(), "E:08006 | Z:I");
    rig.given(&["BEGIN"]);
    rig.is_deaf = true;
    rig.say(&wire::query("LISTEN a"));
    rig.session.listener_lost(&lost);
    rig.is_deaf = false;
    rig.settle();
    assert_eq!(rig.heard(), "E:08006 | Z:E", "nothing was promised");
    rig.given(&["ROLLBACK", "SELECT 1", "LISTEN a"]);
    assert_eq!(rig.hears("a"), "A");
    rig.session.listener_lost(&lost);
    rig.settle();
    assert_eq!(rig.heard(), "FATAL:08006", "it has to know that it may have missed something");
}

/// What was sent before is answered first, and it is that which is canceled.
#[test]
fn listen_waits_behind_what_is_under_way() {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.is_deaf = true;
    rig.say(&extended("P - SELECT 1; B - -; E - 0; S; P - LISTEN a; B - -; E - 0; S"));
    rig.advance();
    assert!(!rig.session.cancel_waiting() && rig.session.take_wanted_channels().is_none());
    rig.settle();
    assert_eq!(rig.heard(), "1 | 2 | D:1 | C:SELECT 1 | Z:I");
    assert!(rig.session.cancel_waiting());
    rig.settle();
    assert_eq!(rig.heard(), "E:57014 | Z:I");
}

/// What it waits for is said behind all that is notified.
#[test]
fn a_transaction_in_which_much_is_notified_can_listen() {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.given(&["LISTEN a", "BEGIN"]);
    let mut count = 0;
    while rig.session.takes_notification() {
        rig.session.notified(notification("a"));
        count += 1;
    }
    rig.is_deaf = true;
    assert_eq!(rig.ask(&wire::query("LISTEN b")), "");
    assert!(rig.session.takes_notification());
    rig.is_deaf = false;
    rig.settle();
    assert_eq!(rig.heard(), "C:LISTEN | Z:T");
    assert_eq!(rig.ask(&wire::query("COMMIT")).matches('A').count(), count);
}

/// Names that may be others for the server, and more channels than a listener hears for one session.
#[test]
fn what_cannot_be_heard_elsewhere_is_heard_here() {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.given(&["LISTEN \u{e4}"]);
    assert!(rig.wants().is_empty() && rig.session.primary_is_open());
    let mut rig = Rig::shared(Access::Primary, 1);
    for number in 0..300 {
        rig.given(&[&format!("LISTEN c{number}")]);
    }
    assert_eq!(rig.channels.len(), 256);
    assert!(rig.session.primary_is_open());
}

/// One that listens in a transaction that is not over has been told that it does.
#[test]
fn a_session_that_is_about_to_listen_ends_with_the_listener() {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.given(&["BEGIN", "LISTEN a"]);
    rig.session.listener_lost(&ErrorFields::fatal(SqlState::CONNECTION_FAILURE, "no connection"));
    rig.settle();
    assert_eq!(rig.heard(), "FATAL:08006");
}

/// The listener hears it too.
#[test]
fn what_a_server_notifies_of_itself_is_told_once() {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.given(&["PREPARE p AS SELECT 1", "LISTEN ch"]);
    assert!(rig.session.primary_is_open());
    rig.say(&wire::query("SELECT 1"));
    rig.session.server_input(Leg::Primary).extend_from_slice(&notification("ch"));
    rig.settle();
    assert_eq!(rig.heard(), "T | D:1 | C:SELECT 1 | Z:I");
    assert_eq!(rig.ask(&wire::query("NOTIFY ch")), "C:NOTIFY | A | Z:I");
    rig.given(&["DEALLOCATE p"]);
    assert!(!rig.session.primary_is_open());
    rig.say(&wire::query("NOTIFY ch"));
    rig.settle();
    let heard = rig.heard_bytes();
    let own = [&11_u32.to_be_bytes()[..], b"ch\x001\0"].concat();
    assert!(
        heard.windows(own.len()).any(|bytes| bytes == own),
        "under the number that the client knows: {heard:?}"
    );
}

/// What follows in the same unit counts, and goes with the connection's turn.
#[test]
fn what_is_listened_to_behind_an_end_of_listening_is_ended_too() {
    for unit in [
        wire::query("UNLISTEN *; LISTEN b"),
        wire::query("BEGIN; UNLISTEN *; LISTEN b; COMMIT"),
        extended("P - DISCARD ALL; B - -; E - 0; P - LISTEN b; B - -; E - 0; S"),
        extended("P - UNLISTEN *; B - -; E - 0; P - LISTEN b; B - -; E - 0; S"),
    ] {
        let mut rig = Rig::shared(Access::Primary, 1);
        rig.given(&["LISTEN a"]);
        rig.ask(&unit);
        assert_eq!(rig.wants(), [b"b"]);
        assert!(!rig.session.primary_is_open());
        assert_eq!((rig.hears("a"), rig.hears("b")), (String::new(), "A".to_owned()));
    }
}

/// A connection that is the session's alone may listen by itself, by a function say.
#[test]
fn what_the_listener_does_not_hear_is_told() {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.given(&["PREPARE p AS SELECT 1", "LISTEN ch", "UNLISTEN ch"]);
    rig.session.server_input(Leg::Primary).extend_from_slice(&notification("ch"));
    rig.settle();
    assert_eq!(rig.heard(), "A");
}

/// The answer to the question whether anything is left on a connection is about what was before it.
#[test]
fn a_connection_that_begins_to_listen_while_it_is_asked_about_ends_that_too() {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.given(&["LISTEN ch"]);
    rig.sent(Leg::Primary);
    rig.say(&wire::query("NOTIFY ch"));
    // It has the connection that it wanted.
    rig.advance();
    let mut heard = String::new();
    while !heard.contains('Z') {
        assert!(rig.primary_works());
        let bytes = rig.primary.output.split();
        rig.session.server_input(Leg::Primary).extend_from_slice(&bytes);
        rig.advance();
        heard = rig.heard();
    }
    rig.say(&wire::query("NOTIFY ch"));
    rig.settle();
    let sent = rig.sent(Leg::Primary);
    let of = |what| sent.matches(what).count();
    assert_eq!((of("Q:LISTEN"), of("Q:UNLISTEN"), of("Q:SELECT EXISTS")), (2, 2, 2), "{sent}");
    assert!(!rig.session.primary_is_open());
}

/// What others have notified before may come later than what the session's own connection says of its own.
#[test]
fn notifications_are_told_in_the_order_of_commits() {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.given(&["LISTEN ch"]);
    rig.is_deaf = true;
    rig.database.borrow_mut().notified.push(7);
    assert_eq!(rig.ask(&wire::query("NOTIFY ch")), "C:NOTIFY", "its own is to come before it is answered");
    assert!(rig.session.waits_to_be_notified() && rig.session.owes_answer());
    assert!(rig.listener_works());
    rig.settle();
    assert_eq!(processes(&rig.heard_bytes()), [7]);
    rig.is_deaf = false;
    rig.settle();
    assert_eq!(processes(&rig.heard_bytes()), [11]);
    assert!(!rig.session.primary_is_open() && rig.session.is_quiet());
}

/// The listener may also be the first.
#[test]
fn its_own_is_told_under_the_number_that_the_client_knows_whoever_says_it_first() {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.given(&["LISTEN ch"]);
    rig.say(&wire::query("NOTIFY ch"));
    rig.advance();
    while rig.database.borrow().notified.is_empty() {
        assert!(rig.primary_works());
    }
    rig.database.borrow_mut().notified.push(7);
    rig.advance();
    assert_eq!(processes(&rig.heard_bytes()), [0; 0]);
    rig.settle();
    assert_eq!(processes(&rig.heard_bytes()), [11, 7]);
}

/// Its connection tells of it when the transaction is over that follows.
#[test]
fn what_is_notified_before_a_chained_transaction_is_told_once_after_it() {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.given(&["LISTEN ch", "LISTEN x", "BEGIN", "UNLISTEN x"]);
    rig.say(&wire::query("NOTIFY ch; COMMIT AND CHAIN; SELECT 1"));
    rig.advance();
    while rig.database.borrow().notified.is_empty() {
        assert!(rig.primary_works());
    }
    rig.advance();
    rig.settle();
    assert_eq!(rig.heard(), "C:NOTIFY | C:COMMIT | T | D:1 | C:SELECT 1 | Z:T");
    assert_eq!(rig.ask(&wire::query("COMMIT")), "C:COMMIT | A | Z:I");
    assert_eq!(rig.wants(), [b"ch"]);
}

/// A session that has notified something, of which the listener has not told.
fn waiting_for_its_own() -> Rig {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.given(&["LISTEN ch"]);
    rig.is_deaf = true;
    assert_eq!(rig.ask(&wire::query("NOTIFY ch")), "C:NOTIFY");
    rig
}

#[test]
fn what_waits_for_the_listener_is_answered_before_its_connection_ends() {
    let mut rig = waiting_for_its_own();
    rig.close(Leg::Primary);
    assert!(rig.heard().starts_with("Z:I"));
}

#[test]
fn what_waits_for_a_listener_that_is_lost_is_answered_first() {
    let mut rig = waiting_for_its_own();
    rig.session.listener_lost(&ErrorFields::fatal(SqlState::CONNECTION_FAILURE, "no connection"));
    rig.settle();
    assert_eq!(rig.heard(), "Z:I | FATAL:08006");
}
