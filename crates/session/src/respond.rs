//! What servers answer: passed to the client, or taken by the session itself.

use bytes::{Buf as _, Bytes, BytesMut};
use pangea_pgwire::frame::{HEADER_LEN, Header, backend_header};
use pangea_pgwire::startup::CancelKey;
use pangea_pgwire::{ErrorFields, SqlState, build, fields, message};

use crate::conclude::other;
use crate::leg::{Expect, Leg};
use crate::moving::Held;
use crate::session::{Access, OUTPUT_LEN_MAX, Phase, Session, Transaction};
use crate::shared_statements;
use crate::unit::Unit;

/// Bytes of answers that are held back at most while a unit may have to run again.
const HELD_LEN_MAX: usize = 16 << 10;

/// Largest frame that is looked at; larger ones pass unseen. As much as is read before something is taken of it.
const INSPECTED_LEN_MAX: usize = OUTPUT_LEN_MAX;

/// Longest part of an answer that is copied though it could change hands.
const COPIED_LEN_MAX: usize = 1024;

/// The parameter that tells clients whether writes are possible: on the cluster endpoint they are.
const IN_HOT_STANDBY: &[u8] = b"in_hot_standby";

/// The parameter that tells how backslashes in string literals are read.
const STANDARD_STRINGS: &[u8] = b"standard_conforming_strings";

impl Session {
    /// Takes what a server has sent; whether anything was taken.
    #[inline]
    pub(crate) fn take_answers(&mut self, leg: Leg) -> bool {
        !self.link(leg).input.is_empty() && self.take_frames(leg)
    }

    fn take_frames(&mut self, leg: Leg) -> bool {
        let mut progress = false;
        while !self.link(leg).input.is_empty()
            && self.phase != Phase::Over
            && self.client_out.len() < OUTPUT_LEN_MAX
            && !(leg == Leg::Primary && self.awaits_notification())
            && self.take_frame(leg)
        {
            progress = true;
        }
        // A client that has flushed waits for the answers so far.
        if let Some(unit) = self.in_flight.front_mut()
            && unit.leg == Some(leg)
            && !unit.ended
            && !unit.held.is_empty()
        {
            unit.release(&mut self.client_out);
        }
        progress
    }

    fn take_frame(&mut self, leg: Leg) -> bool {
        // What one server says must not fall into the middle of a frame of the other.
        let other = self.link(other(leg));
        if other.rest > 0 && other.rest_passes {
            return false;
        }
        if self.link(leg).rest > 0 {
            return self.take_rest(leg);
        }
        let header = match backend_header(&self.link(leg).input) {
            Ok(Some(header)) => header,
            Ok(None) => return false,
            Err(error) => {
                let text = format!("a database server sent what the protocol does not allow: {error}");
                self.fail(&ErrorFields::fatal(SqlState::PROTOCOL_VIOLATION, text));
                return false;
            }
        };
        if self.take_refusal(leg, header) {
            return true;
        }
        match self.link(leg).expect.front().copied() {
            Some(Expect::Client) => self.take_client_frame(leg, header),
            expected => {
                if header.frame_len() > INSPECTED_LEN_MAX {
                    self.pass_large(leg, header, false);
                    return true;
                }
                let Some(frame) = self.take_whole(leg, header) else { return false };
                match expected {
                    Some(Expect::Startup) => self.take_startup_frame(leg, header.tag, &frame),
                    Some(expected) => self.take_hidden_frame(leg, expected, header.tag, &frame),
                    None => self.take_unasked_frame(leg, header.tag, &frame),
                }
                true
            }
        }
    }

    /// Takes the word that what the primary has not answered it has not been given; whether that is what comes next.
    fn take_refusal(&mut self, leg: Leg, header: Header) -> bool {
        let link = self.link(leg);
        let possible = header.tag == b'E'
            && leg == Leg::Primary
            && self.primary_may_refuse
            && link.expect.front() != Some(&Expect::Startup);
        let body = link.input.get(HEADER_LEN..header.frame_len()).filter(|_| possible);
        let refused =
            |body| fields::is_fatal(body) && fields::code(body) == Some(SqlState::CANNOT_CONNECT_NOW);
        if !body.is_some_and(refused) {
            return false;
        }
        if let Some(frame) = self.take_whole(leg, header) {
            self.is_refused(&frame);
        }
        true
    }

