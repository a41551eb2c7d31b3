//! Where a redirect of the edge may lead: within its origin, and not for ever.

use reqwest::header::LOCATION;
use reqwest::redirect::{Action, Attempt};
use reqwest::{Response, Url};

use crate::edge::error::{Breach, causes};

/// How many redirects of one request are followed.
pub(super) const REDIRECTS_MAX: usize = 3;

pub(super) fn redirect(attempt: Attempt<'_>) -> Action {
    match check_redirect(attempt.previous(), attempt.url()) {
        Ok(()) => attempt.follow(),
        Err(refused) => attempt.error(refused),
    }
}

/// Says whether a redirect may be followed to `next`, after these were asked for.
pub(super) fn check_redirect(asked: &[Url], next: &Url) -> Result<(), RedirectRefused> {
    if asked.first().map(Url::origin) != Some(next.origin()) {
        Err(RedirectRefused::Elsewhere)
    } else if asked.len() > REDIRECTS_MAX {
        Err(RedirectRefused::Loop)
    } else {
        Ok(())
    }
}

/// Returns where an answer redirects to.
pub(super) fn redirection(answer: &Response) -> Option<Url> {
    // All that redirect a GET; 304 is an answer, and 300 leaves a choice.
    if !matches!(answer.status().as_u16(), 301..=303 | 307 | 308) {
        return None;
    }
    answer.url().join(answer.headers().get(LOCATION)?.to_str().ok()?).ok()
}

#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum RedirectRefused {
    #[error("it leads to another origin")]
    Elsewhere,
    #[error("there are too many")]
    Loop,
}

impl RedirectRefused {
    pub(super) fn breach(self) -> Breach {
        match self {
            Self::Elsewhere => Breach::RedirectElsewhere,
            Self::Loop => Breach::RedirectLoop { max: REDIRECTS_MAX },
        }
    }
}

pub(super) fn redirect_breach(error: &reqwest::Error) -> Option<Breach> {
    causes(error).find_map(|cause| Some(cause.downcast_ref::<RedirectRefused>()?.breach()))
}
