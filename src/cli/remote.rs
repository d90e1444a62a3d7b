//! Finds a running node, and asks it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::config;

/// Where a node is that is configured as our examples are.
const DEFAULT_ADMIN: &str = "http://127.0.0.1:9900";
/// The longest that an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer, in bytes; a thousand servers take half a MiB.
const LONGEST: usize = 64 << 20;

/// Which node.
#[derive(clap::Args)]
#[group(skip)]
pub struct Arguments {
    /// The node's admin listener; else the one of -c, else FAIRLEAD_ADMIN, else http://127.0.0.1:9900
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// The node's configuration, which says where its admin listener is
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file with the token of the admin listener; else FAIRLEAD_TOKEN, else the token in the file of -c
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// A node somewhere.
#[derive(Clone)]
pub struct Remote {
    /// As given, for messages.
    name: String,
    /// For the `Host` header.
    authority: String,
    host: String,
    port: u16,
    /// Before the path of each page; without a slash at its end.
    prefix: String,
    token: Option<Token>,
    timeout: Duration,
}

#[derive(Clone)]
struct Token {
    /// `Bearer …`
    header: HeaderValue,
    /// For messages.
    source: String,
}

impl Arguments {
    /// The node that is meant.
    ///
    /// # Errors
    /// What is wrong with an address, a file or a token.
    pub fn remote(&self) -> Result<Remote, String> {
        self.find(&|name| std::env::var(name).ok())
    }

    fn find(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Remote, String> {
        let env = |name| env(name).filter(|value| !value.is_empty());
        let mut in_file = None;
        let (url, source) = match (&self.admin, &self.config, env("FAIRLEAD_ADMIN")) {
            (Some(url), _, _) => (url.clone(), "--admin"),
            (None, Some(file), _) => {
                let config = config::load(file).map_err(|problems| problems.to_string())?;
                let Some(admin) = config.admin else {
                    let file = file.display();
                    return Err(format!(
                        "{file} has no admin listener, so its node cannot be asked: add `admin: {{}}`"
                    ));
                };
                in_file = admin.token.map(|token| (token, format!("admin.token of {}", file.display())));
                (format!("http://{}", reachable(admin.address)), "-c")
            }
            (None, None, Some(url)) => (url, "FAIRLEAD_ADMIN"),
            (None, None, None) => (DEFAULT_ADMIN.to_owned(), "the default"),
        };
        let mut remote = parse(&url).map_err(|why| format!("{source}: {url:?} {why}, as in {DEFAULT_ADMIN}"))?;
        let given = match (&self.token_file, env("FAIRLEAD_TOKEN")) {
            (Some(file), _) => {
                let source = format!("--token-file {}", file.display());
                let text = std::fs::read_to_string(file).map_err(|error| format!("{source}: {error}"))?;
                Some((text.trim().to_owned(), source))
            }
            (None, Some(token)) => Some((token, "FAIRLEAD_TOKEN".to_owned())),
            (None, None) => in_file,
        };
        remote.token = given.map(|(token, source)| Token::new(&token, source)).transpose()?;
        Ok(remote)
    }
}

impl Token {
    fn new(token: &str, source: String) -> Result<Self, String> {
        let fit = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        match HeaderValue::from_str(&format!("Bearer {token}")) {
            Ok(mut header) if fit => {
                header.set_sensitive(true);
                Ok(Token { header, source })
            }
            _ => Err(format!("{source}: is no token: it must be one word of printable ASCII")),
        }
    }
}

/// A node that listens everywhere is reached by loopback from its own machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// What is wrong with a URL reads on after it.
fn parse(url: &str) -> Result<Remote, &'static str> {
    let full = match url.split_once("://") {
        None => format!("http://{url}"),
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("http") => url.to_owned(),
        Some(_) => return Err("does not begin with http://, which is all that an admin listener speaks: write it"),
    };
    let uri: Uri = full.parse().map_err(|_| "is no URL: write it")?;
    let host = uri.host().map(|host| host.trim_start_matches('[').trim_end_matches(']'));
    let (Some(authority), Some(host)) = (uri.authority(), host.filter(|host| !host.is_empty())) else {
        return Err("is no URL: write it");
    };
    if authority.as_str().contains('@') || uri.query().is_some() {
        return Err("has a user or a query, which have no meaning here: write it");
    }
    let Some(port) = authority.port_u16().filter(|port| *port != 0) else {
        return Err("names no port: write it");
    };
    Ok(Remote {
        name: full.trim_end_matches('/').to_owned(),
        authority: authority.to_string(),
        host: host.to_owned(),
        port,
        prefix: uri.path().trim_end_matches('/').to_owned(),
        token: None,
        timeout: TIMEOUT,
    })
}

impl Remote {
    /// A node of this machine that needs no token; an answer may take `timeout`.
    pub fn at(address: SocketAddr, timeout: Duration) -> Self {
        Remote {
            name: format!("http://{address}"),
            authority: address.to_string(),
            host: address.ip().to_string(),
            port: address.port(),
            prefix: String::new(),
            token: None,
            timeout,
        }
    }

