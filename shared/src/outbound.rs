//! The one way to call addresses that clients name: audio today, callbacks as well.
//!
//! Such an address is a way to make this service call for somebody else: its own machine, its network,
//! the cloud's metadata. So it is parsed into a [`PublicUrl`], and the client looks at each IP address
//! when it connects: what a name meant a moment ago says nothing of what it means now.

mod address;
mod url;

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, ClientBuilder, Method, RequestBuilder, redirect};

pub use url::{AllowedHosts, InvalidUrl, MAX_URL_BYTES, PublicUrl};
pub(crate) use url::{shown, well_formed};

/// From the lookup of the name to the end of the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest silence of the other side.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// One call, from the first byte to the last, unless the request says otherwise.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The client. It follows no redirect, asks no proxy, and speaks HTTPS with public addresses only; the exception
/// is what [`AllowedHosts`] names as `http://host:port`. Cloning shares its connections.
#[derive(Clone, Debug)]
pub struct Outbound {
    public: Client,
    named: Client,
}

impl Outbound {
    /// A client that looks names up as the system does.
    pub fn new() -> Result<Self, reqwest::Error> {
        let guard = Guard { lookup: Arc::new(|host| Box::pin(system(host))), allowed: address::is_public };
        Ok(Self {
            public: builder().https_only(true).dns_resolver(guard).build()?,
            named: builder().build()?,
        })
    }

    /// A request to begin with.
    pub fn request(&self, method: Method, url: &PublicUrl) -> RequestBuilder {
        let client = if url.is_plain() { &self.named } else { &self.public };
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

/// A name that means nothing but addresses of this machine, this network or nobody. Which ones is not told:
/// the answer goes to whoever named it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} has no public address")]
pub struct NotPublic(String);

/// Whether a call failed because the name meant no public address.
pub fn not_public(error: &reqwest::Error) -> Option<&NotPublic> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

type Lookup = dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync;

async fn system(host: String) -> io::Result<Vec<IpAddr>> {
    Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
}

/// Gives the client those addresses alone that it may connect to. Asked for every new connection.
struct Guard {
    lookup: Arc<Lookup>,
    /// Whether an address may be connected to; tests let their own server pass.
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
            // Port 0 stands for the address's own.
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

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// A DNS that gives these answers in turn, the last one for ever.
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

    /// A server that answers every request in this way and closes; its port, and how many have connected.
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
    async fn only_public_addresses_come_through() {
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
    async fn a_name_that_means_this_machine_is_not_connected_to() {
        let (port, connections) = server(OK).await;
        let client = builder().dns_resolver(dns(&[&["127.0.0.1", "::1"]], address::is_public));
        let client = client.build().expect("a client");
        let error = client.get(format!("http://good.example:{port}/")).send().await.expect_err("refused");
        assert_eq!(not_public(&error), Some(&NotPublic("good.example".to_owned())), "{error:?}");
        assert_eq!(connections.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn each_connection_looks_anew() {
        // For this test the server's address is public; what the name means next is not.
        let (port, connections) = server(OK).await;
        let guard = dns(&[&["127.0.0.1"], &["169.254.169.254"]], |address| {
            address == LOOPBACK || address::is_public(address)
        });
        let client = builder().dns_resolver(guard).build().expect("a client");
        let get = || client.get(format!("http://good.example:{port}/")).send();
        assert_eq!(get().await.expect("an answer").status(), 200);
        let error = get().await.expect_err("the name means the metadata service now");
        assert!(not_public(&error).is_some(), "{error:?}");
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_not_followed() {
        let (other, asked) = server(OK).await;
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
        assert_eq!(asked.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn the_systems_own_names_are_guarded_too() {
        let (port, connections) = server(OK).await;
        let allowed: AllowedHosts = format!("localhost:{port}").parse().expect("a host");
        let url = PublicUrl::parse(&format!("https://localhost:{port}/"), &allowed).expect("allowed");
        let error = Outbound::new().expect("a client").request(Method::GET, &url).send().await;
        let error = error.expect_err("refused");
        assert!(not_public(&error).is_some(), "{error:?}");
        assert_eq!(connections.load(Ordering::SeqCst), 0);
    }
}
