//! A configuration as a tree of values, before anything is known about keys.

use super::problem::Findings;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    /// Nothing: as if the key were not there.
    Null,
    Bool(bool),
    /// As text: which numbers a key takes is the key's own business.
    Number(String),
    Text(String),
    /// Text that was exactly one variable: read as whatever the key takes.
    Variable(String),
    List(Vec<Node>),
    /// In the file's order; no key twice.
    Map(Vec<(String, Node)>),
    /// A problem was noted already; to be passed over in silence.
    Broken,
}

impl Node {
    /// The value as a message shows it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Null | Self::Broken => "nothing".to_owned(),
            Self::Bool(value) => format!("`{value}`"),
            Self::Number(text) => format!("`{text}`"),
            Self::Text(text) | Self::Variable(text) => quoted(text),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a set of keys".to_owned(),
        }
    }
}

impl From<&serde_json::Value> for Node {
    fn from(value: &serde_json::Value) -> Self {
        use serde_json::Value;
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => Self::Number(number.to_string()),
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(items) => Self::List(items.iter().map(Self::from).collect()),
            Value::Object(entries) => {
                Self::Map(entries.iter().map(|(key, value)| (key.clone(), Self::from(value))).collect())
            }
        }
    }
}

/// Text for a message: on one line, and not too long.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut out: String = text
        .chars()
        .take(LONGEST)
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = (!c.is_control()).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    if out.is_empty() {
        return "\"\"".to_owned();
    }
    format!("`{out}`")
}

/// Expands the variables in all text below `node`; keys are left alone.
pub(super) fn expand(node: &mut Node, env: &dyn Fn(&str) -> Option<String>, found: &mut Findings) {
    match node {
        Node::Text(text) => match super::variables::expand(text, env) {
            Ok(expanded) if !expanded.whole => *text = expanded.text,
            Ok(expanded) if expanded.text.is_empty() => *node = Node::Null,
            Ok(expanded) => *node = Node::Variable(expanded.text),
            Err(problems) => {
                for problem in problems {
                    found.add(problem);
                }
                *node = Node::Broken;
            }
        },
        Node::List(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                found.within(i, |found| expand(item, env, found));
            }
        }
        Node::Map(entries) => {
            for (key, value) in entries {
                found.within(key.as_str(), |found| expand(value, env, found));
            }
        }
        Node::Null | Node::Bool(_) | Node::Number(_) | Node::Variable(_) | Node::Broken => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_stay_on_one_line() {
        assert_eq!(quoted("a\nb"), "`a\\nb`");
        assert_eq!(quoted(""), "\"\"");
        assert_eq!(quoted(&"x".repeat(200)).chars().count(), 83);
    }
}
