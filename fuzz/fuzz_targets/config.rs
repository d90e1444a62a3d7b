//! A configuration of any text: no panic, and all that is wrong with it can be told.
#![no_main]

use fairlead::config::{self, Problem};
use fairlead::routing::RouteTable;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let env = |name: &str| (name.len() % 2 == 0).then(|| name.to_owned());
    match config::parse(text, "fuzz.yaml", &env) {
        Ok(config) => {
            // What a configuration promises.
            assert!(!config.listeners.is_empty() && !config.pools.is_empty());
            RouteTable::new(config.routes.iter().map(|route| (route.matches.clone(), ())));
        }
        Err(problems) => {
            assert!(problems.iter().next().is_some(), "refused without a word");
            // YAML knows more ends of lines than editors do; its end counts as one more.
            let ends = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];
            let lines = 2 + text.chars().filter(|c| ends.contains(c)).count();
            for Problem { line, text: told, .. } in &problems {
                assert!(!told.is_empty());
                assert!(line.is_none_or(|line| (1..=lines).contains(&line)), "line {line:?} of {lines}: {told}");
            }
            // One line each.
            let shown = problems.to_string();
            assert!(shown.lines().all(|line| line.starts_with("fuzz.yaml")), "{shown}");
        }
    }
});
