//! The HTTP client for addresses that clients supply: audio and webhooks.
//!
//! Such an address could make the service call its own host, its network, or the cloud's metadata service
//! (SSRF). So each address is parsed into a [`PublicUrl`], and the client checks each IP address when it
//! connects. An earlier check would not be enough, since a DNS answer can change (DNS rebinding).

mod address;

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dns_lookup::{AddrInfoHints, LookupErrorKind, SockType};
use futures::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, ClientBuilder, Method, RequestBuilder, redirect};

use crate::domain::url::PublicUrl;

/// The timeout from the DNS lookup to the end of the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The timeout between two reads.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The timeout of a whole call, unless the request sets another.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The client. It follows no redirects, uses no proxy, and connects only to public addresses with HTTPS. The exception
/// are entries `http://host:port` of `AllowedHosts`. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Outbound {
    public: Client,
    plain: Client,
}

impl Outbound {
    /// A client with the system's DNS resolver.
    pub fn new() -> Result<Self, reqwest::Error> {
        let guard = |allowed| Guard { lookup: Arc::new(|host| Box::pin(system(host))), allowed };
        Ok(Self {
            public: builder().https_only(true).dns_resolver(guard(address::is_public)).build()?,
            plain: builder().dns_resolver(guard(|_| true)).build()?,
        })
    }

    pub fn request(&self, method: Method, url: &PublicUrl) -> RequestBuilder {
        let client = if url.is_plain() { &self.plain } else { &self.public };
        client.request(method, url.as_url().clone())
    }
}

fn builder() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("longhand/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .timeout(CALL_TIMEOUT)
}

/// A host name without a public address. The error does not show the addresses, since it is returned to the client
/// that supplied the name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} has no public address")]
pub struct NotPublic(String);

/// A name that DNS does not know, or that has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} has no address in DNS")]
pub struct UnknownHost(String);

/// The error of this type among `error` and its causes, such as [`NotPublic`] or [`UnknownHost`].
pub fn cause<T: Error + 'static>(error: &reqwest::Error) -> Option<&T> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

type Found = Result<Vec<IpAddr>, Box<dyn Error + Send + Sync>>;
type Lookup = dyn Fn(String) -> BoxFuture<'static, Found> + Send + Sync;

