//! The layers of the configuration, and what is wrong in them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use blobmesh_cli::exit;
use serde_json::Value;
use support::Place;

/// Writes the configuration file and returns how `config show` ends.
fn show(place: &Place, text: &str) -> support::Run {
    place.file("home/config.toml", text);
    place.run(&["config", "show"])
}

/// Returns value and origin of one key.
fn setting(place: &Place, env: &[(&str, &str)], key: &str) -> (Value, String) {
    let run = place.run_with_env(&["config", "show", "--json"], env);
    let lines = run.succeeded().lines();
    let line = lines.iter().find(|line| line["key"] == key).unwrap();
    (line["value"].clone(), line["origin"].as_str().unwrap().to_owned())
}

#[test]
fn empty_variables_count_as_not_set_and_empty_flags_do_not() {
    let place = Place::new();
    let variables = ["BLOBMESH_HOME", "BLOBMESH_CONFIG", "BLOBMESH_LISTEN"];
    place.run_with_env(&["config", "show"], &variables.map(|name| (name, ""))).succeeded();
    place.run(&["ls", "--home", ""]).failed(exit::USAGE, "a value is required");
}

#[test]
fn wrong_files_are_named_with_their_line() {
    let place = Place::new();
    let table = [
        ("mdns = true\nlisen = []\n", 2, "unknown key lisen; the nearest known key is listen"),
        ("[store]\nbyte_max = 1\n", 2, "the nearest known key is store.bytes_max"),
        ("[edge]\n\nur = \"x\"\n", 3, "the nearest known key is edge.url"),
        ("[network]\nport = 1\n", 1, "unknown key network"),
        ("\nmdns = \"on\"\n", 2, "mdns wants true or false"),
        ("listen = \":1\"\n", 1, "listen wants a list of strings"),
        ("listen = [1]\n", 1, "listen wants a list of strings"),
        ("listen = [\":70000\"]\n", 1, "listen: \":70000\" is not an address"),
        ("[store]\nbytes_max = \"20XB\"\n", 2, "store.bytes_max: \"20XB\" is not a size"),
        ("[store]\nbytes_max = 0\n", 2, "leaves no room"),
        ("[store]\nbytes_max = -1\n", 2, "is not a size"),
        ("[store]\nbytes_max = true\n", 2, "wants a size"),
        ("store = 1\n", 1, "unknown key store"),
        ("timeout = \"5\"\n", 1, "is not a duration"),
        ("[edge]\nurl = \"ftp://host\"\n", 2, "edge.url: "),
        ("[edge]\nhttp = 4\n", 2, "edge.http: it is `auto`, `1`, `2` or `3`"),
        ("[edge]\nhttp = true\n", 2, "edge.http wants \"auto\", \"1\", \"2\" or \"3\""),
        ("prefetch = \"all\"\n", 1, "prefetch: it is `learned` or `asked`"),
        ("profile = \"cl\"\n", 1, "profile: it is `office` or `ci`"),
        ("mdns = true\nmdns = false\n", 2, ""),
        ("mdns = \n", 1, ""),
        ("\u{0}", 1, ""),
    ];
    for (text, line, message) in table {
        let run = show(&place, text);
        run.failed(exit::CONFIGURATION, &format!("config.toml:{line}: "));
        run.failed(exit::CONFIGURATION, message);
    }
}

#[test]
fn http_of_the_edge_is_a_text_or_a_number_and_3_needs_to_be_built_in() {
    let place = Place::new();
    assert_eq!(setting(&place, &[], "edge.http"), ("\"auto\"".into(), "default".to_owned()));
    for text in ["1", "\"2\"", "\"auto\""] {
        show(&place, &format!("[edge]\nhttp = {text}\n")).succeeded();
    }
    let run = show(&place, "[edge]\nhttp = 3\n");
    if cfg!(feature = "http3") {
        run.succeeded();
    } else {
        run.failed(exit::CONFIGURATION, "edge.http: HTTP/3 is not built into this program");
        assert!(run.stderr.contains("--features http3"), "{run:?}");
    }
}

