//! What a key may hold: how it is read, and how a schema describes it.

use serde_json::{Value, json};

use super::fields::{Read, describe_section, read_section};
use super::problem::Findings;
use super::suggest;
use super::tree::{Node, quoted};

/// A kind of value.
pub(super) trait Kind {
    /// What it is read to.
    type Out;

    /// With its article, to follow "must be" or "give".
    fn what(&self) -> String;

    /// JSON Schema; always an object.
    fn schema(&self) -> Value;

    /// None once a problem was noted. Call [`take`] for what stands in a file.
    fn read(&self, node: &Node, found: &mut Findings) -> Option<Self::Out>;
}

/// Reads a value of the file.
pub(super) fn take<K: Kind>(kind: &K, node: &Node, found: &mut Findings) -> Option<K::Out> {
    match node {
        Node::Broken => None,
        Node::Null => {
            found.add(format!("has no value: give {}", kind.what()));
            None
        }
        node => kind.read(node, found),
    }
}

fn refuse<T>(what: &str, node: &Node, found: &mut Findings) -> Option<T> {
    found.add(format!("must be {what}, not {}", node.shown()));
    None
}

/// Where text of one form is asked for, a variable may stand: editors must not refuse it.
fn or_variable(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "$ref": "#/$defs/variable" }] })
}

/// Text of a certain form.
pub(super) struct Parsed<T> {
    /// With its article and an example.
    pub(super) what: &'static str,
    /// For the schema; empty: any text.
    pub(super) pattern: &'static str,
    /// The error says what is wrong and what to do; the value's own text need not be in it.
    pub(super) parse: fn(&str) -> Result<T, String>,
}

impl<T> Kind for Parsed<T> {
    type Out = T;

    fn what(&self) -> String {
        self.what.to_owned()
    }

    fn schema(&self) -> Value {
        if self.pattern.is_empty() {
            return json!({ "type": "string" });
        }
        or_variable(json!({ "type": "string", "pattern": self.pattern }))
    }

    fn read(&self, node: &Node, found: &mut Findings) -> Option<T> {
        let (text, parsed) = match node {
            Node::Text(text) | Node::Variable(text) => (text.clone(), (self.parse)(text)),
            // The text is no longer as it was written (`1.10`), so it cannot be taken even where it would do.
            Node::Number(text) => (
                text.clone(),
                (self.parse)(text).and_then(|_| Err("is read as a number: write it in quotes".to_owned())),
            ),
            Node::Bool(value) => (
                value.to_string(),
                (self.parse)(&value.to_string())
                    .and_then(|_| Err(format!("is read as a truth value: write \"{value}\""))),
            ),
            _ => return refuse(self.what, node, found),
        };
        match parsed {
            Ok(value) => Some(value),
            Err(problem) => {
                found.add(format!("{} {problem}", quoted(&text)));
                None
            }
        }
    }
}

/// Text that no message may show.
pub(super) struct Secret;

impl Kind for Secret {
    type Out = String;

    fn what(&self) -> String {
        "text".to_owned()
    }

    fn schema(&self) -> Value {
        json!({ "type": "string" })
    }

    fn read(&self, node: &Node, found: &mut Findings) -> Option<String> {
        match node {
            Node::Text(text) | Node::Variable(text) => Some(text.clone()),
            Node::Number(_) | Node::Bool(_) => {
                found.add("is not read as text: write it in quotes");
                None
            }
            node => refuse("text", node, found),
        }
    }
}

/// One of some words.
pub(super) struct Word<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T> Word<T> {
    fn words(&self) -> Vec<&'static str> {
        self.0.iter().map(|(word, _)| *word).collect()
    }
}

impl<T: Clone> Kind for Word<T> {
    type Out = T;

    fn what(&self) -> String {
        match self.0 {
            [(only, _)] => format!("`{only}`"),
            _ => format!("one of {}", self.words().join(", ")),
        }
    }