/// Like the standard library's lookup, whose error does not distinguish an unknown name.
async fn system(host: String) -> Found {
    tokio::task::spawn_blocking(move || {
        let hints = AddrInfoHints { socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
        let found = dns_lookup::getaddrinfo(Some(&host), None, Some(hints));
        let found = match found {
            Ok(found) => found.collect::<Result<Vec<_>, _>>()?,
            Err(error) => match error.kind() {
                LookupErrorKind::NoName | LookupErrorKind::NoData => return Err(UnknownHost(host).into()),
                _ => return Err(io::Error::from(error).into()),
            },
        };
        Ok(found.into_iter().map(|found| found.sockaddr.ip()).collect())
    })
    .await?
}

/// The DNS resolver that returns only the addresses that the client may connect to. Every new connection uses it.
struct Guard {
    lookup: Arc<Lookup>,
    /// Whether an address may be connected to. Tests allow their own server.
    allowed: fn(IpAddr) -> bool,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let found = (self.lookup)(host.clone());
        let allowed = self.allowed;
        Box::pin(async move {
            let mut addresses = found.await?;
            addresses.retain(|address| allowed(*address));
            if addresses.is_empty() {
                return Err(NotPublic(host).into());
            }
            // Port 0 means the port of the URL.
            Ok(Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0))) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::domain::url::AllowedHosts;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// A resolver that returns these answers in turn, and then repeats the last one.
    fn dns(answers: &[&[&str]], allowed: fn(IpAddr) -> bool) -> Guard {
        let mut answers: Vec<Vec<IpAddr>> = answers
            .iter()
            .rev()
            .map(|answer| answer.iter().map(|ip| ip.parse().expect("an address")).collect())
            .collect();
        if let Some(last) = answers.first().cloned() {
            answers.insert(0, last);
        }
        let answers = Mutex::new(answers);
        let lookup = move |_| -> BoxFuture<'static, _> {
            let mut answers = answers.lock().expect("not poisoned");
            let answer = if answers.len() > 1 { answers.pop() } else { answers.last().cloned() };
            Box::pin(async move { Ok(answer.unwrap_or_default()) })
        };
        Guard { lookup: Arc::new(lookup), allowed }
    }

    async fn resolve(guard: &Guard) -> Result<Vec<IpAddr>, String> {
        let name = "good.example".parse().expect("a name");
        let found = guard.resolve(name).await.map_err(|error| error.to_string())?;
        Ok(found.map(|address| address.ip()).collect())
    }

    /// A server that sends this response to every request and closes; its port and its number of connections.
    async fn server(answer: &'static str) -> (u16, Arc<AtomicUsize>) {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                counted.fetch_add(1, Ordering::SeqCst);
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (port, count)
    }

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

    #[tokio::test]
    async fn only_public_addresses_are_resolved() {
        let guard = dns(&[&["127.0.0.1", "93.184.215.14", "::1", "2606:2800::1"]], address::is_public);
        let public: Vec<IpAddr> =
            ["93.184.215.14", "2606:2800::1"].map(|ip| ip.parse().expect("an address")).to_vec();
        assert_eq!(resolve(&guard).await, Ok(public));
        for address in ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::ffff:127.0.0.1", "::1", "fe80::1"] {
            let refused = Err("good.example has no public address".to_owned());
            assert_eq!(resolve(&dns(&[&[address]], address::is_public)).await, refused, "{address}");
        }
        assert!(resolve(&dns(&[&[]], address::is_public)).await.is_err());
    }

    #[tokio::test]
    async fn a_name_of_the_loopback_address_is_not_connected_to() {
        let (port, connections) = server(OK).await;
        let client = builder().dns_resolver(dns(&[&["127.0.0.1", "::1"]], address::is_public));
        let client = client.build().expect("a client");
        let error = client.get(format!("http://good.example:{port}/")).send().await.expect_err("refused");
        assert_eq!(cause(&error), Some(&NotPublic("good.example".to_owned())), "{error:?}");
        assert_eq!(connections.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn each_connection_checks_its_addresses() {
        // This test takes the server's address as public. The next answer for the name is not public.
        let (port, connections) = server(OK).await;
        let guard = dns(&[&["127.0.0.1"], &["169.254.169.254"]], |address| {
            address == LOOPBACK || address::is_public(address)
        });
        let client = builder().dns_resolver(guard).build().expect("a client");
        let get = || client.get(format!("http://good.example:{port}/")).send();
        assert_eq!(get().await.expect("an answer").status(), 200);
        let error = get().await.expect_err("the name now resolves to the metadata service");
        assert!(cause::<NotPublic>(&error).is_some(), "{error:?}");
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_redirect_is_returned_and_not_followed() {
        let (other, connections) = server(OK).await;
        let to: &'static str = format!(
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{other}/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        )
        .leak();
        let (port, _) = server(to).await;
        let allowed: AllowedHosts =
            format!("http://127.0.0.1:{port}, http://127.0.0.1:{other}").parse().expect("hosts");
        let url = PublicUrl::parse(&format!("http://127.0.0.1:{port}/a.wav"), &allowed).expect("named");
        let answer = Outbound::new().expect("a client").request(Method::GET, &url).send().await;
        assert_eq!(answer.expect("an answer").status(), 302);
        assert_eq!(connections.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn names_in_the_hosts_file_are_checked_too() {
        let (port, connections) = server(OK).await;
        let allowed: AllowedHosts = format!("localhost:{port}").parse().expect("a host");
        let url = PublicUrl::parse(&format!("https://localhost:{port}/"), &allowed).expect("allowed");
        let error = Outbound::new().expect("a client").request(Method::GET, &url).send().await;
        let error = error.expect_err("refused");
        assert!(cause::<NotPublic>(&error).is_some(), "{error:?}");
        assert_eq!(connections.load(Ordering::SeqCst), 0);
    }

    /// RFC 6761: no name under `invalid` exists. Where there is no DNS server at all, that is another failure.
    #[tokio::test]
    async fn an_unknown_name_differs_from_a_server_that_is_down() {
        let found = system("nobody.invalid".to_owned()).await.expect_err("no such name");
        let unknown = found.downcast_ref::<UnknownHost>().is_some();
        assert!(unknown || found.to_string().contains("emporary"), "{found}");

        for (known, error) in [
            (true, Box::from(UnknownHost("good.example".to_owned()))),
            (false, Box::from(io::Error::other("the DNS server is down"))),
        ] {
            let error = Mutex::new(Some(error));
            let lookup = move |_| -> BoxFuture<'static, Found> {
                let error = error.lock().expect("not poisoned").take();
                Box::pin(async move { Err(error.expect("asked once")) })
            };
            let guard = Guard { lookup: Arc::new(lookup), allowed: address::is_public };
            let client = builder().dns_resolver(guard).build().expect("a client");
            let error = client.get("http://good.example/").send().await.expect_err("no address");
            assert_eq!(cause::<UnknownHost>(&error).is_some(), known, "{error:?}");
            assert_eq!(cause::<NotPublic>(&error), None);
        }
    }
}
