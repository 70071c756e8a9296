//! Connections that the sim can cut.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The maximum size of one read from the socket. The HTTP server grows its buffer, to 400 KB and more, while reads fill
/// it. This bound keeps the memory of a thousand concurrent uploads small.
const MAX_READ_BYTES: usize = 12 * 1024;

/// A listener whose connections can be cut. All of them end when the sim stops.
#[derive(Debug)]
pub(crate) struct CuttableListener {
    listener: TcpListener,
    stop: CancellationToken,
}

impl CuttableListener {
    pub(crate) fn new(listener: TcpListener, stop: &CancellationToken) -> Self {
        Self { listener, stop: stop.clone() }
    }

    pub(crate) fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }
}

impl Listener for CuttableListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
        }
        let cut = self.stop.child_token();
        let connection = Connection {
            stream,
            is_cut: Box::pin(cut.clone().cancelled_owned()),
            cut_handle: CutHandle(cut),
        };
        (connection, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A TCP connection that fails after [`CutHandle::cut`].
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    is_cut: Pin<Box<WaitForCancellationFutureOwned>>,
    cut_handle: CutHandle,
}

impl Connection {
    fn fail_if_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.is_cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.fail_if_cut(cx)?;
        let room = buffer.remaining().min(MAX_READ_BYTES);
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(room));
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        let count = part.filled().len();
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.fail_if_cut(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.fail_if_cut(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fail_if_cut(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Cuts a connection. Data in transit is lost.
#[derive(Debug, Clone)]
pub(crate) struct CutHandle(CancellationToken);

impl CutHandle {
    pub(crate) fn cut(&self) {
        self.0.cancel();
    }

    /// Waits until the connection is cut or the sim stops.
    pub(crate) async fn cancelled(&self) {
        self.0.cancelled().await;
    }
}

impl Connected<IncomingStream<'_, CuttableListener>> for CutHandle {
    fn connect_info(stream: IncomingStream<'_, CuttableListener>) -> Self {
        stream.io().cut_handle.clone()
    }
}
