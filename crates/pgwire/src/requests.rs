//! What a server has to do for a client, as seen by somebody between the two.

use crate::frame::frontend_header;

/// Follows a client's requests and its server's answers, and so knows when the server has nothing of the client to do:
/// everything that was passed on is answered, and no transaction is open.
///
/// Query, FunctionCall and Sync are answered with one ReadyForQuery each, whatever happens (PostgreSQL documentation,
/// "Message Flow"); only while a server takes data of COPY it ignores Sync ("COPY Operations").
#[derive(Debug)]
pub struct Requests {
    /// Bytes still to come of a frame that was begun.
    rest: usize,
    /// Extended messages have been passed on, and no Sync behind them.
    is_open: bool,
    /// ReadyForQuery messages that are due.
    due: u32,
    /// The last of them has said that no transaction is open.
    is_idle: bool,
    /// The request that was passed on last ended with a Sync.
    ended_by_sync: bool,
    /// The server takes data.
    copies: bool,
    /// A Query or FunctionCall came behind extended messages without a Sync, and is skipped if one of those fails: how many
    /// ReadyForQuery messages are due up to its own.
    doubt: Option<u32>,
    /// Something came of which it is not known how it is answered.
    is_lost: bool,
}

impl Requests {
    /// Behind a start-up message.
    #[must_use]
    pub fn behind_startup() -> Self {
        Self {
            rest: 0,
            is_open: false,
            due: 1,
            is_idle: true,
            ended_by_sync: false,
            copies: false,
            doubt: None,
            is_lost: false,
        }
    }

    /// How many of these bytes, which the client has sent next, may be passed on; they count as passed on. When nothing new
    /// may begin that is what belongs to what has begun. A header that is cut is left for later.
    pub fn pass(&mut self, bytes: &[u8], may_begin: bool) -> usize {
        let mut at = 0;
        loop {
            let step = self.rest.min(bytes.len() - at);
            (at, self.rest) = (at + step, self.rest - step);
            if self.rest > 0 {
                return at;
            }
            match frontend_header(&bytes[at..]) {
                Ok(None) => return at,
                Ok(Some(header)) => {
                    if !may_begin && !self.goes_on_with(header.tag) {
                        return at;
                    }
                    self.note(header.tag);
                    self.rest = header.frame_len();
                }
                // The server will say so.
                Err(_) => {
                    self.is_lost = true;
                    return bytes.len();
                }
            }
        }
    }

    /// Whether a message belongs to what has begun. A function call does so that is sent behind something.
    fn goes_on_with(&self, tag: u8) -> bool {
        let block = self.due == 0 && !self.is_idle;
        self.is_open || self.copies || block || self.is_lost || (self.due > 0 && tag == b'F') || tag == b'X'
    }

    fn note(&mut self, tag: u8) {
        match tag {
            b'S' if self.copies => {}
            b'S' => (self.is_open, self.ended_by_sync, self.due) = (false, true, self.due + 1),
            b'Q' | b'F' => {
                let doubtful = std::mem::take(&mut self.is_open);
                (self.ended_by_sync, self.due) = (false, self.due + 1);
                match self.doubt {
                    None if doubtful => self.doubt = Some(self.due),
                    // One is followed.
                    Some(_) if doubtful => self.is_lost = true,
                    _ => {}
                }
            }
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' => self.is_open = true,
            b'c' | b'f' => self.copies = false,
            b'd' | b'X' => {}
            _ => self.is_lost = true,
        }
    }

    /// The server has sent this message.
    pub fn answered(&mut self, tag: u8, body: &[u8]) {
        match tag {
            b'Z' => {
                // A Sync that was sent while the server took data, and was not read before that had failed.
                self.is_open &= self.due > 0;
                self.doubt = self.doubt.and_then(|due| due.checked_sub(1)).filter(|due| *due > 0);
                (self.due, self.copies) = (self.due.saturating_sub(1), false);
                self.is_idle = body == b"I";
            }
            b'G' => {
                self.copies = true;
                // It is ignored: another one follows the data.
                if self.ended_by_sync && !self.is_open {
                    (self.is_open, self.due) = (true, self.due.saturating_sub(1));
                }
            }
            b'E' => (self.copies, self.is_lost) = (false, self.is_lost || self.doubt == Some(1)),
            b'W' => self.is_lost = true,
            _ => {}
        }
    }

    /// Whether the server has nothing to do.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.due == 0 && self.is_idle && self.rest == 0 && !(self.is_open || self.copies || self.is_lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages without content, by their tags.
    fn frames(tags: &str) -> Vec<u8> {
        tags.bytes().flat_map(|tag| [tag, 0, 0, 0, 4]).collect()
    }

