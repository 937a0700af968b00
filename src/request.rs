//! The request at hand, as whatever is done for it knows it without being told: its id, and how long it may
//! still wait for the database.

use std::cell::Cell;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::time::Duration;

/// How long a request waits for the database, in all, before it is answered 503.
pub const TIME_LIMIT: Duration = Duration::from_millis(1500);

tokio::task_local! {
    static AT_HAND: AtHand;
}

#[derive(Clone)]
struct AtHand {
    id: Rc<str>,
    /// Shared with what is done to its end: what that waits the request has waited.
    left: Rc<Cell<Duration>>,
}

/// Answers the request `id`. However often it asks the database, it waits for it no longer than for one
/// answer: a server that comes back, or is about to go, may answer the first question late and the second not
/// at all.
pub async fn serve<T>(id: &str, work: impl Future<Output = T>) -> T {
    let at_hand = AtHand {
        id: id.into(),
        left: Rc::new(Cell::new(TIME_LIMIT)),
    };
    AT_HAND.scope(at_hand, work).await
}

/// Its id, for a line of the log; `None` outside of a request.
pub fn id() -> Option<Rc<str>> {
    AT_HAND.try_with(|at_hand| Rc::clone(&at_hand.id)).ok()
}

/// How long it may still wait for the database; `None` outside of a request.
pub fn left() -> Option<Duration> {
    AT_HAND.try_with(|at_hand| at_hand.left.get()).ok()
}

/// Notes that it has waited for the database.
pub fn waited(time: Duration) {
    // Outside of a request nobody counts.
    let _ = AT_HAND.try_with(|at_hand| at_hand.left.set(at_hand.left.get().saturating_sub(time)));
}

/// Does `work` to its end although the client may go away, which drops what answers it: for what has to be
/// told of once it is done.
pub async fn to_its_end<T: 'static>(work: impl Future<Output = T> + 'static) -> T {
    let task = match AT_HAND.try_with(AtHand::clone) {
        Ok(at_hand) => actix_web::rt::spawn(AT_HAND.scope(at_hand, work)),
        Err(_) => actix_web::rt::spawn(work),
    };
    match task.await.map_err(|error| error.try_into_panic()) {
        Ok(done) => done,
        Err(Ok(panic)) => resume_unwind(panic),
        // The program ends.
        Err(Err(_)) => std::future::pending().await,
    }
}
