//! A relay in front of a server, which can change. Without a server, connections are refused.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    server: watch::Sender<Option<SocketAddr>>,
}

impl Relay {
    /// Starts in front of `server`, on a free port.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, server) = watch::channel(Some(server));
        tokio::spawn(keep(listener, address, server));
        Self { address, server: sender }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the server of new connections. Open ones stay with theirs. `None` closes them and refuses new ones.
    pub fn set(&self, server: Option<SocketAddr>) {
        self.server.send_replace(server);
    }
}

async fn keep(first: TcpListener, address: SocketAddr, mut server: watch::Receiver<Option<SocketAddr>>) {
    let for_connections = server.clone();
    let mut listener = Some(first);
    loop {
        let Some(listening) = &listener else {
            if server.wait_for(Option::is_some).await.is_err() {
                return;
            }
            // Fails if another process has taken the port meanwhile. Then the next attempt may succeed.
            listener = TcpListener::bind(address).await.ok();
            continue;
        };
        tokio::select! {
            closed = server.wait_for(Option::is_none) => {
                if closed.is_err() {
                    return;
                }
            }
            accepted = listening.accept() => {
                if let Ok((client, _)) = accepted {
                    tokio::spawn(relay(client, for_connections.clone()));
                }
                continue;
            }
        }
        listener = None;
    }
}

async fn relay(mut client: TcpStream, mut server: watch::Receiver<Option<SocketAddr>>) {
    let Some(address) = *server.borrow() else { return };
    let Ok(mut connection) = TcpStream::connect(address).await else { return };
    tokio::select! {
        _ = server.wait_for(Option::is_none) => {}
        _ = tokio::io::copy_bidirectional(&mut client, &mut connection) => {}
    }
}