    fn schema(&self) -> Value {
        or_variable(json!({ "enum": self.words() }))
    }

    fn read(&self, node: &Node, found: &mut Findings) -> Option<T> {
        let (Node::Text(text) | Node::Variable(text)) = node else {
            return refuse(&self.what(), node, found);
        };
        if let Some((_, value)) = self.0.iter().find(|(word, _)| word == text) {
            return Some(value.clone());
        }
        let near = suggest::did_you_mean(text, self.words());
        found.add(format!("must be {}, not {}{near}", self.what(), quoted(text)));
        None
    }
}

/// `true` or `false`, and what they mean.
pub(super) struct Truth<T> {
    /// For messages.
    pub(super) what: &'static str,
    pub(super) yes: fn() -> T,
    pub(super) no: fn() -> T,
}

impl<T> Kind for Truth<T> {
    type Out = T;

    fn what(&self) -> String {
        self.what.to_owned()
    }

    fn schema(&self) -> Value {
        or_variable(json!({ "type": "boolean" }))
    }

    fn read(&self, node: &Node, found: &mut Findings) -> Option<T> {
        match node {
            Node::Bool(true) => Some((self.yes)()),
            Node::Bool(false) => Some((self.no)()),
            Node::Variable(text) if text == "true" => Some((self.yes)()),
            Node::Variable(text) if text == "false" => Some((self.no)()),
            node => refuse(&self.what(), node, found),
        }
    }
}

/// A whole number between two bounds, both allowed.
pub(super) struct Whole<T> {
    pub(super) min: u32,
    pub(super) max: u32,
    pub(super) to: fn(u32) -> T,
}

/// A `u32`.
pub(super) fn whole(min: u32, max: u32) -> Whole<u32> {
    Whole { min, max, to: |number| number }
}

/// A `usize`.
pub(super) fn count(min: u32, max: u32) -> Whole<usize> {
    Whole { min, max, to: |number| usize::try_from(number).unwrap_or(usize::MAX) }
}

impl<T> Kind for Whole<T> {
    type Out = T;

    fn what(&self) -> String {
        if self.min == self.max {
            return format!("`{}`", self.min);
        }
        format!("a whole number from {} to {}", self.min, self.max)
    }

    fn schema(&self) -> Value {
        or_variable(json!({ "type": "integer", "minimum": self.min, "maximum": self.max }))
    }

    fn read(&self, node: &Node, found: &mut Findings) -> Option<T> {
        let fits = |text: &str| {
            let number = text.parse::<u32>().ok()?;
            (self.min..=self.max).contains(&number).then_some(number)
        };
        match node {
            Node::Number(text) | Node::Variable(text) if fits(text).is_some() => fits(text).map(self.to),
            Node::Text(text) if fits(text).is_some() => {
                found.add(format!("must be a number, not text: write {text} without quotes"));
                None
            }
            node => refuse(&self.what(), node, found),
        }
    }
}

/// `none`, or something.
pub(super) struct OrNone<K>(pub(super) K);

impl<K: Kind> Kind for OrNone<K> {
    type Out = Option<K::Out>;

    fn what(&self) -> String {
        format!("{}, or `none`", self.0.what())
    }

    fn schema(&self) -> Value {
        json!({ "anyOf": [{ "const": "none" }, self.0.schema()] })
    }

    fn read(&self, node: &Node, found: &mut Findings) -> Option<Self::Out> {
        match node {
            Node::Text(text) | Node::Variable(text) if text == "none" => Some(None),
            node => self.0.read(node, found).map(Some),
        }
    }
}

/// A list. A bad item leaves a gap, so that the others keep their places.
pub(super) struct List<K> {
    pub(super) item: K,
    /// What the items are.
    pub(super) of: &'static str,
    /// Whether it may be empty.
    pub(super) empty: bool,
}

impl<K: Kind> Kind for List<K> {
    type Out = Vec<Option<K::Out>>;

    fn what(&self) -> String {
        format!("a list of {}", self.of)
    }

