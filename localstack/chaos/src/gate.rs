//! A gate in front of a server. While it is closed, connections are refused, as without a server.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Open at first.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    open: watch::Sender<bool>,
}

impl Gate {
    /// Starts in front of `server`, on a free port.
    pub async fn start(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = listener.local_addr()?;
        let (open, is_open) = watch::channel(true);
        tokio::spawn(keep(listener, address, server, is_open));
        Ok(Self { address, open })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Opens it, or closes it and all its connections.
    pub fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }
}

async fn keep(
    first: TcpListener,
    address: SocketAddr,
    server: SocketAddr,
    mut is_open: watch::Receiver<bool>,
) {
    let for_connections = is_open.clone();
    let mut listener = Some(first);
    loop {
        let Some(listening) = &listener else {
            if is_open.wait_for(|open| *open).await.is_err() {
                return;
            }
            // Fails if another process has taken the port meanwhile. Then the next attempt may succeed.
            listener = TcpListener::bind(address).await.ok();
            continue;
        };
        tokio::select! {
            closed = is_open.wait_for(|open| !*open) => {
                if closed.is_err() {
                    return;
                }
            }
            accepted = listening.accept() => {
                if let Ok((client, _)) = accepted {
                    tokio::spawn(relay(client, server, for_connections.clone()));
                }
                continue;
            }
        }
        listener = None;
    }
}

async fn relay(mut client: TcpStream, server: SocketAddr, mut is_open: watch::Receiver<bool>) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    tokio::select! {
        _ = is_open.wait_for(|open| !*open) => {}
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
    }
}
