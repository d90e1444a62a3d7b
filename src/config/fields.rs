//! One definition per key: name, doc, kind and default in one place give the reading, the detection of unknown keys, the
//! JSON Schema and thereby the documentation.
//!
//! A section is a function over [`Fields`] that names its keys one after the other. It runs in two modes: over a mapping of
//! the file, and over nothing, to describe itself. So it may not branch on a value before it has named all its keys.

use serde_json::{Map, Value, json};

use super::kind::{Kind, take};
use super::problem::{Findings, Step};
use super::suggest;
use super::tree::Node;

/// The keys of one mapping.
pub(super) struct Fields<'a> {
    mode: Mode<'a>,
    known: Vec<&'static str>,
    later: &'static [&'static str],
}

enum Mode<'a> {
    Read { map: &'a [(String, Node)], found: &'a mut Findings },
    Describe { properties: Map<String, Value>, required: Vec<&'static str> },
}

/// A section: what reads its keys. None once a problem leaves it without a value; the problem is noted then.
pub(super) type Read<T> = fn(&mut Fields<'_>) -> Option<T>;

/// Reads a mapping, and refuses the keys that `read` did not name.
pub(super) fn read_section<T>(read: Read<T>, map: &[(String, Node)], found: &mut Findings) -> Option<T> {
    let mut fields = Fields { mode: Mode::Read { map, found }, known: Vec::new(), later: &[] };
    let out = read(&mut fields);
    fields.refuse_unknown();
    out
}

/// The JSON Schema of a section.
pub(super) fn describe_section<T>(read: Read<T>) -> Value {
    let mut fields =
        Fields { mode: Mode::Describe { properties: Map::new(), required: Vec::new() }, known: Vec::new(), later: &[] };
    read(&mut fields);
    let Mode::Describe { properties, required } = fields.mode else {
        return Value::Null;
    };
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

impl Fields<'_> {
    /// A key that must be there.
    pub(super) fn required<K: Kind>(&mut self, name: &'static str, doc: &str, kind: K) -> Option<K::Out> {
        if let Mode::Describe { required, .. } = &mut self.mode {
            required.push(name);
        }
        match self.named(name, doc, &kind, None) {
            Got::Absent => {
                self.problem(&[name.into()], format!("is missing: give {}", kind.what()));
                None
            }
            Got::Value(value) => Some(value),
            Got::Bad | Got::Described => None,
        }
    }

    /// A key that must be there, but may be without a value, as `${NAME:-}` is where nothing is set: Some(None) then.
    pub(super) fn required_or_empty<K: Kind>(
        &mut self,
        name: &'static str,
        doc: &str,
        kind: K,
    ) -> Option<Option<K::Out>> {
        let empty = matches!(&self.mode, Mode::Read { map, .. } if map.iter().any(|(key, _)| key == name));
        if empty && !self.given(name) {
            self.known.push(name);
            return Some(None);
        }
        self.required(name, doc, kind).map(Some)
    }

    /// A key that may be left out.
    pub(super) fn optional<K: Kind>(&mut self, name: &'static str, doc: &str, kind: K) -> Option<K::Out> {
        match self.named(name, doc, &kind, None) {
            Got::Value(value) => Some(value),
            Got::Absent | Got::Bad | Got::Described => None,
        }
    }

    /// A key with a default, which also stands in for a bad value, so that the walk goes on.
    pub(super) fn default<K: Kind>(
        &mut self,
        name: &'static str,
        doc: &str,
        kind: K,
        default: impl Into<Value>,
    ) -> Option<K::Out> {
        let default = default.into();
        match self.named(name, doc, &kind, Some(&default)) {
            Got::Value(value) => Some(value),
            Got::Absent | Got::Bad => {
                let Mode::Read { found, .. } = &mut self.mode else {
                    return None;
                };
                found.within(name, |found| kind.read(&Node::from(&default), found))
            }
            Got::Described => None,
        }
    }

    /// A mapping whose keys all may be left out, and so the whole of it. Without its keys stands in for a bad one.
    pub(super) fn section<T>(&mut self, name: &'static str, doc: &str, read: Read<T>) -> Option<T> {
        match self.named(name, doc, &super::kind::Section(read), None) {
            Got::Value(value) => Some(value),
            Got::Absent | Got::Bad => {
                let Mode::Read { found, .. } = &mut self.mode else {
                    return None;
                };
                found.within(name, |found| read_section(read, &[], found))
            }
            Got::Described => None,
        }
    }

    /// Keys of coming versions: refused with words that say so.
    pub(super) fn later(&mut self, names: &'static [&'static str]) {
        self.later = names;
    }

    /// Whether the file gives the key (a bad value included).
    pub(super) fn given(&self, name: &str) -> bool {
        self.node(name).is_some()
    }

    /// Notes a problem with something in this mapping; without steps, with the mapping itself.
    pub(super) fn problem(&mut self, steps: &[Step], text: impl Into<String>) {
        if let Mode::Read { found, .. } = &mut self.mode {
            found.add_at(steps, text);
        }
    }

    /// The mapping's own key, where it is a named thing such as a pool.
    pub(super) fn own_name(&self) -> String {
        match &self.mode {
            Mode::Read { found, .. } => match found.last() {
                Some(Step::Key(key)) => key.clone(),
                Some(Step::Index(i)) => (i + 1).to_string(),
                None => String::new(),
            },
            Mode::Describe { .. } => String::new(),
        }
    }

    fn node(&self, name: &str) -> Option<&Node> {
        match &self.mode {
            Mode::Read { map, .. } => get(map, name),
            Mode::Describe { .. } => None,
        }
    }

    fn named<K: Kind>(&mut self, name: &'static str, doc: &str, kind: &K, default: Option<&Value>) -> Got<K::Out> {
        self.known.push(name);
        match &mut self.mode {
            Mode::Read { map, found } => match get(map, name) {
                None => Got::Absent,
                Some(node) if let Some(instead) = turned_off(name, node) => {
                    found.within(name, |found| found.add(format!("cannot be {}: {instead}", node.shown())));
                    Got::Bad
                }
                Some(node) => match found.within(name, |found| take(kind, node, found)) {
                    Some(value) => Got::Value(value),
                    None => Got::Bad,
                },
            },
            Mode::Describe { properties, .. } => {
                let mut schema = kind.schema();
                schema["description"] = json!(doc);
                if let Some(default) = default {
                    schema["default"] = default.clone();
                }
                properties.insert(name.to_owned(), schema);
                Got::Described
            }
        }
    }

    fn refuse_unknown(self) {
        let Mode::Read { map, found } = self.mode else {
            return;
        };
        for (key, _) in map {
            if self.known.contains(&key.as_str()) {
                continue;
            }
            let text = if self.later.contains(&key.as_str()) {
                "is not supported by this version: remove it".to_owned()
            } else {
                match suggest::nearest(key, self.known.iter().copied()) {
                    Some(near) => format!("is not a known key (did you mean `{near}`?)"),
                    None => format!("is not a known key: remove it, or use one of {}", self.known.join(", ")),
                }
            };
            found.within(key.as_str(), |found| found.add(text));
        }
    }
}

