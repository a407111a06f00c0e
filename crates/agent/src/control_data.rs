//! What a stopped server's control file says (`pg_controldata`).

use std::path::Path;
use std::process::Stdio;

use pangea_base::{Lsn, Position, Timeline};
use tokio::process::Command;

use crate::bin::PgBin;
use crate::error::ServerError;

/// The parts of a control file that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ControlData {
    /// `Database cluster state`.
    pub(crate) state: String,
    /// Where the latest checkpoint begins.
    pub(crate) checkpoint: Position,
}

impl ControlData {
    /// Whether it was primary and was shut down in order: nothing is written past its checkpoint.
    pub(crate) fn is_shut_down(&self) -> bool {
        self.state == "shut down"
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let lsn: Lsn = value("Latest checkpoint location:")?.parse().ok()?;
        let timeline = Timeline(value("Latest checkpoint's TimeLineID:")?.parse().ok()?);
        let state = value("Database cluster state:")?.to_owned();
        Some(Self { state, checkpoint: Position { timeline, lsn } })
    }
}

/// Reads the control file in `pgdata`.
pub(crate) async fn control_data(bin: &PgBin, pgdata: &Path) -> Result<ControlData, ServerError> {
    const PROGRAM: &str = "pg_controldata";
    let mut command = Command::new(bin.program(PROGRAM));
    command.arg("-D").arg(pgdata).env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
    let output = command
        .output()
        .await
        .map_err(|source| ServerError::Spawn { program: bin.program(PROGRAM), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    ControlData::parse(&text).ok_or_else(|| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        ServerError::program(PROGRAM, pgdata, output.status.to_string(), &stderr)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_matters() {
        let text = "pg_control version number:            1300\n\
                    Database cluster state:               shut down\n\
                    Latest checkpoint location:           0/3014558\n\
                    Latest checkpoint's REDO location:    0/3014558\n\
                    Latest checkpoint's TimeLineID:       2\n";
        let data = ControlData::parse(text).unwrap();
        assert!(data.is_shut_down());
        assert_eq!(data.checkpoint.to_string(), "2:0/3014558");
        assert_eq!(ControlData::parse("Database cluster state: shut down"), None);
    }
}
