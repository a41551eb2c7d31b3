//! What each command asks of the running node, and what it makes of the answer.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use blobmesh_cli::exit;
use serde_json::Value;
use support::fake_node::{self, BREAKS_AFTER, FOUND, FakeNode, LEN, NEVER, NOBODY, PEER};
use support::{Place, Run};

fn place_with_node() -> (Place, FakeNode) {
    let place = Place::new();
    let node = FakeNode::start(&place);
    (place, node)
}

fn asked(node: &FakeNode) -> Value {
    serde_json::from_str(&node.asked.recv().unwrap()).unwrap()
}

fn types(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["type"].as_str().unwrap()).collect()
}

#[test]
fn blob_that_was_not_found_is_told_tier_by_tier_with_its_own_code() {
    let (place, _node) = place_with_node();
    let run = place.run(&["get", NOBODY]);
    assert_eq!(run.code, Some(i32::from(exit::NOT_FOUND)));
    assert_eq!(run.stdout, "");
    let expected = "error: blob 0000000000 was not found\n  local: absent\n  \
                    lan: asked 0 of 2 peers: both filters rule it out\n  edge: 404\n\n\
                    hint: check the hash, or add the blob on a node of this mesh, \
                    or `blobmesh push` it to the edge\n";
    assert_eq!(run.stderr, expected);
}

#[test]
fn older_version_is_a_hash_or_a_file() {
    let (place, node) = place_with_node();
    place.run(&["get", FOUND, "--base", &NOBODY.to_uppercase()]).succeeded();
    assert_eq!(asked(&node)["base"], serde_json::json!({"blob": NOBODY}));
    let file = place.file("older", "bytes");
    place.run(&["get", FOUND, "--base", "older"]).succeeded();
    assert_eq!(asked(&node)["base"], serde_json::json!({"file": file}));
    place.run(&["get", FOUND]).succeeded();
    assert_eq!(asked(&node).get("base"), None, "nodes of before know of none");
}

#[test]
fn hint_comes_from_the_kind_of_trouble() {
    let (place, _node) = place_with_node();
    let run = place.run(&["push", FOUND]);
    let hint = run.failed(exit::REFUSED, "the edge refused the request (400 InvalidArgument)");
    assert!(hint.is_some_and(|hint| hint.contains("BLOBMESH_EDGE_ACCESS_KEY_ID")), "{hint:?}");
}

#[test]
fn some_of_several_blobs_is_partly() {
    let (place, _node) = place_with_node();
    let run = place.run(&["get", FOUND, NOBODY]);
    run.failed(exit::PARTIAL, "1 of 2 blobs were got");
    assert!(run.stderr.contains("failed: blob 0000000000 was not found\n"), "{run:?}");
    assert_eq!(run.stdout, format!("{FOUND}\n"));
    let other = NOBODY.replace("0000", "0001");
    // The fake node has what it does not know to be nobody's.
    place.run(&["get", &other, NOBODY]).failed(exit::PARTIAL, "1 of 2 blobs were got");
    place.run(&["get", NOBODY, NOBODY]).failed(exit::NOT_FOUND, "was not found");
}

