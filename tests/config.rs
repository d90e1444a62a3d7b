//! Configurations: messages against goldens, the schema against the reference, and no panic on any text.
//!
//! A golden is `tests/config/NAME.yaml` with `NAME.expected` beside it: the whole message, or `fine`.
//! `UPDATE_GOLDENS=1 cargo test --test config` writes them anew: read the difference before you commit it.

use std::path::{Path, PathBuf};

use fairlead::config::{self, Check, Config, HashKey, Problems};
use proptest::prelude::*;
use serde_json::Value;

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The environment of the tests.
fn env(name: &str) -> Option<String> {
    let value = match name {
        "SET" => "value",
        "EMPTY" => "",
        "FOUR" => "4",
        "SECRET" => "12345678",
        _ => return None,
    };
    Some(value.to_owned())
}

fn read(text: &str) -> Result<Config, Problems> {
    config::parse(text, "test.yaml", &env)
}

#[test]
fn messages_are_as_expected() {
    let update = std::env::var_os("UPDATE_GOLDENS").is_some();
    let mut cases: Vec<PathBuf> = std::fs::read_dir(here("tests/config"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "yaml"))
        .collect();
    cases.sort();
    assert!(cases.len() >= 25, "only {} goldens", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let text = std::fs::read_to_string(&case).unwrap();
        let file = case.file_name().unwrap().to_str().unwrap();
        let mut got = match config::parse(&text, file, &env) {
            Ok(_) => "fine".to_owned(),
            Err(problems) => problems.to_string(),
        };
        got.push('\n');
        let golden = case.with_extension("expected");
        if update {
            std::fs::write(&golden, &got).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if got != expected {
            wrong.push(format!("{file}\n-- expected\n{expected}-- got\n{got}"));
        }
        assert_eq!(
            case.to_str().unwrap().ends_with("-fine.yaml"),
            got == "fine\n",
            "{file}: the name of a golden that loads ends in -fine\n{got}"
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_golden_without_its_file() {
    for entry in std::fs::read_dir(here("tests/config")).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.with_extension("yaml").exists(), "{path:?}");
    }
}

#[test]
fn problems_come_by_line() {
    let text = std::fs::read_to_string(here("tests/config/everything-at-once.yaml")).unwrap();
    let problems = read(&text).unwrap_err();
    let lines: Vec<_> = problems.iter().map(|problem| problem.line).collect();
    assert!(lines.len() > 5 && lines.is_sorted(), "{lines:?}");
    assert!(lines.iter().all(Option::is_some));
}

#[test]
fn unreadable_files_are_problems_too() {
    let dir = tempfile::tempdir().unwrap();
    let message = |path: &Path| config::load(path).unwrap_err().to_string();
    let missing = dir.path().join("missing.yaml");
    let expected = format!("{}: cannot be read: there is no such file: check its path", missing.display());
    assert_eq!(message(&missing), expected);
    assert!(message(dir.path()).ends_with("cannot be read: it is a directory: name a file"));
    let latin = dir.path().join("latin.yaml");
    std::fs::write(&latin, b"version: 1\nname: caf\xe9\n").unwrap();
    assert!(message(&latin).ends_with("latin.yaml:2: is not UTF-8 text: save the file as UTF-8"));
}

#[test]
fn the_small_default_loads() {
    let config = config::load(&here("conf/fairlead.yaml")).unwrap();
    assert_eq!(config.listeners[0].address.to_string(), "0.0.0.0:9090");
    let servers: Vec<_> = config.pools[0].servers.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(servers, ["127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:8082", "127.0.0.1:8083"]);
    assert!(matches!(&config.pools[0].health.check, Check::Http { path, .. } if path == "/heartbeat"));
    assert_eq!(config.admin.unwrap().address.to_string(), "127.0.0.1:9900");
}

#[test]
fn variables_are_typed_by_the_key_that_takes_them() {
    let text = "version: 1\nlisteners: [{ address: 0.0.0.0:9090 }]\npools: { app: { servers: [\"10.0.0.1:9000\"] } }\nthreads: ${FOUR}\nadmin: { token: \"${SECRET}\" }\n";
    let config = read(text).unwrap();
    assert_eq!(config.threads, 4);
    let admin = config.admin.unwrap();
    assert_eq!(admin.token.as_deref(), Some("12345678"));
    assert!(!format!("{admin:?}").contains("12345678"), "tokens stay out of logs");
    // An empty variable is as no value at all.
    let text = text.replace("FOUR", "EMPTY").replace("SECRET", "EMPTY");
    let config = read(&text).unwrap();
    assert_eq!(config.threads, 0);
    assert_eq!(config.admin.unwrap().token, None);
}

#[test]
fn redis_without_a_url_is_no_redis() {
    let text = std::fs::read_to_string(here("tests/config/redis-empty-fine.yaml")).unwrap();
    assert_eq!(read(&text).unwrap().redis, None);
    let config = read(&text.replace("${REDIS_URL:-}", "redis://${SECRET}:hush@${SET}")).unwrap();
    let shown = format!("{config:?}");
    assert!(!shown.contains("hush"), "passwords stay out of logs");
    let redis = config.redis.unwrap();
    assert_eq!((redis.servers.to_string().as_str(), redis.mode), ("redis://value:6379", config::Mode::Exact));
    assert_eq!(redis.password.as_deref(), Some("hush"));
}

#[test]
fn the_reference_reads_as_it_says() {
    let config = config::load(&here("conf/reference.yaml")).unwrap();
    let names: Vec<_> = config.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(names, ["api", "canary", "sessions"], "in the file's order");
    assert_eq!(config.pools[2].hash, HashKey::Cookie("session".to_owned()));
    let split = &config.routes[0].split;
    assert_eq!((split[1].pool.as_str(), split[1].weight), ("canary", 5));
    assert_eq!(config.routes[0].matches.hosts.len(), 2);
}

/// The reference, with the lines that need files.
fn reference() -> String {
    let text = std::fs::read_to_string(here("conf/reference.yaml")).unwrap_or_default();
    text.replace("\n#~", "\n  ")
}

/// Every key of the schema stands in the reference, and what is shown there as a default is the default.
#[test]
fn the_reference_has_every_key_and_true_defaults() {
    let text = reference();
    let reference: Value = serde_yaml::from_str(&text).unwrap();
    let mut wrong = Vec::new();
    compare(&config::schema(), &[&reference], "", &text, &mut wrong);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for line in text.lines().filter(|line| line.contains(": ")) {
        assert!(line.contains('#'), "no comment: {line}");
    }
}

/// Whether a comment of the key tells the default, where the value is an example.
fn told(text: &str, path: &str, default: &Value) -> bool {
    let key = format!("{}: ", path.rsplit('.').next().unwrap_or_default());
    text.lines().any(|line| line.contains(&key) && line.to_lowercase().contains(&format!("default: {default}.")))
}

/// `shown`: all values that stand at this place of the schema.
fn compare(schema: &Value, shown: &[&Value], path: &str, text: &str, wrong: &mut Vec<String>) {
    if let Some(default) = schema.get("default")
        && !shown.contains(&default)
        && !told(text, path, default)
    {
        wrong.push(format!("{path}: the default {default} is not shown, but {shown:?}"));
    }
    for form in ["oneOf", "anyOf"] {
        for schema in schema[form].as_array().into_iter().flatten() {
            let object = |value: &&&Value| value.is_object() == (schema["type"] == "object");
            let shown: Vec<_> = shown.iter().filter(object).copied().collect();
            compare(schema, &shown, path, text, wrong);
        }
    }
    if let Some(items) = schema.get("items") {
        let shown: Vec<_> = shown.iter().filter_map(|v| v.as_array()).flatten().collect();
        compare(items, &shown, &format!("{path}[]"), text, wrong);
    }
    if schema["additionalProperties"].is_object() {
        let shown: Vec<_> = shown.iter().filter_map(|v| v.as_object()).flat_map(|m| m.values()).collect();
        compare(&schema["additionalProperties"], &shown, &format!("{path}.*"), text, wrong);
    }
    for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        let shown: Vec<_> = shown.iter().filter_map(|value| value.get(key)).collect();
        if shown.is_empty() {
            wrong.push(format!("{path}: is not in the reference"));
        }
        if !schema["description"].as_str().is_some_and(|doc| doc.ends_with('.')) {
            wrong.push(format!("{path}: has no description"));
        }
        compare(schema, &shown, &path, text, wrong);
    }
}

/// A line that is not marked as an example shows a default, or only opens what is below it.
#[test]
fn lines_without_example_show_defaults() {
    let text = reference();
    let mut defaults = Vec::new();
    collect_defaults(&config::schema(), &mut defaults);
    for line in text.lines() {
        let Some((content, comment)) = line.split_once(" #") else {
            continue;
        };
        let Some((key, value)) = content.trim().trim_start_matches("- ").split_once(": ") else {
            continue;
        };
        if comment.trim().starts_with("Example.") || key == "version" || key == "match" {
            continue;
        }
        let value: Value = serde_yaml::from_str(value).unwrap();
        assert!(
            defaults.contains(&(key.to_owned(), value.clone())),
            "{key}: {value} is no default: mark it with \"Example.\""
        );
    }
}

fn collect_defaults(schema: &Value, out: &mut Vec<(String, Value)>) {
    match schema {
        Value::Object(entries) => {
            for (key, value) in entries {
                if let Some(default) = value.get("default") {
                    out.push((key.clone(), default.clone()));
                }
                collect_defaults(value, out);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_defaults(item, out)),
        _ => {}
    }
}

#[test]
fn the_schema_is_strict() {
    let schema = config::schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["required"], serde_json::json!(["version", "listeners", "pools"]));
    let pool = &schema["properties"]["pools"]["additionalProperties"];
    assert_eq!(pool["additionalProperties"], false);
    assert_eq!(pool["properties"]["balance"]["default"], "least-load");
    let server = pool["properties"]["servers"]["items"]["oneOf"].as_array().unwrap();
    assert_eq!(server[1]["required"], serde_json::json!(["address"]));
}

/// Text as a distracted operator leaves it.
fn mutate(text: &str, edits: &[(prop::sample::Index, u8, String)]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (place, kind, junk) in edits {
        if lines.is_empty() {
            break;
        }
        let at = place.index(lines.len());
        match kind % 7 {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, junk.clone()),
            2 => {
                let line = lines[at].clone();
                lines.insert(at, line);
            }
            3 => {
                let key = lines[at].split(": ").next().unwrap_or_default().to_owned();
                lines[at] = format!("{key}: {junk}");
            }
            4 => lines[at] = lines[at].trim_start().to_owned(),
            5 => {
                let cut = lines[at].chars().count() / 2;
                lines[at] = lines[at].chars().take(cut).collect();
            }
            _ => lines[at].push_str(junk),
        }
    }
    lines.join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_references_never_panic(
        edits in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<u8>(), "[-a-z0-9:{}\\[\\]&*!$\"'#<,.%\u{e9}\t ]{0,12}"),
            1..6,
        )
    ) {
        let text = mutate(&reference(), &edits);
        if let Err(problems) = read(&text) {
            prop_assert!(problems.iter().len() > 0);
            prop_assert!(problems.to_string().lines().count() == problems.iter().len());
        }
    }

    #[test]
    fn any_text_never_panics(text in "\\PC{0,200}") {
        let _ = read(&text);
    }
}

#[test]
fn a_route_that_says_nothing_of_retries_has_the_defaults() {
    let text = "version: 1\nlisteners: [{ address: 0.0.0.0:9090 }]\nroutes: [{ pool: app }]\npools: { app: { servers: [\"10.0.0.1:9000\"] } }\n";
    let route = &read(text).unwrap().routes[0];
    assert_eq!(route.retry, config::Retry::default());
    assert_eq!(route.timeouts.per_try, config::RouteTimeouts::default().per_try);
    assert_eq!(route.timeouts.per_try, config::PerTry::Adaptive);
}
