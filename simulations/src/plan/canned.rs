//! Plans that come with the program, one for each question that the project asks itself.

use super::{PlanError, Source};

/// Is a plan that comes with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canned {
    /// Its name, which is also the plan's.
    pub name: &'static str,
    /// Its file.
    pub text: &'static str,
}

macro_rules! canned {
    ($($name:literal),* $(,)?) => {
        /// Lists the canned plans, the simplest first.
        pub const CANNED: &[Canned] = &[$(Canned {
            name: $name,
            text: include_str!(concat!("../plans/", $name, ".toml")),
        }),*];
    };
}

canned![
    "two-nodes",
    "flash-crowd",
    "office-morning",
    "churn",
    "bloom",
    "dht-hops",
    "edge-savings",
    "partition-heal",
    "malicious",
    "ci-five-jobs",
    "kraken-2600",
    "faasnet-1000",
];

impl Canned {
    /// Finds a canned plan by its name.
    pub fn find(name: &str) -> Option<&'static Self> {
        CANNED.iter().find(|canned| canned.name == name)
    }

    /// Reads it.
    ///
    /// # Errors
    /// None that a test would let pass.
    pub fn source(&self) -> Result<Source, PlanError> {
        Source::parse(&format!("{}.toml", self.name), self.text)
    }
}
