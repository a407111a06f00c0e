//! What the client sends and is not collected: data of COPY, and frames that are too large.

use bytes::Bytes;
use pangea_pgwire::frame::{FrameError, HEADER_LEN, Header};
use pangea_pgwire::message::{self, Bind};

use crate::collect::{LARGE_HEAD_LEN_MAX, starts_plain_write};
use crate::leg::Leg;
use crate::session::{Session, Transaction};
use crate::unit::Kind;

impl Session {
    /// Passes the bytes of a frame that is not collected.
    pub(crate) fn pass_client_bytes(&mut self, leg: Option<Leg>, rest: usize) -> bool {
        let len = rest.min(self.client_in.len());
        if len == 0 {
            return false;
        }
        let bytes = self.client_in.split_to(len);
        if let Some(leg) = leg {
            self.link_mut(leg).output.extend_from_slice(&bytes);
        }
        self.passing = (rest > len).then_some((leg, rest - len));
        true
    }

    /// A frame while a COPY FROM STDIN is under way: it belongs to the server that takes the data.
    pub(crate) fn take_copy_frame(&mut self, header: Header) -> bool {
        let Some(unit) = self.in_flight.back_mut() else { return false };
        let leg = unit.leg.unwrap_or(Leg::Primary);
        let extended = unit.kind == Kind::Extended;
        if !unit.copy_active {
            // Before the server says that it takes data, the client may not know whether it will. After an error
            // in the data the server waits for a Sync: one that was sent before the data has been ignored.
            if !(unit.errored && extended && (unit.copy_started || !unit.ended)) {
                return false;
            }
            let sync = header.tag == b'S';
            if sync {
                (unit.ended, unit.copy_started, unit.copies_in) = (true, false, unit.copies_in.max(1));
            }
            self.passing = Some((sync.then_some(leg), header.frame_len()));
            return true;
        }
        if header.tag == b'd' {
            self.passing = Some((Some(leg), header.frame_len()));
            return true;
        }
        if self.client_in.len() < header.frame_len() {
            return false;
        }
        let ends_data = matches!(header.tag, b'c' | b'f');
        let ends = (ends_data && !extended) || (header.tag == b'S' && !unit.ended);
        if ends_data && extended {
            // A Sync that was sent before the data was ignored by the server: another one ends the unit.
            unit.ended = false;
        }
        let mut asks = false;
        if ends {
            // Behind the data of another COPY, or inside a transaction, a query would be in the way.
            asks =
                unit.copies_in == 1 && !unit.mixes_control && matches!(self.transaction, Transaction::Idle);
            (unit.ended, unit.copy_active) = (true, unit.copies_in > 1);
            // After a Sync an error skips nothing more.
            unit.copy_started &= header.tag != b'S';
            unit.asks_position = asks;
        }
        self.pass_client_bytes(Some(leg), header.frame_len());
        if asks {
            self.send_position_query();
        }
        true
    }

    /// A frame that is too large to be collected is passed on as it comes, to where its unit runs: the primary, or
    /// the standby that refuses it in a failed transaction.
    pub(crate) fn stream_large(&mut self, header: Header) -> Result<bool, FrameError> {
        if self.skip_until_sync.is_some() {
            self.passing = Some((None, header.frame_len()));
            return Ok(true);
        }
        if self.in_flight.iter().any(|unit| unit.recallable && !unit.uses.is_empty()) {
            // It may be what this replaces.
            return Ok(false);
        }
        if std::mem::take(&mut self.large_announced) {
            // Refused, it is dropped: its unit has been answered.
            let leg = self.in_flight.back().filter(|unit| unit.streams).and_then(|unit| unit.leg);
            self.passing = Some((leg, header.frame_len()));
            return Ok(true);
        }
        let head = &self.client_in[HEADER_LEN.min(self.client_in.len())..];
        let names = match header.tag {
            b'P' => message::cstr(head).map(|(statement, _)| (None, Bytes::copy_from_slice(statement))),
            b'B' => Bind::read(head).map(|bind| {
                (Some(Bytes::copy_from_slice(bind.portal)), Bytes::copy_from_slice(bind.statement))
            }),
            _ => Ok((None, Bytes::new())),
        };
        let (portal, statement) = match names {
            Ok(names) => names,
            // Names are short: they come with the first bytes.
            Err(error) if self.client_in.len() > LARGE_HEAD_LEN_MAX => return Err(error),
            Err(_) => return Ok(false),
        };
        let query = header.tag == b'Q';
        let mut unit = if query { self.fresh_unit(Kind::Simple) } else { self.take_collected() };
        (unit.needs_primary, unit.run_on_primary, unit.streams) = (true, true, true);
        (unit.executes, unit.reads, unit.ended) = (true, true, query);
        unit.commands += 1;
        match header.tag {
            b'P' => {
                // A statement that is not remembered cannot be made elsewhere.
                (unit.pins, unit.holds) = (true, true);
                self.statements.remove(&statement);
            }
            b'B' => {
                unit.uses_by_name.push(statement);
                self.portals.remove(portal.as_deref().unwrap_or_default());
            }
            _ => {
                unit.unread = !starts_plain_write(&self.client_in[HEADER_LEN..]);
                self.statements.remove(b"");
            }
        }
        self.large_announced = true;
        self.pending.push_back(unit);
        Ok(true)
    }
}