    fn take_rest(&mut self, leg: Leg) -> bool {
        let link = match leg {
            Leg::Local => &mut self.local,
            Leg::Primary => &mut self.primary,
        };
        let len = link.rest.min(link.input.len());
        if len == 0 {
            return false;
        }
        link.rest -= len;
        // What comes in bulk changes hands; what is short is cheaper to copy.
        if link.rest_passes && self.client_out.is_empty() && len > COPIED_LEN_MAX {
            self.client_out = link.input.split_to(len);
            return true;
        }
        if link.rest_passes {
            self.client_out.extend_from_slice(&link.input[..len]);
        }
        link.input.advance(len);
        true
    }

    fn take_whole(&mut self, leg: Leg, header: Header) -> Option<Bytes> {
        let input = &mut self.link_mut(leg).input;
        (input.len() >= header.frame_len()).then(|| input.split_to(header.frame_len()).freeze())
    }

    /// Begins to pass on (or drop) a frame without waiting for its end.
    fn pass_large(&mut self, leg: Leg, header: Header, passes: bool) {
        let link = self.link_mut(leg);
        link.rest = header.frame_len();
        link.rest_passes = passes;
        self.take_rest(leg);
    }

    fn take_startup_frame(&mut self, leg: Leg, tag: u8, frame: &Bytes) {
        let body = &frame[HEADER_LEN..];
        match tag {
            b'K' => {
                if let Some((process, secret)) = body.split_first_chunk::<4>() {
                    let process = u32::from_be_bytes(*process);
                    self.link_mut(leg).server.key = Some(CancelKey { process, secret: secret.to_vec() });
                }
            }
            b'Z' => {
                self.link_mut(leg).expect.pop_front();
                self.moves = if leg == Leg::Local { 0 } else { self.moves };
                if leg == Leg::Primary {
                    self.is_admitted();
                }
                let first = leg == self.access.home() && !std::mem::replace(&mut self.begun, true);
                if first {
                    self.client_out.extend_from_slice(frame);
                }
                return;
            }
            b'E' if leg == Leg::Primary
                && fields::code(body) == Some(SqlState::CANNOT_CONNECT_NOW)
                && self.may_begin_again() =>
            {
                self.begin_again();
                return;
            }
            b'E' if leg == Leg::Primary && self.begun && self.primary.expects(Expect::Start) => {
                self.client_out.extend_from_slice(frame);
                self.phase = Phase::Over;
                return;
            }
            b'E' if leg == Leg::Primary && self.begun => {
                if fields::code(body) == Some(SqlState::CANNOT_CONNECT_NOW) && self.requeue() {
                    // Another region is primary by now, or soon is: the caller pauses and asks again, or gives up.
                    self.refused += 1;
                    return;
                }
                return self.refuse_on_primary(frame);
            }
            b'S' if leg == self.access.home() => return self.report_parameter(frame),
            b'E' if leg == Leg::Local && self.move_local() => return,
            b'E' => {
                self.client_out.extend_from_slice(frame);
                self.phase = Phase::Over;
                return;
            }
            _ => {}
        }
        if leg == self.access.home() && !self.begun {
            self.client_out.extend_from_slice(frame);
        }
    }

    /// The primary did not accept the session, or cannot be reached: nothing ran there.
    pub(crate) fn refuse_on_primary(&mut self, error: &Bytes) {
        self.unbind();
        // Nothing of this was executed there, so nothing is unknown that was not before.
        let position_unknown = self.position_unknown || self.held_ready.is_some();
        let asks = self.primary.expects(Expect::Description);
        self.drop_primary();
        self.position_unknown = position_unknown;
        if self.pinned || matches!(self.transaction, Transaction::Primary) {
            self.client_out.extend_from_slice(error);
            self.phase = Phase::Over;
            return;
        }
        let mut refused = std::mem::take(&mut self.in_flight);
        // A unit may have waited for an answer of the primary before it was sent anywhere.
        if refused.is_empty() && (self.confirming.take().is_some() || asks || self.asked) {
            refused.extend(self.pending.pop_front());
        }
        (self.confirming, self.asked, self.gave_up) = (None, false, false);
        // The session goes on: an error of severity FATAL would make the client give up.
        let error = as_plain_error(error);
        for unit in refused {
            self.answer_with_error(&unit, &error);
        }
    }

