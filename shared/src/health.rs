//! `--health`: the program asks the one that already runs beside it whether it lives. An image without a shell or `curl` has
//! nothing else that a container's health check could call.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Less than the 5 s after which ECS gives up on a check.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks the server that was told to listen on `listen` for `/healthz`; says what is wrong unless it answers 200.
pub fn probe(listen: SocketAddr) -> Result<(), String> {
    let address = reachable(listen);
    let line = status_line(address).map_err(|error| format!("http://{address}/healthz: {error}"))?;
    match line.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(format!("http://{address}/healthz: {line:?}")),
    }
}

/// "Every address of this machine" is none that can be connected to everywhere.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn status_line(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // In one piece: whoever answers after the first of several may have hung up before the last.
    let request = format!("GET /healthz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    // The answer is short, and only its first line counts.
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

    /// A server that answers once, whatever it is asked.
    fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a caller");
            let mut asked = [0; 1024];
            let length = stream.read(&mut asked).expect("a request");
            assert!(asked[..length].starts_with(b"GET /healthz HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).expect("a caller who listens");
        });
        address
    }

    #[test]
    fn only_a_200_is_health() {
        assert_eq!(probe(server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")), Ok(()));
        for answer in ["HTTP/1.1 503 Service Unavailable\r\n\r\n", "SSH-2.0-OpenSSH\r\n", ""] {
            assert!(probe(server(answer)).is_err(), "{answer:?}");
        }
    }

    #[test]
    fn an_address_of_all_interfaces_is_asked_on_this_machine() {
        let port = server("HTTP/1.1 200 OK\r\n\r\n").port();
        assert_eq!(probe(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))), Ok(()));
    }

    #[test]
    fn nobody_there_is_told_with_the_address() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        drop(listener);
        let error = probe(address).expect_err("nobody listens");
        assert!(error.contains(&address.to_string()), "{error}");
    }
}
