//! What a supervisor cares for, and how a region comes to it and goes while it runs.
//!
//! The topology is not its business: whoever asks for a region adds it to that once it streams, and takes it out of
//! it before it is removed here. Both ways can be gone again from the start when they were cut short.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pangea_base::RegionId;
use tokio::sync::Mutex;

use crate::admin::{RegionRemoval, RegionRemoved};
use crate::cluster::{ClusterOptions, check_names, check_table, process};
use crate::down::{data_dirs, gone, wait_gone};
use crate::error::ClusterError;
use crate::files::{write_identity, write_manifest, write_region_config};
use crate::http::{HttpError, request_reload};
use crate::layout::{Layout, Owner};
use crate::manifest::{Manifest, RegionEntry};
use crate::ports;
use crate::process::Process;
use crate::wan::{Table, Wan};

/// Longest wait for the lock of a region whose process has ended.
const GONE_TIMEOUT: Duration = Duration::from_secs(10);

/// What stays as it was when the cluster was started.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) options: ClusterOptions,
    pub(crate) owner: Owner,
    /// The distances, unless there is no emulator.
    pub(crate) table: Option<Table>,
    pub(crate) password: String,
}

/// What a supervisor cares for.
#[derive(Debug)]
pub(crate) struct Supervised {
    pub(crate) layout: Layout,
    pub(crate) terms: Terms,
    pub(crate) wan: Option<Arc<Wan>>,
    regions: RwLock<Regions>,
    /// One region comes or goes at a time.
    changing: Mutex<()>,
}

#[derive(Debug, Clone)]
struct Regions {
    manifest: Arc<Manifest>,
    processes: BTreeMap<RegionId, Arc<Process>>,
}

impl Supervised {
    pub(crate) fn new(
        layout: Layout,
        terms: Terms,
        wan: Option<Arc<Wan>>,
        manifest: Manifest,
        processes: BTreeMap<RegionId, Arc<Process>>,
    ) -> Arc<Self> {
        let regions = RwLock::new(Regions { manifest: Arc::new(manifest), processes });
        Arc::new(Self { layout, terms, wan, regions, changing: Mutex::default() })
    }

    fn regions(&self) -> Regions {
        self.regions.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Regions)) {
        change(&mut self.regions.write().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn manifest(&self) -> Arc<Manifest> {
        self.regions().manifest
    }

    pub(crate) fn processes(&self) -> BTreeMap<RegionId, Arc<Process>> {
        self.regions().processes
    }

    pub(crate) fn process(&self, region: &RegionId) -> Result<Arc<Process>, ClusterError> {
        let Regions { manifest, processes } = self.regions();
        manifest.region(region)?;
        let none = || ClusterError::NoRegion { region: region.clone(), known: String::new() };
        processes.get(region).cloned().ok_or_else(none)
    }

    /// Makes a region's files, tells the others of it and starts its process.
    pub(crate) async fn add(&self, region: &RegionId) -> Result<RegionEntry, ClusterError> {
        let _one = self.changing.lock().await;
        let mut manifest = (*self.manifest()).clone();
        let entry = match manifest.region(region) {
            Ok(known) => known.clone(),
            Err(_) => {
                let entry = self.plan(&manifest, region)?;
                manifest.regions.push(entry.clone());
                manifest.removed.retain(|removed| removed != region);
                entry
            }
        };
        if let (Some(wan), Some(table)) = (&self.wan, &self.terms.table) {
            wan.add(table, region, entry.link).await?;
        }
        // The mark first: what is made from here on is removed with the cluster.
        write_manifest(&self.layout, &manifest)?;
        write_identity(&self.layout, &self.terms.owner, &manifest, region)?;
        self.configure(&manifest)?;
        let known = self.processes().get(region).cloned();
        let process = match known {
            Some(process) => process,
            None => process(&self.layout, region, &self.terms.owner, &self.terms.options)?,
        };
        self.change(|regions| {
            regions.manifest = Arc::new(manifest);
            regions.processes.insert(region.clone(), process.clone());
        });
        // First those whom it will ask to be let in.
        self.reload_others(region).await;
        process.start().await;
        Ok(entry)
    }

    /// Checks all that can be checked before anything is made.
    fn plan(&self, manifest: &Manifest, region: &RegionId) -> Result<RegionEntry, ClusterError> {
        let names: Vec<RegionId> =
            manifest.regions.iter().map(|entry| entry.name.clone()).chain([region.clone()]).collect();
        check_names(&names)?;
        check_table(self.terms.table.as_ref(), &names)?;
        self.layout.check_socket_paths(std::slice::from_ref(region))?;
        let dir = self.layout.region(region);
        if dir.join("pgdata").exists() {
            return Err(ClusterError::Options(format!(
                "{} holds the data of an earlier region {region}: move it away or delete it first",
                dir.display()
            )));
        }
        let entries = ports::plan(std::slice::from_ref(region), manifest.port_base, &manifest.regions)?;
        let none = || ClusterError::Options(format!("there are no ports for {region}"));
        entries.into_iter().next().ok_or_else(none)
    }

    /// Stops a region's process, tells the others and forgets it.
    pub(crate) async fn remove(&self, removal: &RegionRemoval) -> Result<RegionRemoved, ClusterError> {
        let RegionRemoval { region, primary, delete } = removal;
        let _one = self.changing.lock().await;
        let mut manifest = (*self.manifest()).clone();
        manifest.region(region)?;
        if manifest.regions.len() == 1 || region == primary {
            return Err(ClusterError::Options(format!("{region} is the primary, which cannot be removed")));
        }
        self.process(region)?.down(Signal::SIGTERM).await;
        let dir = self.layout.region(region);
        wait_gone(&dir, Instant::now() + GONE_TIMEOUT).await;
        for data in data_dirs(&dir, manifest.readers) {
            pangea_agent::stop_leftover(&data).await?;
        }
        manifest.regions.retain(|entry| entry.name != *region);
        if manifest.primary == *region {
            manifest.primary = primary.clone();
        }
        if *delete {
            gone(std::fs::remove_dir_all(&dir), &dir)?;
        } else {
            manifest.removed.push(region.clone());
        }
        write_manifest(&self.layout, &manifest)?;
        self.configure(&manifest)?;
        let way = self.layout.store_way(region);
        gone(std::fs::remove_file(&way), &way)?;
        self.change(|regions| {
            regions.manifest = Arc::new(manifest);
            regions.processes.remove(region);
        });
        self.reload_others(region).await;
        if let Some(wan) = &self.wan {
            wan.remove(region);
        }
        Ok(RegionRemoved { kept: (!delete).then_some(dir) })
    }

    /// Writes the configurations of all regions.
    fn configure(&self, manifest: &Manifest) -> Result<(), ClusterError> {
        let Terms { options, owner, .. } = &self.terms;
        let wan = self.wan.as_deref();
        let write = |entry| write_region_config(&self.layout, owner, manifest, wan, options, entry);
        manifest.regions.iter().try_for_each(write)
    }

    async fn reload_others(&self, region: &RegionId) {
        for entry in self.manifest().regions.iter().filter(|entry| entry.name != *region) {
            match request_reload(&self.layout, &entry.name).await {
                // One that does not run reads it when it starts.
                Ok(_) | Err(HttpError::Connect { .. }) => {}
                Err(error) => {
                    tracing::warn!(region = %entry.name, %error, "a region has not read its configuration again");
                }
            }
        }
    }
}