    fn take_hidden_frame(&mut self, leg: Leg, expected: Expect, tag: u8, frame: &Bytes) {
        match tag {
            b'E' => {
                let link = self.link_mut(leg);
                (link.hidden_error, link.answer_failed) = (Some(frame.clone()), true);
            }
            b't' | b'T' | b'n' if expected == Expect::Description => {
                self.link_mut(leg).values.push(frame.slice(HEADER_LEN..));
            }
            b'D' => {
                let value = message::first_column(&frame[HEADER_LEN..]);
                let value = value.map(|value| frame.slice_ref(value)).unwrap_or_default();
                self.link_mut(leg).values.push(value);
            }
            b'V' => {
                let value = message::function_result(&frame[HEADER_LEN..]);
                let value = value.map(|value| frame.slice_ref(value)).unwrap_or_default();
                self.link_mut(leg).values.push(value);
            }
            b'A' => self.notify(frame),
            b'Z' => {
                self.link_mut(leg).expect.pop_front();
                self.finish_hidden(leg, expected);
            }
            _ => {}
        }
    }

    fn finish_hidden(&mut self, leg: Leg, expected: Expect) {
        let link = self.link_mut(leg);
        let values = std::mem::take(&mut link.values);
        let failed = std::mem::take(&mut link.answer_failed);
        match expected {
            Expect::Position => {
                self.link_mut(leg).hidden_error = None;
                self.learn_position(values.first());
                self.release_ready();
            }
            Expect::Start => {
                self.refused = 0;
                self.begin(leg, &values);
            }
            Expect::PrimaryFacts => {
                self.link_mut(leg).hidden_error = None;
                self.learn_primary(&values);
            }
            Expect::Settings => {
                if self.link_mut(leg).hidden_error.take().is_none() {
                    self.learn_settings(&values);
                } else {
                    // Cancelled, most likely: asked again after the next unit.
                    self.settings_due = true;
                }
            }
            Expect::Replay => {
                if let Some(error) = self.link_mut(leg).hidden_error.take() {
                    let said = fields::field(&error[HEADER_LEN..], b'M').unwrap_or_default();
                    let text = "the session's settings cannot be made on the primary";
                    let detail = format!("The primary said: {}.", String::from_utf8_lossy(said));
                    let error = ErrorFields::fatal(SqlState::TRANSACTION_RESOLUTION_UNKNOWN, text);
                    self.fail(&error.with_detail(detail).with_hint("Connect again."));
                }
            }
            Expect::Cleanup => self.link_mut(leg).hidden_error = None,
            Expect::Hold => {
                self.link_mut(leg).hidden_error = None;
                self.learn_hold(leg, values.first());
            }
            Expect::Description => self.learn_description(leg, &values),
            // The error is shown in the place of its consequence.
            Expect::Prepare => {
                let link = self.link_mut(leg);
                if let Some(Some(name)) = link.preparing.pop_front().filter(|_| failed) {
                    link.server.statements.remove(&name);
                }
            }
            Expect::Startup | Expect::Client => {}
        }
    }

    /// Notices, notifications and parameters that a server sends of its own accord; errors before it goes.
    fn take_unasked_frame(&mut self, leg: Leg, tag: u8, frame: &Bytes) {
        match tag {
            b'S' => self.report_parameter(frame),
            b'A' => self.notify(frame),
            b'N' => self.client_out.extend_from_slice(frame),
            // A reader that is shut down is one that is gone. Elsewhere somebody may have ended this very session.
            b'E' if leg == Leg::Local && !self.is_ended(leg, frame) && self.move_local() => {}
            b'E' if leg == Leg::Local
                || !self.begun
                || self.pinned
                || self.listening
                || self.is_ended(leg, frame) =>
            {
                self.release_ready();
                self.client_out.extend_from_slice(frame);
                self.phase = Phase::Over;
            }
            b'E' if matches!(self.transaction, Transaction::Primary) => {
                self.release_ready();
                self.client_out.extend_from_slice(frame);
                self.phase = Phase::Over;
            }
            _ => {}
        }
    }

