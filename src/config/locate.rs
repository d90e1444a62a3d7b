//! Finds the line of a value by its path.
//!
//! The parser's values carry no places, but its errors do: so the text is read once more along the path, and an error is
//! raised at the key that was looked for. That costs a pass over the text, and happens only when there is a problem to show.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::problem::Step;

/// The line (from 1) of the key or list item at `path`, else of the nearest thing around it.
pub(super) fn line_of(text: &str, path: &[Step]) -> Option<usize> {
    (0..=path.len()).rev().find_map(|n| exact(text, &path[..n], false).or_else(|| exact(text, &path[..n], true)))
}

/// `merged`: look also into what `<<` brings.
fn exact(text: &str, path: &[Step], merged: bool) -> Option<usize> {
    let found = Cell::new(false);
    let seek = Seek { path, merged, found: &found };
    let error = seek.deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
    found.get().then(|| error.location())?.map(|place| place.line())
}

#[derive(Clone, Copy)]
struct Seek<'a> {
    path: &'a [Step],
    merged: bool,
    found: &'a Cell<bool>,
}

impl Seek<'_> {
    fn here<E: Error>(&self) -> E {
        self.found.set(true);
        E::custom("found")
    }

    fn leaf<E: Error>(self) -> Result<(), E> {
        if self.path.is_empty() {
            return Err(self.here());
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

macro_rules! leaves {
    ($($method:ident($($value:ident: $type:ty)?)),*) => {
        $(fn $method<E: Error>(self, $($value: $type)?) -> Result<(), E> {
            $(let _ = $value;)?
            self.leaf()
        })*
    };
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    leaves!(
        visit_u64(value: u64), visit_i64(value: i64), visit_u128(value: u128), visit_i128(value: i128),
        visit_f64(value: f64), visit_bool(value: bool), visit_str(value: &str), visit_unit(), visit_none()
    );

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.leaf()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.path.split_first() else {
            return Err(self.here());
        };
        let mut index = 0;
        loop {
            let more = if *first == Step::Index(index) {
                items.next_element_seed(Seek { path: rest, ..self })?.is_some()
            } else if self.merged && matches!(first, Step::Key(_)) {
                // The list of a `<<: [*a, *b]`.
                items.next_element_seed(self)?.is_some()
            } else {
                items.next_element::<IgnoredAny>()?.is_some()
            };
            if !more {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.path.split_first() else {
            return Err(self.here());
        };
        while let Some(key) = entries.next_key_seed(SeekKey { wanted: first, last: rest.is_empty(), seek: self })? {
            match key {
                Met::Wanted => entries.next_value_seed(Seek { path: rest, ..self })?,
                Met::Merge if self.merged => entries.next_value_seed(self)?,
                Met::Merge | Met::Other => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

enum Met {
    Wanted,
    Merge,
    Other,
}

/// Looks at one key, and stops the whole search when it is the last of the path.
struct SeekKey<'a> {
    wanted: &'a Step,
    last: bool,
    seek: Seek<'a>,
}

impl<'de> DeserializeSeed<'de> for SeekKey<'_> {
    type Value = Met;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Met, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for SeekKey<'_> {
    type Value = Met;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Met, E> {
        match self.wanted {
            Step::Key(wanted) if wanted == key && self.last => Err(self.seek.here()),
            Step::Key(wanted) if wanted == key => Ok(Met::Wanted),
            _ if key == "<<" => Ok(Met::Merge),
            _ => Ok(Met::Other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# a comment
version: 1
base: &base
  interval: 5s
pools:
  app:
    servers:
      - 10.0.0.1:80
      - name: b
        address: x
      - { name: c,
          address: y }
    health:
      <<: *base
      rise: 2
    list: [a,
           b]
    same: *base
";

    fn line(steps: &[Step]) -> Option<usize> {
        line_of(TEXT, steps)
    }

    #[test]
    fn keys_items_and_scalars_are_found() {
        let app = |more: &[Step]| [&["pools".into(), "app".into()], more].concat();
        assert_eq!(line(&["version".into()]), Some(2));
        assert_eq!(line(&app(&["servers".into()])), Some(7));
        assert_eq!(line(&app(&["servers".into(), 0.into()])), Some(8));
        assert_eq!(line(&app(&["servers".into(), 1.into()])), Some(9));
        assert_eq!(line(&app(&["servers".into(), 1.into(), "address".into()])), Some(10));
        assert_eq!(line(&app(&["servers".into(), 2.into(), "address".into()])), Some(12));
        assert_eq!(line(&app(&["list".into(), 1.into()])), Some(17));
    }

    #[test]
    fn merged_and_aliased_keys_lead_to_where_they_stand() {
        let app = |more: &[Step]| [&["pools".into(), "app".into()], more].concat();
        assert_eq!(line(&app(&["health".into(), "interval".into()])), Some(4));
        assert_eq!(line(&app(&["health".into(), "rise".into()])), Some(15));
        assert_eq!(line(&app(&["same".into(), "interval".into()])), Some(4));
    }

    #[test]
    fn a_missing_key_is_blamed_on_what_lacks_it() {
        assert_eq!(line(&["pools".into(), "app".into(), "balance".into()]), Some(6));
        assert_eq!(line(&["nothing".into()]), Some(2));
        assert_eq!(line_of("", &["a".into()]), Some(1));
    }
}
