//! `list`, `new` and `check`, as a user types them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use blobmesh_simulations::plan::{CANNED, Canned};

fn sim(directory: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blobmesh-sim"));
    command.current_dir(directory).args(words).output().expect("blobmesh-sim runs")
}

fn told(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn list_names_every_canned_plan_and_what_it_asks() {
    let directory = tempfile::tempdir().expect("a directory");
    let output = sim(directory.path(), &["list"]);
    assert_eq!(output.status.code(), Some(0));
    let text = told(&output.stdout);
    let names: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, CANNED.iter().map(|canned| canned.name).collect::<Vec<_>>());
    let json = told(&sim(directory.path(), &["list", "--json"]).stdout);
    for (line, canned) in json.lines().zip(CANNED) {
        let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(row["plan"], canned.name);
        assert!(row["cells"].as_u64() > Some(1), "{row}");
    }
}

#[test]
fn new_writes_a_plan_and_never_over_another() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("bloom.toml");
    assert_eq!(sim(directory.path(), &["new", "bloom"]).status.code(), Some(0));
    let bloom = Canned::find("bloom").expect("a canned plan").text;
    assert_eq!(fs::read_to_string(&path).expect("a file"), bloom);
    fs::write(&path, "mine").expect("a file is written");
    let again = sim(directory.path(), &["new", "bloom"]);
    assert_eq!(again.status.code(), Some(2));
    assert_eq!(told(&again.stderr), "error: bloom.toml is there already, and is not overwritten\n");
    assert_eq!(fs::read_to_string(&path).expect("a file"), "mine");
    assert_eq!(told(&sim(directory.path(), &["new", "bloom", "-"]).stdout), bloom);
    let unknown = sim(directory.path(), &["new", "blom", "x.toml"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(told(&unknown.stderr).contains("no plan is named blom; there are two-nodes"));
    assert!(!directory.path().join("x.toml").exists());
    assert_eq!(sim(directory.path(), &["new", "bloom", "absent/x.toml"]).status.code(), Some(1));
}

#[test]
fn check_says_what_it_found_in_a_file_or_a_canned_plan() {
    let directory = tempfile::tempdir().expect("a directory");
    assert_eq!(sim(directory.path(), &["new", "churn", "my.toml"]).status.code(), Some(0));
    for plan in ["my.toml", "churn"] {
        let output = sim(directory.path(), &["check", plan]);
        assert_eq!(output.status.code(), Some(0), "{}", told(&output.stderr));
        let text = told(&output.stdout);
        assert!(text.starts_with("churn\n  about     Runners live"), "{text}");
        assert!(text.contains("  nodes     200: 200 runner\n"), "{text}");
        assert!(text.contains("  assert    gets.failed / gets <= 0.001\n"), "{text}");
    }
    let set = sim(directory.path(), &["check", "churn", "--set", "group.count=7", "--json"]);
    let row: serde_json::Value = serde_json::from_str(&told(&set.stdout)).expect("JSON");
    assert_eq!((&row["nodes"], &row["cells"]), (&7.into(), &6.into()));
}

#[test]
fn a_bad_plan_is_one_line_and_exit_code_2() {
    let directory = tempfile::tempdir().expect("a directory");
    let plan = "name = \"bad\"\n\n[[group]]\nname = \"runner\"\ncount = 5\nbandwith = \"1Gbps\"\n";
    fs::write(directory.path().join("bad.toml"), plan).expect("a file is written");
    for (words, expected) in [
        (
            vec!["check", "bad.toml"],
            "error: bad.toml:6:1: group.runner: unknown key `bandwith`, did you mean `bandwidth`?; ",
        ),
        (vec!["check", "absent.toml"], "error: absent.toml: cannot be read: "),
        (
            vec!["check", "blom"],
            "error: blom: unknown plan `blom`, did you mean `bloom`?; allowed: ",
        ),
        (
            vec!["check", "bloom", "--set", "group.node.count=-3"],
            "error: --set group.node.count=-3: group.node.count: -3 is out of bounds; allowed: ",
        ),
        (
            vec!["check", "bloom", "--set", "sweep.seed=[1.5]"],
            "error: --set sweep.seed=[1.5]: seed: takes a whole number, not a number with a point",
        ),
    ] {
        let output = sim(directory.path(), &words);
        assert_eq!((output.status.code(), told(&output.stdout).as_str()), (Some(2), ""));
        let error = told(&output.stderr);
        assert!(error.starts_with(expected) && error.lines().count() == 1, "{error}");
    }
}
