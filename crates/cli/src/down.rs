//! `pangea down`.

use pangea_lab::{Down as Found, Manifest};
use pangea_store::StoreConfig;

use crate::args::Down;
use crate::exit::Exit;
use crate::{runtime, say};

pub(crate) fn run(args: &Down) -> anyhow::Result<Exit> {
    let layout = args.data_dir.layout();
    let found = runtime()?.block_on(pangea_lab::down(&layout))?;
    let dir = layout.data_dir().display();
    match found {
        Found::Stopped => say(&format!("stopped the cluster in {dir}")),
        Found::WasNotRunning => say(&format!("the cluster in {dir} was not running")),
    }
    if args.delete {
        let store = Manifest::load(&layout)?.store;
        pangea_lab::delete(&layout)?;
        say(&format!("deleted the cluster in {dir}"));
        if let Some(StoreConfig::Etcd { prefix, .. }) = store {
            say(&format!("its topology is left in etcd: remove it with `etcdctl del --prefix {prefix}`"));
        }
    }
    Ok(Exit::Done)
}
