//! What must be so before a switchover begins: each check says what it found.

use std::collections::BTreeMap;

use pangea_base::RegionId;
use serde::{Deserialize, Serialize};

use crate::election::Peer;
use crate::state::{PeerState, Server};
use crate::topology::Topology;

/// Bytes of log that the target may be behind: more would be waited for while clients are held.
const BEHIND_MAX: u64 = 64 << 20;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchoverRequest {
    /// The primary to be.
    pub to: RegionId,
    /// Longest wait, in milliseconds, for transactions to end.
    pub timeout_ms: u64,
    /// Only look.
    #[serde(default)]
    pub dry_run: bool,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// Whether it is as it must be.
    pub passed: bool,
    /// What was found, and what to do when it did not pass.
    pub found: String,
}

fn check(name: &str, passed: bool, found: impl Into<String>) -> Check {
    Check { name: name.to_owned(), passed, found: found.into() }
}

/// Looks at everything, as the primary sees it.
pub(crate) fn preflight(
    topology: &Topology,
    me: &RegionId,
    writable: bool,
    server: &Server,
    peers: &BTreeMap<RegionId, Peer>,
    to: &RegionId,
) -> Vec<Check> {
    let mut checks = vec![match &topology.primary {
        primary if primary != me => {
            check("primary", false, format!("the primary is {primary}: ask that region"))
        }
        _ if !writable => check(
            "primary",
            false,
            format!("{me} does not take writes at present: wait until it does, see `pangea status`"),
        ),
        _ => check("primary", true, format!("{me} is primary in epoch {}", topology.epoch)),
    }];
    checks.push(match &topology.transition {
        Some(other) => check(
            "transition",
            false,
            format!("a switchover to {} is under way: wait until it has ended", other.to),
        ),
        None => check("transition", true, "none is under way"),
    });
    checks.push(match topology.members.get(to) {
        _ if to == me => check("target", false, format!("{to} is the primary already: name another region")),
        None => {
            let known: Vec<&str> = topology.members.keys().map(RegionId::as_str).collect();
            check("target", false, format!("there is no region {to}: choose one of {}", known.join(", ")))
        }
        Some(member) if member.drained => {
            check("target", false, format!("{to} is drained: `pangea region undrain {to}` first"))
        }
        Some(_) => check("target", true, format!("{to} is a region of this cluster")),
    });
    let heard = |region: &RegionId| peers.get(region).filter(|peer| peer.asked.is_some());
    if to != me && topology.members.contains_key(to) {
        checks.extend(target_checks(server, heard(to).map(|peer| &peer.state), to));
    }
    let away: Vec<&str> = topology
        .members
        .keys()
        .filter(|region| *region != me && *region != to && heard(region).is_none())
        .map(RegionId::as_str)
        .collect();
    checks.push(if away.is_empty() {
        check("other regions", true, "all answer")
    } else {
        let list = away.join(", ");
        // They have no sessions here that could be held, and follow when they are back.
        check("other regions", true, format!("{list} does not answer and will follow when it is back"))
    });
    checks
}

fn target_checks(server: &Server, target: Option<&PeerState>, to: &RegionId) -> Vec<Check> {
    let Some(target) = target else {
        return vec![check("target answers", false, format!("{to} does not answer: is it running?"))];
    };
    let mut checks = vec![check("target answers", true, format!("{to} answers"))];
    let Server::Standby { timeline, received, streaming, .. } = &target.server else {
        checks.push(check(
            "target follows",
            false,
            format!("the server of {to} is not a running standby: see `pangea status`"),
        ));
        return checks;
    };
    checks.push(if *streaming {
        check("target follows", true, "streaming from the primary")
    } else {
        check("target follows", false, format!("{to} does not stream from the primary: see `pangea status`"))
    });
    let Server::Primary { position: Some(own), .. } = server else {
        checks.push(check("lag", false, "the primary's own position is not known: try again in a moment"));
        return checks;
    };
    checks.push(match (timeline, received) {
        (Some(timeline), Some(received)) if *timeline == own.timeline => {
            let behind = own.lsn.bytes_since(*received);
            let text = format!("{behind} bytes behind");
            if behind <= BEHIND_MAX {
                check("lag", true, text)
            } else {
                check("lag", false, format!("{text}, more than {BEHIND_MAX}: wait until it has caught up"))
            }
        }
        (Some(timeline), _) if *timeline != own.timeline => check(
            "lag",
            false,
            format!(
                "{to} is on timeline {}, the primary on {}: wait until it follows",
                timeline.0, own.timeline.0
            ),
        ),
        _ => check("lag", false, format!("the position of {to} is not known: try again in a moment")),
    });
    checks
}
