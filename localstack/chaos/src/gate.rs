//! A gate before a server: while it is closed, connections are refused, as if nobody were there.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A gate, open at first.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    open: watch::Sender<bool>,
}

impl Gate {
    /// Starts before `server`, on a free port.
    pub async fn start(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = listener.local_addr()?;
        let (open, is_open) = watch::channel(true);
        tokio::spawn(keep(listener, address, server, is_open));
        Ok(Self { address, open })
    }

    /// Where to connect to.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Opens it, or closes it and cuts the connections that there are.
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
            // The port is ours: nobody else was given it meanwhile, or a next try finds it free.
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
