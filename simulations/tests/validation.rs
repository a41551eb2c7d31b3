//! Models held to what real nodes did: the stored replays and searches, without a node or a namespace.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::path::{Path, PathBuf};

use blobmesh_simulations::netns::lookups::{self, LookupModel, Lookups};
use blobmesh_simulations::netns::validate::{self, Load, Model, Rechecked};
use blobmesh_simulations::report::Envelope;
use blobmesh_simulations::world::Calibration;

fn stored(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn calibration() -> Calibration {
    Calibration::read(&stored("calibration.toml")).unwrap()
}

fn recheck(envelope: &Envelope, model: Model) -> Rechecked {
    let room = tempfile::tempdir().unwrap();
    validate::recheck(envelope, &calibration(), model, room.path()).unwrap()
}

/// Keeps of what real nodes did the cells of one kind, and puts what the model does itself in their place:
/// so a test does not hang on how well the model does today.
fn imitated(load: Load) -> Envelope {
    let mut envelope = Envelope::read(&stored("validation.json")).unwrap();
    let right = recheck(&envelope, Model::Right);
    envelope.replays.retain_mut(|replay| {
        let row = right.rows.iter().find(|row| row.cell.settings() == replay.settings).unwrap();
        for metric in row.cell.metrics() {
            let simulated = row.difference(metric).unwrap().a.unwrap();
            replay.metrics.insert(metric.to_owned(), simulated);
        }
        replay.metrics.insert("processor.share".to_owned(), 0.1);
        row.cell.load == load
    });
    envelope
}

#[test]
fn each_wrong_model_fails_where_what_it_gets_wrong_decides() {
    let (crowd, series) = (imitated(Load::Crowd), imitated(Load::Series));
    for envelope in [&crowd, &series] {
        assert!(recheck(envelope, Model::Right).holds);
    }
    assert!(!recheck(&crowd, Model::HalfGoodput).holds);
    assert!(!recheck(&series, Model::DoubleLatency).holds);
    // And passes where it does not: bytes that take seconds know nothing of a fifth of a millisecond.
    assert!(recheck(&crowd, Model::DoubleLatency).holds);
}

#[test]
fn stored_replays_find_out_each_wrong_model() {
    let envelope = Envelope::read(&stored("validation.json")).unwrap();
    let right = recheck(&envelope, Model::Right);
    for wrong in Model::WRONG {
        let wrong_rows = recheck(&envelope, wrong).rows;
        assert!(validate::is_found_out(&wrong_rows, &right.rows), "{wrong}");
    }
}

#[test]
fn envelope_without_replays_is_no_validation() {
    let mut envelope = Envelope::read(&stored("validation.json")).unwrap();
    envelope.replays.clear();
    let room = tempfile::tempdir().unwrap();
    assert!(validate::recheck(&envelope, &calibration(), Model::Right, room.path()).is_err());
}

#[test]
fn stored_searches_find_out_each_wrong_model_of_the_dht() {
    let measured = Lookups::read(&stored("lookups.json")).unwrap();
    let right = lookups::compare(&measured, &calibration(), LookupModel::Right);
    for wrong in LookupModel::ALL.into_iter().skip(1) {
        let rows = lookups::compare(&measured, &calibration(), wrong);
        assert!(lookups::is_found_out(&rows, &right), "{}", wrong.name());
    }
}
