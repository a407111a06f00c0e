//! LISTEN where servers are shared: a connection that all sessions share listens for them, and the session keeps none.
//!
//! The caller has that connection, the *listener*, and brings what it hears. LISTEN itself runs on the connection of the
//! moment, whose transaction decides what becomes of it, but only once the listener hears the channel: nothing is missed
//! that is notified after it. What the listener hears meanwhile waits for the end of the transaction.
//!
//! What a session notifies itself it hears before the end of its own statement, as from PostgreSQL: the connection on which it
//! writes listens meanwhile, and what that says of it is waited for from the listener. So all is told in the listener's order,
//! which is that of commits, and once.

use std::collections::{BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use pangea_pgwire::frame::HEADER_LEN;
use pangea_pgwire::{ErrorFields, SqlState, build};

use crate::leg::{Expect, Hold, Leg};
use crate::session::{Access, OUTPUT_LEN_MAX, Phase, Session, Transaction};
use crate::settings::SetUp;
use crate::unit::{Consequence, Unit};

/// Notifications that are kept at most, for the end of a transaction; the caller keeps others (BOUNDED).
const WAITING_MAX: usize = 1024;

/// Channels of a session that a listener hears at most; on others it listens itself (BOUNDED).
const CHANNELS_MAX: usize = 256;

const CLIENT_ENCODING: &[u8] = b"client_encoding";
const SERVER_ENCODING: &[u8] = b"server_encoding";

/// What a LISTEN or an UNLISTEN changes.
#[derive(Debug, Clone)]
pub(crate) enum ChannelChange {
    Listen(Bytes),
    Unlisten(Bytes),
    UnlistenAll,
}

impl ChannelChange {
    pub(crate) fn listen(channel: &str) -> Self {
        Self::Listen(Bytes::copy_from_slice(channel.as_bytes()))
    }

    /// Of a channel, or of all.
    pub(crate) fn unlisten(channel: Option<&str>) -> Self {
        channel.map_or(Self::UnlistenAll, |name| Self::Unlisten(Bytes::copy_from_slice(name.as_bytes())))
    }
}

/// What a session listens to.
#[derive(Debug, Default)]
pub(crate) struct Listening {
    channels: BTreeSet<Bytes>,
    /// What the listener is to hear for the session: those, and those of a LISTEN that is not over.
    wanted: BTreeSet<Bytes>,
    /// It hears all that is wanted.
    is_heard: bool,
    /// What is wanted has changed since the caller has asked.
    is_changed: bool,
    /// What it has heard and the client was not told of.
    waiting: VecDeque<Bytes>,
    /// The session's own notification of which its connection has told and not yet the listener: what else that connection says
    /// has to wait.
    awaited: Option<Bytes>,
}

impl Session {
    /// What the listener is to hear from now on, if that has changed since this was asked. [`Self::channels_are_heard`] tells
    /// that it does.
    pub fn take_wanted_channels(&mut self) -> Option<&BTreeSet<Bytes>> {
        let listening = self.listens_elsewhere.as_mut()?;
        std::mem::take(&mut listening.is_changed).then_some(&listening.wanted)
    }

    /// The listener hears all that was wanted last.
    pub fn channels_are_heard(&mut self) {
        if let Some(listening) = self.listens_elsewhere.as_mut().filter(|listening| !listening.is_changed) {
            listening.is_heard = true;
        }
    }

    /// Whether the session has room for a notification.
    #[must_use]
    pub fn takes_notification(&self) -> bool {
        let waiting = self.listens_elsewhere.as_ref().map_or(0, |listening| listening.waiting.len());
        let has_room = waiting < WAITING_MAX || self.awaits_notification();
        // What a LISTEN waits for comes behind those.
        has_room && self.client_out.len() < OUTPUT_LEN_MAX || self.waits_for_listener()
    }

    /// The listener has heard this NotificationResponse.
    pub fn notified(&mut self, frame: Bytes) {
        let Some(listening) = &mut self.listens_elsewhere else { return };
        let Some(awaited) = listening.awaited.clone() else { return listening.waiting.push_back(frame) };
        if frame == awaited {
            listening.awaited = None;
            let known = self.as_known(&frame);
            self.client_out.extend_from_slice(&known);
        } else {
            // Committed before what is awaited, and with that a transaction is over.
            listening.waiting.push_back(frame);
            self.tell(usize::MAX, channel_of(&awaited));
        }
    }

    /// Whether the session waits for the listener to tell of what its own connection has told of, and could take it:
    /// [`Self::notified`] ends that, or [`Self::listener_lost`].
    #[must_use]
    pub fn waits_to_be_notified(&self) -> bool {
        self.awaits_notification() && self.takes_notification()
    }

    /// Whether the listener has to tell of something before more is taken from the session's own connection.
    pub(crate) fn awaits_notification(&self) -> bool {
        self.listens_elsewhere.as_ref().is_some_and(|listening| listening.awaited.is_some())
    }

    /// The listener is gone, and what it would have heard: a session that listens has to know. One that was only waiting for it
    /// may ask again.
    pub fn listener_lost(&mut self, error: &ErrorFields) {
        let waits = self.waits_for_listener();
        self.take_awaited_answers();
        let Some(listening) = self.listens_elsewhere.take() else { return };
        let begun = |set_up: &SetUp| matches!(set_up, SetUp::Channel(ChannelChange::Listen(_), _));
        let listens = !listening.channels.is_empty()
            || self.set_up.iter().any(begun)
            || self.in_flight.iter().any(|unit| !unit.channels.is_empty());
        if listens {
            self.fail(&ErrorFields { severity: "FATAL", ..error.clone() });
        } else if waits && error.code != SqlState::ADMIN_SHUTDOWN {
            // Where the primary has moved it is asked for anew.
            let text = format!("no connection can listen for the session: {}", error.message);
            let refused = ErrorFields::error(error.code, text).with_detail("Nothing was executed.");
            self.refuse_pending(&refused.with_hint("Try again."));
        }
    }

    /// How the client writes, by the name that the servers report.
    #[must_use]
    pub fn client_encoding(&self) -> Bytes {
        self.parameters.get(CLIENT_ENCODING).cloned().unwrap_or_default()
    }

    /// Whether the pending unit waits until the listener hears its channels.
    pub(crate) fn waits_for_listener(&self) -> bool {
        self.listens_elsewhere.as_ref().is_some_and(|listening| !listening.is_heard)
            && self.pending.front().is_some_and(|unit| !unit.channels.is_empty())
            && self.is_all_answered()
    }

    /// An error must not come before the answers under way.
    fn is_all_answered(&self) -> bool {
        self.in_flight.is_empty() && self.held_ready.is_none()
    }

    /// What follows from a LISTEN or an UNLISTEN where a listener hears for the session; whether one does.
    pub(crate) fn judge_channel(
        &self,
        unit: &mut Unit,
        change: ChannelChange,
        wire: &dyn Fn() -> Bytes,
    ) -> bool {
        if !self.shares_servers() || self.access == Access::Local {
            return false;
        }
        if let ChannelChange::Listen(channel) = &change {
            let full = self.listens_elsewhere.as_ref().is_some_and(|listening| {
                let more = !listening.wanted.contains(channel);
                more && listening.wanted.len() + unit.channels.len() >= CHANNELS_MAX
            });
            // Where client or server write otherwise, the name was not read, or is another one there.
            let is_utf8 = |name| self.parameters.get(name).is_some_and(|value| value == "UTF8");
            let is_known = channel.is_ascii() || is_utf8(CLIENT_ENCODING) && is_utf8(SERVER_ENCODING);
            if unit.continues || full || !is_known {
                return false;
            }
            unit.channels.push(channel.clone());
        }
        // A copy: what is remembered must not keep the buffer that it was read into.
        unit.follows(Consequence::Channel(change, Bytes::copy_from_slice(&wire())));
        true
    }

    /// Whether the pending unit can be sent, as far as the listener is concerned; asks for what is missing.
    pub(crate) fn is_listened_for(&mut self, leg: Leg) -> bool {
        let Some(unit) = self.pending.front().filter(|unit| !unit.channels.is_empty()) else { return true };
        let listening = self.listens_elsewhere.get_or_insert_default();
        let missing: Vec<Bytes> =
            unit.channels.iter().filter(|channel| !listening.wanted.contains(*channel)).cloned().collect();
        if leg == Leg::Local || missing.is_empty() && listening.is_heard {
            return true;
        }
        if self.is_all_answered()
            && !missing.is_empty()
            && let Some(listening) = &mut self.listens_elsewhere
        {
            listening.wanted.extend(missing);
            (listening.is_changed, listening.is_heard) = (true, false);
        }
        false
    }

    /// Draws the consequence of a LISTEN or an UNLISTEN whose transaction is committed.
    pub(crate) fn change_channels(&mut self, change: ChannelChange) {
        // What was heard before it ends.
        if !matches!(change, ChannelChange::Listen(_)) {
            self.tell(self.due(true), None);
        }
        let Some(listening) = &mut self.listens_elsewhere else { return };
        match change {
            ChannelChange::Listen(channel) => _ = listening.channels.insert(channel),
            ChannelChange::Unlisten(channel) => _ = listening.channels.remove(&channel),
            ChannelChange::UnlistenAll => listening.channels.clear(),
        }
    }

    /// Passes on, between transactions, what the listener has heard.
    pub(crate) fn tell_notifications(&mut self) {
        if self.listens_elsewhere.is_none() {
            return;
        }
        self.tell(self.due(!self.in_flight.is_empty()), None);
        let unsettled: Vec<&Bytes> = self.in_flight.iter().flat_map(|unit| &unit.channels).collect();
        if let Some(listening) = &mut self.listens_elsewhere {
            let Listening { waiting, channels, .. } = &mut **listening;
            waiting.retain(|frame| {
                let matters =
                    |channel| channels.contains(channel) || unsettled.iter().any(|it| *it == channel);
                channel_of(frame).is_some_and(matters)
            });
        }
    }

    /// How many of those that wait can be told between transactions. If the session's connection is still going to say what it
    /// has notified itself, that waits, and what is behind it.
    fn due(&self, hears_own: bool) -> usize {
        let Some(listening) = &self.listens_elsewhere else { return 0 };
        let waits = |frame: &Bytes| hears_own && !self.primary.listened.is_empty() && self.is_own(frame);
        listening.waiting.iter().position(waits).unwrap_or(listening.waiting.len())
    }

    /// Passes on those of the first that wait which are on the session's channels, or on one where it begins to listen.
    fn tell(&mut self, count: usize, begins: Option<&[u8]>) {
        let Some(listening) = &mut self.listens_elsewhere else { return };
        let Listening { waiting, channels, .. } = &mut **listening;
        let is_due =
            |channel: Option<&[u8]>| channel.is_some_and(|it| channels.contains(it) || begins == Some(it));
        let (told, kept): (Vec<Bytes>, Vec<Bytes>) =
            waiting.drain(..count.min(waiting.len())).partition(|frame| is_due(channel_of(frame)));
        told.iter().for_each(|frame| self.client_out.extend_from_slice(frame));
        kept.into_iter().rev().for_each(|frame| waiting.push_front(frame));
    }

    /// Takes the answers that wait for what the listener is not going to tell of, or not in time: to be called before the session
    /// is ended.
    pub fn take_awaited_answers(&mut self) {
        while self.await_nothing() {
            self.take_answers(Leg::Primary);
        }
    }

    /// Waits no more for the listener to tell of what its own connection has told of; whether it did.
    pub(crate) fn await_nothing(&mut self) -> bool {
        self.listens_elsewhere.as_mut().is_some_and(|listening| listening.awaited.take().is_some())
    }

    /// With nothing under way: passes on what was heard, and is no longer interested in what came to nothing.
    pub(crate) fn settle_channels(&mut self) {
        if self.listens_elsewhere.is_none()
            || self.phase == Phase::Over
            || !self.in_flight.is_empty()
            || !self.pending.is_empty()
            || !matches!(self.transaction, Transaction::Idle)
        {
            return;
        }
        self.tell_notifications();
        if let Some(listening) = &mut self.listens_elsewhere {
            listening.waiting.clear();
            if listening.wanted != listening.channels {
                listening.wanted.clone_from(&listening.channels);
                listening.is_changed = true;
            }
        }
    }

    /// Whether what one of the session's servers notifies is to be told when the listener tells of it, and not now. Up to what is
    /// the session's own all that was heard is told now; if it was not heard yet, it is waited for.
    pub(crate) fn is_heard_elsewhere(&mut self, frame: &Bytes) -> bool {
        let (Some(listening), Some(channel)) = (&self.listens_elsewhere, channel_of(frame)) else {
            return false;
        };
        if !(listening.channels.contains(channel) || self.is_begun(channel)) {
            return false;
        }
        if self.is_own(frame) {
            let heard = listening.waiting.iter().position(|heard| heard == frame);
            let heard = heard.map(|at| (at, self.as_known(frame)));
            let Some(listening) = &mut self.listens_elsewhere else { return true };
            let due = if let Some((at, known)) = heard {
                listening.waiting[at] = known;
                at + 1
            } else {
                // A copy: what waits must not keep the buffer that it was read into.
                listening.awaited = Some(Bytes::copy_from_slice(frame));
                usize::MAX
            };
            self.tell(due, Some(channel));
        }
        true
    }

    /// Whether a LISTEN to this channel may have been committed with what is being answered.
    fn is_begun(&self, channel: &[u8]) -> bool {
        let begins =
            |set_up: &SetUp| matches!(set_up, SetUp::Channel(ChannelChange::Listen(it), _) if it == channel);
        let of_unit = self.in_flight.front().is_some_and(|unit| unit.channels.iter().any(|it| it == channel));
        of_unit || self.set_up.iter().any(begins)
    }

    /// Whether the session's own process on the primary has notified this.
    fn is_own(&self, frame: &[u8]) -> bool {
        let own = self.primary.server.key.as_ref().map(|key| key.process.to_be_bytes());
        own.is_some_and(|own| frame[HEADER_LEN..].starts_with(&own))
    }

    /// A notification as the client is told of it. Its sender is named by process: the session's own process on the primary is
    /// told as the one that the client knows, so that clients can leave out what they said themselves.
    pub(crate) fn as_known(&self, frame: &Bytes) -> Bytes {
        match self.client_key() {
            Some(key) if self.is_own(frame) => {
                let (head, rest) = (&frame[..HEADER_LEN], &frame[HEADER_LEN + 4..]);
                [head, &key.process.to_be_bytes(), rest].concat().into()
            }
            _ => frame.clone(),
        }
    }

    /// Listens on the connection on which the session is about to write, before its transaction begins there. So it does on one
    /// that is to be the session's alone, where `pg_listening_channels()` may be asked.
    pub(crate) fn listen_for_own(&mut self, unit: &Unit) {
        let begins = !matches!(self.transaction, Transaction::Primary) || self.begin_due;
        let matters = unit.needs_primary || unit.begins || unit.unread || unit.reads_private_state;
        let Some(listening) = &self.listens_elsewhere else { return };
        let listens = !listening.channels.is_empty() && self.primary.listened.is_empty();
        if begins && matters && listens && self.in_flight.is_empty() {
            let mut wire = BytesMut::new();
            build::query(&mut wire, &about_channels("LISTEN", &listening.channels));
            self.primary.listened = listening.channels.iter().cloned().collect();
            self.send_hidden(Leg::Primary, &wire, Expect::Cleanup);
        }
    }

    /// Whether a connection to the primary listens, or may: UNLISTEN is for that.
    pub(crate) fn listens_on_primary(&self) -> bool {
        self.stays_on(Leg::Primary) || !self.primary.listened.is_empty()
    }

    /// Notes that a connection listens: not when that is sent, for a question may be under way whose answer is about what was
    /// before.
    pub(crate) fn note_listened(&mut self, leg: Leg, unit: &Unit, status: u8) {
        // What went before it in the unit may have been DISCARD ALL.
        self.mark_listened(leg, &unit.channels);
        let ended = status == b'I' && self.in_flight.is_empty();
        if ended && self.link(leg).hold == Hold::Forever {
            // It stays with the session, and only what the listener hears too is to be known.
            let heard = self.listens_elsewhere.as_ref().map(|listening| &listening.channels);
            let link = if leg == Leg::Local { &mut self.local } else { &mut self.primary };
            link.listened.retain(|channel| heard.is_some_and(|heard| heard.contains(channel)));
        } else if !self.link(leg).listened.is_empty() {
            self.hold(leg, Hold::Checked);
            self.link_mut(leg).hold_check_due = true;
        }
    }

    /// A connection is told to listen.
    pub(crate) fn mark_listened(&mut self, leg: Leg, channels: &[Bytes]) {
        let listened = &mut self.link_mut(leg).listened;
        for channel in channels {
            if !listened.contains(channel) {
                listened.push(channel.clone());
            }
        }
    }

    /// Stops listening on a server, which the listener does for the session.
    pub(crate) fn unlisten(&mut self, leg: Leg) {
        let channels = std::mem::take(&mut self.link_mut(leg).listened);
        if !channels.is_empty() {
            let mut wire = BytesMut::new();
            build::query(&mut wire, &about_channels("UNLISTEN", &channels));
            self.send_hidden(leg, &wire, Expect::Cleanup);
        }
    }
}

/// Statements, one for each channel.
#[must_use]
pub fn about_channels<'a>(verb: &str, channels: impl IntoIterator<Item = &'a Bytes>) -> String {
    let name = |channel: &Bytes| String::from_utf8_lossy(channel).replace('"', "\"\"");
    let statement = |channel| format!("{verb} \"{}\"", name(channel));
    channels.into_iter().map(statement).collect::<Vec<_>>().join("; ")
}

/// The channel of a NotificationResponse.
#[must_use]
pub fn channel_of(frame: &[u8]) -> Option<&[u8]> {
    let rest = frame.get(HEADER_LEN + 4..)?;
    Some(&rest[..memchr::memchr(0, rest)?])
}