    /// The page at `path`, over a connection of its own.
    ///
    /// # Errors
    /// The node cannot be reached, or refuses; the message tells what to do.
    pub async fn get(&self, path: &str) -> Result<Bytes, String> {
        match tokio::time::timeout(self.timeout, self.ask(path)).await {
            Ok(Ok((StatusCode::OK, body))) => Ok(body),
            Ok(Ok((status, body))) => Err(self.refused(status, &body)),
            Ok(Err(error)) => Err(self.unreachable(error.as_ref())),
            Err(_) => Err(format!("the node at {} does not answer within {:?}", self.name, self.timeout)),
        }
    }

    async fn ask(&self, path: &str) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let asking = async {
            let mut request = Request::get(format!("{}{path}", self.prefix)).header(HOST, &self.authority);
            if let Some(token) = &self.token {
                request = request.header(AUTHORIZATION, &token.header);
            }
            let response = client.send_request(request.body(Empty::<Bytes>::new())?).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST).collect().await?;
            Ok((status, body.to_bytes()))
        };
        // What goes wrong on the connection, the request on it learns.
        let driving = async {
            connection.await.ok();
            std::future::pending().await
        };
        tokio::select! {
            answer = asking => answer,
            never = driving => never,
        }
    }

    fn unreachable(&self, error: &dyn std::error::Error) -> String {
        let mut why = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            why = format!("{why}: {cause}");
            source = cause.source();
        }
        format!(
            "cannot ask the node at {}: {why}\nIs it running, and is that its admin listener? Name another with --admin URL, -c FILE or FAIRLEAD_ADMIN.",
            self.name
        )
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> String {
        let name = &self.name;
        match (status, &self.token) {
            (StatusCode::UNAUTHORIZED, None) => format!(
                "the node at {name} wants its token (`admin.token` of its configuration): set FAIRLEAD_TOKEN or give --token-file FILE"
            ),
            (StatusCode::UNAUTHORIZED, Some(token)) => format!(
                "the node at {name} refuses the token of {}: it must be the node's `admin.token`; set FAIRLEAD_TOKEN or give --token-file FILE",
                token.source
            ),
            _ => {
                let text = String::from_utf8_lossy(body);
                let line = super::printable(text.lines().next().unwrap_or(""));
                let line: String = line.chars().take(200).collect();
                format!("the node at {name} refuses: {status}: {line}\nIs that the admin listener of a Fairlead?")
            }
        }
    }

    /// For messages.
    pub fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const NOTHING: Arguments = Arguments { admin: None, config: None, token_file: None };

    fn find(arguments: &Arguments, env: &[(&str, &str)]) -> Result<Remote, String> {
        arguments.find(&|name| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn configuration(admin: &str) -> tempfile::NamedTempFile {
        file(&format!(
            "version: 1\nlisteners: [{{ address: 127.0.0.1:9090 }}]\npools: {{ app: {{ servers: [127.0.0.1:1] }} }}\n{admin}\n"
        ))
    }

    fn token(remote: &Remote) -> Option<&str> {
        remote.token.as_ref().map(|token| token.header.to_str().unwrap())
    }

    #[test]
    fn the_url_goes_before_the_file_and_that_before_the_environment() {
        let config = configuration("admin: { address: 0.0.0.0:9903, token: in-the-file }");
        let env = [("FAIRLEAD_ADMIN", "http://h:9904")];
        let all = Arguments {
            admin: Some("h:9902".into()),
            config: Some(config.path().into()),
            token_file: Some(file("in-a-file\n").path().into()),
        };
        assert!(find(&all, &env).err().unwrap().contains("--token-file"), "the file is gone");

        let all = Arguments { token_file: None, ..all };
        let remote = find(&all, &env).unwrap();
        assert_eq!((remote.name(), token(&remote)), ("http://h:9902", None), "a file's token is for its own node");
        let remote = find(&Arguments { admin: None, ..all }, &env).unwrap();
        assert_eq!((remote.name(), token(&remote)), ("http://127.0.0.1:9903", Some("Bearer in-the-file")));
        assert_eq!(find(&NOTHING, &env).unwrap().name(), "http://h:9904");
        assert_eq!(find(&NOTHING, &[("FAIRLEAD_ADMIN", "")]).unwrap().name(), DEFAULT_ADMIN);
    }

    #[test]
    fn a_token_comes_from_its_file_or_the_environment() {
        let env = [("FAIRLEAD_TOKEN", "of-env")];
        assert_eq!(token(&find(&NOTHING, &env).unwrap()), Some("Bearer of-env"));
        let secret = file(" of-file\n");
        let arguments = Arguments { token_file: Some(secret.path().into()), ..NOTHING };
        assert_eq!(token(&find(&arguments, &env).unwrap()), Some("Bearer of-file"));
        for bad in ["", "two words", "t\u{fc}r"] {
            let secret = file(bad);
            let arguments = Arguments { token_file: Some(secret.path().into()), ..NOTHING };
            assert!(find(&arguments, &env).err().unwrap().contains("is no token"), "{bad}");
        }
    }

    #[test]
    fn urls_are_read() {
        for (url, host, port, prefix) in [
            ("http://127.0.0.1:9900", "127.0.0.1", 9900, ""),
            ("HTTP://edge-1.internal:80/", "edge-1.internal", 80, ""),
            ("[::1]:9900", "::1", 9900, ""),
            ("http://h:1/nodes/a/", "h", 1, "/nodes/a"),
        ] {
            let remote = parse(url).unwrap_or_else(|why| panic!("{url} {why}"));
            assert_eq!((remote.host.as_str(), remote.port, remote.prefix.as_str()), (host, port, prefix), "{url}");
        }
        for url in ["", "https://h:1", "http://h", "http://u:p@h:1", "http://h:1/?a", "h h:1", "h:0", "h:70000", ":1"] {
            assert!(parse(url).is_err(), "{url}");
        }
        let arguments = Arguments { admin: Some("https://h:1".into()), ..NOTHING };
        let message = find(&arguments, &[]).err().unwrap();
        assert!(message.starts_with("--admin: \"https://h:1\" does not begin with http://"), "{message}");
    }

    #[test]
    fn a_file_without_an_admin_listener_cannot_help() {
        let config = configuration("");
        let arguments = Arguments { config: Some(config.path().into()), ..NOTHING };
        assert!(find(&arguments, &[]).err().unwrap().contains("has no admin listener"));
        let arguments = Arguments { config: Some("nowhere.yaml".into()), ..NOTHING };
        assert!(find(&arguments, &[]).err().unwrap().contains("nowhere.yaml"));
    }

    /// What `remote` makes of one answer.
    async fn answered(answer: &'static str, token: Option<&str>) -> Result<Bytes, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut remote = Remote::at(listener.local_addr().unwrap(), Duration::from_secs(20));
        remote.token = token.map(|token| Token::new(token, "FAIRLEAD_TOKEN".into()).unwrap());
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request[..read].to_vec()).unwrap()
        });
        let got = remote.get("/api/v1/pools").await;
        let request = serving.await.unwrap();
        assert!(request.starts_with("GET /api/v1/pools HTTP/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("host: {}\r\n", remote.authority)), "{request}");
        assert_eq!(request.contains("authorization: Bearer"), token.is_some(), "{request}");
        got
    }

    #[tokio::test]
    async fn refusals_say_what_to_do() {
        let fine = answered("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", None).await;
        assert_eq!(fine.unwrap(), "[]");
        let refused = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
        let message = answered(refused, None).await.unwrap_err();
        assert!(message.contains("wants its token") && message.contains("FAIRLEAD_TOKEN"), "{message}");
        let message = answered(refused, Some("wrong")).await.unwrap_err();
        assert!(message.contains("refuses the token of FAIRLEAD_TOKEN") && !message.contains("wrong"), "{message}");
        let other = "HTTP/1.1 421 Misdirected Request\r\ncontent-length: 9\r\n\r\nadd \x1b[31m\n";
        let message = answered(other, None).await.unwrap_err();
        assert!(message.contains("421") && message.contains("add") && !message.contains('\x1b'), "{message}");
        let message = answered("SSH-2.0-OpenSSH\r\n", None).await.unwrap_err();
        assert!(message.contains("cannot ask the node at http://127.0.0.1:"), "{message}");
    }

    #[tokio::test]
    async fn nobody_there_and_nobody_answering_are_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let message = Remote::at(address, Duration::from_millis(20)).get("/").await.unwrap_err();
        assert!(message.contains("does not answer within 20ms"), "{message}");
        drop(listener);
        let message = Remote::at(address, Duration::from_secs(20)).get("/").await.unwrap_err();
        assert!(message.contains("onnection refused") && message.contains("--admin URL"), "{message}");
    }
}