#[test]
fn list_comes_from_a_file_from_stdin_and_from_arguments_and_each_blob_once() {
    let (place, node) = place_with_node();
    let second = FOUND.replace("beef", "cafe");
    let text = format!("# blobs\n{FOUND}\n\n  {}\t\r\n{FOUND}\n", second.to_uppercase());
    place.file("list.txt", &text);
    let both = format!("{FOUND}\n{second}\n");
    let run = place.run(&["get", "--from", "list.txt"]);
    assert_eq!(run.succeeded().stdout, both);
    assert!(run.stderr.starts_with("got 2 blobs, 585 KiB in "), "{}", run.stderr);
    assert_eq!(asked(&node)["hashes"], serde_json::json!([FOUND, second]));
    let mut command = place.command(&["get", &second, "--from", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let run = Run::of(child.wait_with_output().unwrap());
    assert_eq!(run.succeeded().stdout, format!("{second}\n{FOUND}\n"));
}

#[test]
fn bad_line_of_a_list_is_named_before_anything_is_asked() {
    let (place, node) = place_with_node();
    for (text, message) in [
        (format!("{FOUND}\n# one\n\nabc\n{FOUND}\n"), "line 4 of list.txt is no hash: \"abc\""),
        (format!("{FOUND} and more\n"), "line 1 of list.txt is no hash"),
        ("# nothing\n\n".to_owned(), "list.txt lists no hash"),
    ] {
        place.file("list.txt", &text);
        place.run(&["get", "--from", "list.txt"]).failed(exit::USAGE, message);
    }
    place.run(&["get", "--from", "none.txt"]).failed(exit::OTHER, "cannot read the list none.txt");
    place.file("list.txt", format!("{FOUND}\n{NOBODY}\n"));
    let output = ["get", "--from", "list.txt", "-o", "out.bin"];
    place.run(&output).failed(exit::USAGE, "--output takes one blob");
    assert!(node.asked.try_recv().is_err(), "nothing was asked of the node");
}

#[test]
fn json_list_has_a_line_for_each_blob_and_a_summary() {
    let (place, _node) = place_with_node();
    place.file("list.txt", format!("{FOUND}\n{NOBODY}\n"));
    let run = place.run(&["get", "--from", "list.txt", "--json"]);
    run.failed(exit::PARTIAL, "1 of 2 blobs were got");
    let lines = run.lines();
    assert_eq!(types(&lines), ["start", "got", "failed", "summary", "error"]);
    assert_eq!((&lines[1]["hash"], &lines[1]["size"]), (&FOUND.into(), &LEN.into()));
    assert_eq!(lines[1]["tier"], serde_json::json!({"local": 0, "lan": LEN, "edge": 0}));
    assert_eq!((&lines[2]["hash"], &lines[2]["code"]), (&NOBODY.into(), &3.into()));
    assert_eq!(lines[2]["causes"][0], "local: absent");
    let summary = &lines[3];
    assert_eq!(
        (&summary["blobs"], &summary["got"], &summary["failed"]),
        (&2.into(), &1.into(), &1.into())
    );
}

#[test]
fn what_came_of_a_list_before_its_failure_is_told() {
    let (place, _node) = place_with_node();
    let hashes: Vec<String> = (1..=BREAKS_AFTER).map(|number| format!("{number:064x}")).collect();
    place.file("list.txt", hashes.join("\n"));
    let run = place.run(&["get", "--from", "list.txt"]);
    run.failed(exit::STORE, "the store is damaged");
    assert_eq!(run.stdout.lines().collect::<Vec<_>>(), hashes);
}

#[test]
fn signal_cancels_a_list_and_what_came_was_told() {
    let (place, node) = place_with_node();
    place.file("list.txt", format!("{FOUND}\n{NEVER}\n"));
    let mut command = place.command(&["get", "--from", "list.txt"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, format!("{FOUND}\n"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let run = Run::of(child.wait_with_output().unwrap());
    let hint = run.failed(exit::INTERRUPTED, "interrupted");
    assert!(hint.is_some_and(|hint| hint.contains("the same command gets the rest")));
    let told: Vec<String> = node.asked.iter().take(2).collect();
    assert_eq!(told[1], "cancelled");
}

#[test]
fn json_push_has_a_line_for_what_did_not_go_up() {
    let (place, _node) = place_with_node();
    let run = place.run(&["push", FOUND, NOBODY, "--json"]);
    run.failed(exit::PARTIAL, "1 of 2 blobs are at the edge");
    let lines = run.answers();
    assert_eq!(types(&lines), ["failed", "summary", "error"]);
    assert_eq!(lines[0]["message"], "blob 0000000000 did not go up");
    assert_eq!(lines[0]["causes"][0], "the edge did not answer in time");
    assert_eq!((&lines[0]["code"], &lines[1]["failed"]), (&exit::UNREACHABLE.into(), &1.into()));
    let told = "failed: blob 0000000000 did not go up\n";
    assert_eq!(place.run(&["push", FOUND, NOBODY]).stderr.matches(told).count(), 1);
}

#[test]
fn get_answers_with_the_hash_and_talks_on_stderr() {
    let (place, _node) = place_with_node();
    let run = place.run(&["get", FOUND]);
    assert_eq!(run.succeeded().stdout, format!("{FOUND}\n"));
    let line = "got 3f9a1c20be  292 KiB in 41 ms  (local 0, lan 292 KiB, edge 0)\n";
    assert_eq!(run.stderr, line);
    assert_eq!(place.run(&["get", FOUND, "-q"]).succeeded().stderr, "");
}

#[test]
fn get_asks_with_an_absolute_output_the_timeout_and_a_folded_hash() {
    let (place, node) = place_with_node();
    let upper = FOUND.to_uppercase();
    place.run(&["get", &upper, "-o", "out.bin", "--force", "--timeout", "1.5s"]).succeeded();
    let request = asked(&node);
    let output = place.directory.path().join("out.bin");
    assert_eq!(request["output"], output.to_str().unwrap());
    assert_eq!(
        (&request["hash"], &request["force"], &request["timeout_ms"]),
        (&FOUND.into(), &true.into(), &1500.into())
    );
}

#[test]
fn json_get_ends_with_one_summary() {
    let (place, _node) = place_with_node();
    let lines = place.run(&["get", FOUND, "--json"]).succeeded().lines();
    assert_eq!(types(&lines), ["start", "phase", "progress", "phase", "summary"]);
    let summary = lines.last().unwrap();
    assert_eq!((&summary["hash"], &summary["size"]), (&FOUND.into(), &LEN.into()));
    assert_eq!(summary["tier"], serde_json::json!({"local": 0, "lan": LEN, "edge": 0}));
    assert_eq!((&summary["seconds"], &summary["found"]), (&0.041.into(), &"lan".into()));
    assert_eq!(summary["phases"]["transfer_s"], 0.04);
    assert_eq!(summary["output"], Value::Null);
}

#[test]
fn json_get_that_fails_ends_with_the_error_and_its_causes() {
    let (place, _node) = place_with_node();
    let run = place.run(&["get", NOBODY, "--json"]);
    run.failed(exit::NOT_FOUND, "was not found");
    let lines = run.lines();
    let error = lines.last().unwrap();
    assert_eq!((&error["code"], &error["kind"]), (&3.into(), &"not_found".into()));
    assert_eq!(error["causes"][1], "lan: asked 0 of 2 peers: both filters rule it out");
}

#[test]
fn cat_and_get_to_stdout_give_the_bytes_and_nothing_else() {
    let (place, _node) = place_with_node();
    for args in [&["cat", FOUND][..], &["get", FOUND, "-o", "-"]] {
        let output = place.command(args).output().unwrap();
        assert!(output.status.success());
        assert!(output.stdout == fake_node::bytes(), "{} bytes", output.stdout.len());
    }
}

#[test]
fn reader_that_goes_away_ends_a_cat_without_a_word() {
    let (place, _node) = place_with_node();
    let mut command = place.command(&["cat", FOUND]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 10]).unwrap();
    drop(stdout);
    let run = Run::of(child.wait_with_output().unwrap());
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
}

#[test]
fn signal_cancels_the_get_and_tells_how_it_goes_on() {
    let (place, node) = place_with_node();
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let mut command = place.command(&["get", NEVER, "--json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Its progress shows that the node works on it.
        while !lines.next().unwrap().unwrap().contains("\"lan\"") {}
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        let last = lines.map(Result::unwrap).last().unwrap();
        assert!(last.contains("\"code\":130"), "{last}");
        let run = Run::of(child.wait_with_output().unwrap());
        let hint = run.failed(exit::INTERRUPTED, "interrupted");
        assert!(hint.is_some_and(|hint| hint.contains(NEVER)), "{hint:?}");
        assert_eq!(node.asked.iter().nth(1).unwrap(), "cancelled");
    }
}

#[test]
fn signal_ends_a_command_whose_node_does_not_greet() {
    let place = Place::new();
    std::fs::create_dir(place.home()).unwrap();
    let socket = place.home().join("control.sock");
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let mut command = place.command(&["status"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        // Its greeting shows that it has begun to wait.
        stream.read_exact(&mut [0; 10]).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        let run = Run::of(child.wait_with_output().unwrap());
        run.failed(exit::INTERRUPTED, "interrupted");
    }
}

#[test]
fn signal_ends_a_doctor_whose_edge_does_not_answer() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let edge = format!("http://{}/", listener.local_addr().unwrap());
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let mut command = place.command(&["doctor", "--no-mdns", "--edge", &edge]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let _stream = listener.accept().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        let run = Run::of(child.wait_with_output().unwrap());
        run.failed(exit::INTERRUPTED, "interrupted");
    }
}

#[test]
fn files_stdin_and_nameless_bytes_are_added_by_their_hash() {
    let (place, node) = place_with_node();
    place.file("a.txt", "hello");
    let hash = blobmesh_protocol::Hash::of(b"hello").to_hex();
    let run = place.run_with_input(&["add", "--pin", "a.txt", "-"], b"hello");
    assert_eq!(run.succeeded().stdout, format!("{hash}\n{hash}\n"));
    let by_path = asked(&node);
    let path = place.directory.path().join("a.txt");
    assert_eq!((&by_path["path"], &by_path["pin"]), (&path.to_str().into(), &true.into()));
    assert_eq!(asked(&node)["path"], Value::Null);

    let name = std::ffi::OsStr::from_bytes(b"not-utf8-\xff.txt");
    std::fs::write(place.directory.path().join(name), "hello").unwrap();
    let run = Run::of(place.command(&["add"]).arg(name).output().unwrap());
    assert_eq!(run.succeeded().stdout, format!("{hash}\n"));
    assert_eq!(asked(&node)["path"], Value::Null, "a name that is no text is not sent");
}

#[test]
fn json_add_tells_each_blob_and_a_summary() {
    let (place, _node) = place_with_node();
    place.file("a.txt", "hello");
    let lines = place.run(&["add", "a.txt", "--json"]).succeeded().lines();
    assert_eq!(types(&lines), ["added", "summary"]);
    assert_eq!((&lines[0]["size"], &lines[1]["bytes"]), (&5.into(), &5.into()));
}

#[test]
fn has_answers_for_each_and_fails_when_one_is_absent() {
    let (place, _node) = place_with_node();
    let run = place.run(&["has", FOUND, NOBODY]);
    run.failed(exit::NOT_FOUND, "blob 0000000000 is not in the store");
    assert_eq!(run.stdout, format!("{FOUND}  292 KiB\n{NOBODY}  absent\n"));
    place.run(&["has", FOUND]).succeeded();
    let lines = place.run(&["has", FOUND, NOBODY, "--json"]).lines();
    assert_eq!(types(&lines), ["has", "has", "error"]);
    assert_eq!((&lines[0]["has"], &lines[1]["has"]), (&true.into(), &false.into()));
}

#[test]
fn lists_are_tables_for_people_and_lines_for_programs() {
    let (place, _node) = place_with_node();
    let run = place.run(&["ls"]);
    let hash_column = format!("{:<64}", "HASH");
    let table =
        format!("{hash_column}  SIZE     ORIGIN  PINNED\n{FOUND}  292 KiB  added   pinned\n");
    assert_eq!(run.succeeded().stdout, table);
    assert_eq!(run.stderr, "1 blob, 292 KiB\n");
    let run = place.run(&["peers"]);
    let row = run.succeeded().stdout.lines().nth(1).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    let address = "/ip4/192.168.1.6/tcp/4701";
    let expected = [PEER, "neighbour", "12", "blobs", "0.42", "ms", "292", "KiB", "0", address];
    assert_eq!(cells, expected);
    for (command, row) in [("ls", "blob"), ("peers", "peer")] {
        let lines = place.run(&[command, "--json"]).succeeded().lines();
        assert_eq!(types(&lines), [row, "summary"]);
    }
}

#[test]
fn status_and_why_are_text_for_people_and_one_line_for_programs() {
    let (place, _node) = place_with_node();
    let status = place.run(&["status"]).succeeded().stdout.clone();
    for line in [
        &format!("node      {PEER}"),
        "version   0.1.0, pid 4711, up 1m01s",
        "mesh      00112233aabbccdd",
        "edge      none",
        "store     1 blob, 292 KiB of 50 GiB",
        "address   /ip4/192.168.1.5/tcp/4701",
        "gets  7",
    ] {
        assert!(status.lines().any(|found| found == line), "{line}\n{status}");
    }
    let why = place.run(&["why", FOUND]).succeeded().stdout.clone();
    assert!(why.contains("  lan    asked 1 of 2 peers: one filter rules it out\n"), "{why}");
    let lines = place.run(&["why", FOUND, "--json"]).succeeded().lines();
    assert_eq!((types(&lines), &lines[0]["found"]), (vec!["summary"], &"lan".into()));
    let lines = place.run(&["status", "--json"]).succeeded().lines();
    assert_eq!((types(&lines), &lines[0]["pid"]), (vec!["summary"], &4711.into()));
    assert_eq!((&lines[0]["program"], &lines[0]["counters"]["gets"]), (&"0.1.0".into(), &7.into()));
}

#[test]
fn changes_of_the_store_say_what_they_did() {
    let (place, node) = place_with_node();
    for (args, said) in [
        (&["rm", "--force", FOUND][..], "removed 1 blob, 292 KiB\n"),
        (&["pin", FOUND], "pinned 1 blob\n"),
        (&["unpin", FOUND], "unpinned 1 blob\n"),
        (&["gc"], "evicted 3 blobs, 3 MiB free again\n"),
    ] {
        let run = place.run(args);
        assert_eq!((run.succeeded().stdout.as_str(), run.stderr.as_str()), ("", said));
        asked(&node);
        let lines = place.run(&[args, &["--json"]].concat()).succeeded().lines();
        assert_eq!(types(&lines), ["summary"]);
        let request = asked(&node);
        assert_eq!(request["force"].as_bool(), (args[0] == "rm").then_some(true));
    }
}

#[test]
fn wrong_bytes_in_the_store_are_named_and_fail() {
    let (place, _node) = place_with_node();
    let run = place.run(&["verify"]);
    run.failed(exit::WRONG_BYTES, "1 of 2 blobs had wrong bytes");
    assert_eq!(run.stdout, format!("{NEVER}  wrong bytes\n"));
}

#[test]
fn flags_that_a_running_node_does_not_take_are_warned_of() {
    let (place, _node) = place_with_node();
    let run = place.run(&["get", FOUND, "--no-mdns", "--edge", "dir:x"]);
    let warning = "warning: the running node serves this; no effect has --no-mdns, --edge\n";
    assert!(run.succeeded().stderr.starts_with(warning), "{run:?}");
    let lines = place.run(&["get", FOUND, "--no-mdns", "--json"]).succeeded().lines();
    assert_eq!(lines[0]["type"], "warning");
    let run = place.run(&["prefetch", FOUND, "--edge", "dir:x"]);
    let warning = "warning: the running node serves this; no effect has --edge\n";
    assert!(run.succeeded().stderr.starts_with(warning), "{run:?}");
}

#[test]
fn colour_comes_only_when_asked_for_where_there_is_no_terminal() {
    let (place, _node) = place_with_node();
    for (args, colored) in [
        (&["get", NOBODY][..], false),
        (&["get", NOBODY, "--color", "never"], false),
        (&["get", NOBODY, "--color", "always"], true),
    ] {
        let run = place.run(args);
        assert_eq!(run.stderr.contains('\u{1b}'), colored, "{run:?}");
    }
}

#[test]
fn invitation_carries_the_addresses_others_can_dial() {
    let (place, _node) = place_with_node();
    let run = place.run(&["invite", "--json"]);
    let lines = run.succeeded().lines();
    assert_eq!(types(&lines), ["warning", "summary"]);
    assert_eq!(lines[1]["addresses"], serde_json::json!(["/ip4/192.168.1.5/tcp/4701"]));

    let guest = Place::new();
    let ticket = lines[1]["ticket"].as_str().unwrap();
    guest.run_with_input(&["join", "-"], ticket.as_bytes()).succeeded();
    let shown = guest.run(&["config", "show"]);
    let row = "peers = [\"/ip4/192.168.1.5/tcp/4701\"]  # joined by ticket\n";
    assert!(shown.succeeded().stdout.contains(row), "{shown:?}");

    let host = Place::new();
    let other = host.run(&["invite"]);
    let run = place.run_with_input(&["join", "-", "--force"], other.stdout.as_bytes());
    run.failed(exit::STORE, "a node runs here");
}

#[test]
fn node_of_a_newer_version_is_named() {
    let place = Place::new();
    std::fs::create_dir(place.home()).unwrap();
    let socket = place.home().join("control.sock");
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    let node = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"{\"blobmesh_control\":2,\"program\":\"9.9.9\"}\n").unwrap();
        stream.read_to_end(&mut Vec::new()).ok();
    });
    let run = place.run(&["ls"]);
    let hint = run.failed(exit::FORMAT_NEWER, "the running node is of version 9.9.9");
    assert!(hint.is_some_and(|hint| hint.starts_with("restart the node")), "{hint:?}");
    node.join().unwrap();
}
