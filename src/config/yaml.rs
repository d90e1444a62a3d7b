//! The only place that knows YAML: text to a tree of values, and a path in the tree back to its line.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};

use super::problem::Problems;
use super::tree::Node;

/// Reads `text`; anchors, aliases and merge keys (`<<`) are resolved.
pub(super) fn tree(text: &str, file: &str) -> Result<Node, Problems> {
    let ours = RefCell::new(None);
    let parsed = Build { ours: &ours }.deserialize(serde_yaml::Deserializer::from_str(text));
    parsed.map_err(|error| {
        let line = error.location().map(|place| place.line());
        let text = ours.take().unwrap_or_else(|| explain(&error.to_string(), text, line));
        Problems::one(file, line, text)
    })
}

/// A syntax error in our words, without the places that our own line number already tells.
fn explain(message: &str, text: &str, line: Option<usize>) -> String {
    let mut message = message.to_owned();
    if message.contains("more than one document") {
        return "holds more than one YAML document: remove what follows the second `---`".to_owned();
    }
    if let Some(start) = message.find(" at line ") {
        let rest = &message[start + " at line ".len()..];
        let end = rest.find(',').unwrap_or(rest.len());
        message.replace_range(start..start + " at line ".len() + end, "");
    }
    let mut out = format!("is not valid YAML: {message}");
    let blamed = line.and_then(|line| text.lines().nth(line.saturating_sub(1)));
    if blamed.is_some_and(|blamed| blamed.contains("${")) {
        out.push_str(" (inside `{ }` and `[ ]`, write \"${VAR}\" in quotes)");
    } else if blamed.is_some_and(|blamed| blamed.trim_start_matches(' ').starts_with('\t')) {
        out.push_str(" (indent with spaces, not with tabs)");
    }
    out
}

/// Builds a [`Node`]. An error of our own is left in `ours`; the error given to the parser only carries the place.
#[derive(Clone, Copy)]
struct Build<'a> {
    ours: &'a RefCell<Option<String>>,
}

impl Build<'_> {
    fn refuse<E: Error>(&self, text: String) -> E {
        *self.ours.borrow_mut() = Some(text);
        E::custom("refused")
    }
}

impl<'de> DeserializeSeed<'de> for Build<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Node, D::Error> {
        from.deserialize_any(self)
    }
}

/// Numbers keep only their text: what kind of number a key takes is the key's own business.
macro_rules! numbers {
    ($($method:ident: $type:ty),*) => {
        $(fn $method<E: Error>(self, value: $type) -> Result<Node, E> {
            Ok(Node::Number(value.to_string()))
        })*
    };
}

impl<'de> Visitor<'de> for Build<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    numbers!(visit_u64: u64, visit_i64: i64, visit_u128: u128, visit_i128: i128, visit_f64: f64);

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Node, A::Error> {
        Err(self.refuse("has a YAML tag (`!…`), which means nothing here: remove it".to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map: Vec<(String, Node)> = Vec::new();
        let mut merged = None;
        while let Some(key) = entries.next_key_seed(Key { build: self, seen: &map })? {
            let value = entries.next_value_seed(self)?;
            if key == "<<" {
                merged = Some(value);
            } else {
                map.push((key, value));
            }
        }
        if let Some(value) = merged {
            merge(&mut map, value).map_err(|text| self.refuse(text))?;
        }
        Ok(Node::Map(map))
    }
}

/// Adds what `<<` brings: the mapping's own keys win, then the first of several.
fn merge(map: &mut Vec<(String, Node)>, value: Node) -> Result<(), String> {
    match value {
        Node::Map(entries) => {
            for (key, value) in entries {
                if !map.iter().any(|(own, _)| *own == key) {
                    map.push((key, value));
                }
            }
            Ok(())
        }
        Node::List(values) => values.into_iter().try_for_each(|value| match value {
            Node::Map(_) => merge(map, value),
            _ => Err(merge_refused()),
        }),
        _ => Err(merge_refused()),
    }
}

fn merge_refused() -> String {
    "`<<` merges mappings only: give it `*name` of an anchored mapping, or a list of such".to_owned()
}

/// A key: text, and not there before.
struct Key<'a> {
    build: Build<'a>,
    seen: &'a [(String, Node)],
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<String, D::Error> {
        from.deserialize_any(self)
    }
}

macro_rules! no_keys {
    ($($method:ident($($value:ident: $type:ty)?)),*) => {
        $(fn $method<E: Error>(self, $($value: $type)?) -> Result<String, E> {
            $(let _ = $value;)?
            Err(self.build.refuse("a key must be text: write it in quotes".to_owned()))
        })*
    };
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        if self.seen.iter().any(|(seen, _)| seen == key) {
            return Err(self.build.refuse(format!("the key {key:?} stands here twice: remove one of them")));
        }
        Ok(key.to_owned())
    }

    no_keys!(
        visit_u64(value: u64), visit_i64(value: i64), visit_u128(value: u128), visit_i128(value: i128),
        visit_f64(value: f64), visit_bool(value: bool), visit_unit(), visit_none()
    );

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<String, A::Error> {
        self.visit_unit()
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<String, A::Error> {
        self.visit_unit()
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<String, A::Error> {
        self.visit_unit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        tree(text, "f").unwrap_err().to_string()
    }

    #[test]
    fn merge_keys_give_way_to_own_keys() {
        let merged = tree("base: &b { a: 1, b: 2 }\nother: &o { b: 3, c: 4 }\nthis:\n  <<: [*b, *o]\n  a: 9\n", "f");
        let Node::Map(root) = merged.unwrap() else { panic!("a mapping") };
        let number = |n: &str| Node::Number(n.to_owned());
        assert_eq!(
            root[2].1,
            Node::Map(vec![
                ("a".to_owned(), number("9")),
                ("b".to_owned(), number("2")),
                ("c".to_owned(), number("4")),
            ])
        );
    }

    #[test]
    fn refusals_name_the_line() {
        assert_eq!(refused("a: 1\nb:\n  c: 1\n  c: 2\n"), "f:4: the key \"c\" stands here twice: remove one of them");
        assert_eq!(refused("a: 1\n2: x\n"), "f:2: a key must be text: write it in quotes");
        assert_eq!(refused("a: 1\nb: !secret x\n"), "f:2: has a YAML tag (`!…`), which means nothing here: remove it");
        assert!(refused("a: 1\nb: { <<: 3 }\n").starts_with("f:2: `<<` merges mappings only"));
        assert!(refused("a: [1, 2\nb: 3\n").starts_with("f:2: is not valid YAML: "));
        assert!(refused("a: { b: ${C} }\n").contains("in quotes"));
        assert!(refused("a:\n\tb: 1\n").contains("not with tabs"));
        assert!(refused("a: 1\n---\nb: 1\n").contains("more than one YAML document"));
    }

    #[test]
    fn bombs_are_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let items = vec![format!("*a{}", i - 1); 10].join(", ");
            text.push_str(&format!("a{i}: &a{i} [{items}]\n"));
        }
        assert!(refused(&text).contains("is not valid YAML"));
        assert!(refused(&"[".repeat(5000)).contains("is not valid YAML"));
    }
}
