//! A case, and the stage it is played on.
//!
//! What the client must see is written like `200 open; body=ok; x-a: 1; !x-b`: the statuses of all answers, interim
//! ones too; what becomes of the connection: it stays `open`, comes to its `close`, perhaps with an
//! answer `cut` off, or is `left` by the client; and about the last answer: its body, a header
//! and its value (all values, joined by `, `; `*` is any), a header that must not be there.
//!
//! What the server must see is written like `POST /a; body=ok; x-a: 1; !x-b`, several requests with ` || ` between
//! them, and the empty string where it must see none. `admin> GET /` is a request that another pool must get.
//!
//! After each case one more request is sent, over the same connection if that is open. It must arrive as it is and as
//! the only one: so a case that leaves either connection out of step fails.

use std::collections::VecDeque;

use crate::client::{Answer, Client};
use crate::origin::{Origin, Script, Seen};
use crate::support::{Fairlead, config};

/// Bytes in, and what must come of them.
pub struct Case {
    pub name: &'static str,
    /// The listener that the client connects to.
    pub listener: &'static str,
    /// What the client sends; before each but the first it waits for an interim answer.
    pub sends: Vec<Vec<u8>>,
    /// The client closes its sending half afterwards.
    pub finish: bool,
    pub script: Script,
    pub client: String,
    pub origin: String,
}

/// A case on the listener with the defaults.
pub fn case(name: &'static str, send: impl AsRef<[u8]>, client: &str, origin: &str) -> Case {
    Case {
        name,
        listener: "plain",
        sends: vec![send.as_ref().to_vec()],
        finish: false,
        script: Script::default(),
        client: client.to_string(),
        origin: origin.to_string(),
    }
}

/// An ordinary request that is answered so.
pub fn answer(name: &'static str, reply: impl AsRef<[u8]>, client: &str) -> Case {
    case(name, "GET /page HTTP/1.1\r\nHost: test\r\n\r\n", client, "GET /page").reply(reply)
}

impl Case {
    /// On another listener.
    pub fn on(mut self, listener: &'static str) -> Self {
        self.listener = listener;
        self
    }

    /// Sends more once an interim answer is there.
    pub fn then(mut self, send: impl AsRef<[u8]>) -> Self {
        self.sends.push(send.as_ref().to_vec());
        self
    }

    /// The client ends its half.
    pub fn finish(mut self) -> Self {
        self.finish = true;
        self
    }

    /// What the server answers, in place of `200` and `ok`.
    pub fn reply(mut self, reply: impl AsRef<[u8]>) -> Self {
        self.script.reply = Some(reply.as_ref().to_vec());
        self
    }

    /// The server closes after its answer.
    pub fn hang_up(mut self) -> Self {
        self.script.hang_up = true;
        self
    }

    /// The server answers before it reads a body.
    pub fn early(mut self) -> Self {
        self.script.early = true;
        self
    }
}

/// A proxy with its listeners, and the servers behind it.
pub struct Stage {
    fairlead: Fairlead,
    main: Origin,
    admin: Origin,
}

const PROBE: &str = "GET /probe HTTP/1.1\r\nHost: test\r\n\r\n";

impl Stage {
    pub async fn start() -> Stage {
        let (main, admin) = (Origin::start(), Origin::start());
        let yaml = format!(
            r#"
listeners:
  - {{ name: plain, address: "127.0.0.1:0" }}
  - {{ name: small, address: "127.0.0.1:0", limits: {{ header_bytes: 1KiB, headers: 10, body: 10B, uri_bytes: 100B }}, server_header: mine/1 }}
  - {{ name: paths, address: "127.0.0.1:0", server_header: remove }}
routes:
  - {{ name: all, match: {{ }}, pool: main }}
  - {{ name: admin, match: {{ listener: paths, path_prefix: /admin }}, pool: admin }}
pools:
  main: {{ servers: ["{}"], health: {{ interval: 1h, timeout: 5s, rise: 1 }} }}
  admin: {{ servers: ["{}"], health: {{ interval: 1h, timeout: 5s, rise: 1 }} }}
"#,
            main.address, admin.address
        );
        Stage { fairlead: Fairlead::start(&config(&yaml)).await, main, admin }
    }

