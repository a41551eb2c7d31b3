//! Bad input: one clear error, a hint where one helps, the documented code, and nothing is touched.

mod support;

use blobmesh_cli::exit;
use support::{Place, names_in};

const HASH: &str = "3f9a1c20be00000000000000000000000000000000000000000000000000beef";

#[test]
fn malformed_hashes_are_usage_errors_of_every_command() {
    let place = Place::new();
    let with = |tail: &str| format!("{}{tail}", &HASH[..63]);
    let hashes = [
        ("63 digits", HASH[..63].to_owned(), "a hash has 64 hex digits, this has 63"),
        ("65 digits", with("ff"), "this has 65"),
        ("empty", String::new(), "this has 0"),
        ("not hex", with("g"), "character 64 is 'g'"),
        ("digits of another script", with("٣"), "hex digits only"),
        ("a line end", with("\n"), "hex digits only"),
        ("a prefix", format!("b3:{}", &HASH[..61]), "hex digits only"),
    ];
    for (what, hash, text) in &hashes {
        for command in ["get", "cat", "has", "rm", "pin", "unpin", "push", "why", "verify"] {
            let hint = place.run(&[command, hash]);
            let hint = hint.failed(exit::USAGE, text);
            assert!(hint.is_some_and(|hint| hint.contains("blobmesh ls")), "{what} {command}");
        }
    }
    assert!(!place.home().exists(), "nothing is opened for a command that makes no sense");
}

#[test]
fn second_of_two_hashes_is_checked_too() {
    let place = Place::new();
    place.run(&["get", HASH, "abc"]).failed(exit::USAGE, "invalid hash \"abc\"");
}

#[test]
fn output_that_exists_is_refused_and_not_changed() {
    let place = Place::new();
    let output = place.file("out.bin", "precious");
    let run = place.run(&["get", HASH, "-o", "out.bin"]);
    let hint = run.failed(exit::USAGE, "output out.bin exists");
    assert_eq!(hint, Some("add --force to replace it"));
    assert_eq!(std::fs::read_to_string(output).unwrap(), "precious");
    assert!(!place.home().exists(), "refused before any work");
}

#[test]
fn output_that_is_a_directory_is_refused_even_with_force() {
    let place = Place::new();
    for output in [".", "..", "/"] {
        let run = place.run(&["get", HASH, "--force", "-o", output]);
        run.failed(exit::USAGE, "is a directory");
    }
}

#[cfg(unix)]
#[test]
fn output_that_is_a_pipe_or_leads_to_one_stays_one_even_with_force() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let place = Place::new();
    let path = |name| place.directory.path().join(name);
    let (fifo, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600));
    rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), fifo, mode, 0).unwrap();
    symlink("pipe", path("link")).unwrap();
    for output in ["pipe", "link"] {
        for force in [&[][..], &["--force"]] {
            let run = place.run(&[&["get", HASH, "-o", output], force].concat());
            let hint = run.failed(exit::USAGE, "is no regular file");
            assert_eq!(hint, Some(&*format!("`blobmesh cat HASH > {output}` writes into it")));
        }
    }
    assert!(std::fs::symlink_metadata(path("pipe")).unwrap().file_type().is_fifo());
    assert!(std::fs::symlink_metadata(path("link")).unwrap().is_symlink());
    assert!(!place.home().exists(), "refused before any work");
}

#[cfg(unix)]
#[test]
fn output_that_is_a_link_to_nothing_is_there() {
    let place = Place::new();
    std::os::unix::fs::symlink("nothing", place.directory.path().join("link")).unwrap();
    let run = place.run(&["get", HASH, "-o", "link"]);
    run.failed(exit::USAGE, "output link exists");
}

#[test]
fn output_in_a_missing_directory_is_refused() {
    let place = Place::new();
    let run = place.run(&["get", HASH, "-o", "no/such/out.bin"]);
    let hint = run.failed(exit::USAGE, "the directory of output no/such/out.bin does not exist");
    assert!(hint.is_some_and(|hint| hint.starts_with("make it first: mkdir -p ")), "{hint:?}");
    assert_eq!(names_in(place.directory.path()), Vec::<String>::new());
}

#[test]
fn outputs_that_contradict_the_rest_are_refused() {
    let place = Place::new();
    for (args, text) in [
        (&["get", HASH, HASH, "-o", "out.bin"][..], "--output takes one blob"),
        (&["get", HASH, "-o", ""], "a value is required"),
        (&["get", HASH, "--no-store"], "required arguments were not provided"),
        (&["get", HASH, "-o", "-", "--no-store"], "--no-store needs an output that is no stream"),
    ] {
        place.run(args).failed(exit::USAGE, text);
    }
    for args in [&["cat", HASH, "--json"][..], &["get", HASH, "-o", "-", "--json"]] {
        place.run(args).failed(exit::USAGE, "stdout cannot take both");
    }
}

#[test]
fn older_versions_that_are_none_are_refused_before_anything_is_got() {
    let place = Place::new();
    place.run(&["get", HASH, "--base", "missing"]).failed(exit::OTHER, "cannot read missing");
    let hint = place.run(&["get", HASH, "--base", "."]);
    let hint = hint.failed(exit::USAGE, "is a directory");
    assert!(hint.is_some_and(|hint| hint.contains("blobmesh pull")), "{hint:?}");
    for (args, text) in [
        (&["get", HASH, &HASH.replace('3', "4"), "--base", HASH][..], "--base is of one blob"),
        (&["get", HASH, "-o", "-", "--base", HASH], "--base needs an output that is no stream"),
    ] {
        place.run(args).failed(exit::USAGE, text);
    }
    assert!(!place.home().exists());
}

