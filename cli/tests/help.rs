//! The help: every command has one, and it keeps its promises about exit codes.

mod support;

use blobmesh_cli::exit;
use support::Place;

const COMMANDS: [&str; 26] = [
    "up",
    "add",
    "get",
    "cat",
    "checkout",
    "pull",
    "has",
    "prefetch",
    "ls",
    "tree",
    "rm",
    "pin",
    "unpin",
    "push",
    "peers",
    "status",
    "why",
    "savings",
    "verify",
    "gc",
    "invite",
    "join",
    "config",
    "doctor",
    "demo",
    "completions",
];

#[test]
fn help_lists_every_command_and_every_exit_code() {
    let run = Place::new().run(&["--help"]);
    let listed: Vec<&str> = run
        .succeeded()
        .stdout
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .map_while(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(listed, [&COMMANDS[..], &["help"]].concat());
    for (code, meaning) in exit::TABLE {
        assert!(run.stdout.contains(&format!("{code:>3}  {meaning}\n")), "{code}");
    }
    assert_eq!(run.stderr, "");
}

#[test]
fn every_command_explains_itself_on_stdout() {
    let place = Place::new();
    for command in COMMANDS {
        let run = place.run(&[command, "--help"]);
        let usage = format!("Usage: blobmesh {command} ");
        assert!(run.succeeded().stdout.contains(&usage), "{run:?}");
        assert!(!run.stdout.contains("until-stdin-ends"), "a flag of the demo's own");
    }
    assert!(!place.home().exists());
}

#[test]
fn no_command_a_wrong_one_and_wrong_flags_are_usage_errors() {
    let place = Place::new();
    assert_eq!(place.run(&[]).code, Some(i32::from(exit::USAGE)));
    let run = place.run(&["stats"]);
    run.failed(exit::USAGE, "unrecognized subcommand 'stats'");
    assert!(run.stderr.contains("similar subcommand exists: 'status'"), "{run:?}");
    for command in COMMANDS {
        place.run(&[command, "--no-such-flag"]).failed(exit::USAGE, "'--no-such-flag'");
    }
    for command in
        ["add", "get", "cat", "checkout", "pull", "has", "rm", "pin", "unpin", "push", "why"]
    {
        place.run(&[command]).failed(exit::USAGE, "required");
    }
}

#[test]
fn version_is_the_package_s() {
    let run = Place::new().run(&["--version"]);
    assert_eq!(run.succeeded().stdout, format!("blobmesh {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_know_the_commands() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = place.run(&["completions", shell]);
        assert!(run.succeeded().stdout.contains("unpin"), "{shell}");
    }
}
