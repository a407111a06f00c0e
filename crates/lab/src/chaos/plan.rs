//! What is done to the cluster in a round, chosen by a seed.

use std::fmt;
use std::time::Duration;

use crate::history::Rng;

/// Plans that are made in search of one with a fault of a wanted name.
const ATTEMPTS_MAX: u32 = 10_000;

/// A step of a clock is longer than a lease, and up to one of these, chosen by chance: what NTP corrects, what ends
/// timeouts, what ends lifetimes of connections, and a wrong time zone. Nothing that goes by the wall clock waits longer.
/// It is not the certificates that set the limit: the lab's are valid from 1975 to 4096.
const CLOCK_STEP_MIN_S: u32 = 2;
const CLOCK_STEPS_S: &[u32] = &[10, 120, 7200, 14 * 3600];

/// A region by its part when the fault begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The primary region.
    Primary,
    /// The first of the others, by name.
    First,
    /// The second of the others.
    Second,
}

/// What of a region is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Its process and its server.
    Region,
    /// Its process; it is started again by the supervisor.
    Process,
    /// Its PostgreSQL server.
    Server,
}

/// A step of a switchover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchoverStep {
    /// The old primary has found it in the topology.
    Began,
    /// The old primary has written its checkpoint.
    Prepared,
    /// No region has a transaction block open.
    Quiet,
    /// All regions hold their clients.
    Held,
    /// The old primary's server has shut down.
    Stopped,
    /// The target has all that the old primary wrote.
    CaughtUp,
    /// The target is primary.
    Claimed,
    /// The target takes writes.
    Writable,
}

/// Something that goes wrong, or that is asked for at an awkward moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    Kill(Target, Part),
    /// SIGSTOP of the process or the server. When the primary's process is stopped, sessions go on at its server.
    Stop(Target, Part),
    /// What is sent from the first to the second is not delivered.
    CutOneWay(Part, Part),
    /// Neither hears the other.
    CutBothWays(Part, Part),
    /// A region is cut off from all others.
    Isolate(Part),
    /// A region cannot reach the store.
    StoreAway(Part),
    /// No region can.
    StoreAwayForAll,
    /// The region's disk is full.
    DiskFull(Part),
    /// The wall clock of a region's processes is set so many seconds ahead, or back, and set right when the fault ends.
    ClockStep(Part, i32),
    /// A switchover to this region is asked for.
    Switchover(Part),
    /// A switchover is asked for, and something dies when a step is seen.
    CrashAt(SwitchoverStep, Target, Part),
    /// An operator has this region take over, whatever is lost.
    ForcedFailover(Part),
    /// The primary's process is stopped, and its watchdog killed: nothing fences its server. No cluster can stand that,
    /// and no plan has it by chance; it shows that the checks see it.
    Unfenced,
}

/// A fault and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed {
    /// It begins so long after the round.
    pub after: Duration,
    /// It lasts so long; what was killed is started again then.
    pub lasts: Duration,
    /// What it is.
    pub fault: Fault,
}

/// A round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What it was chosen by.
    pub seed: u64,
    /// Whether commits wait for another region.
    pub sync: bool,
    /// One or two.
    pub faults: Vec<Timed>,
}

/// What a plan is chosen from.
#[derive(Debug, Clone)]
pub struct Menu {
    /// How long a lease is good for: faults last about as long, or much longer.
    pub lease: Duration,
    /// Disks can be filled.
    pub disks: bool,
    /// Clocks can be set.
    pub clocks: bool,
    /// One fault at least has this in its name.
    pub wanted: String,
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn new(seed: u64, menu: &Menu) -> Self {
        let mut rng = Rng::new(seed);
        let mut plan = Self::choose(seed, &mut rng, menu);
        for _ in 0..ATTEMPTS_MAX {
            if plan.faults.iter().any(|timed| timed.fault.to_string().contains(&menu.wanted)) {
                break;
            }
            plan = Self::choose(seed, &mut rng, menu);
        }
        plan
    }

    fn choose(seed: u64, rng: &mut Rng, menu: &Menu) -> Self {
        let sync = rng.percent(30);
        let mut faults = Vec::new();
        let mut after = Duration::from_millis(300);
        if rng.percent(20) {
            return Self { seed, sync, faults: dies_unheard(rng, menu.lease) };
        }
        let count = 1 + rng.below(2);
        for _ in 0..count {
            after += rng.up_to_ms(700);
            let lasts = if rng.percent(25) { rng.up_to_ms(800) } else { menu.lease + rng.up_to_ms(3000) };
            let fault = fault(rng, menu, sync);
            faults.push(Timed { after, lasts, fault });
            // The next one comes at once, or about when others take over, or when this one is being repaired.
            after += match rng.below(3) {
                0 => Duration::ZERO,
                1 => menu.lease,
                _ => lasts,
            };
        }
        Self { seed, sync, faults }
    }
}

