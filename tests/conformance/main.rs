//! What HTTP/1 the proxy lets through, mends or refuses: a table of cases, each with the bytes a client sends, what it
//! must see, and what the server must see. [`case`] explains how a line is to be read.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod case;
mod client;
mod origin;
#[path = "../e2e/support/mod.rs"]
#[allow(dead_code, unused_imports)]
mod support;

mod bodies;
mod connections;
mod framing;
mod headers;
mod hosts;
mod limits;
mod methods;
mod paths;
mod responses;
mod targets;

use case::{Case, Stage};

/// Runs all cases of a topic and tells all that fail.
async fn run(cases: Vec<Case>) {
    let stage = Stage::start().await;
    let mut failed = Vec::new();
    let count = cases.len();
    for case in cases {
        if let Err(why) = stage.play(&case).await {
            failed.push(format!("{}\n{why}", case.name));
        }
    }
    assert!(failed.is_empty(), "{} of {count} cases failed:\n\n{}\n", failed.len(), failed.join("\n\n"));
}

/// One test for each topic.
macro_rules! topics {
    ($($topic:ident),*) => {
        $(#[tokio::test] async fn $topic() { run($topic::cases()).await; })*

        #[test]
        fn there_are_enough_cases_and_each_has_a_name_of_its_own() {
            let mut names: Vec<_> = [$($topic::cases()),*].into_iter().flatten().map(|case| case.name).collect();
            let count = names.len();
            assert!(count >= 120, "only {count} cases");
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "a name stands twice");
        }
    };
}

topics!(bodies, connections, framing, headers, hosts, limits, methods, paths, responses, targets);
