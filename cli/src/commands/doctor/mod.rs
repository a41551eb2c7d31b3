//! `doctor`: what makes nodes fail first, checked before it does.

mod edge;
mod host;
mod multicast;
mod store;

use blobmesh_node::control::api::Trouble;
use blobmesh_node::edge::{Finding, Verdict};
use blobmesh_protocol::Hash;
use serde::Serialize;

use super::Context;
use crate::args::DoctorArgs;
use crate::error::CommandError;
use crate::files::hash_of;
use crate::settings::Settings;
use crate::signals::Signals;

#[derive(Serialize)]
struct Summary {
    command: &'static str,
    checks: usize,
    warnings: usize,
    failed: usize,
}

pub(super) async fn run(context: &Context, args: &DoctorArgs) -> Result<(), CommandError> {
    Signals::new()?.or(Box::pin(examine(context, args))).await?
}

async fn examine(context: &Context, args: &DoctorArgs) -> Result<(), CommandError> {
    let edge_blob = args.edge_blob.as_deref().map(hash_of).transpose()?;
    let mut report = Report { context, checks: 0, warnings: 0, failed: 0 };
    match Settings::load(&context.global, &args.node) {
        Ok(settings) => {
            report.add(finding("config", Verdict::Ok, "valid"))?;
            for warning in &settings.warnings {
                report.add(finding("config", Verdict::Warn, warning))?;
            }
            check(&mut report, &settings, edge_blob).await?;
        }
        Err(error) => {
            report.add(configuration(&error))?;
            for finding in host::check() {
                report.add(finding)?;
            }
        }
    }
    report.end()
}

async fn check(
    report: &mut Report<'_>,
    settings: &Settings,
    edge_blob: Option<Hash>,
) -> Result<(), CommandError> {
    let node = &settings.node;
    report.all(store::check_home(node))?;
    let running = store::check_store(settings, report).await?;
    report.all(store::check_space(node))?;
    report.all(host::check())?;
    report.all(host::check_ports(&node.listen, running))?;
    if node.mdns {
        report.all(multicast::check())?;
    } else {
        report.add(finding("multicast", Verdict::Ok, "not needed: mDNS is off"))?;
    }
    report.all(edge::check(node, edge_blob).await)
}

/// Prints findings as they come, and counts them.
struct Report<'a> {
    context: &'a Context,
    checks: usize,
    warnings: usize,
    failed: usize,
}

impl Report<'_> {
    fn all(&mut self, findings: Vec<Finding>) -> Result<(), CommandError> {
        findings.into_iter().try_for_each(|finding| self.add(finding))
    }

    fn add(&mut self, finding: Finding) -> Result<(), CommandError> {
        self.checks += 1;
        let Finding { check, verdict, text, hint, figures: _ } = &finding;
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        };
        self.warnings += usize::from(verdict == "warn");
        self.failed += usize::from(verdict == "fail");
        self.context.printer.answer(format!("{verdict:<4}  {check:<10}  {text}"))?;
        if let Some(hint) = hint {
            self.context.printer.answer(format!("{:18}hint: {hint}", ""))?;
        }
        self.context.printer.line("finding", &finding)
    }

    fn end(self) -> Result<(), CommandError> {
        let Self { context, checks, warnings, failed } = self;
        context
            .printer
            .line("summary", &Summary { command: "doctor", checks, warnings, failed })?;
        if failed == 0 {
            return Ok(());
        }
        Err(CommandError::new(Trouble::Other, format!("{failed} of {checks} checks failed")))
    }
}

fn finding(check: &'static str, verdict: Verdict, text: impl Into<String>) -> Finding {
    Finding { check, verdict, text: text.into(), hint: None, figures: None }
}

fn with_hint(mut finding: Finding, hint: impl Into<String>) -> Finding {
    finding.hint = Some(hint.into());
    finding
}

/// Turns the error of reading the settings into a finding.
fn configuration(error: &CommandError) -> Finding {
    failed_with("config", error)
}

/// Turns the error of trying something into a finding.
fn failed_with(check: &'static str, error: &CommandError) -> Finding {
    let text = match error {
        CommandError::Failed { failure, .. } => {
            let mut text = failure.message.clone();
            for cause in &failure.causes {
                text.push_str(": ");
                text.push_str(cause);
            }
            text
        }
        CommandError::BrokenPipe => String::new(),
    };
    let mut finding = finding(check, Verdict::Fail, text);
    finding.hint = error.shown_hint().map(str::to_owned);
    finding
}
