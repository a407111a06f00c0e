//! A bell beside the door: what wakes a session seldom is asked only when it has rung.
//!
//! A session is woken for every message. Asking each of the things that it also waits for whether they have come would cost
//! more than the message does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

/// Wakes a task and remembers that it was this which woke it.
struct Rung {
    rung: AtomicBool,
    task: Waker,
}

impl Wake for Rung {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Exchanged, not stored: a task that answers at this moment is either seen to have done so, or sees this.
        self.rung.swap(true, Ordering::AcqRel);
        self.task.wake_by_ref();
    }
}

/// The bell of one task.
#[derive(Default)]
pub(super) struct Bell {
    /// None before the task is polled.
    inner: Option<(Arc<Rung>, Waker)>,
}

impl Bell {
    /// Whether what is behind the bell has to be asked: it has rung since this was asked, or was never asked.
    pub(super) fn has_rung(&mut self, cx: &Context<'_>) -> bool {
        if let Some((rung, _)) = self.inner.as_ref().filter(|(rung, _)| rung.task.will_wake(cx.waker())) {
            // Looked at first: to exchange it costs more, and mostly it is silent. Who rings after the look also wakes after it.
            return rung.rung.load(Ordering::Acquire) && rung.rung.swap(false, Ordering::AcqRel);
        }
        let rung = Arc::new(Rung { rung: AtomicBool::new(false), task: cx.waker().clone() });
        self.inner = Some((rung.clone(), rung.into()));
        true
    }

    /// What to ask it with.
    pub(super) fn waker(&self) -> &Waker {
        self.inner.as_ref().map_or(Waker::noop(), |(_, waker)| waker)
    }

    /// Has what is behind it asked in the next turn.
    pub(super) fn ring(&self) {
        if let Some((rung, _)) = &self.inner {
            rung.rung.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn it_is_answered_when_it_has_rung_and_only_then() {
        let mut bell = Bell::default();
        poll_fn(|cx| {
            // Nothing was asked yet.
            assert!(bell.has_rung(cx) && !bell.has_rung(cx));
            bell.waker().wake_by_ref();
            assert!(bell.has_rung(cx) && !bell.has_rung(cx));
            bell.ring();
            assert!(bell.has_rung(cx));
            Poll::Ready(())
        })
        .await;
    }
}