    /// Whether an administrator has ended the session, as against the server that it is on: that says the same when it
    /// shuts down, but not when its postmaster was killed.
    fn is_ended(&self, leg: Leg, error: &[u8]) -> bool {
        const KILLED: &[u8] = b"terminating connection due to unexpected postmaster exit";
        let error = &error[HEADER_LEN..];
        let told = fields::code(error) == Some(SqlState::ADMIN_SHUTDOWN)
            && fields::field(error, b'M') != Some(KILLED);
        told && leg == self.access.home() && self.access != Access::Local && self.primary_held != Held::All
    }

    fn notify(&mut self, frame: &Bytes) {
        if !self.is_heard_elsewhere(frame) {
            let frame = self.as_known(frame);
            self.client_out.extend_from_slice(&frame);
        }
    }

    /// Passes on a ParameterStatus that tells the client something new.
    pub(crate) fn report_parameter(&mut self, frame: &Bytes) {
        let Ok((name, value)) = message::parameter_status(&frame[HEADER_LEN..]) else { return };
        let writable = self.access != Access::Local && name == IN_HOT_STANDBY;
        let value = if writable { b"off" } else { value };
        if self.parameters.get(name).is_some_and(|known| known == value) {
            return;
        }
        // Statements are read as with the standard strings; where those are off, reading them may go wrong.
        if name == STANDARD_STRINGS && value == b"off" {
            self.pin();
        }
        self.parameters.insert(frame.slice_ref(name), Bytes::copy_from_slice(value));
        build::frame(&mut self.client_out, b'S', |out| {
            build::cstr(out, name);
            build::cstr(out, value);
        });
    }

    /// A frame of the answer to the oldest unit in flight.
    fn take_client_frame(&mut self, leg: Leg, header: Header) -> bool {
        let Some(unit) = self.in_flight.front_mut() else { return false };
        let inspected =
            matches!(header.tag, b'Z' | b'E' | b'S' | b'C' | b'1' | b'3' | b'G' | b'A' | b'I' | b's' | b'N');
        let held =
            (unit.retryable || unit.describes.is_some()) && matches!(header.tag, b'T' | b'2' | b'n' | b't');
        if !(inspected || held) || header.frame_len() > INSPECTED_LEN_MAX {
            // Which description comes next is not known any more.
            if held {
                unit.describes = None;
            }
            unit.errored |= header.tag == b'E';
            let passes = !unit.retry && !unit.unconfirmed;
            if passes {
                unit.release(&mut self.client_out);
            }
            self.pass_large(leg, header, passes);
            return true;
        }
        let link = match leg {
            Leg::Local => &mut self.local,
            Leg::Primary => &mut self.primary,
        };
        let Some(frame) = link.input.get(..header.frame_len()) else { return false };
        let body = &frame[HEADER_LEN..];
        match header.tag {
            b'Z' => {
                let status = body.first().copied().unwrap_or(b'I');
                link.input.advance(header.frame_len());
                self.finish_unit(leg, status);
            }
            b'E' | b'S' | b'A' => self.take_whole_client_frame(leg, header),
            b'N' if says_unconfirmed(body) => self.take_whole_client_frame(leg, header),
            tag => {
                let hidden = unit.count(tag, body);
                let told = unit.take_description(tag, body);
                if !unit.retry && !hidden && !unit.unconfirmed {
                    unit.pass(frame, matches!(tag, b'C' | b'G' | b'I' | b's'), &mut self.client_out);
                }
                link.input.advance(header.frame_len());
                if let Some((asked, told)) = told {
                    self.note_description(leg, &asked, told);
                }
            }
        }
        true
    }

    /// The same for one that comes seldom: it is taken out of the input.
    fn take_whole_client_frame(&mut self, leg: Leg, header: Header) {
        let Some(frame) = self.take_whole(leg, header) else { return };
        match header.tag {
            b'E' => self.take_error(leg, &frame),
            b'S' => self.report_parameter(&frame),
            b'A' => self.notify(&frame),
            _ => self.take_unconfirmed(&frame),
        }
    }

    /// A commit was cancelled while it waited for other regions: PostgreSQL warns and says that it has succeeded. It is
    /// on the primary, but the primary's loss may still undo it (ZERO-LOSS-WHEN-SYNC).
    fn take_unconfirmed(&mut self, frame: &Bytes) {
        let said = message_of(frame).unwrap_or_default();
        let error = ErrorFields::error(
            SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
            "the transaction has committed in the primary region, but no other region has confirmed it",
        )
        .with_detail(format!("The primary said: {said}."))
        .with_hint(
            "It is lost if the primary region is lost before it reaches another. Do not repeat it unchecked.",
        );
        if let Some(unit) = self.in_flight.front_mut()
            && !std::mem::replace(&mut unit.unconfirmed, true)
        {
            unit.release(&mut self.client_out);
            error.write(&mut self.client_out);
        }
    }

