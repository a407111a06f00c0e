//! What a session hears of the listener that it shares with others.

use std::task::{Context, Poll};

use bytes::Bytes;
use pangea_pgwire::{ErrorFields, SqlState};

use super::Running;
use crate::listener::{Ear, Heard, Key, Listeners};

/// Bytes of a NotificationResponse before its text.
const TEXT_AT: usize = 9;

/// A session's ear, and in which encoding it hears.
pub(super) struct Listening {
    ear: Ear,
    encoding: Bytes,
    /// There may be something that there was no room for.
    pub(super) has_unheard: bool,
}

impl Running {
    /// Has the listener hear what the session wants; whether something comes of it at once.
    pub(super) fn listen(&mut self) -> bool {
        let Some(wanted) = self.session.take_wanted_channels().cloned() else { return false };
        let Some(pooled) = &mut self.pooled else { return false };
        if wanted.is_empty() {
            pooled.listening = None;
            return false;
        }
        let listening = pooled.listening.get_or_insert_with(|| {
            let startup = self.session.startup(pangea_session::Leg::Primary);
            let encoding = self.session.client_encoding();
            let key = Key {
                epoch: self.epoch,
                user: startup.user().to_owned(),
                database: startup.database().to_owned(),
                encoding: encoding.clone(),
            };
            Box::new(Listening { ear: Listeners::ear(&self.shared, key), encoding, has_unheard: false })
        });
        // What it says is to be looked at.
        self.bell.ring();
        let heard = listening.ear.listen(&wanted);
        if heard {
            self.session.channels_are_heard();
        }
        heard
    }

    /// Whether the listener may have something to say that the session had no room for.
    pub(super) fn has_unheard(&self) -> bool {
        let listening = self.pooled.as_ref().and_then(|pooled| pooled.listening.as_ref());
        listening.is_some_and(|listening| listening.has_unheard)
    }

    /// The listener has not told in time of what was committed: it is of no use to anybody.
    pub(super) fn give_up_listener(&mut self) {
        if let Some(listening) = self.pooled.as_ref().and_then(|pooled| pooled.listening.as_ref()) {
            listening.ear.give_up();
        }
    }

    /// What the listener says, as long as the session has room for it; whether there was anything.
    pub(super) fn poll_listener(&mut self, cx: &mut Context<'_>) -> bool {
        let mut heard = false;
        loop {
            let Some(pooled) = &mut self.pooled else { return heard };
            let Some(listening) = &mut pooled.listening else { return heard };
            if !self.session.takes_notification() {
                // Asked again whenever the session is woken: by the client, which takes what there is.
                listening.has_unheard = true;
                return heard;
            }
            listening.has_unheard = false;
            let Poll::Ready(what) = listening.ear.poll(cx) else { return heard };
            heard = true;
            match what {
                Heard::Notification(frame) => {
                    let is_ascii = frame.get(TEXT_AT..).is_some_and(<[u8]>::is_ascii);
                    if is_ascii || listening.encoding == self.session.client_encoding() {
                        let waited = self.session.waits_to_be_notified();
                        self.session.notified(frame);
                        if waited && !self.session.waits_to_be_notified() {
                            // What it waits for next has its own time.
                            self.blocked = None;
                        }
                    } else {
                        self.end(&other_encoding());
                    }
                }
                Heard::Channels if listening.ear.hears_all() => self.session.channels_are_heard(),
                Heard::Channels => {}
                Heard::Lost(error) => {
                    pooled.listening = None;
                    self.session.listener_lost(&error);
                }
            }
        }
    }
}

fn other_encoding() -> ErrorFields {
    let text = "a notification cannot be given in another client_encoding than that of LISTEN";
    ErrorFields::fatal(SqlState::FEATURE_NOT_SUPPORTED, text)
        .with_hint("Set client_encoding before LISTEN, or use session pooling.")
}
