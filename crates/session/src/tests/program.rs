//! Random programs of a client.

use bytes::BytesMut;

use super::wire;

/// A generator of numbers (splitmix64): a seed gives the same numbers everywhere.
#[derive(Debug)]
pub(super) struct Rng(pub(super) u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 up to but not including `limit`.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    pub(super) fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    pub(super) fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

/// What the client says at once.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) text: String,
    pub(super) bytes: BytesMut,
}

const READS: &[&str] =
    &["SELECT 1", "SELECT id FROM t", "SELECT sum(n) FROM t", "SELECT id FROM t WHERE id = 3"];

const WRITES: &[&str] = &[
    "INSERT INTO t VALUES (1)",
    "INSERT INTO t VALUES (2)",
    "UPDATE t SET n = n + 1",
    "SELECT nextval('sq')",
    "SELECT id FROM t FOR UPDATE",
];

const CONTROL: &[&str] = &[
    "BEGIN",
    "BEGIN",
    "BEGIN",
    "START TRANSACTION",
    "BEGIN READ ONLY",
    "BEGIN READ WRITE",
    "BEGIN ISOLATION LEVEL REPEATABLE READ",
    "BEGIN ISOLATION LEVEL SERIALIZABLE",
    "COMMIT",
    "COMMIT",
    "COMMIT",
    "ROLLBACK",
    "ROLLBACK",
    "COMMIT AND CHAIN",
    "SAVEPOINT a",
    "SAVEPOINT b",
    "RELEASE a",
    "ROLLBACK TO a",
    "ROLLBACK TO b",
];

const STATE: &[&str] = &[
    "SET application_name = x",
    "SET application_name = y",
    "SET work_mem = low",
    "SET LOCAL work_mem = high",
    "SET LOCAL application_name = z",
    "SHOW work_mem",
    "SHOW application_name",
    "RESET ALL",
    "DISCARD ALL",
    "PREPARE p AS SELECT id FROM t",
    "PREPARE q AS INSERT INTO t VALUES (3)",
    "EXECUTE p",
    "EXECUTE q",
    "DEALLOCATE p",
    "DEALLOCATE ALL",
    "DECLARE c CURSOR FOR SELECT id FROM t",
    "FETCH c",
    "CLOSE c",
    "LISTEN ch",
    "UNLISTEN ch",
    "NOTIFY ch",
    "CREATE TABLE n1 (a int)",
    "SELECT a FROM n1",
];

const ERRORS: &[&str] = &["SELECT 1/0", "SYNTAX", ""];

/// Programs that a session does not yet answer as one server would, by what is special about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Corner {
    /// Data of COPY behind an Execute, sent before the server asks for them.
    CopyDataAhead,
    /// PREPARE, DEALLOCATE and DISCARD through Parse, Bind and Execute.
    StateThroughExtended,
    /// A Bind of the unnamed statement of an earlier unit.
    UnnamedAgain,
    /// A Parse of a name that there is.
    ParseAgain,
    /// A Close.
    Close,
    /// A Flush with more behind it.
    Flush,
    /// Transaction control and other statements in one unit.
    ControlWithMore,
    /// A portal read in parts.
    PortalInParts,
}

/// Corners that programs keep out of. The list only shrinks; `PANGEA_CORNERS=all`, or the names of some, visits
/// them all the same.
const LEFT_OUT: &[Corner] = &[
    Corner::CopyDataAhead,
    Corner::StateThroughExtended,
    Corner::UnnamedAgain,
    Corner::ParseAgain,
    Corner::Close,
    Corner::Flush,
    Corner::ControlWithMore,
    Corner::PortalInParts,
];

/// Writes programs.
#[derive(Debug)]
struct Author<'a> {
    rng: &'a mut Rng,
    left_out: Vec<Corner>,
    /// Names given so far.
    names: usize,
}