#[test]
fn file_that_was_asked_for_must_be_there_and_of_a_sane_length() {
    let place = Place::new();
    let run = place.run(&["--config", "missing.toml", "config", "show"]);
    run.failed(exit::CONFIGURATION, "cannot read the configuration file missing.toml");
    place.run(&["config", "show"]).succeeded();
    let run = show(&place, &"#".repeat((1 << 20) + 1));
    run.failed(exit::CONFIGURATION, "cannot read the configuration file");
    assert!(run.stderr.contains("longer than 1048576 bytes"), "{run:?}");
}

#[test]
fn byte_order_mark_and_carriage_returns_are_no_trouble() {
    let place = Place::new();
    show(&place, "\u{feff}mdns = false\r\n[store]\r\nbytes_max = \"1GiB\"\r\n").succeeded();
    assert_eq!(setting(&place, &[], "mdns").0, "false");
}

#[test]
fn layers_win_in_rising_order_and_tell_where_a_value_comes_from() {
    let place = Place::new();
    let key = "store.bytes_max";
    assert_eq!(setting(&place, &[], key), ("\"50GiB\"".into(), "default".to_owned()));
    let file = place.file("home/config.toml", "[store]\nbytes_max = \"20GiB\"\n");
    let origin = format!("{}:2", file.display());
    assert_eq!(setting(&place, &[], key), ("\"20GiB\"".into(), origin.clone()));
    let env = ("BLOBMESH_STORE_BYTES_MAX", "10GiB");
    assert_eq!(setting(&place, &[env], key), ("\"10GiB\"".into(), env.0.to_owned()));
    let empty = ("BLOBMESH_STORE_BYTES_MAX", "");
    assert_eq!(setting(&place, &[empty], key).1, origin, "an empty variable is none");
}

#[test]
fn runner_prefetches_only_what_it_is_asked_to_unless_it_says_otherwise() {
    let place = Place::new();
    let key = "prefetch";
    assert_eq!(setting(&place, &[], key), ("\"learned\"".into(), "default".to_owned()));
    let ci = ("BLOBMESH_PROFILE", "ci");
    assert_eq!(setting(&place, &[ci], key), ("\"asked\"".into(), "profile ci".to_owned()));
    let file = place.file("home/config.toml", "prefetch = \"learned\"\n");
    let origin = format!("{}:1", file.display());
    assert_eq!(setting(&place, &[ci], key), ("\"learned\"".into(), origin));
}

#[test]
fn wrong_variables_are_named() {
    let place = Place::new();
    for (name, value) in [
        ("BLOBMESH_MDNS", "maybe"),
        ("BLOBMESH_STORE_BYTES_MAX", "many"),
        ("BLOBMESH_LISTEN", ":1,:70000"),
        ("BLOBMESH_EDGE_URL", "s3://bucket"),
    ] {
        let run = place.run_with_env(&["config", "show"], &[(name, value)]);
        run.failed(exit::CONFIGURATION, name);
    }
}

#[test]
fn variable_that_means_nothing_is_warned_of_with_the_nearest() {
    let place = Place::new();
    let run = place.run_with_env(&["config", "show"], &[("BLOBMESH_MNDS", "1")]);
    let warning = "warning: the environment variable BLOBMESH_MNDS means nothing; \
                   the nearest is BLOBMESH_MDNS\n";
    assert_eq!(run.succeeded().stderr, warning);
}

#[test]
fn half_of_the_credentials_is_an_error_that_names_the_missing_half() {
    let place = Place::new();
    let id = ("BLOBMESH_EDGE_ACCESS_KEY_ID", "AKIAEXAMPLE");
    let secret = ("BLOBMESH_EDGE_SECRET_ACCESS_KEY", "hunter2hunter2");
    for (given, missing, variable) in
        [(id, "edge.secret_access_key", secret.0), (secret, "edge.access_key_id", id.0)]
    {
        let run = place.run_with_env(&["ls"], &[given]);
        let hint = run.failed(exit::CONFIGURATION, missing);
        assert!(hint.is_some_and(|hint| hint.contains(variable)), "{hint:?}");
        assert!(!run.stderr.contains(given.1), "{run:?}");
    }
}

