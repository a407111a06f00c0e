//! The unnamed statement of servers that sessions share.
//!
//! Clients that prepare nothing send the text with each execution, and PostgreSQL reads it and looks its names up each time.
//! Where the server's unnamed statement is that very text, the Parse is not sent, and the session answers it. PostgreSQL sees
//! to it that a statement is analysed anew when what it uses has changed (plancache.c).

use bytes::Bytes;
use pangea_pgwire::fields;
use pangea_pgwire::frame::{HEADER_LEN, Header};

use crate::dispatch::RETRY_LEN_MAX;
use crate::leg::Leg;
use crate::respond::{INSPECTED_LEN_MAX, PARSE_COMPLETE};
use crate::session::{Access, Session, Transaction};
use crate::unit::{Kind, Unit};

/// Binds to one Parse: for each of the first five PostgreSQL makes a plan of its own (`choose_custom_plan` of plancache.c),
/// as when the text is parsed each time.
const BINDS_MAX: u32 = 5;

/// Longest Parse that is remembered for a server.
const PARSE_LEN_MAX: usize = 4096;

/// What a server's unnamed statement is.
#[derive(Debug)]
pub(crate) struct Unnamed {
    /// The Parse that has made it, whole.
    parse: Bytes,
    /// What was known of the catalogue then.
    catalog_version: u64,
    /// How often it was bound.
    binds: u32,
}

impl Session {
    /// Notes what the server's unnamed statement will be with this unit, which is about to be sent; whether its first frame is
    /// a Parse of what is there already.
    pub(crate) fn has_unnamed(&mut self, leg: Leg, unit: &Unit, frames: &[Bytes]) -> bool {
        if !(unit.only_reads() && unit.kind == Kind::Extended && unit.ended && unit.uses_by_name.is_empty()) {
            self.link_mut(leg).server.unnamed = None;
            return false;
        }
        let unnamed_uses = unit.uses.iter().filter(|name| name.is_empty()).count();
        let (parses, binds_once) = (unit.parses.as_slice(), unnamed_uses == 1 && unit.uses.len() == 1);
        let first = match (parses, frames.first()) {
            ([parsed], Some(first)) if binds_once && parsed.name.is_empty() && first.first() == Some(&b'P') => first,
            _ => {
                let known = &mut self.link_mut(leg).server.unnamed;
                if parses.iter().any(|parsed| parsed.name.is_empty()) || unnamed_uses > 1 {
                    *known = None;
                } else if let Some(known) = known {
                    known.binds += u32::from(unnamed_uses == 1);
                }
                return false;
            }
        };
        let is_settled = unit.len <= RETRY_LEN_MAX
            && self.in_flight.is_empty()
            && self.client_in.is_empty()
            && matches!(self.transaction, Transaction::Idle)
            && !(unit.parses_anew || self.position_unknown || self.catalog_changed)
            && (leg == Leg::Local || self.access == Access::Primary && !self.may_be_refused());
        let made = self.statements.get(b"").filter(|made| made.is_lasting && made.is_of(first));
        let made = made.filter(|_| first.len() <= PARSE_LEN_MAX).map(|made| made.catalog_version);
        let link = self.link_mut(leg);
        let is_settled = is_settled && link.expect.is_empty();
        match (&mut link.server.unnamed, made) {
            (Some(known), Some(version))
                if is_settled
                    && known.binds < BINDS_MAX
                    && known.catalog_version == version
                    && known.parse == first =>
            {
                known.binds += 1;
                true
            }
            (known, made) => {
                let remembered = |catalog_version| Unnamed { parse: first.clone(), catalog_version, binds: 1 };
                *known = made.map(remembered);
                false
            }
        }
    }
    /// Answers the Parse that was not sent to the server whose answer to the rest begins with this frame, or has the unit run again
    /// with it when the server has not come to execute anything (AT-MOST-ONCE); `false` when the whole frame is needed first.
    pub(crate) fn answer_parse(&mut self, leg: Leg, header: Header) -> bool {
        let link = match leg {
            Leg::Local => &mut self.local,
            Leg::Primary => &mut self.primary,
        };
        let Some(unit) = self.in_flight.front_mut().filter(|unit| !unit.retry) else { return true };
        match header.tag {
            // These come between any others.
            b'N' | b'S' | b'A' => return true,
            b'E' if !unit.is_cancelled && header.frame_len() <= INSPECTED_LEN_MAX => {
                let Some(frame) = link.input.get(..header.frame_len()) else { return false };
                if may_be_stale(&frame[HEADER_LEN..]) {
                    (unit.retry, link.server.unnamed) = (true, None);
                    return true;
                }
            }
            _ => {}
        }
        unit.skips_parse = false;
        unit.parse_completes += 1;
        unit.pass(PARSE_COMPLETE, false, &mut self.client_out);
        true
    }
}

/// Whether an error may be one that the same statement would not have had, had it been parsed: all but those that end it from
/// outside.
fn may_be_stale(error: &[u8]) -> bool {
    !fields::is_fatal(error) && !fields::code(error).is_some_and(|code| code.as_str().starts_with("57"))
}
