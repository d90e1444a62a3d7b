//! What is wrong with a configuration, where, and what to do about it.

use std::fmt;

/// How many problems one run shows: a file with more is not a configuration, and each line number costs a look at the text.
const SHOWN: usize = 100;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was given.
    pub file: String,
    /// Counted from 1; none where no place in the text is to blame.
    pub line: Option<usize>,
    /// Such as `pools.app.servers[0].weight`; empty for the file as a whole.
    pub key: String,
    /// What is wrong and what to do.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.text)
    }
}

/// All that is wrong with a configuration, by line; never empty.
///
/// Shown with one line per problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    /// A single problem with the file as a whole.
    pub(super) fn one(file: &str, line: Option<usize>, text: String) -> Self {
        Self { list: vec![Problem { file: file.to_owned(), line, key: String::new(), text: on_one_line(text) }] }
    }

    /// Each problem, by line.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.list.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl IntoIterator for Problems {
    type Item = Problem;
    type IntoIter = std::vec::IntoIter<Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

/// One step from a value to a value in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// What is told may hold text of the file, and that anything.
fn on_one_line(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

/// A path as operators write it.
fn shown_path(path: &[Step]) -> String {
    let mut out = String::new();
    for step in path {
        match step {
            Step::Index(i) => out.push_str(&format!("[{i}]")),
            Step::Key(key) => {
                if !out.is_empty() {
                    out.push('.');
                }
                let plain = |c: char| c.is_alphanumeric() || "_-".contains(c);
                if !key.is_empty() && key.chars().all(plain) {
                    out.push_str(key);
                } else {
                    out.push_str(&format!("{key:?}"));
                }
            }
        }
    }
    out
}

/// Collects problems while a tree is walked, and knows where the walk is.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    path: Vec<Step>,
    list: Vec<(Vec<Step>, String)>,
}

impl Findings {
    /// Runs `walk` one step further in.
    pub(crate) fn within<R>(&mut self, step: impl Into<Step>, walk: impl FnOnce(&mut Self) -> R) -> R {
        self.path.push(step.into());
        let out = walk(self);
        self.path.pop();
        out
    }

    /// Notes a problem with the value where the walk is.
    pub(crate) fn add(&mut self, text: impl Into<String>) {
        self.list.push((self.path.clone(), text.into()));
    }

    /// Notes a problem some steps further in.
    pub(crate) fn add_at(&mut self, steps: &[Step], text: impl Into<String>) {
        let path = [&self.path, steps].concat();
        self.list.push((path, text.into()));
    }

    /// The last step that led here.
    pub(super) fn last(&self) -> Option<&Step> {
        self.path.last()
    }

    /// Whether nothing was found.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The problems by line; `line_of` finds the line of a path.
    pub(crate) fn into_problems(self, file: &str, line_of: impl Fn(&[Step]) -> Option<usize>) -> Problems {
        let more = self.list.len().saturating_sub(SHOWN);
        let mut list: Vec<Problem> = self
            .list
            .into_iter()
            .take(SHOWN)
            .map(|(path, text)| Problem {
                file: file.to_owned(),
                line: line_of(&path),
                key: shown_path(&path),
                text: on_one_line(text),
            })
            .collect();
        list.sort_by_key(|problem| problem.line);
        if more > 0 {
            list.push(Problem {
                file: file.to_owned(),
                line: None,
                key: String::new(),
                text: format!("{more} more problems: mend these first"),
            });
        }
        Problems { list }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_like_code() {
        let path = ["pools".into(), "a.b".into(), "servers".into(), 3.into(), "weight".into()];
        assert_eq!(shown_path(&path), "pools.\"a.b\".servers[3].weight");
        assert_eq!(shown_path(&[]), "");
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut found = Findings::default();
        for i in 0..250 {
            found.within(i, |found| found.add("is bad"));
        }
        let problems = found.into_problems("f", |_| Some(1));
        assert_eq!(problems.iter().len(), SHOWN + 1);
        assert!(problems.to_string().ends_with("f: 150 more problems: mend these first"));
    }
}