/// The primary is cut off from the others, goes on writing, and dies: what only it has is lost.
fn dies_unheard(rng: &mut Rng, lease: Duration) -> Vec<Timed> {
    let after = Duration::from_millis(300) + rng.up_to_ms(700);
    let dies = after + rng.up_to_ms(600);
    let lasts = dies - after + lease + rng.up_to_ms(2000);
    let end = match rng.below(4) {
        0 => Fault::Stop(Target::Process, Part::Primary),
        1 => Fault::StoreAway(Part::Primary),
        2 => Fault::Kill(Target::Process, Part::Primary),
        _ => Fault::Kill(Target::Region, Part::Primary),
    };
    vec![
        Timed { after, lasts, fault: Fault::Isolate(Part::Primary) },
        Timed { after: dies, lasts: lease * 2, fault: end },
    ]
}

fn part(rng: &mut Rng) -> Part {
    match rng.below(4) {
        0 | 1 => Part::Primary,
        2 => Part::First,
        _ => Part::Second,
    }
}

fn secondary(rng: &mut Rng) -> Part {
    if rng.percent(50) { Part::First } else { Part::Second }
}

fn pair(rng: &mut Rng) -> (Part, Part) {
    match rng.below(6) {
        0 => (Part::Primary, Part::First),
        1 => (Part::Primary, Part::Second),
        2 => (Part::First, Part::Primary),
        3 => (Part::Second, Part::Primary),
        4 => (Part::First, Part::Second),
        _ => (Part::Second, Part::First),
    }
}

fn target(rng: &mut Rng) -> Target {
    match rng.below(3) {
        0 => Target::Region,
        1 => Target::Process,
        _ => Target::Server,
    }
}

fn step(rng: &mut Rng) -> SwitchoverStep {
    match rng.below(8) {
        0 => SwitchoverStep::Began,
        1 => SwitchoverStep::Prepared,
        2 => SwitchoverStep::Held,
        3 => SwitchoverStep::Stopped,
        4 => SwitchoverStep::CaughtUp,
        5 => SwitchoverStep::Claimed,
        6 => SwitchoverStep::Quiet,
        _ => SwitchoverStep::Writable,
    }
}

fn clock_step(rng: &mut Rng) -> i32 {
    let longest = rng.pick(CLOCK_STEPS_S).copied().unwrap_or(CLOCK_STEP_MIN_S);
    let seconds = CLOCK_STEP_MIN_S + rng.below(longest - CLOCK_STEP_MIN_S + 1);
    let seconds = i32::try_from(seconds).unwrap_or(i32::MAX);
    if rng.percent(50) { seconds } else { -seconds }
}

fn fault(rng: &mut Rng, menu: &Menu, sync: bool) -> Fault {
    match rng.below(18) {
        0 | 1 => Fault::Kill(Target::Region, part(rng)),
        2 => Fault::Kill(Target::Server, part(rng)),
        3 => Fault::Kill(Target::Process, part(rng)),
        4 => Fault::Stop(Target::Process, part(rng)),
        5 => Fault::Stop(Target::Server, part(rng)),
        6 => {
            let (from, to) = pair(rng);
            Fault::CutOneWay(from, to)
        }
        7 => {
            let (from, to) = pair(rng);
            Fault::CutBothWays(from, to)
        }
        8 => Fault::Isolate(part(rng)),
        9 => Fault::StoreAway(part(rng)),
        10 => Fault::StoreAwayForAll,
        11 if menu.disks => Fault::DiskFull(Part::Primary),
        // An operator may give up what `sync` promises.
        12 if !sync => Fault::ForcedFailover(secondary(rng)),
        13 | 14 => Fault::CrashAt(step(rng), target(rng), part(rng)),
        15 | 16 if menu.clocks => Fault::ClockStep(part(rng), clock_step(rng)),
        _ => Fault::Switchover(secondary(rng)),
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::First => "first",
            Self::Second => "second",
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Region => "region",
            Self::Process => "process",
            Self::Server => "server",
        })
    }
}

impl fmt::Display for SwitchoverStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Began => "began",
            Self::Prepared => "prepared",
            Self::Quiet => "quiet",
            Self::Held => "held",
            Self::Stopped => "stopped",
            Self::CaughtUp => "caught-up",
            Self::Claimed => "claimed",
            Self::Writable => "writable",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(target, part) => write!(f, "kill-{target}({part})"),
            Self::Stop(target, part) => write!(f, "stop-{target}({part})"),
            Self::CutOneWay(from, to) => write!(f, "cut-one-way({from},{to})"),
            Self::CutBothWays(from, to) => write!(f, "cut-both-ways({from},{to})"),
            Self::Isolate(part) => write!(f, "isolate({part})"),
            Self::StoreAway(part) => write!(f, "store-away({part})"),
            Self::StoreAwayForAll => f.write_str("store-away(all)"),
            Self::DiskFull(part) => write!(f, "disk-full({part})"),
            Self::ClockStep(part, seconds) => write!(f, "clock-step({part},{seconds:+} s)"),
            Self::Switchover(part) => write!(f, "switchover({part})"),
            Self::CrashAt(step, target, part) => write!(f, "crash-at({step},{target},{part})"),
            Self::ForcedFailover(part) => write!(f, "forced-failover({part})"),
            Self::Unfenced => f.write_str("unfenced(primary)"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, {}:", self.seed, if self.sync { "sync" } else { "async" })?;
        for Timed { after, lasts, fault } in &self.faults {
            write!(f, " {fault} at {:.1} s for {:.1} s;", after.as_secs_f64(), lasts.as_secs_f64())?;
        }
        Ok(())
    }
}
