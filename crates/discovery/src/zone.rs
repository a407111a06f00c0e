//! From a packet to its answer: no sockets, no clock.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, SOA, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::{DiscoveryError, Records};

/// Longest answer over UDP, and what is said to be taken: what crosses every path in one piece (the value of the
/// DNS flag day 2020).
const UDP_LEN_MAX: u16 = 1232;

/// What a client takes over UDP that says nothing (RFC 1035), and the least it can say (RFC 6891).
const UDP_LEN_DEFAULT: u16 = 512;

/// Length of a header, below which there is nothing to answer to.
const HEADER_LEN: usize = 12;

/// Records of one kind in an answer; those after are left out, so that every answer fits into a message over TCP.
const RECORDS_MAX: usize = 500;

/// Longest time to live (RFC 2181, section 8).
pub const TTL_SECONDS_MAX: u64 = i32::MAX as u64;

/// Longest zone in bytes, so that a label of 63 still fits before it.
const ZONE_LEN_MAX: usize = 255 - 64;

/// For secondaries, of which there are none here; seconds. They have to be there and to be plausible.
const SOA_REFRESH: i32 = 60;
const SOA_RETRY: i32 = 10;
const SOA_EXPIRE: i32 = 3600;

const WRITER: &str = "writer";
const READER: &str = "reader";
const PRIMARY: &str = "primary";

/// How a packet came, and so how long its answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

#[derive(Debug)]
pub(crate) struct Zone {
    apex: Name,
    ttl_seconds: u32,
}

impl Zone {
    pub(crate) fn new(zone: &str, ttl: Duration) -> Result<Self, DiscoveryError> {
        let bad = |why: String| DiscoveryError::Zone { zone: zone.to_owned(), why };
        let mut apex = Name::from_ascii(zone).map_err(|error| bad(error.to_string()))?;
        apex.set_fqdn(true);
        if apex.is_root() {
            return Err(bad("it is the root".to_owned()));
        }
        if apex.len() > ZONE_LEN_MAX {
            return Err(bad(format!("it is longer than {ZONE_LEN_MAX} bytes")));
        }
        match u32::try_from(ttl.as_secs()) {
            Ok(ttl_seconds) if ttl.as_secs() <= TTL_SECONDS_MAX => Ok(Self { apex, ttl_seconds }),
            _ => Err(DiscoveryError::Ttl(ttl)),
        }
    }

    /// The answer to a packet; `None` if it deserves none, for it is no request.
    pub(crate) fn answer(
        &self,
        packet: &[u8],
        transport: Transport,
        records: Option<&Records>,
    ) -> Option<Vec<u8>> {
        let header: &[u8; HEADER_LEN] = packet.first_chunk()?;
        // An answer to an answer would go back and forth for ever.
        if header[2] & 0x80 != 0 {
            return None;
        }
        let Ok(request) = Message::from_vec(packet) else {
            let id = u16::from_be_bytes([header[0], header[1]]);
            let op_code = OpCode::from_u8((header[2] >> 3) & 0x0f);
            return Message::error_msg(id, op_code, ResponseCode::FormErr).to_vec().ok();
        };
        let response = self.respond(&request, records);
        let limit = match transport {
            Transport::Tcp => u16::MAX,
            Transport::Udp => {
                let wanted = request.edns.as_ref().map_or(UDP_LEN_DEFAULT, Edns::max_payload);
                wanted.clamp(UDP_LEN_DEFAULT, UDP_LEN_MAX)
            }
        };
        let bytes = response.to_vec().ok()?;
        if bytes.len() <= usize::from(limit) {
            return Some(bytes);
        }
        // Nothing but the question: a part of the addresses could be taken for all of them.
        response.truncate().to_vec().ok()
    }

