//! Tickets: how a home gets into a mesh, and how it does not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use blobmesh_cli::exit;
use support::{Place, Run};

fn ticket_of(place: &Place) -> String {
    let run = place.run(&["invite"]);
    run.succeeded().stdout.trim().to_owned()
}

fn key_of(place: &Place) -> Vec<u8> {
    std::fs::read(place.home().join("mesh.key")).unwrap()
}

#[test]
fn ticket_as_an_argument_is_refused_and_not_repeated() {
    let (host, guest) = (Place::new(), Place::new());
    let ticket = ticket_of(&host);
    let run = guest.run(&["join", &ticket]);
    let hint = run.failed(exit::USAGE, "a ticket is not given as an argument");
    assert!(hint.is_some_and(|hint| hint.contains("BLOBMESH_TICKET")), "{hint:?}");
    assert!(!run.stderr.contains(&ticket) && !run.stdout.contains(&ticket), "{run:?}");
    assert!(!guest.home().exists());
}

#[test]
fn texts_that_are_no_ticket_are_refused_and_not_repeated() {
    let (host, guest) = (Place::new(), Place::new());
    let ticket = ticket_of(&host);
    let cut = &ticket[..ticket.len() - 8];
    let other = ticket.replacen("bm1", "bm2", 1);
    for text in ["", "garbage", cut, &other, &format!("{ticket}a")] {
        let run = guest.run_with_input(&["join", "-"], text.as_bytes());
        assert!(run.failed(exit::REFUSED, "ticket").is_some(), "{run:?}");
        assert!(!run.stderr.contains(&ticket[10..40]), "{run:?}");
        assert!(!guest.home().join("mesh.key").exists());
    }
}

#[test]
fn without_a_ticket_and_a_terminal_joining_says_where_one_may_come_from() {
    let run = Place::new().run(&["join"]);
    let hint = run.failed(exit::USAGE, "there is no ticket to join with");
    assert!(hint.is_some_and(|hint| hint.contains("join -")), "{hint:?}");
}

#[test]
fn ticket_is_taken_from_stdin_and_from_the_environment() {
    let host = Place::new();
    let ticket = ticket_of(&host);
    let (by_stdin, by_env) = (Place::new(), Place::new());
    by_stdin.run_with_input(&["join", "-"], format!("{ticket}\n").as_bytes()).succeeded();
    by_env.run_with_env(&["join"], &[("BLOBMESH_TICKET", &ticket)]).succeeded();
    for guest in [&by_stdin, &by_env] {
        assert_eq!(key_of(guest), key_of(&host));
        assert_eq!(ticket_of(guest), ticket, "a guest may invite, too");
    }
}

#[test]
fn another_mesh_is_joined_only_by_force() {
    let (host, guest) = (Place::new(), Place::new());
    let (ticket, own) = (ticket_of(&host), ticket_of(&guest));
    let before = key_of(&guest);
    let join = |args: &[&str], ticket: &str| -> Run {
        guest.run_with_input(&[&["join", "-", "--json"], args].concat(), ticket.as_bytes())
    };
    assert_eq!(join(&[], &own).succeeded().lines()[0]["changed"], false);
    let run = join(&[], &ticket);
    let hint = run.failed(exit::REFUSED, "this home belongs to another mesh");
    assert!(hint.is_some_and(|hint| hint.contains("--force")), "{hint:?}");
    assert_eq!(key_of(&guest), before);
    assert_eq!(join(&["--force"], &ticket).succeeded().lines()[0]["changed"], true);
    assert_eq!(key_of(&guest), key_of(&host));
}

#[cfg(unix)]
#[test]
fn key_and_home_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    ticket_of(&place);
    for (path, mode) in [(place.home(), 0o700), (place.home().join("mesh.key"), 0o600)] {
        let found = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{}", path.display());
    }
}
