//! A client's connection: how long it is kept over which nothing is asked, or never to the end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_http::Protocol;
use actix_http::error::DispatchError;
use actix_web::rt::net::TcpStream;
use actix_web::rt::time::{Instant, Sleep, sleep};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long a connection is kept over which nothing is sent back: longer than proxies and pools of
/// clients commonly keep theirs (60 s), as whoever hangs up first should not be the one who is about to
/// be asked, and than sockets are silent.
const IDLE: Duration = Duration::from_secs(75);

/// Takes on a connection once something is sent over it. To the framework one that is silent is a slow
/// request, which it answers 408; but clients and proxies open connections ahead of what they will ask,
/// and take that answer for the one to their next request.
///
/// # Errors
/// When nothing is sent for [`IDLE`] or until `ending` is done, or it was reset so soon that nobody knows
/// whose it was: what it asked for would be noted without an address. Nobody is told.
pub async fn spoken_to(
    stream: TcpStream,
    ending: impl Future<Output = ()>,
) -> Result<(Connection, Protocol, Option<SocketAddr>), DispatchError> {
    // Before anything is waited for: who sends a request and resets the connection has none any more.
    let peer = stream.peer_addr()?;
    // A look, since `readable` may also be said of one that was just accepted.
    let mut first = [0];
    tokio::select! {
        biased;
        sent = stream.peek(&mut first) => drop(sent?),
        () = ending => return Err(DispatchError::SlowRequestTimeout),
        () = sleep(IDLE) => return Err(DispatchError::SlowRequestTimeout),
    }
    let connection = Connection {
        stream,
        answered: Instant::now(),
        idle: Box::pin(sleep(IDLE)),
    };
    Ok((connection, Protocol::Http1, Some(peer)))
}

/// A connection that is at its end once nothing was sent back over it for [`IDLE`]. The framework knows
/// no limit for the head of a request that is not the first: whoever sent half of one could hold the
/// connection for ever.
pub struct Connection {
    stream: TcpStream,
    answered: Instant,
    idle: Pin<Box<Sleep>>,
}

impl Connection {
    /// Whether it is at its end; otherwise the task is woken when it may be.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.idle.as_mut().poll(cx));
            if self.answered.elapsed() >= IDLE {
                return Poll::Ready(());
            }
            self.idle.as_mut().reset(self.answered + IDLE);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Pending => self.poll_idle(cx).map(Ok),
            read => read,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.answered = Instant::now();
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Both ends of one, the second as the server has it before anything is said; the time stands still
    /// unless everybody waits for it.
    async fn opened() -> (TcpStream, TcpStream) {
        tokio::time::pause();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound"));
        let (client, accepted) = tokio::join!(client, listener.accept());
        (client.expect("a client"), accepted.expect("a server").0)
    }

    /// As [`opened`], with half a request sent, which was taken on.
    async fn half_asked() -> (TcpStream, Connection) {
        let (mut client, stream) = opened().await;
        client.write_all(b"GET / HT").await.expect("sent");
        let taken = spoken_to(stream, pending()).await;
        (client, taken.expect("a connection").0)
    }

    /// Sends so much that no answer can come of it until nobody listens any more; for how long
    /// that was.
    async fn dribble(client: &mut TcpStream, connection: &mut Connection) -> Duration {
        let began = Instant::now();
        let heard = async {
            let mut heard = [0; 64];
            while connection.read(&mut heard).await.expect("no fault") > 0 {}
        };
        let dribble = async {
            loop {
                client.write_all(b"x").await.expect("sent");
                sleep(Duration::from_secs(10)).await;
            }
        };
        tokio::select! {
            () = heard => began.elapsed(),
            () = dribble => unreachable!("it has no end"),
        }
    }

    #[actix_web::test]
    async fn half_a_request_holds_a_connection_no_longer_than_none() {
        let (mut client, mut connection) = half_asked().await;
        let held = dribble(&mut client, &mut connection).await;
        assert!(held.abs_diff(IDLE) < Duration::from_secs(1), "{held:?}");
    }

    #[actix_web::test]
    async fn an_answer_keeps_a_connection() {
        let (mut client, mut connection) = half_asked().await;
        sleep(IDLE - Duration::from_secs(5)).await;
        connection.write_all(b"HTTP/1.1 200").await.expect("sent");
        let held = dribble(&mut client, &mut connection).await;
        assert!(held.abs_diff(IDLE) < Duration::from_secs(1), "{held:?}");
    }

    async fn ask_and_reset(mut client: TcpStream) {
        let asked = client.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
        asked.expect("sent");
        client.set_zero_linger().expect("set");
    }

    #[actix_web::test]
    async fn who_has_reset_it_is_not_heard_without_an_address() {
        let (client, stream) = opened().await;
        ask_and_reset(client).await;
        assert!(spoken_to(stream, pending()).await.is_err());
    }

    #[actix_web::test]
    async fn who_resets_it_later_is_heard_with_their_address() {
        let (client, stream) = opened().await;
        let address = client.local_addr().expect("its own");
        let (taken, ()) = tokio::join!(biased; spoken_to(stream, pending()), ask_and_reset(client));
        let (mut connection, _, peer) = taken.expect("a connection");
        assert_eq!(peer, Some(address));
        let mut heard = [0; 64];
        assert!(connection.read(&mut heard).await.expect("what was sent") > 0);
    }

    #[actix_web::test]
    async fn a_silent_one_is_let_go_in_time() {
        let (_client, stream) = opened().await;
        let began = Instant::now();
        assert!(spoken_to(stream, pending()).await.is_err());
        assert!(began.elapsed().abs_diff(IDLE) < Duration::from_secs(1));
    }

    #[actix_web::test]
    async fn at_the_end_a_silent_one_is_not_waited_for() {
        let (_client, stream) = opened().await;
        let began = Instant::now();
        assert!(spoken_to(stream, async {}).await.is_err());
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
