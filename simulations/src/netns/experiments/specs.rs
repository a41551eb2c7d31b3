//! Metrics that several experiments have in common, so that one name means one thing in all of them.

use crate::netns::metric::{Bound, MetricSpec};

/// Gets that failed. An experiment that expects some to fail says which in an `about` of its own.
pub(super) const FAILED: MetricSpec = MetricSpec {
    name: "failed",
    unit: "count",
    bound: Some(Bound::Exactly(0.0)),
    about: "gets of all the above that did not end well",
};
/// Bytes that came to users and should not have.
pub(super) const WRONG_BYTES: MetricSpec = MetricSpec {
    name: "wrong_bytes",
    unit: "count",
    bound: Some(Bound::Exactly(0.0)),
    about: "bytes of all these blobs, got into files, that differ from the originals or are missing",
};
/// How far the relay's own lateness may have falsified the delays that it was to make.
pub(super) const LATE_SHARE: MetricSpec = MetricSpec {
    name: "late_share",
    unit: "share",
    bound: None,
    about: "frames that the relay handed over more than 1 ms late",
};
/// How busy the machine was, so that times can be judged.
pub(super) const PROCESSOR_LOAD: MetricSpec = MetricSpec {
    name: "processor_load",
    unit: "share",
    bound: None,
    about: "time of this machine's processors that was used meanwhile, by whomever",
};
/// What the nodes took of it.
pub(super) const NODES_PROCESSOR_S: MetricSpec = MetricSpec {
    name: "nodes_processor_s",
    unit: "s",
    bound: None,
    about: "processor time that all nodes took meanwhile",
};
/// What the relay took of it.
pub(super) const RELAY_PROCESSOR_S: MetricSpec = MetricSpec {
    name: "relay_processor_s",
    unit: "s",
    bound: None,
    about: "processor time that the relay took meanwhile",
};
