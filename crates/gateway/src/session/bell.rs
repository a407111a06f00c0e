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
    inner: Option<Arc<Rung>>,
}

impl Bell {
    /// The waker with which to ask what is behind the bell, if that has to be asked: it has rung, or was never asked.
    pub(super) fn answer(&mut self, cx: &Context<'_>) -> Option<Waker> {
        let known = self.inner.as_ref().filter(|inner| inner.task.will_wake(cx.waker()));
        if let Some(inner) = known {
            return inner.rung.swap(false, Ordering::AcqRel).then(|| inner.clone().into());
        }
        let inner = Arc::new(Rung { rung: AtomicBool::new(false), task: cx.waker().clone() });
        self.inner = Some(inner.clone());
        Some(inner.into())
    }

    /// Has what is behind it asked in the next turn.
    pub(super) fn ring(&self) {
        if let Some(inner) = &self.inner {
            inner.rung.store(true, Ordering::Release);
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
            let waker = bell.answer(cx).expect("nothing was asked yet");
            assert!(bell.answer(cx).is_none());
            waker.wake_by_ref();
            assert!(bell.answer(cx).is_some());
            assert!(bell.answer(cx).is_none());
            bell.ring();
            assert!(bell.answer(cx).is_some());
            Poll::Ready(())
        })
        .await;
    }
}
