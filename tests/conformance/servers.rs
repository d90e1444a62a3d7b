//! Real servers. Each answers with a header `x-saw: METHOD TARGET BYTES-OF-BODY`, and writes the same line to a file
//! once it has read the whole request.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use tempfile::TempDir;

use crate::support::{Reserved, until, within};

pub struct Server {
    pub name: &'static str,
    pub address: SocketAddr,
    child: Child,
    dir: TempDir,
    read: Mutex<usize>,
    _port: Reserved,
}

const NODE: &str = r#"
const fs = require('fs'), http = require('http');
http.createServer((request, response) => {
  let length = 0;
  request.on('data', (chunk) => { length += chunk.length; });
  request.on('end', () => {
    const saw = `${request.method} ${request.url} ${length}`;
    fs.appendFileSync('seen', saw + '\n');
    response.setHeader('x-saw', saw);
    response.end('ok');
  });
}).listen(Number(process.argv[2]), '127.0.0.1');
"#;

const WSGI: &str = r#"
def app(environ, start_response):
    length = len(environ['wsgi.input'].read())
    saw = '%s %s %d' % (environ['REQUEST_METHOD'], environ['RAW_URI'], length)
    with open('seen', 'a', encoding='latin-1') as seen:
        seen.write(saw + '\n')
    start_response('200 OK', [('Content-Length', '2'), ('x-saw', saw)])
    # gunicorn sends to HEAD what it gets, and no proxy can tell that from the next answer.
    return [] if environ['REQUEST_METHOD'] == 'HEAD' else [b'ok']
"#;

const ASGI: &str = r#"
async def app(scope, receive, send):
    if scope['type'] != 'http':
        return
    length, more = 0, True
    while more:
        event = await receive()
        if event['type'] != 'http.request':
            return
        length += len(event.get('body', b''))
        more = event.get('more_body', False)
    target = scope['raw_path'].decode('latin-1')
    if scope['query_string']:
        target += '?' + scope['query_string'].decode('latin-1')
    saw = '%s %s %d' % (scope['method'], target, length)
    with open('seen', 'a') as seen:
        seen.write(saw + '\n')
    headers = [(b'content-length', b'2'), (b'x-saw', saw.encode('latin-1'))]
    await send({'type': 'http.response.start', 'status': 200, 'headers': headers})
    await send({'type': 'http.response.body', 'body': b'ok'})
"#;

/// Two in one: the first reads the whole body, the second tells how much there was.
const NGINX: &str = r#"
daemon off;
worker_processes 1;
error_log stderr crit;
pid nginx.pid;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_timeout 60s;
    map $http_content_length $length {
        '' 0;
        default $http_content_length;
    }
    log_format saw escape=none '$request_method $request_uri $length';
    server {
        listen ADDRESS;
        location / {
            proxy_http_version 1.1;
            proxy_pass http://unix:DIR/inner.sock;
        }
    }
    server {
        listen unix:DIR/inner.sock;
        location / {
            access_log seen saw;
            add_header x-saw '$request_method $request_uri $length' always;
            return 200 ok;
        }
    }
}
"#;

impl Server {
    pub fn nginx() -> Server {
        Server::start("nginx", &[("nginx.conf", NGINX)], |_| {
            let mut command = Command::new("nginx");
            command.args(["-p", ".", "-c", "nginx.conf", "-e", "stderr"]);
            command
        })
    }

    pub fn node() -> Server {
        Server::start("node", &[("server.js", NODE)], |address| {
            let mut command = Command::new("node");
            command.args(["server.js", &address.port().to_string()]);
            command
        })
    }

    pub fn gunicorn() -> Server {
        Server::start("gunicorn", &[("server.py", WSGI)], |address| {
            let mut command = Command::new("gunicorn");
            command.args(["-b", &address.to_string(), "-k", "gthread", "--threads", "8", "--keep-alive", "60"]);
            command.args(["--log-level", "critical", "server:app"]);
            command
        })
    }

    pub fn uvicorn() -> Server {
        Server::start("uvicorn", &[("server.py", ASGI)], |address| {
            let mut command = Command::new("uvicorn");
            command.args(["--host", "127.0.0.1", "--port", &address.port().to_string(), "--timeout-keep-alive", "60"]);
            command.args(["--log-level", "critical", "server:app"]);
            command
        })
    }

    fn start(name: &'static str, files: &[(&str, &str)], command: impl FnOnce(SocketAddr) -> Command) -> Server {
        let dir = TempDir::new().unwrap();
        let port = Reserved::new();
        for (file, text) in files {
            let text = text.replace("ADDRESS", &port.address.to_string()).replace("DIR", dir.path().to_str().unwrap());
            std::fs::write(dir.path().join(file), text).unwrap();
        }
        std::fs::write(dir.path().join("seen"), "").unwrap();
        let mut command = command(port.address);
        // Debian keeps daemons where only root looks.
        let path =
            format!("/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/sbin:{}", std::env::var("PATH").unwrap_or_default());
        command.current_dir(dir.path()).env("PATH", path).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}: `make test-differential` installs it"));
        Server { name, address: port.address, child, dir, read: Mutex::new(0), _port: port }
    }

    pub async fn wait_ready(&mut self) {
        until("the server listens", async || {
            assert_eq!(self.child.try_wait().unwrap(), None, "{} has ended", self.name);
            tokio::net::TcpStream::connect(self.address).await.is_ok()
        })
        .await;
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("seen")
    }

    /// What it has served since the last call.
    pub fn seen(&self) -> Vec<String> {
        let all = String::from_utf8_lossy(&std::fs::read(self.file()).unwrap()).into_owned();
        let mut read = self.read.lock().unwrap();
        let new = all.lines().skip(*read).map(str::to_string).collect();
        *read = all.lines().count();
        new
    }

    /// What it has served since the last call, once that ends with a certain request.
    pub async fn seen_to(&self, last: &str) -> Result<Vec<String>, String> {
        let mut seen = Vec::new();
        within(crate::support::PATIENCE, "the server notes what it has served", async || {
            seen.extend(self.seen());
            seen.last().is_some_and(|request| request == last)
        })
        .await;
        Ok(seen)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its own children end with it.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), nix::sys::signal::SIGTERM).ok();
        self.child.wait().ok();
    }
}