#[test]
fn files_that_cannot_be_added_are_refused_before_the_store_is_opened() {
    let place = Place::new();
    place.run(&["add", "missing"]).failed(exit::OTHER, "cannot read missing");
    place.run(&["add", "-", "-"]).failed(exit::USAGE, "stdin can be added once only");
    place.run(&["add"]).failed(exit::USAGE, "required");
    assert!(!place.home().exists());
}

#[cfg(unix)]
#[test]
fn devices_and_pipes_are_no_files_to_add() {
    let place = Place::new();
    place.run(&["add", "/dev/zero"]).failed(exit::USAGE, "/dev/zero is not a regular file");
}

#[cfg(unix)]
#[test]
fn file_that_may_not_be_read_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let file = place.file("secret.bin", "x");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::File::open(&file).is_ok() {
        return; // Root reads everything.
    }
    place.run(&["add", "secret.bin"]).failed(exit::OTHER, "cannot read secret.bin");
}

#[test]
fn several_files_that_fail_are_each_named_before_one_error() {
    let place = Place::new();
    let run = place.run(&["add", "one", "two"]);
    run.failed(exit::OTHER, "0 of 2 files were added");
    for name in ["one", "two"] {
        assert!(run.stderr.contains(&format!("failed: cannot read {name}\n")), "{run:?}");
    }
}

#[test]
fn durations_and_sizes_out_of_range_are_usage_errors() {
    let place = Place::new();
    for duration in ["0", "-5s", "30", "1w", "99999999999h"] {
        let timeout = format!("--timeout={duration}");
        place.run(&["get", HASH, &timeout]).failed(exit::USAGE, "--timeout: ");
        place.run(&["cat", HASH, &timeout]).failed(exit::USAGE, "--timeout: ");
    }
    for size in ["0", "10XB", "2GiB", "20000000TiB"] {
        place.run(&["demo", "--size", size]).failed(exit::USAGE, "--size: ");
    }
}

#[test]
fn flags_of_a_node_are_checked_before_it_starts() {
    let place = Place::new();
    for (flag, value, text) in [
        ("--listen", "4701", "not an address to listen on"),
        ("--listen", "127.0.0.1:65536", "not an address to listen on"),
        ("--peer", "10.0.0.1:0", "not a peer's address"),
        ("--peer", "/ip4/10.0.0.1/udp/1", "not a peer's address"),
        ("--edge", "ftp://host", "--edge: "),
        ("--edge", "s3://bucket", "--edge: "),
    ] {
        place.run(&["up", flag, value]).failed(exit::USAGE, text);
        assert!(!place.home().exists());
    }
}

#[test]
fn password_in_an_edge_url_is_refused_and_not_shown() {
    let place = Place::new();
    for url in [
        "https://me:hunter2@host/",
        "s3://me:hunter2@bucket?endpoint=https://host",
        "s3://bucket?endpoint=https://me:hunter2@host",
        "ftp://me:hunter2@host",
    ] {
        let run = place.run(&["up", "--edge", url]);
        run.failed(exit::USAGE, "--edge: ");
        assert!(!run.stderr.contains("hunter2"), "{run:?}");
    }
}

#[test]
fn commands_that_need_a_running_node_say_how_to_start_one() {
    let place = Place::new();
    for command in ["peers", "status"] {
        let run = place.run(&[command]);
        let hint = run.failed(exit::NO_NODE, "no node runs in ");
        assert_eq!(hint, Some("start one with `blobmesh up`"));
    }
}

#[test]
fn json_error_is_the_last_line_with_the_same_code() {
    let place = Place::new();
    for (args, code) in [
        (&["--json", "get", "abc"][..], exit::USAGE),
        (&["--json", "status"], exit::NO_NODE),
        (&["--json", "add", "missing"], exit::OTHER),
        (&["--json", "no-such-command"], exit::USAGE),
        (&["--json", "get"], exit::USAGE),
        (&["--json", "--config", "missing.toml", "ls"], exit::CONFIGURATION),
    ] {
        let run = place.run(args);
        run.failed(code, "");
        let lines = run.lines();
        let last = lines.last().unwrap();
        assert_eq!((&last["type"], &last["code"]), (&"error".into(), &code.into()), "{args:?}");
        assert!(last["message"].as_str().is_some_and(|message| !message.is_empty()), "{last}");
        assert!(last["causes"].is_array(), "{last}");
    }
}

#[test]
fn home_that_is_a_file_is_an_error_that_names_it() {
    let place = Place::new();
    std::fs::write(place.home(), "").unwrap();
    let run = place.run(&["invite"]);
    run.failed(exit::OTHER, "cannot make the home directory");
}

#[test]
fn nothing_leads_to_a_home_directory() {
    let place = Place::new();
    let mut command = place.command(&["ls"]);
    let run = command.env_remove("BLOBMESH_HOME").env_remove("HOME").env_remove("LOCALAPPDATA");
    let run = support::Run::of(run.output().unwrap());
    let hint = run.failed(exit::CONFIGURATION, "there is no home directory");
    assert!(hint.is_some_and(|hint| hint.contains("--home")), "{hint:?}");
}

#[test]
fn usage_errors_are_whole_in_json_too() {
    let place = Place::new();
    for (args, message) in [
        (&["get"][..], "<HASH>"),
        (&["ls", "--color", "green"], "[possible values: auto, always, never]"),
        (&["add", "x", "--pni"], "'--pni'"),
    ] {
        let error = place.run(&[&["--json"], args].concat()).lines().pop().expect("a line");
        let told = error["message"].as_str().expect("a message");
        assert!(told.contains(message) && !told.contains('\n'), "{told:?}");
    }
}