#[test]
fn port_of_lanes_is_a_port_any_or_off() {
    let place = Place::new();
    for text in ["4002", "\"4002\"", "\"any\"", "\"off\""] {
        let run = show(&place, &format!("lane_port = {text}\n"));
        let shown = format!("\"{}\"", text.trim_matches('"'));
        assert!(run.succeeded().stdout.contains(&shown), "{run:?}");
    }
    for text in ["0", "65536", "-1", "\"none\"", "true", "[4002]"] {
        let run = show(&place, &format!("lane_port = {text}\n"));
        run.failed(exit::CONFIGURATION, "lane_port");
    }
}

#[test]
fn upload_rate_is_a_size_a_second_or_off() {
    let place = Place::new();
    for text in ["20MiB/s", "1MiB", "1GiB/s", "off"] {
        let run = show(&place, &format!("upload_rate_max = \"{text}\"\n"));
        assert!(run.succeeded().stdout.contains(&format!("\"{text}\"")), "{run:?}");
    }
    for text in ["\"1KiB/s\"", "\"0\"", "\"-1MiB\"", "\"fast\"", "\"20MiB/min\"", "true", "[1]"] {
        let run = show(&place, &format!("upload_rate_max = {text}\n"));
        run.failed(exit::CONFIGURATION, "upload_rate_max");
    }
}

#[test]
fn secrets_are_never_shown() {
    let place = Place::new();
    let env = [
        ("BLOBMESH_EDGE_ACCESS_KEY_ID", "AKIAEXAMPLE"),
        ("BLOBMESH_EDGE_SECRET_ACCESS_KEY", "hunter2hunter2"),
    ];
    for args in [&["config", "show"][..], &["config", "show", "--json", "-vvv"]] {
        let run = place.run_with_env(args, &env);
        let said = format!("{}{}", run.succeeded().stdout, run.stderr);
        assert!(said.contains("(set)") && said.contains("AKIA…"), "{said}");
        assert!(!said.contains("hunter2") && !said.contains("AKIAE"), "{said}");
    }
}

#[test]
fn secret_in_the_configuration_file_is_refused_and_not_shown() {
    let place = Place::new();
    let run = show(&place, "[edge]\nsecret_access_key = \"hunter2\"\n");
    let hint = run.failed(exit::CONFIGURATION, "does not go into the configuration file");
    assert!(hint.is_some_and(|hint| hint.contains("edge.secret_key_file")), "{hint:?}");
    assert!(!run.stderr.contains("hunter2"), "{run:?}");
}

#[cfg(unix)]
#[test]
fn secret_key_file_is_read_beside_the_configuration_and_warned_of_when_others_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let text = "[edge]\naccess_key_id = \"AKIAEXAMPLE\"\nsecret_key_file = \"secret\"\n";
    show(&place, text).failed(exit::CONFIGURATION, "cannot read the secret key file");
    let secret = place.file("home/secret", "\n");
    show(&place, text).failed(exit::CONFIGURATION, "is empty");
    std::fs::write(&secret, "hunter2\n").unwrap();
    for (mode, warned) in [(0o644, true), (0o600, false)] {
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).unwrap();
        let run = show(&place, text);
        assert_eq!(run.succeeded().stderr.contains("want mode 0600"), warned, "{run:?}");
        assert!(!run.stdout.contains("hunter2") && !run.stderr.contains("hunter2"));
    }
}

#[test]
fn damaged_memory_of_tickets_is_named() {
    let place = Place::new();
    place.file("home/peers.json", "{");
    let run = place.run(&["config", "show"]);
    let hint = run.failed(exit::CONFIGURATION, "cannot read the peers of tickets in ");
    assert!(hint.is_some_and(|hint| hint.starts_with("remove the file")), "{hint:?}");
}
