//! `pangea wan`.

use pangea_lab::wan::{Change, LinkStatus};
use pangea_lab::{HttpError, LinkChange, Manifest, admin_call};

use crate::args::{Ends, Wan, WanCommand};
use crate::exit::Exit;
use crate::table::{Align, render};
use crate::{print, print_json, runtime, say};

pub(crate) fn run(args: &Wan) -> anyhow::Result<Exit> {
    let layout = args.data_dir.layout();
    Manifest::load(&layout)?;
    let (what, change) = match &args.command {
        WanCommand::Show => ("show", None),
        WanCommand::Cut(ends) => ("cut", Some(link_change(ends, Change::default()))),
        WanCommand::Restore(ends) => ("restore", Some(link_change(ends, Change::default()))),
        WanCommand::Set { ends, rtt, jitter, bandwidth } => {
            let change =
                Change { delay_ms: rtt.map(|rtt| rtt / 2.0), jitter_ms: *jitter, bandwidth_mbit: *bandwidth };
            ("set", Some(link_change(ends, change)))
        }
    };
    match runtime()?.block_on(admin_call(&layout, what, change.as_ref())) {
        Ok(links) if args.json => print_json(&links)?,
        Ok(links) => print(&table(&links)),
        Err(HttpError::Connect { .. }) => {
            say("error: the cluster is not running: start it with `pangea up`");
            return Ok(Exit::NotRunning);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Exit::Done)
}

fn link_change(ends: &Ends, change: Change) -> LinkChange {
    LinkChange { from: ends.from.clone(), to: ends.to.clone(), one_way: ends.one_way, change }
}

fn table(links: &[LinkStatus]) -> String {
    let columns = [
        ("FROM", Align::Left),
        ("TO", Align::Left),
        ("ONE WAY", Align::Right),
        ("JITTER", Align::Right),
        ("BANDWIDTH", Align::Right),
        ("STATE", Align::Left),
    ];
    let rows: Vec<Vec<String>> = links
        .iter()
        .map(|link| {
            vec![
                link.from.to_string(),
                link.to.to_string(),
                format!("{:.1} ms", link.delay_ms),
                format!("{:.1} ms", link.jitter_ms),
                link.bandwidth_mbit.map_or("unlimited".to_owned(), |mbit| format!("{mbit} Mbit/s")),
                if link.cut { "cut" } else { "open" }.to_owned(),
            ]
        })
        .collect();
    render(&columns, &rows)
}
