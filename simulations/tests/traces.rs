//! Diagrams of one blob: from the rows of a run, or by running it again.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use blobmesh_simulations::outcome::{Detail, MessageRow, Outcome};
use blobmesh_simulations::output::Record;
use blobmesh_simulations::trace::{Error, diagram, run_of, trace};
use synthetic::{Shape, outcome, plan, staged_run, with_detail};

#[allow(dead_code, reason = "each test program uses its own part")]
mod synthetic;

const BLOB: &str = "image/2";

fn record(outcome: &Outcome) -> (tempfile::TempDir, Record) {
    let room = tempfile::tempdir().unwrap();
    let place =
        staged_run(&room.path().join("run"), &plan("flash-crowd", 40), outcome).publish().unwrap();
    let record = Record::open(&place).unwrap();
    (room, record)
}

#[test]
fn a_run_that_kept_the_rows_is_not_run_again() {
    let (_room, record) = record(&with_detail(outcome(Shape::default()), BLOB));
    let svg =
        trace(&record, &record.manifest.runs[0], BLOB, |_| Err("it was run again".to_owned()))
            .unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("The way of image/2"));
    assert_eq!(
        svg.matches("<title>8 MiB").count(),
        0,
        "units are set off by a space that does not break"
    );
    assert_eq!(svg.matches("<title>8\u{a0}MiB").count(), 40);
    assert!(svg.contains(">edge</text>") && svg.contains(">runner-1</text>"));
}

#[test]
fn a_run_without_the_rows_is_run_again_with_its_plan_and_seed() {
    let plain = outcome(Shape::default());
    let (_room, record) = record(&plain);
    let svg = trace(&record, &record.manifest.runs[0], BLOB, |again| {
        assert_eq!((again.plan_text, again.seed), (synthetic::PLAN_TEXT, 1));
        assert_eq!(again.detail, Detail::Blob(BLOB.to_owned()));
        Ok(with_detail(plain.clone(), BLOB))
    });
    assert!(svg.unwrap().contains("The way of image/2"));
}

#[test]
fn another_run_in_its_place_is_refused() {
    let (_room, record) = record(&outcome(Shape::default()));
    let other = with_detail(outcome(Shape { seed: 2, ..Shape::default() }), BLOB);
    let error = trace(&record, &record.manifest.runs[0], BLOB, |_| Ok(other)).unwrap_err();
    assert!(matches!(error, Error::OtherRun { .. }), "{error}");
}

#[test]
fn a_blob_that_nobody_wanted_is_told_with_those_that_were() {
    let plain = outcome(Shape::default());
    let (_room, record) = record(&plain);
    let error = trace(&record, &record.manifest.runs[0], "image/77", |_| Ok(plain)).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("blobs that were got: image/0, image/1, image/2, image/3, image/4")
    );
}

#[test]
fn a_run_that_there_is_not_is_told() {
    let (_room, record) = record(&outcome(Shape::default()));
    assert!(run_of(&record, None, Some(1)).is_ok());
    assert!(matches!(run_of(&record, Some(3), None), Err(Error::NoRun { cell: 3, seed: 1 })));
}

#[test]
fn a_crowd_is_drawn_within_bounds() {
    let shape = Shape { nodes: 5_000, gets_per_node: 3, ..Shape::default() };
    let svg = diagram(&with_detail(outcome(shape), BLOB), BLOB).unwrap();
    assert!(svg.len() < 2_000_000, "{}", svg.len());
    assert_eq!(svg.matches("<title>8\u{a0}MiB").count(), 2_000);
    assert!(svg.contains("others</text>") && svg.contains("later rows are not drawn"));
}

#[test]
fn a_message_that_never_arrived_ends_in_a_cross_and_names_are_escaped() {
    let name = "<script>".to_owned();
    let message = MessageRow {
        sent_ns: 5,
        arrived_ns: None,
        from: name.clone(),
        to: "b-0".to_owned(),
        blob: name.clone(),
        kind: "ask",
    };
    let svg = diagram(&Outcome { messages: vec![message], ..Outcome::default() }, &name).unwrap();
    assert!(svg.contains("×") && !svg.contains("<script"));
    assert_eq!(diagram(&Outcome::default(), "a/0"), None);
}