/// What to write instead, where somebody wants to be without what cannot be turned off by one word.
fn turned_off(name: &str, node: &Node) -> Option<&'static str> {
    let off = match node {
        Node::Bool(on) => !on,
        Node::Text(word) => matches!(word.to_ascii_lowercase().as_str(), "none" | "off" | "no" | "disabled" | "never"),
        _ => false,
    };
    Some(match name {
        _ if !off => return None,
        "retry" => "`retry: { attempts: 1 }` sends no request twice",
        "queue" => "`queue: { max: 0 }` lets nobody wait",
        "health" => "leave it out, and a connection must come about; unchecked servers get no requests",
        "slow_start" => "`slow_start: 0s` gives a server its whole share at once",
        "access_log" | "admin" | "client_ca" | "headers" | "proxy_protocol" | "rate_limit" | "redirect" | "redis"
        | "rewrite" => "leave the key out to be without",
        _ => return None,
    })
}

enum Got<T> {
    Value(T),
    /// Not in the file, or without a value.
    Absent,
    /// There, but a problem was noted.
    Bad,
    /// Nothing is being read.
    Described,
}

fn get<'m>(map: &'m [(String, Node)], name: &str) -> Option<&'m Node> {
    map.iter().find(|(key, node)| key == name && *node != Node::Null).map(|(_, node)| node)
}
