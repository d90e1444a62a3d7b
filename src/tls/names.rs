//! Which certificates serve a client that asks for a name. Pure.

use std::collections::HashMap;

/// Certificates by name. Several serve one name when their keys are of different kinds: the client's own choice then.
#[derive(Debug, Default)]
pub struct Names {
    exact: HashMap<String, Vec<usize>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Vec<usize>>,
    default: Vec<usize>,
}

impl Names {
    /// From each certificate's names and the kind of its key, in the file's order. Of two for one name and kind the first
    /// serves it; the very first serves whoever asks for another name or none.
    pub fn new<K: PartialEq>(certificates: &[(&[String], K)]) -> Self {
        let mut found = Names::default();
        let kind = |place: usize| certificates.get(place).map(|(_, kind)| kind);
        for (place, (names, _)) in certificates.iter().enumerate() {
            for name in *names {
                let list = match name.strip_prefix("*.") {
                    Some(suffix) => found.wildcard.entry(suffix.to_owned()).or_default(),
                    None => found.exact.entry(name.clone()).or_default(),
                };
                if list.iter().all(|other| kind(*other) != kind(place)) {
                    list.push(place);
                }
            }
        }
        let first = certificates.first().and_then(|(names, _)| names.first());
        found.default = match first {
            Some(name) => found.named(name).to_vec(),
            None => vec![0],
        };
        found
    }

    /// The certificates for a name, by place: exact before wildcard, and else the default.
    pub fn find(&self, asked: Option<&str>) -> &[usize] {
        let Some(asked) = asked else { return &self.default };
        let asked = asked.strip_suffix('.').unwrap_or(asked);
        if asked.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.find(Some(&asked.to_ascii_lowercase()));
        }
        let exact = self.exact.get(asked);
        let wildcard = || self.wildcard.get(asked.split_once('.')?.1);
        exact.or_else(wildcard).unwrap_or(&self.default)
    }

    /// Those that serve whoever asks for another name or none.
    pub fn of_others(&self) -> &[usize] {
        &self.default
    }

    fn named(&self, name: &str) -> &[usize] {
        let list = match name.strip_prefix("*.") {
            Some(suffix) => self.wildcard.get(suffix),
            None => self.exact.get(name),
        };
        list.map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(certificates: &[(&[&str], char)]) -> Names {
        let owned: Vec<(Vec<String>, char)> = certificates
            .iter()
            .map(|(names, kind)| (names.iter().map(|name| (*name).to_owned()).collect(), *kind))
            .collect();
        Names::new(&owned.iter().map(|(names, kind)| (names.as_slice(), *kind)).collect::<Vec<_>>())
    }

    #[test]
    fn exact_before_wildcard_before_the_first() {
        let names =
            names(&[(&["first.test"], 'e'), (&["*.example.com", "example.com"], 'e'), (&["www.example.com"], 'e')]);
        for (asked, place) in [
            ("first.test", 0),
            ("www.example.com", 2),
            ("WWW.Example.COM.", 2),
            ("a.example.com", 1),
            ("example.com", 1),
            ("a.b.example.com", 0),
            ("com", 0),
            ("", 0),
            (".", 0),
            ("other.test", 0),
        ] {
            assert_eq!(names.find(Some(asked)), [place], "{asked}");
        }
        assert_eq!(names.find(None), [0]);
    }

    #[test]
    fn keys_of_two_kinds_serve_one_name_and_of_one_kind_the_first() {
        let names = names(&[(&["a.test"], 'e'), (&["a.test", "b.test"], 'r'), (&["a.test", "b.test"], 'e')]);
        assert_eq!(names.find(Some("a.test")), [0, 1]);
        assert_eq!(names.find(Some("b.test")), [1, 2]);
        assert_eq!(names.find(None), [0, 1], "the default goes with its twin");
    }

    #[test]
    fn a_certificate_without_names_can_be_the_default() {
        assert_eq!(names(&[(&[], 'e'), (&["a.test"], 'e')]).find(Some("x")), [0]);
    }
}
