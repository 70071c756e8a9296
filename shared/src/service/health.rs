//! `--health`: calls `/healthz` of the server that runs with the same settings. Container health checks use it, since
//! the images have no shell and no `curl`.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Shorter than the 5 s that ECS allows for a check.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Calls `/healthz` of the server that listens on `listen`. Returns an error unless the status is 200.
pub fn probe(listen: SocketAddr) -> Result<(), String> {
    let address = reachable(listen);
    let line = status_line(address).map_err(|error| format!("http://{address}/healthz: {error}"))?;
    match line.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(format!("http://{address}/healthz: {line:?}")),
    }
}

/// The loopback address in place of an unspecified one, which not every system can connect to.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn status_line(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // In one write: a server that answers after the first of several may close before the last.
    let request = format!("GET /healthz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    // The response is short, and only its first line matters.
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};
    use std::thread;

    use super::probe;

    /// A server that sends one response to any request.
    fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut request = [0; 1024];
            let length = stream.read(&mut request).expect("a request");
            assert!(request[..length].starts_with(b"GET /healthz HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).expect("the client reads");
        });
        address
    }

    #[test]
    fn only_status_200_is_healthy() {
        assert_eq!(probe(server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")), Ok(()));
        for answer in ["HTTP/1.1 503 Service Unavailable\r\n\r\n", "SSH-2.0-OpenSSH\r\n", ""] {
            assert!(probe(server(answer)).is_err(), "{answer:?}");
        }
    }

    #[test]
    fn an_unspecified_address_is_probed_on_loopback() {
        let port = server("HTTP/1.1 200 OK\r\n\r\n").port();
        assert_eq!(probe(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))), Ok(()));
    }

    #[test]
    fn a_refused_connection_names_the_address() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        drop(listener);
        let error = probe(address).expect_err("the connection is refused");
        assert!(error.contains(&address.to_string()), "{error}");
    }
}