    fn take_error(&mut self, leg: Leg, frame: &Bytes) {
        let fatal = fields::is_fatal(&frame[HEADER_LEN..]);
        if fatal && leg == Leg::Local && self.move_local() {
            return;
        }
        let hidden = self.link_mut(leg).hidden_error.take();
        let may_rerun = self.may_forward() && self.may_run_on_primary();
        let Some(unit) = self.in_flight.front_mut() else { return };
        unit.errored = true;
        unit.copy_active = false;
        if unit.retry {
            return;
        }
        let refused = unit.prepares_write || is_refusal(&frame[HEADER_LEN..]);
        if leg == Leg::Local && unit.retryable && !fatal && may_rerun && refused {
            unit.retry = true;
            unit.held.clear();
            // The standby ignores what follows up to a Sync, and a flushed unit has not sent one.
            if !unit.ended && !self.moving_unit {
                build::sync(&mut self.local.output);
            }
            return;
        }
        unit.release(&mut self.client_out);
        // What was prepared for the unit in vain shows in what uses it, not in what fails before.
        let hidden = hidden.filter(|_| !unit.missing.as_deref().is_some_and(|name| names(frame, name)));
        let renamed = unit.missing.as_deref().and_then(|name| shared_statements::with_own_name(frame, name));
        let frame = renamed.as_ref().unwrap_or(frame);
        let message = fields::field(&frame[HEADER_LEN..], b'M').unwrap_or_default();
        match self.refusals.replacement(message) {
            Some(error) => self.client_out.extend_from_slice(&error),
            None => self.client_out.extend_from_slice(hidden.as_ref().unwrap_or(frame)),
        }
        if fatal {
            self.phase = Phase::Over;
        }
        self.has_stale_plan |= self.shares_servers() && shared_statements::is_stale_plan(frame);
        // Something else has thrown the statement away that the server was thought to have.
        if self.shares_servers()
            && shared_statements::is_missing(frame)
            && let Some(name) = shared_statements::name_in(frame)
        {
            self.link_mut(leg).server.statements.remove(name);
        }
    }

    /// Whether a unit that failed on the standby may run on the primary instead without changing what the
    /// transaction has seen.
    fn may_run_on_primary(&self) -> bool {
        match &self.transaction {
            Transaction::Idle => true,
            Transaction::Primary => false,
            Transaction::Local(local) => {
                !(local.failed || local.has_cursor || local.begin.one_snapshot && local.has_read)
            }
        }
    }

    /// The answer to the oldest unit in flight ends with this status of the transaction.
    fn finish_unit(&mut self, leg: Leg, status: u8) {
        self.link_mut(leg).expect.pop_front();
        if leg == Leg::Primary && !self.begin_due {
            (self.begin, self.begin_fails) = (None, false);
        }
        self.link_mut(leg).hidden_error = None;
        let Some(mut unit) = self.in_flight.pop_front() else { return };
        if unit.retry {
            self.moving_unit = false;
            self.forget_shared(leg, &unit, 0);
            self.close_evicted(leg);
            unit.run_again();
            self.pending.push_front(unit);
            return;
        }
        if std::mem::take(&mut self.moving_unit) {
            return self.finish_local_part(unit, status);
        }
        unit.release(&mut self.client_out);
        if unit.asks_position {
            self.held_ready = Some(status);
        } else {
            self.tell_ready(status);
        }
        self.conclude(leg, unit, status);
    }

    /// The local part of a flushed unit is over; the rest goes on at the primary.
    fn finish_local_part(&mut self, mut unit: Box<Unit>, status: u8) {
        unit.release(&mut self.client_out);
        let errored = unit.errored;
        self.conclude(Leg::Local, unit, status);
        let Some(mut rest) = self.pending.pop_front() else { return };
        if !errored {
            rest.continues = false;
            rest.run_on_primary = true;
            self.pending.push_front(rest);
        } else if rest.ended {
            self.tell_ready(status);
        } else {
            self.skip_until_sync = Some(status);
        }
    }
}

