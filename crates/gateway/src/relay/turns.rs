//! What a session that another gateway forwards may have executed here, and when.
//!
//! It asks the gate before each request, as sessions of this region do; so "nothing is under way on the primary" is known
//! here, without asking the other regions first. What came too late is not executed, and its sender is told that, so that it
//! can send it to the next primary (AT-MOST-ONCE).

use bytes::BytesMut;
use pangea_base::Epoch;
use pangea_pgwire::requests::Requests;
use pangea_session::own_question;

use crate::gate::GateWatch;

/// The turns of a relayed session.
pub(super) struct Turns<'a> {
    gate: &'a GateWatch,
    /// The epoch that the session is for.
    epoch: Epoch,
    requests: Requests,
    /// Something of it is under way, by leave of the gate.
    entered: bool,
    /// While the region is not yet primary of that epoch: the ReadyForQuery with which the server takes the session, which the
    /// client gets when it is. Nothing is executed before (ONE-WRITER).
    ready: Option<BytesMut>,
}

/// Why nothing of a session is executed any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The region takes no writes, or is not primary of the epoch, and nothing of the session was under way.
    Refused,
    /// The epoch is over, and something was under way.
    Lost,
}

impl<'a> Turns<'a> {
    /// `ahead`: the region is to become primary first.
    pub(super) fn new(gate: &'a GateWatch, epoch: Epoch, ahead: bool) -> Self {
        let requests = Requests::behind_startup();
        Self { gate, epoch, requests, entered: false, ready: ahead.then(BytesMut::new) }
    }

    pub(super) fn is_ahead(&self) -> bool {
        self.ready.is_some()
    }

    /// The region is primary; gives the ReadyForQuery that was kept, if it has come.
    pub(super) fn admit(&mut self) -> BytesMut {
        let ready = self.ready.take().unwrap_or_default();
        if !ready.is_empty() {
            self.requests.answered(b'Z', b"I");
        }
        ready
    }

    /// Where the ReadyForQuery is to be kept that was not seen yet.
    pub(super) fn keeps_ready(&mut self) -> Option<&mut BytesMut> {
        self.ready.as_mut().filter(|ready| ready.is_empty())
    }

    /// How many of these bytes of the client may be executed now.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> usize {
        if bytes.is_empty() || self.is_ahead() {
            return 0;
        }
        if !(self.entered || self.enter()) {
            // Without its answer the session could not leave.
            let question = own_question(bytes).filter(|_| self.gate.enter_to_ask(self.epoch));
            self.entered = question.is_some();
            return question.map_or(0, |len| self.requests.pass(&bytes[..len], true));
        }
        let passed = self.requests.pass(bytes, !self.gate.is_closed());
        self.leave_if_quiet();
        passed
    }

    fn enter(&mut self) -> bool {
        self.entered = self.gate.enter();
        // The gate may be that of another primary by now.
        if self.entered && self.gate.epoch() != self.epoch {
            self.entered = false;
            self.gate.leave();
        }
        self.entered
    }

    pub(super) fn answered(&mut self, tag: u8, body: &[u8]) {
        self.requests.answered(tag, body);
        self.leave_if_quiet();
    }

    fn leave_if_quiet(&mut self) {
        if self.entered && self.requests.is_quiet() {
            self.entered = false;
            self.gate.leave();
        }
    }

    /// Whether nothing is under way, nor may begin. What the server says then, it may say because it shuts down, which is not
    /// what becomes of the session.
    pub(super) fn is_held(&self) -> bool {
        !self.is_ahead() && !self.entered && self.gate.is_closed()
    }

    /// Whether the session has ended, once it is not ahead any more.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        let now = self.gate.epoch_if_open();
        match (now == Some(self.epoch), self.entered) {
            _ if self.is_ahead() => None,
            (true, _) => None,
            (false, false) => Some(Verdict::Refused),
            // While the region is primary, what is under way ends there, or with the server.
            (false, true) => (self.gate.epoch() != self.epoch).then_some(Verdict::Lost),
        }
    }
}

impl Drop for Turns<'_> {
    fn drop(&mut self) {
        if self.entered {
            self.gate.leave();
        }
    }
}
