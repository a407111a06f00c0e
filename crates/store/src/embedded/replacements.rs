//! Tells when the store's file is replaced by another, by inotify(7).

use std::ffi::OsString;
use std::io;

use futures_util::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};

use super::file::StoreFile;

/// Room for the events of one read: some of the longest names.
const BUFFER_LEN: usize = 4096;

pub(super) struct Replacements {
    events: EventStream<[u8; BUFFER_LEN]>,
    name: Option<OsString>,
}

impl Replacements {
    /// Those from now on. The directory is watched, since the file is another one after each write.
    pub(super) fn of(file: &StoreFile) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        inotify.watches().add(&file.directory, WatchMask::MOVED_TO | WatchMask::ONLYDIR)?;
        let events = inotify.into_event_stream([0; BUFFER_LEN])?;
        Ok(Self { events, name: file.path.file_name().map(ToOwned::to_owned) })
    }

    /// Returns when there has been one, or there may have been.
    pub(super) async fn next(&mut self) -> io::Result<()> {
        loop {
            match self.events.next().await {
                // Without a name: events were lost, or the directory is gone.
                Some(Ok(event)) if event.name.is_none() || event.name == self.name => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}
