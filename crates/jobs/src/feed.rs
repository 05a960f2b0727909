//! Replay and live events of one job, without gaps or duplicates and without a runtime.
//!
//! A [`Feed`] holds every event of a job while somebody listens. A [`Subscription`] is a cursor into it: a slow
//! subscriber costs one number, not a growing queue, and never holds up the run.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::Event;

/// The events of one job, oldest first. Event `n` is at index `n - 1`.
#[derive(Debug)]
pub(crate) struct Feed {
    inner: RwLock<FeedInner>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct FeedInner {
    events: Vec<Arc<Event>>,
    closed: bool,
}

impl Feed {
    /// A feed that starts with the stored events; `closed` when nothing will follow them.
    pub(crate) fn new(events: Vec<Event>, closed: bool) -> Self {
        let events = events.into_iter().map(Arc::new).collect();
        Self { inner: RwLock::new(FeedInner { events, closed }), changed: watch::Sender::new(()) }
    }

    /// Appends the next event. The last event of a job closes its feed.
    pub(crate) fn push(&self, event: Event) {
        {
            let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
            inner.closed |= event.event.is_last();
            inner.events.push(Arc::new(event));
        }
        self.changed.send_replace(());
    }

    /// Ends every subscription once it has seen what is there.
    pub(crate) fn close(&self) {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.changed.send_replace(());
    }

    /// A cursor that starts after event number `after`.
    pub(crate) fn subscribe(self: &Arc<Self>, after: u64) -> Subscription {
        let next = usize::try_from(after).unwrap_or(usize::MAX);
        Subscription { changed: self.changed.subscribe(), feed: Arc::clone(self), next }
    }

    /// `Ready(None)` at the end, `Pending` when the next event has not happened yet.
    fn get(&self, index: usize) -> Poll<Option<Arc<Event>>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        match inner.events.get(index) {
            Some(event) => Poll::Ready(Some(Arc::clone(event))),
            None if inner.closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// What [`Subscription::next_blocking`] saw.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// The next event.
    Event(Arc<Event>),
    /// The job's last event has been seen, or the engine has shut down.
    Ended,
    /// Nothing happened in time.
    TimedOut,
}

/// A cursor over one job's events: first the stored ones, then the live ones, each once and in order.
///
/// It needs no runtime: await [`next`](Self::next) on any executor, or call [`next_blocking`](Self::next_blocking) on a
/// plain thread.
#[derive(Debug)]
pub struct Subscription {
    feed: Arc<Feed>,
    changed: watch::Receiver<()>,
    next: usize,
}

impl Subscription {
    /// The next event, or `None` after the last one (or when the engine shuts down). Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            if let Poll::Ready(event) = self.feed.get(self.next) {
                self.next += usize::from(event.is_some());
                return event;
            }
            // An event pushed since the look above has marked the receiver, so this returns at once. The sender lives in
            // the feed that this subscription holds: it cannot be gone.
            self.changed.changed().await.ok()?;
        }
    }

    /// [`next`](Self::next) for a thread without an executor.
    pub fn next_blocking(&mut self, timeout: Duration) -> Next {
        let deadline = Instant::now().checked_add(timeout);
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        let mut next = pin!(self.next());
        loop {
            match next.as_mut().poll(&mut context) {
                Poll::Ready(Some(event)) => return Next::Event(event),
                Poll::Ready(None) => return Next::Ended,
                Poll::Pending => {}
            }
            match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Next::TimedOut,
                Some(left) => thread::park_timeout(left),
                None => thread::park(),
            }
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EventName, JobId};

    const SECOND: Duration = Duration::from_secs(10);

    fn event(job: JobId, n: u64, event: EventName) -> Event {
        Event { n, job, event, at: 0, data: serde_json::Value::Null }
    }

    fn numbers(mut subscription: Subscription) -> Vec<u64> {
        let mut seen = Vec::new();
        while let Next::Event(event) = subscription.next_blocking(SECOND) {
            seen.push(event.n);
        }
        seen
    }

    #[test]
    fn many_subscribers_see_everything_once_and_in_order() {
        let job = JobId::generate();
        let feed = Arc::new(Feed::new((1..=5).map(|n| event(job, n, EventName::Progress)).collect(), false));
        let listeners: Vec<_> = (0..32)
            .map(|after| {
                let subscription = feed.subscribe(after);
                (after, thread::spawn(move || numbers(subscription)))
            })
            .collect();
        for n in 6..200 {
            feed.push(event(job, n, EventName::Progress));
        }
        feed.push(event(job, 200, EventName::Finished));
        for (after, listener) in listeners {
            assert_eq!(listener.join().unwrap(), (after + 1..=200).collect::<Vec<_>>());
        }
        assert_eq!(numbers(feed.subscribe(198)), [199, 200]);
        assert_eq!(numbers(feed.subscribe(u64::MAX)), [] as [u64; 0]);
    }

    #[test]
    fn waiting_ends_in_time_and_at_the_close() {
        let feed = Arc::new(Feed::new(Vec::new(), false));
        let mut subscription = feed.subscribe(0);
        assert_eq!(subscription.next_blocking(Duration::from_millis(5)), Next::TimedOut);
        let waiting = thread::spawn(move || subscription.next_blocking(SECOND));
        feed.close();
        assert_eq!(waiting.join().unwrap(), Next::Ended);
    }
}