/// Whether a standby refused because it is one, or because of its replay: the primary would not have.
pub(crate) fn is_refusal(body: &[u8]) -> bool {
    let says = |what: &[u8]| {
        fields::field(body, b'M').is_some_and(|text| text.windows(what.len()).any(|window| window == what))
    };
    match fields::code(body) {
        Some(
            SqlState::READ_ONLY_SQL_TRANSACTION
            | SqlState::FEATURE_NOT_SUPPORTED
            | SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
            | SqlState::SERIALIZATION_FAILURE,
        ) => true,
        Some(SqlState::INTERNAL_ERROR) => says(b"recovery"),
        _ => false,
    }
}

/// Whether a warning says that a commit has stopped to wait for synchronous standbys (`syncrep.c`). Servers of Pangea
/// run with untranslated messages.
fn says_unconfirmed(body: &[u8]) -> bool {
    let message = fields::field(body, b'M').unwrap_or_default();
    message.starts_with(b"canceling wait for synchronous replication")
        || message.starts_with(b"canceling the wait for synchronous replication")
}

/// The message of an ErrorResponse.
pub(crate) fn message_of(frame: &Bytes) -> Option<String> {
    fields::field(&frame[HEADER_LEN..], b'M').map(|text| String::from_utf8_lossy(text).into_owned())
}

/// Whether an error is about something of this name.
fn names(error: &[u8], name: &[u8]) -> bool {
    let quoted = [b"\"", name, b"\""].concat();
    error.windows(quoted.len()).any(|window| window == quoted)
}

/// The same error with severity ERROR.
fn as_plain_error(frame: &Bytes) -> BytesMut {
    let mut out = BytesMut::new();
    ErrorFields::of_server(&frame[HEADER_LEN..]).write(&mut out);
    out
}

impl Unit {
    /// Passes on what was held back: from here on the unit cannot run again.
    fn release(&mut self, out: &mut BytesMut) {
        (self.retryable, self.recallable) = (false, false);
        if !self.sent.is_empty() {
            let sent = std::mem::take(&mut self.sent);
            self.put_away(sent, false);
        }
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            if !self.retry {
                out.extend_from_slice(&held);
            }
        }
    }

    /// Passes a frame on, or holds it back while the unit may have to run again.
    fn pass(&mut self, frame: &[u8], decides: bool, out: &mut BytesMut) {
        if self.retryable && !decides && self.held.len() + frame.len() <= HELD_LEN_MAX {
            self.held.extend_from_slice(frame);
        } else {
            self.release(out);
            out.extend_from_slice(frame);
        }
    }

    /// Counts what has been completed; whether the answer is not for the client.
    fn count(&mut self, tag: u8, body: &[u8]) -> bool {
        match tag {
            b'1' => {
                let injected = self.parses.get(self.parse_completes).is_some_and(|parsed| parsed.injected);
                self.parse_completes += 1;
                return injected;
            }
            b'3' => {
                let hidden = self.hides_close.get(self.close_answers) == Some(&true);
                self.close_answers += 1;
                self.close_completes += usize::from(!hidden);
                return hidden;
            }
            b'G' => (self.copy_started, self.copy_active) = (true, true),
            b'C' => {
                self.command_completes += 1;
                self.rolled_back = body.starts_with(b"ROLLBACK");
            }
            b'I' | b's' => self.command_completes += 1,
            _ => {}
        }
        false
    }

    /// Makes it as if it had not run.
    fn run_again(&mut self) {
        self.reset();
        self.needs_primary = true;
        (self.run_on_primary, self.run_again) = (true, true);
    }

    /// Makes it as if it had not been sent.
    pub(crate) fn reset(&mut self) {
        self.frames = std::mem::take(&mut self.sent);
        self.held.clear();
        self.recallable = false;
        (self.leg, self.retry, self.retryable, self.errored) = (None, false, false, false);
        (self.parse_completes, self.close_completes, self.command_completes) = (0, 0, 0);
        (self.close_answers, self.parses_sent) = (0, 0);
        self.describes.iter_mut().for_each(|describes| describes.forget_answers());
        self.hides_close.clear();
        self.parses.retain(|parsed| !parsed.injected);
        self.parses.iter_mut().for_each(|parsed| parsed.made = None);
    }
}