    fn schema(&self) -> Value {
        let mut schema = json!({ "type": "array", "items": self.item.schema() });
        if !self.empty {
            schema["minItems"] = json!(1);
        }
        schema
    }

    fn read(&self, node: &Node, found: &mut Findings) -> Option<Self::Out> {
        let Node::List(items) = node else {
            return refuse(&self.what(), node, found);
        };
        if items.is_empty() && !self.empty {
            found.add("is empty: give at least one");
            return None;
        }
        Some(items.iter().enumerate().map(|(i, item)| found.within(i, |found| take(&self.item, item, found))).collect())
    }
}

/// A list, or its only item without brackets.
pub(super) struct OneOrMany<K>(pub(super) List<K>);

impl<K: Kind> Kind for OneOrMany<K> {
    type Out = Vec<Option<K::Out>>;

    fn what(&self) -> String {
        self.0.what()
    }

    fn schema(&self) -> Value {
        json!({ "oneOf": [self.0.schema(), self.0.item.schema()] })
    }

    fn read(&self, node: &Node, found: &mut Findings) -> Option<Self::Out> {
        match node {
            Node::List(_) => self.0.read(node, found),
            single => Some(vec![Some(self.0.item.read(single, found)?)]),
        }
    }
}

/// A mapping from names of the operator's own to values.
pub(super) struct Named<K> {
    pub(super) value: K,
    /// What the entries are.
    pub(super) of: &'static str,
    /// Whether it may be empty.
    pub(super) empty: bool,
    /// What is wrong with a name.
    pub(super) check: fn(&str) -> Result<(), String>,
}

impl<K: Kind> Kind for Named<K> {
    type Out = Vec<(String, Option<K::Out>)>;

    fn what(&self) -> String {
        format!("a mapping of {}", self.of)
    }

    fn schema(&self) -> Value {
        let mut schema = json!({ "type": "object", "additionalProperties": self.value.schema() });
        if !self.empty {
            schema["minProperties"] = json!(1);
        }
        schema
    }

    fn read(&self, node: &Node, found: &mut Findings) -> Option<Self::Out> {
        let Node::Map(entries) = node else {
            return refuse(&self.what(), node, found);
        };
        if entries.is_empty() && !self.empty {
            found.add("is empty: give at least one");
            return None;
        }
        let read = |(name, node): &(String, Node)| {
            found.within(name.as_str(), |found| {
                if let Err(problem) = (self.check)(name) {
                    found.add(problem);
                }
                (name.clone(), take(&self.value, node, found))
            })
        };
        Some(entries.iter().map(read).collect())
    }
}

/// A mapping with keys of ours.
pub(super) struct Section<T>(pub(super) Read<T>);

impl<T> Kind for Section<T> {
    type Out = T;

    fn what(&self) -> String {
        "a mapping of keys".to_owned()
    }

    fn schema(&self) -> Value {
        describe_section(self.0)
    }

    fn read(&self, node: &Node, found: &mut Findings) -> Option<T> {
        match node {
            Node::Map(map) => read_section(self.0, map, found),
            node => refuse(&self.what(), node, found),
        }
    }
}

/// A short form beside the long one, which is a mapping.
pub(super) struct ShortOr<S, T> {
    pub(super) short: S,
    pub(super) long: Section<T>,
    /// For messages.
    pub(super) what: &'static str,
}

impl<T, S: Kind<Out = T>> Kind for ShortOr<S, T> {
    type Out = T;

    fn what(&self) -> String {
        self.what.to_owned()
    }

    fn schema(&self) -> Value {
        json!({ "oneOf": [self.short.schema(), self.long.schema()] })
    }

    fn read(&self, node: &Node, found: &mut Findings) -> Option<T> {
        match node {
            Node::Map(_) => self.long.read(node, found),
            Node::List(_) => refuse(self.what, node, found),
            node => self.short.read(node, found),
        }
    }
}
