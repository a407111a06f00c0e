use std::collections::BTreeMap;

use hickory_proto::op::EdnsFlags;
use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(10);

fn zone() -> Zone {
    Zone::new("mydb.pangea.internal", TTL).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn records() -> Records {
    Records {
        epoch: 42,
        primary: "eu-west-1".to_owned(),
        writer: vec![ip("10.0.0.1"), ip("fd00::1")],
        readers: vec![ip("10.0.0.2"), ip("10.0.0.1")],
        regions: BTreeMap::from([
            ("eu-west-1".to_owned(), vec![ip("10.0.0.1"), ip("fd00::1")]),
            ("us-east-1".to_owned(), vec![ip("10.1.0.1")]),
            ("dark".to_owned(), Vec::new()),
        ]),
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn answer_to(request: &Message, transport: Transport, records: Option<&Records>) -> Message {
    let bytes = zone().answer(&request.to_vec().unwrap(), transport, records).unwrap();
    Message::from_vec(&bytes).unwrap()
}

fn ask(name: &str, kind: RecordType) -> Message {
    let answer = answer_to(&question(name, kind), Transport::Udp, Some(&records()));
    assert_eq!(answer.metadata.id, 4711);
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    assert!(answer.metadata.recursion_desired && !answer.metadata.recursion_available);
    assert!(!answer.metadata.truncation);
    assert_eq!(answer.queries, question(name, kind).queries);
    for record in answer.answers.iter().chain(&answer.authorities) {
        assert_eq!(record.ttl, 10);
    }
    answer
}

fn data(answer: &Message) -> Vec<String> {
    assert_eq!((answer.metadata.response_code, answer.metadata.authoritative), (ResponseCode::NoError, true));
    answer.answers.iter().map(|record| record.data.to_string()).collect()
}

/// The code of an answer without answers; inside the zone the authority section says how long that holds.
fn nothing(answer: &Message) -> ResponseCode {
    assert!(answer.answers.is_empty() && answer.additionals.is_empty());
    let kinds: Vec<_> = answer.authorities.iter().map(Record::record_type).collect();
    let expected: &[RecordType] = if answer.metadata.authoritative { &[RecordType::SOA] } else { &[] };
    assert_eq!(kinds, expected);
    answer.metadata.response_code
}

#[test]
fn names_have_addresses() {
    let table = [
        ("writer.mydb.pangea.internal.", RecordType::A, &["10.0.0.1"][..]),
        ("writer.mydb.pangea.internal.", RecordType::AAAA, &["fd00::1"]),
        ("reader.mydb.pangea.internal.", RecordType::A, &["10.0.0.2", "10.0.0.1"]),
        ("us-east-1.mydb.pangea.internal.", RecordType::A, &["10.1.0.1"]),
        ("eu-west-1.mydb.pangea.internal.", RecordType::AAAA, &["fd00::1"]),
        ("WRITER.MyDB.pangea.INTERNAL.", RecordType::A, &["10.0.0.1"]),
        ("Us-East-1.mydb.pangea.internal.", RecordType::A, &["10.1.0.1"]),
    ];
    for (name, kind, expected) in table {
        let answer = ask(name, kind);
        assert_eq!(data(&answer), expected, "{name}");
        assert!(answer.authorities.is_empty());
        for record in &answer.answers {
            assert!(record.name.eq_case(&Name::from_ascii(name).unwrap()), "capitals as in the question");
        }
    }
}

#[test]
fn the_text_is_one_string() {
    for name in ["mydb.pangea.internal.", "primary.mydb.pangea.internal.", "Primary.mydb.pangea.internal."] {
        let answer = ask(name, RecordType::TXT);
        let [record] = answer.answers.as_slice() else { panic!("{answer}") };
        let RData::TXT(text) = &record.data else { panic!("{record}") };
        assert_eq!(text.txt_data.len(), 1);
        assert_eq!(&*text.txt_data[0], b"region=eu-west-1;max-age=10;epoch=42");
    }
}

#[test]
fn the_apex_names_its_servers() {
    let answer = ask("mydb.pangea.internal.", RecordType::SOA);
    let RData::SOA(soa) = &answer.answers[0].data else { panic!("{answer}") };
    assert_eq!((soa.serial, soa.minimum), (42, 10));
    assert_eq!(soa.mname.to_ascii(), "eu-west-1.mydb.pangea.internal.");
    let servers = data(&ask("mydb.pangea.internal.", RecordType::NS));
    let expected = ["dark", "eu-west-1", "us-east-1"].map(|region| format!("{region}.mydb.pangea.internal."));
    assert_eq!(servers, expected);
    assert_eq!(serial(u64::from(u32::MAX) + 3), 2);
}

#[test]
fn no_data_is_not_no_name() {
    let no_data = [
        ("us-east-1.mydb.pangea.internal.", RecordType::AAAA),
        ("dark.mydb.pangea.internal.", RecordType::A),
        ("dark.mydb.pangea.internal.", RecordType::ANY),
        ("writer.mydb.pangea.internal.", RecordType::TXT),
        ("primary.mydb.pangea.internal.", RecordType::A),
        ("mydb.pangea.internal.", RecordType::A),
        ("mydb.pangea.internal.", RecordType::MX),
        ("writer.mydb.pangea.internal.", RecordType::SOA),
        ("writer.mydb.pangea.internal.", RecordType::Unknown(65280)),
    ];
    for (name, kind) in no_data {
        assert_eq!(nothing(&ask(name, kind)), ResponseCode::NoError, "{name} {kind}");
    }
    for name in ["nobody", "a.writer", "writers", "*", "hostmaster", "10.0.0.1"] {
        let name = format!("{name}.mydb.pangea.internal.");
        for kind in [RecordType::A, RecordType::TXT, RecordType::ANY] {
            assert_eq!(nothing(&ask(&name, kind)), ResponseCode::NXDomain, "{name}");
        }
    }
}

#[test]
fn what_is_not_ours_is_refused() {
    for name in [".", "internal.", "pangea.internal.", "otherdb.pangea.internal.", "xmydb.pangea.internal."] {
        let answer = ask(name, RecordType::A);
        assert_eq!(nothing(&answer), ResponseCode::Refused, "{name}");
        assert!(!answer.metadata.authoritative);
    }
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(nothing(&ask("mydb.pangea.internal.", kind)), ResponseCode::Refused);
    }
    let mut chaos = question("mydb.pangea.internal.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    let answer = answer_to(&chaos, Transport::Tcp, Some(&records()));
    assert_eq!(nothing(&answer), ResponseCode::Refused);
}

#[test]
fn any_is_answered_with_little() {
    assert_eq!(data(&ask("writer.mydb.pangea.internal.", RecordType::ANY)), ["10.0.0.1"]);
    let apex = ask("mydb.pangea.internal.", RecordType::ANY);
    assert_eq!(apex.answers.len(), 1);
    assert_eq!(apex.answers[0].record_type(), RecordType::SOA);
}

#[test]
fn nothing_known_is_no_guess() {
    for name in ["writer.mydb.pangea.internal.", "mydb.pangea.internal.", "nobody.mydb.pangea.internal."] {
        let answer = answer_to(&question(name, RecordType::A), Transport::Udp, None);
        assert_eq!(nothing(&answer), ResponseCode::ServFail);
        assert!(!answer.metadata.authoritative);
    }
    let elsewhere = answer_to(&question("example.org.", RecordType::A), Transport::Udp, None);
    assert_eq!(nothing(&elsewhere), ResponseCode::Refused);
}

#[test]
fn what_is_too_long_for_udp_is_asked_again_over_tcp() {
    let addresses =
        |count: u16| (0..count).map(|n| IpAddr::from([10, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]]));
    let with = |count| Records { readers: addresses(count).collect(), ..records() };
    let asked = |payload: Option<u16>| {
        let mut question = question("reader.mydb.pangea.internal.", RecordType::A);
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            question.set_edns(edns);
        }
        question
    };
    // An address is 16 bytes, the rest is 46, and 11 more with EDNS. A client's 100 is 512, and its 65535 ours.
    for (payload, fit) in [(None, 29), (Some(100), 28), (Some(900), 52), (Some(u16::MAX), 73)] {
        for (count, truncated) in [(fit, false), (fit + 1, true)] {
            let request = asked(payload);
            let answer = answer_to(&request, Transport::Udp, Some(&with(count)));
            assert_eq!(answer.metadata.truncation, truncated, "{payload:?} {count}");
            assert_eq!(answer.answers.len(), if truncated { 0 } else { usize::from(count) });
            assert_eq!(answer.edns.is_some(), payload.is_some());
            let answer = answer_to(&request, Transport::Tcp, Some(&with(count)));
            assert!(!answer.metadata.truncation);
            assert_eq!(answer.answers.len(), usize::from(count));
        }
    }
    // However many there are, a message holds what is said of them.
    let mut crowd = with(5000);
    crowd.readers = (0..5000).map(|n: u16| IpAddr::from([1, 2, 3, 4, 5, 6, 7, n])).collect();
    crowd.regions = (0..5000).map(|n| (format!("{n:063}"), Vec::new())).collect();
    for (name, kind) in
        [("reader.mydb.pangea.internal.", RecordType::AAAA), ("mydb.pangea.internal.", RecordType::NS)]
    {
        let answer = answer_to(&question(name, kind), Transport::Tcp, Some(&crowd));
        assert!(!answer.metadata.truncation);
        assert_eq!(answer.answers.len(), RECORDS_MAX);
    }
}

#[test]
fn edns_is_answered_with_edns() {
    let mut request = question("writer.mydb.pangea.internal.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_dnssec_ok(true).set_max_payload(4096);
    request.set_edns(edns.clone());
    let answer = answer_to(&request, Transport::Udp, Some(&records()));
    let answered = answer.edns.as_ref().unwrap();
    assert_eq!((answered.version(), answered.max_payload()), (0, UDP_LEN_MAX));
    assert_eq!(*answered.flags(), EdnsFlags { dnssec_ok: true, z: 0 });
    assert_eq!(data(&answer), ["10.0.0.1"]);
    edns.set_version(1);
    request.set_edns(edns);
    let answer = answer_to(&request, Transport::Udp, Some(&records()));
    // The same number is BADSIG where there is a signature.
    assert_eq!(u16::from(answer.metadata.response_code), u16::from(ResponseCode::BADVERS));
    assert!(answer.answers.is_empty());
}

#[test]
fn bad_packets_get_little_or_nothing() {
    let good = question("writer.mydb.pangea.internal.", RecordType::A).to_vec().unwrap();
    let answer = |packet: &[u8]| {
        zone()
            .answer(packet, Transport::Udp, Some(&records()))
            .map(|bytes| Message::from_vec(&bytes).unwrap())
    };
    for length in 0..HEADER_LEN {
        assert!(answer(&good[..length]).is_none());
    }
    for length in HEADER_LEN..good.len() {
        let answer = answer(&good[..length]).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::FormErr, "{length}");
        assert_eq!(answer.metadata.id, 4711);
    }
    // A name that leads to itself for ever.
    let mut looped = good[..HEADER_LEN].to_vec();
    looped.extend([0xc0, 12, 0, 1, 0, 1]);
    assert_eq!(answer(&looped).unwrap().metadata.response_code, ResponseCode::FormErr);
    let mut response = good;
    response[2] |= 0x80;
    assert!(answer(&response).is_none(), "an answer is not answered");

    let mut request = question("writer.mydb.pangea.internal.", RecordType::A);
    request.metadata.op_code = OpCode::Update;
    assert_eq!(nothing(&answer(&request.to_vec().unwrap()).unwrap()), ResponseCode::NotImp);
    let mut two = question("writer.mydb.pangea.internal.", RecordType::A);
    two.add_query(two.queries[0].clone());
    let none = Message::query();
    for request in [two, none] {
        assert_eq!(nothing(&answer(&request.to_vec().unwrap()).unwrap()), ResponseCode::FormErr);
    }
}

#[test]
fn zones_that_cannot_be_are_said() {
    let long = ["a23456789012345678901234567890"; 8].join(".");
    for bad in ["", ".", "a..b", long.as_str()] {
        assert!(matches!(Zone::new(bad, TTL), Err(DiscoveryError::Zone { .. })), "{bad}");
    }
    assert_eq!(Zone::new("MyDB.internal.", TTL).unwrap().apex, Zone::new("mydb.internal", TTL).unwrap().apex);
    let forever = Duration::from_secs(TTL_SECONDS_MAX + 1);
    assert!(matches!(Zone::new("a", forever), Err(DiscoveryError::Ttl(_))));
}

proptest! {
    #[test]
    fn whatever_comes_an_answer_can_be_read(packet in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Some(answer) = zone().answer(&packet, Transport::Udp, Some(&records())) {
            prop_assert!(answer.len() <= usize::from(UDP_LEN_MAX));
            prop_assert_eq!(&answer[..2], &packet[..2]);
            prop_assert!(Message::from_vec(&answer).is_ok());
        }
    }

    #[test]
    fn whatever_happens_to_a_question_an_answer_can_be_read(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let mut packet = question("writer.mydb.pangea.internal.", RecordType::ANY).to_vec().unwrap();
        for (at, byte) in changes {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        if let Some(answer) = zone().answer(&packet, Transport::Udp, Some(&records())) {
            prop_assert!(answer.len() <= usize::from(UDP_LEN_MAX));
            prop_assert!(Message::from_vec(&answer).is_ok());
        }
    }
}