    fn begun() -> Requests {
        let mut requests = Requests::behind_startup();
        assert!(!requests.is_quiet(), "the start-up message is not answered");
        requests.answered(b'Z', b"I");
        assert!(requests.is_quiet());
        requests
    }

    /// Passes messages on; how many may.
    fn pass(requests: &mut Requests, tags: &str, may_begin: bool) -> usize {
        let bytes = frames(tags);
        let passed = requests.pass(&bytes, may_begin);
        assert_eq!(passed % 5, 0);
        passed / 5
    }

    #[test]
    fn what_is_passed_on_is_under_way_until_it_is_answered() {
        for tags in ["Q", "F", "PBES", "S"] {
            let mut requests = begun();
            assert_eq!(pass(&mut requests, tags, true), tags.len());
            assert!(!requests.is_quiet(), "{tags}");
            requests.answered(b'C', b"");
            assert!(!requests.is_quiet(), "{tags}");
            requests.answered(b'Z', b"I");
            assert!(requests.is_quiet(), "{tags}");
        }
        let mut requests = begun();
        pass(&mut requests, "PBH", true);
        assert!(!requests.is_quiet(), "no Sync yet");
    }

    #[test]
    fn a_transaction_is_let_end_and_nothing_new_begins() {
        let mut requests = begun();
        assert_eq!(pass(&mut requests, "Q", false), 0);
        assert_eq!(pass(&mut requests, "Q", true), 1);
        assert_eq!(pass(&mut requests, "FQ", false), 1, "the call belongs to the query");
        requests.answered(b'Z', b"T");
        requests.answered(b'Z', b"T");
        assert!(!requests.is_quiet());
        assert_eq!(pass(&mut requests, "QQ", false), 1, "the first may have ended the transaction");
        requests.answered(b'Z', b"I");
        assert!(requests.is_quiet());
        assert_eq!(pass(&mut requests, "Q", false), 0);
    }

    #[test]
    fn what_has_begun_goes_on_to_its_sync() {
        let mut requests = begun();
        assert_eq!(pass(&mut requests, "PB", true), 2);
        assert_eq!(pass(&mut requests, "ESPBES", false), 2);
        assert_eq!(pass(&mut requests, "PBES", false), 0);
        requests.answered(b'Z', b"I");
        assert!(requests.is_quiet());
    }

    #[test]
    fn however_it_is_cut() {
        let whole = b"Q\0\0\0\x0cSELECT1\0P\0\0\0\x08ab\0\0S\0\0\0\x04";
        for cut in 0..whole.len() {
            let mut requests = begun();
            let first = requests.pass(&whole[..cut], true);
            assert!(first <= cut && cut - first < 5);
            assert_eq!(first + requests.pass(&whole[first..], true), whole.len());
            assert!(!requests.is_quiet());
            requests.answered(b'Z', b"I");
            assert!(!requests.is_quiet());
            requests.answered(b'Z', b"I");
            assert!(requests.is_quiet(), "cut at {cut}");
        }
    }

    #[test]
    fn syncs_during_a_copy_are_not_answered() {
        // The Sync behind the data counts; one that was sent before is ignored. The data may be wrong.
        for (before, behind) in [("Q", "ddc"), ("PBES", "ddcS"), ("PBEH", "ddcS"), ("PBEH", "dSdcS")] {
            for outcome in [b'C', b'E'] {
                let mut requests = begun();
                pass(&mut requests, before, true);
                requests.answered(b'G', b"\0\0\0");
                assert!(!requests.is_quiet());
                assert_eq!(pass(&mut requests, behind, false), behind.len(), "{before} {behind}");
                assert!(!requests.is_quiet());
                requests.answered(outcome, b"");
                assert!(!requests.is_quiet());
                requests.answered(b'Z', b"I");
                assert!(requests.is_quiet(), "{before} {behind}");
            }
        }
    }

    #[test]
    fn what_it_cannot_follow_it_never_calls_quiet() {
        for tags in ["PQ", "p"] {
            let mut requests = begun();
            pass(&mut requests, tags, true);
            requests.answered(b'E', b"");
            requests.answered(b'Z', b"I");
            requests.answered(b'Z', b"I");
            assert!(!requests.is_quiet(), "{tags}");
        }
        let mut requests = begun();
        pass(&mut requests, "PQ", true);
        requests.answered(b'1', b"");
        requests.answered(b'Z', b"I");
        assert!(requests.is_quiet(), "the Query was executed");
        let mut requests = begun();
        assert_eq!(requests.pass(b"?what", true), 5);
        assert!(!requests.is_quiet());
    }
}
