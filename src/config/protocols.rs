//! What clients of a listener may speak.

use super::fields::Fields;
use super::kind::{List, Word};

/// What clients may speak. Never none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protocols {
    /// HTTP/1.1 and 1.0.
    pub h1: bool,
    /// HTTP/2, agreed on in the handshake of TLS.
    pub h2: bool,
    /// HTTP/2 without TLS, by prior knowledge.
    pub h2c: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    H1,
    H2,
    H2c,
}

const WORDS: &[(&str, Protocol)] = &[("h1", Protocol::H1), ("h2", Protocol::H2), ("h2c", Protocol::H2c)];

/// Reads the key `protocols` of a listener, which depends on whether it has `tls`.
pub(super) fn protocols(f: &mut Fields<'_>) -> Protocols {
    let tls = f.given("tls");
    let list = List { item: Word(WORDS), of: "protocols", empty: false };
    let doc = "What clients may speak: h1, h2 (with `tls`), h2c (without). Default: with `tls` [h1, h2], else [h1].";
    let Some(listed) = f.optional("protocols", doc, list) else {
        return Protocols { h1: true, h2: tls, h2c: false };
    };
    let mut protocols = Protocols::default();
    for (place, protocol) in listed.into_iter().enumerate() {
        let (seen, wrong) = match protocol {
            None => continue,
            Some(Protocol::H1) => (&mut protocols.h1, None),
            Some(Protocol::H2) => {
                let wrong = "`h2` is agreed on in the handshake of TLS, and this listener has no `tls`: for HTTP/2 without TLS write `h2c`";
                (&mut protocols.h2, (!tls).then_some(wrong))
            }
            Some(Protocol::H2c) => {
                let wrong = "`h2c` is HTTP/2 without TLS, and this listener has `tls`: write `h2`";
                (&mut protocols.h2c, tls.then_some(wrong))
            }
        };
        let twice = std::mem::replace(seen, true);
        if let Some(text) = wrong.or(twice.then_some("is listed twice: remove one")) {
            f.problem(&["protocols".into(), place.into()], text);
        }
    }
    protocols
}
