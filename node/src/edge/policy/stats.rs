//! What the policy counts.

/// Counts what was asked of an edge since its start, and what was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdgeStats {
    /// Requests sent, with repetitions.
    pub requests: u64,
    /// Repetitions among them.
    pub retries: u64,
    /// Repetitions that were not made because the budget was used up.
    pub over_budget: u64,
    /// Requests that failed by the edge's fault.
    pub failures: u64,
    /// Requests answered with "missing" from memory.
    pub absent_remembered: u64,
    /// Requests not sent because the edge was left alone: after failures, after a refusal of the
    /// credentials, or because it asked for a pause.
    pub left_alone: u64,
    /// How often the edge began to be left alone after failures or refusals.
    pub opened: u64,
    /// The repetitions that the budget would pay for now.
    pub budget: u64,
    /// How the edge is treated now.
    pub state: EdgeState,
}

/// Says how an edge is treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EdgeState {
    /// As usual.
    #[default]
    Serving,
    /// It is left alone after failures, until one request finds out that it is back.
    LeftAlone,
    /// It refuses us, and is asked once in a long while whether it still does.
    Stopped,
}

impl EdgeStats {
    /// Returns the counts by name, as `status` shows them.
    pub fn counters(&self) -> [(&'static str, u64); 10] {
        [
            ("edge_requests", self.requests),
            ("edge_retries", self.retries),
            ("edge_retries_over_budget", self.over_budget),
            ("edge_retries_left", self.budget),
            ("edge_failures", self.failures),
            ("edge_absent_remembered", self.absent_remembered),
            ("edge_opened", self.opened),
            ("edge_not_asked", self.left_alone),
            ("edge_left_alone", u64::from(self.state == EdgeState::LeftAlone)),
            ("edge_stopped", u64::from(self.state == EdgeState::Stopped)),
        ]
    }
}
