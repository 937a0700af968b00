//! A network that fails when it is told to.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub const OPEN: u8 = 0;
pub const HANGING: u8 = 1;
pub const CUT: u8 = 2;

/// Stands before a server, and can hang (nothing moves, nothing closes) or cut every connection.
pub struct Proxy {
    pub port: u16,
    state: watch::Sender<u8>,
}

impl Proxy {
    pub async fn before(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (state, seen) = watch::channel(OPEN);
        actix_web::rt::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                actix_web::rt::spawn(forward(client, target.clone(), seen.clone()));
            }
        });
        Self { port, state }
    }

    pub fn set(&self, state: u8) {
        self.state.send_replace(state);
    }
}

async fn forward(mut client: TcpStream, target: String, mut state: watch::Receiver<u8>) {
    let _ = state.wait_for(|state| *state != HANGING).await;
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    loop {
        let now = *state.borrow_and_update();
        match now {
            CUT => return,
            // What has been read when it is dropped would be lost, so it goes on until the next change.
            OPEN => tokio::select! {
                _ = copy_bidirectional(&mut client, &mut server) => return,
                changed = state.changed() => if changed.is_err() { return },
            },
            _ if state.changed().await.is_err() => return,
            _ => {}
        }
    }
}
