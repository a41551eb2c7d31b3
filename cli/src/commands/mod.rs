//! The commands, one file each.
//!
//! Each checks its arguments, opens a session, asks, prints the answer and closes the session.

mod add;
mod cat;
mod checkout;
mod completions;
mod config;
mod demo;

mod doctor;
mod gc;
mod get;
mod get_many;
mod has;
mod invite;
mod join;
mod ls;
mod peers;
mod pin;
mod prefetch;
mod pull;
mod push;
mod rm;
mod savings;
mod status;
mod tree;
mod up;
mod verify;
mod why;

use std::collections::BTreeSet;

use blobmesh_node::control::api::{Answer, Failure, Request, Trouble};

use crate::args::{Arguments, Command, GlobalArgs, NodeArgs};
use crate::error::CommandError;
use crate::output::{Printer, Progress};
use crate::session::{Need, Session};
use crate::settings::Settings;

/// Runs the command that was asked for.
///
/// # Errors
/// What the user is told; decides the exit code.
pub(crate) async fn run(arguments: Arguments, printer: Printer) -> Result<(), CommandError> {
    let context = Context { global: arguments.global, printer };
    match arguments.command {
        Command::Up(args) => up::run(&context, &args).await,
        Command::Add(args) => add::run(&context, &args).await,
        Command::Get(args) => get::run(&context, &args).await,
        Command::Cat(args) => cat::run(&context, &args).await,
        Command::Checkout(args) => checkout::run(&context, &args).await,
        Command::Pull(args) => pull::run(&context, &args).await,
        Command::Has(args) => has::run(&context, &args).await,
        Command::Prefetch(args) => prefetch::run(&context, &args).await,
        Command::Ls => ls::run(&context).await,
        Command::Tree(args) => tree::run(&context, &args).await,
        Command::Rm(args) => rm::run(&context, &args).await,
        Command::Pin(args) => pin::run(&context, &args, pin::Change::Pin).await,
        Command::Unpin(args) => pin::run(&context, &args, pin::Change::Unpin).await,
        Command::Push(args) => push::run(&context, &args).await,
        Command::Peers => peers::run(&context).await,
        Command::Status => status::run(&context).await,
        Command::Why(args) => why::run(&context, &args).await,
        Command::Savings(args) => savings::run(&context, &args).await,
        Command::Verify(args) => verify::run(&context, &args).await,
        Command::Gc => gc::run(&context).await,
        Command::Invite => invite::run(&context).await,
        Command::Join(args) => join::run(&context, &args).await,
        Command::Config(args) => config::run(&context, &args),
        Command::Doctor(args) => doctor::run(&context, &args).await,
        Command::Demo(args) => demo::run(&context, &args).await,

        Command::Completions(args) => completions::run(&context, &args),
    }
}

/// Holds what every command works with.
#[derive(Debug)]
struct Context {
    global: GlobalArgs,
    printer: Printer,
}

impl Context {
    /// Reads the settings and tells their warnings.
    fn settings(&self, flags: &NodeArgs) -> Result<Settings, CommandError> {
        let settings = Settings::load(&self.global, flags)?;
        for warning in &settings.warnings {
            self.printer.warning(warning);
        }
        Ok(settings)
    }

    /// Finds who serves this command.
    async fn session(&self, settings: &Settings, need: Need) -> Result<Session, CommandError> {
        let session = Session::open(self.printer, settings, need).await?;
        if session.is_running() && !settings.flags.is_empty() {
            let flags = settings.flags.join(", ");
            self.printer.warning(format!("the running node serves this; no effect has {flags}"));
        }
        Ok(session)
    }

    /// Asks one thing of the node, without flags of its own, and closes the session.
    async fn ask(&self, need: Need, request: Request, verb: &str) -> Result<Answer, CommandError> {
        let settings = self.settings(&NodeArgs::default())?;
        let mut session = self.session(&settings, need).await?;
        let answer = session.call(request, self.printer.progress(verb, "")).await;
        session.close().await;
        answer.map_err(|error| match error.trouble() {
            Some(Trouble::NotFound) => error.hint("`blobmesh ls` lists what the store knows"),
            _ => error,
        })
    }

    /// Begins to show the progress on one blob.
    fn progress(&self, verb: &str, hash: &str) -> Progress {
        self.printer.progress(verb, crate::units::short_hash(hash))
    }
}

/// Makes the error for an answer to another question.
fn unexpected(answer: &Answer) -> CommandError {
    let text = "the node answered another question than was asked";
    let failure = Failure::new(Trouble::Other, text);
    let shown: String = format!("{answer:?}").chars().take(80).collect();
    failure.cause(shown).into()
}

/// Gathers how the parts of a command's work went, where one failure does not stop the others.
#[derive(Debug, Default)]
struct Tally {
    done: usize,
    failed: Vec<CommandError>,
}

impl Tally {
    /// Counts one part; a broken pipe and an interruption stop the rest.
    fn count(&mut self, result: Result<(), CommandError>) -> Result<(), CommandError> {
        match result {
            Ok(()) => self.done += 1,
            Err(error) => match error.trouble() {
                None | Some(Trouble::Interrupted) => return Err(error),
                Some(_) => self.failed.push(error),
            },
        }
        Ok(())
    }

    /// Ends the work: the failure itself where there was one part, otherwise what all have in
    /// common, or `Partial`.
    fn end(mut self, printer: &Printer, what: &str) -> Result<(), CommandError> {
        let all = self.done + self.failed.len();
        if all == 1 || self.failed.is_empty() {
            return self.failed.pop().map_or(Ok(()), Err);
        }
        let codes: BTreeSet<u8> = self.failed.iter().map(CommandError::code).collect();
        let first = self.failed.first();
        let kind = match first.and_then(CommandError::trouble) {
            Some(kind) if self.done == 0 && codes.len() == 1 => kind,
            _ if self.done == 0 => Trouble::Other,
            _ => Trouble::Partial,
        };
        for error in &self.failed {
            printer.part_failed(error);
        }
        let error = CommandError::new(kind, format!("{} of {all} {what}", self.done));
        Err(match first.and_then(CommandError::shown_hint) {
            Some(hint) if codes.len() == 1 => error.hint(hint),
            _ => error,
        })
    }
}