    fn respond(&self, request: &Message, records: Option<&Records>) -> Message {
        let mut response = Message::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
        response.metadata = Metadata::response_from_request(&request.metadata);
        response.queries.clone_from(&request.queries);
        if let Some(asked) = &request.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_LEN_MAX).set_dnssec_ok(asked.flags().dnssec_ok);
            response.set_edns(edns);
        }
        let unknown_version = request.edns.as_ref().is_some_and(|edns| edns.version() > 0);
        response.metadata.response_code = match (request.metadata.op_code, request.queries.as_slice()) {
            _ if unknown_version => ResponseCode::BADVERS,
            (OpCode::Query, [query]) => self.look_up(query, records, &mut response),
            (OpCode::Query, _) => ResponseCode::FormErr,
            _ => ResponseCode::NotImp,
        };
        response
    }

    fn look_up(&self, query: &Query, records: Option<&Records>, response: &mut Message) -> ResponseCode {
        let ours = query.query_class == DNSClass::IN && self.apex.zone_of(&query.name);
        // Nobody may copy the zone: there are no secondaries.
        if !ours || matches!(query.query_type, RecordType::AXFR | RecordType::IXFR) {
            return ResponseCode::Refused;
        }
        let Some(records) = records else { return ResponseCode::ServFail };
        response.metadata.authoritative = true;
        let (code, found) = match self.data(&query.name, records) {
            Some(data) => (ResponseCode::NoError, of_type(data, query.query_type)),
            None => (ResponseCode::NXDomain, Vec::new()),
        };
        if found.is_empty() {
            // How long a resolver may remember that there is nothing.
            response.add_authority(self.record(&self.apex, RData::SOA(self.soa(records))));
        }
        // The name as it was asked for: some resolvers check its capitals.
        response.add_answers(found.into_iter().map(|data| self.record(&query.name, data)));
        code
    }

    /// All data of a name in the zone; `None` if there is no such name.
    fn data(&self, name: &Name, records: &Records) -> Option<Vec<RData>> {
        let depth = name.iter().len() - self.apex.iter().len();
        let label = match depth {
            0 => {
                let mut data = vec![RData::SOA(self.soa(records))];
                data.extend(
                    records
                        .regions
                        .keys()
                        .take(RECORDS_MAX)
                        .filter_map(|region| Some(RData::NS(NS(self.name(region)?)))),
                );
                data.push(self.text(records));
                return Some(data);
            }
            1 => name.iter().next()?.to_ascii_lowercase(),
            _ => return None,
        };
        match std::str::from_utf8(&label).ok()? {
            PRIMARY => Some(vec![self.text(records)]),
            WRITER => Some(addresses(&records.writer)),
            READER => Some(addresses(&records.readers)),
            label => {
                let mut regions = records.regions.iter();
                let (_, found) = regions.find(|(region, _)| region.eq_ignore_ascii_case(label))?;
                Some(addresses(found))
            }
        }
    }

    fn soa(&self, records: &Records) -> SOA {
        let apex = || self.apex.clone();
        SOA::new(
            self.name(&records.primary).unwrap_or_else(apex),
            self.name("hostmaster").unwrap_or_else(apex),
            serial(records.epoch),
            SOA_REFRESH,
            SOA_RETRY,
            SOA_EXPIRE,
            self.ttl_seconds,
        )
    }

    fn text(&self, records: &Records) -> RData {
        let Records { primary, epoch, .. } = records;
        RData::TXT(TXT::new(vec![format!("region={primary};max-age={};epoch={epoch}", self.ttl_seconds)]))
    }

    fn name(&self, label: &str) -> Option<Name> {
        self.apex.prepend_label(label).ok()
    }

    fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.ttl_seconds, data)
    }
}

/// What a question of this type gets of a name's data. ANY gets the first set only (RFC 8482): all of them is what
/// those ask for who want to send much to somebody else.
fn of_type(data: Vec<RData>, asked: RecordType) -> Vec<RData> {
    let wanted = match asked {
        RecordType::ANY => data.first().map(RData::record_type),
        one => Some(one),
    };
    data.into_iter().filter(|data| Some(data.record_type()) == wanted).collect()
}

fn addresses(addresses: &[IpAddr]) -> Vec<RData> {
    let data = |address: &IpAddr| match *address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    addresses.iter().take(RECORDS_MAX).map(data).collect()
}

/// Serials have 32 bits and are compared modulo 2^32 (RFC 1982).
fn serial(epoch: u64) -> u32 {
    let [.., a, b, c, d] = epoch.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests;