impl Author<'_> {
    fn may(&self, corner: Corner) -> bool {
        !self.left_out.contains(&corner)
    }

    fn statement(&mut self) -> &'static str {
        match self.rng.below(20) {
            0..=4 => self.rng.pick(READS),
            5..=8 => self.rng.pick(WRITES),
            9..=13 => self.rng.pick(CONTROL),
            14..=18 => self.rng.pick(STATE),
            _ => self.rng.pick(ERRORS),
        }
    }

    /// A statement that stands with others in one unit.
    fn statement_among_others(&mut self) -> &'static str {
        loop {
            let text = self.statement();
            if self.may(Corner::ControlWithMore) || !CONTROL.contains(&text) {
                return text;
            }
        }
    }

    fn extended_statement(&mut self) -> &'static str {
        loop {
            let text = self.statement_among_others();
            let state = ["PREPARE", "DEALLOCATE", "DISCARD"].iter().any(|word| text.starts_with(word));
            // A script cannot say an empty text.
            if !text.is_empty() && (self.may(Corner::StateThroughExtended) || !state) {
                return text;
            }
        }
    }

    /// The name of a statement to prepare.
    fn new_name(&mut self) -> String {
        if self.may(Corner::ParseAgain) {
            return self.rng.pick(&["p", "q", "r"]).to_owned();
        }
        self.names += 1;
        format!("n{}", self.names)
    }

    /// The name of a statement that there may be.
    fn known_name(&mut self) -> String {
        match self.rng.below(4) {
            0 if self.may(Corner::UnnamedAgain) => "-".to_owned(),
            0 | 1 => self.rng.pick(&["p", "q", "r"]).to_owned(),
            _ => format!("n{}", 1 + self.rng.below(self.names.max(1))),
        }
    }

    /// Some extended messages, in the short form of [`wire::extended`].
    fn part(&mut self) -> String {
        let number = 1 + self.rng.below(5);
        let own = match self.rng.below(12) {
            0 => {
                let (name, text) = (self.new_name(), self.extended_statement());
                format!("P {name} {text}; D S {name}")
            }
            1 if self.may(Corner::Close) => format!("C S {}", self.known_name()),
            2 => format!("B - {}; E - 0", self.known_name()),
            3 => format!("B - {}; D P -; E - 0", self.known_name()),
            4 => {
                let name = self.new_name();
                format!("P {name} INSERT INTO t VALUES ($1); B - {name} {number}; E - 0")
            }
            5 => format!("P - SELECT id FROM t WHERE id = $1; B - - {number}; D P -; E - 0"),
            6 if self.may(Corner::PortalInParts) => "P - SELECT id FROM t; B - -; E - 1; E - 0".to_owned(),
            _ => format!("P - {}; B - -; E - 0", self.extended_statement()),
        };
        if self.rng.one_in(6) && self.may(Corner::Flush) { format!("{own}; H") } else { own }
    }

    fn extended(&mut self) -> Step {
        let text = if !self.may(Corner::ControlWithMore) && self.rng.one_in(5) {
            format!("P - {}; B - -; E - 0; S", self.rng.pick(CONTROL))
        } else {
            let count = 1 + self.rng.below(3);
            let parts: Vec<String> = (0..count).map(|_| self.part()).collect();
            format!("{}; S", parts.join("; "))
        };
        Step { bytes: wire::extended(&text), text }
    }

    fn copy(&mut self) -> Step {
        let end = self.rng.pick(&["c", "c", "c", "f"]);
        let script = match self.rng.below(4) {
            // As libpq does it, but without waiting for the server: the first Sync is ignored.
            0 => format!("P - COPY t FROM STDIN; B - -; E - 0; S; d 4; {end}; S"),
            1 if self.may(Corner::CopyDataAhead) => {
                format!("P - COPY t FROM STDIN; B - -; E - 0; d 4; {end}; S")
            }
            2 if self.may(Corner::CopyDataAhead) => {
                format!("P - COPY t FROM STDIN; B - -; E - 0; H; d 4; {end}; S")
            }
            _ => {
                let mut bytes = wire::query("COPY t FROM STDIN");
                let script = format!("d 4; d 5; {end}");
                bytes.extend_from_slice(&wire::extended(&script));
                return Step { text: format!("Q: COPY t FROM STDIN, {script}"), bytes };
            }
        };
        Step { bytes: wire::extended(&script), text: script }
    }

    fn step(&mut self) -> Step {
        let text = match self.rng.below(20) {
            // What a standby refuses late may stand alone only: after other answers it cannot run again.
            0 => "SELECT reader()".to_owned(),
            1..=9 => self.statement().to_owned(),
            10 | 11 => {
                let count = 2 + self.rng.below(2);
                let statements: Vec<&str> = (0..count).map(|_| self.statement_among_others()).collect();
                statements.join("; ")
            }
            12 => return self.copy(),
            13 => return Step { text: "F".to_owned(), bytes: wire::frame(b'F', &[&[0; 10]]) },
            14 => "COPY t TO STDOUT".to_owned(),
            _ => return self.extended(),
        };
        Step { bytes: wire::query(&text), text: format!("Q: {text}") }
    }
}

/// A program that executes the same few texts again and again, most of the time.
pub(super) fn program_of_few_texts(rng: &mut Rng) -> Vec<Step> {
    let mut steps = program(rng);
    for _ in 0..30 {
        let number = 1 + rng.below(5);
        let text = match rng.below(2) {
            0 => "P - SELECT id FROM t; B - -; E - 0; S".to_owned(),
            _ => format!("P - SELECT id FROM t WHERE id = $1; B - - {number}; D P -; E - 0; S"),
        };
        steps.insert(rng.below(steps.len() + 1), Step { bytes: wire::extended(&text), text });
    }
    steps
}

/// A program of some steps.
pub(super) fn program(rng: &mut Rng) -> Vec<Step> {
    let visited = std::env::var("PANGEA_CORNERS").unwrap_or_default();
    let mut left_out = LEFT_OUT.to_vec();
    left_out
        .retain(|corner| visited != "all" && !visited.split(',').any(|name| name == format!("{corner:?}")));
    let count = 2 + rng.below(18);
    let mut author = Author { rng, left_out, names: 0 };
    (0..count).map(|_| author.step()).collect()
}
