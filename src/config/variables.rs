//! `${VAR}` and `${VAR:-default}` in a value.

/// A text with its variables filled in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    pub(super) text: String,
    /// The text was one variable and nothing else.
    pub(super) whole: bool,
}

/// Fills in variables; `$${` stands for `${`. As in a shell, the default also takes the place of an empty value.
pub(super) fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Expanded, Vec<String>> {
    let mut out = String::with_capacity(text.len());
    let mut problems = Vec::new();
    let mut variables = 0;
    let mut literal = false;
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let before = &rest[..start];
        let after = &rest[start + 2..];
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            literal = true;
            rest = after;
            continue;
        }
        literal |= !before.is_empty();
        out.push_str(before);
        let Some(end) = after.find('}') else {
            let shown = super::tree::quoted(&format!("${{{after}"));
            problems.push(format!("{shown} has no end: close it with `}}`, or write `$${{` for a plain `${{`"));
            rest = "";
            break;
        };
        variables += 1;
        match value(&after[..end], env) {
            Ok(value) => out.push_str(&value),
            Err(problem) => problems.push(problem),
        }
        rest = &after[end + 1..];
    }
    literal |= !rest.is_empty();
    out.push_str(rest);
    if problems.is_empty() { Ok(Expanded { text: out, whole: variables == 1 && !literal }) } else { Err(problems) }
}

/// What stands between `${` and `}`.
fn value(inside: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    if !name.starts_with(letter) || !name.chars().all(|c| letter(c) || c.is_ascii_digit()) {
        return Err(format!(
            "{} is not the name of a variable: write ${{NAME}} or ${{NAME:-DEFAULT}}",
            super::tree::quoted(name)
        ));
    }
    if default.is_some_and(|default| default.contains("${")) {
        return Err(format!(
            "the default of ${{{name}}} holds another variable, which is not supported: give a plain default"
        ));
    }
    match (env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => {
            Err(format!("the variable {name} is not set: set it, or give a default as in ${{{name}:-DEFAULT}}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("alpha".to_owned()),
            "EMPTY" => Some(String::new()),
            "N" => Some("4".to_owned()),
            "TRICK" => Some("${A}".to_owned()),
            _ => None,
        }
    }

    fn ok(text: &str) -> (String, bool) {
        let expanded = expand(text, &env).unwrap();
        (expanded.text, expanded.whole)
    }

    #[test]
    fn values_defaults_and_literals() {
        assert_eq!(ok("plain $A {x}"), ("plain $A {x}".to_owned(), false));
        assert_eq!(ok("${A}"), ("alpha".to_owned(), true));
        assert_eq!(ok("x-${A}"), ("x-alpha".to_owned(), false));
        assert_eq!(ok("${A}${N}"), ("alpha4".to_owned(), false));
        assert_eq!(ok("${GONE:-7}"), ("7".to_owned(), true));
        assert_eq!(ok("${GONE:-}"), (String::new(), true));
        assert_eq!(ok("${EMPTY:-7}"), ("7".to_owned(), true));
        assert_eq!(ok("${EMPTY}"), (String::new(), true));
        assert_eq!(ok("$${A}"), ("${A}".to_owned(), false));
        assert_eq!(ok("$${A} ${A}"), ("${A} alpha".to_owned(), false));
        // A value is never expanded again.
        assert_eq!(ok("${TRICK}"), ("${A}".to_owned(), true));
    }

    #[test]
    fn every_problem_in_a_text_is_told() {
        let problems = expand("${GONE} ${1x} ${A:-${N}} ${A", &env).unwrap_err();
        assert_eq!(problems.len(), 4);
        assert!(problems[0].starts_with("the variable GONE is not set"));
        assert!(problems[0].contains("${GONE:-DEFAULT}"));
        assert!(problems[1].starts_with("`1x` is not the name"));
        assert!(problems[2].contains("another variable"));
        assert!(problems[3].contains("has no end"));
    }
}
