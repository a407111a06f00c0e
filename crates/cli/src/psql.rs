//! `pangea psql REGION`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context;
use pangea_agent::PgBin;
use pangea_lab::Manifest;
use pangea_node::ClientAuth;

use crate::args::{Endpoint, Psql};
use crate::exit::Exit;

pub(crate) fn run(args: &Psql) -> anyhow::Result<Exit> {
    let layout = args.data_dir.layout();
    let manifest = Manifest::load(&layout)?;
    let region = manifest.region(&args.region)?;
    let address = match args.endpoint {
        Endpoint::Cluster => region.cluster,
        Endpoint::Reader => region.reader,
        Endpoint::Writer => region.writer,
    };
    // The psql beside the servers first: its backslash commands fit their version.
    let beside = PgBin::find(manifest.pg_bin.as_deref()).map(|bin| bin.program("psql")).ok();
    let program = beside.filter(|path| path.is_file()).unwrap_or_else(|| "psql".into());
    let mut command = Command::new(&program);
    command.env("PGHOST", address.ip().to_string()).env("PGPORT", address.port().to_string());
    if manifest.auth == ClientAuth::Scram {
        command.env("PGPASSFILE", layout.pgpass());
    }
    // Only as defaults: `-- -U somebody -d something` has its way.
    for (name, value) in [("PGUSER", "postgres"), ("PGDATABASE", "postgres")] {
        command.env(name, value);
    }
    // Comes back only when it fails.
    let error = command.args(&args.arguments).exec();
    Err(error).with_context(|| {
        format!("cannot run {} (install it: apt install postgresql-client)", program.display())
    })
}