    /// Plays a case; `Err` says what was not as it must be.
    pub async fn play(&self, case: &Case) -> Result<(), String> {
        for origin in [&self.main, &self.admin] {
            origin.seen();
            origin.prepare(case.script.clone());
        }
        let address = self.fairlead.listener(case.listener);
        let mut client = Client::connect(address, case.sends[0].starts_with(b"HEAD ")).await;
        let (wanted, details) = case.client.split_once(';').unwrap_or((&case.client, ""));
        let mut wanted: VecDeque<&str> = wanted.split_whitespace().collect();
        let end = wanted.pop_back().unwrap();

        let mut last = None;
        let mut got = Vec::new();
        for (i, send) in case.sends.iter().enumerate() {
            if i > 0 {
                let interim = client.answer().await.map_err(|e| format!("no interim answer: {e}"))?;
                got.push(interim.status.to_string());
            }
            client.send(send).await;
        }
        if case.finish {
            client.finish().await;
        }
        while got.len() < wanted.len() {
            match client.answer().await {
                Ok(answer) => {
                    got.push(answer.status.to_string());
                    last = Some(answer);
                }
                Err(e) => return Err(format!("the client got {got:?}, then {e}; it must get {:?}", case.client)),
            }
        }
        if wanted != got {
            return Err(format!("the client got {got:?}, it must get {:?}; {last:?}", case.client));
        }
        check_answer(last.as_ref(), details)?;

        match end {
            "open" => {}
            "close" => client.closed().await.map_err(|e| format!("after {got:?}: {e}, in place of the end"))?,
            "cut" => match client.answer().await {
                Err(e) if e.starts_with("the end") => {}
                other => return Err(format!("after {got:?}: {other:?}, in place of an answer cut off")),
            },
            "left" => {}
            other => panic!("{}: none of open, close, cut, left: {other}", case.name),
        }
        if end != "open" {
            client = Client::connect(self.fairlead.listener("plain"), false).await;
        }
        // The probe also shows that nothing else is on its way.
        for origin in [&self.main, &self.admin] {
            origin.prepare(Script::default());
        }
        client.is_head = false;
        client.send(PROBE.as_bytes()).await;
        let probed = client.answer().await.map_err(|e| format!("the next request got {e}"))?;
        if (probed.status, probed.body.as_slice()) != (200, b"ok") {
            return Err(format!("the next request got {probed:?}"));
        }
        let mut seen: Vec<(&str, Seen)> = Vec::new();
        seen.extend(self.main.seen().into_iter().map(|request| ("", request)));
        seen.extend(self.admin.seen().into_iter().map(|request| ("admin> ", request)));
        let probe = seen.iter().position(|(_, request)| request.start == "GET /probe HTTP/1.1");
        let Some(probe) = probe else { return Err(format!("the next request did not arrive: {seen:?}")) };
        seen.remove(probe);
        check_requests(&seen, &case.origin)
    }
}

fn check_answer(answer: Option<&Answer>, details: &str) -> Result<(), String> {
    let Some(answer) = answer else { return Ok(()) };
    let ours = answer.all("x-request-id").is_some() && answer.all("server").is_none_or(|name| name != "Pingora");
    if answer.status >= 200 && answer.status < 600 && !ours {
        return Err(format!("not ours: {answer:?}"));
    }
    for detail in details.split(';').map(str::trim).filter(|detail| !detail.is_empty()) {
        check_detail(detail, |name| answer.all(name), &answer.body)
            .map_err(|e| format!("the client: {e}: {answer:?}"))?;
    }
    Ok(())
}

fn check_requests(seen: &[(&str, Seen)], wanted: &str) -> Result<(), String> {
    let wanted: Vec<&str> = if wanted.is_empty() { Vec::new() } else { wanted.split(" || ").collect() };
    if seen.len() != wanted.len() {
        return Err(format!("the server saw {seen:?}, it must see {wanted:?}"));
    }
    for ((pool, request), wanted) in seen.iter().zip(wanted) {
        let mut details = wanted.split("; ");
        let start = format!("{} HTTP/1.1", details.next().unwrap());
        if format!("{pool}{}", request.start) != start {
            return Err(format!("the server saw {pool}{}, it must see {start}", request.start));
        }
        for detail in details {
            check_detail(detail, |name| request.all(name), &request.body)
                .map_err(|e| format!("the server: {e}: {request:?}"))?;
        }
    }
    Ok(())
}

fn check_detail(detail: &str, header: impl Fn(&str) -> Option<String>, body: &[u8]) -> Result<(), String> {
    let fine = if let Some(wanted) = detail.strip_prefix("body=") {
        body == wanted.as_bytes()
    } else if let Some(name) = detail.strip_prefix('!') {
        header(name).is_none()
    } else {
        let (name, wanted) = detail.split_once(": ").unwrap_or_else(|| panic!("not a detail: {detail}"));
        header(name).is_some_and(|value| wanted == "*" || value == wanted)
    };
    if fine { Ok(()) } else { Err(format!("must have {detail}")) }
}

/// All values of a header, joined.
pub fn all(headers: &[(String, String)], name: &str) -> Option<String> {
    let values: Vec<_> =
        headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect();
    (!values.is_empty()).then(|| values.join(", "))
}
