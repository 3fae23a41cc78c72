//! The quickstart as a person runs it: a process, its output, its exit code.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use ci_core::conformance;

use crate::fixture::{Fixture, quickstart, stderr, stdout};
use crate::traces;

/// What it returns when the fault is not the job's.
const NOT_THE_JOB: i32 = 125;

#[track_caller]
fn one_clear_line(output: &Output, expected: &str) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(NOT_THE_JOB), "{text}{}", stdout(output));
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("error: ") && text.contains(expected), "{text}");
}

#[test]
fn it_runs_twice_with_the_exit_code_of_the_job() {
    let Some(fixture) = Fixture::new("quickstart::it_runs_twice_with_the_exit_code_of_the_job") else {
        return;
    };
    let good = fixture.quickstart(&["cat hello.txt", "echo $QUICKSTART_TOKEN"]).output().expect("it runs");
    let text = stdout(&good);
    assert_eq!(good.status.code(), Some(0), "{text}{}", stderr(&good));
    assert!(text.contains("hello from the commit") && text.contains("│ ***"), "{text}");
    assert!(text.contains("a stranger is refused") && !text.contains("quickstart-"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours in a pipe: {text}");
    let bad = fixture.quickstart(&["exit 7"]).output().expect("it runs");
    assert_eq!(bad.status.code(), Some(7), "{}{}", stdout(&bad), stderr(&bad));
}

#[test]
fn a_control_character_in_two_writes_does_not_reach_the_terminal() {
    let test = "quickstart::a_control_character_in_two_writes_does_not_reach_the_terminal";
    let Some(fixture) = Fixture::new(test) else { return };
    // U+009B starts a control sequence, as ESC [ does; this one would clear the screen.
    let script = r"printf '\302'; sleep 0.5; printf '\2332Jx'; echo; printf '\2332J'";
    let output = fixture.quickstart(&[script]).output().expect("it runs");
    let reaches = |bytes: &[u8]| output.stdout.windows(bytes.len()).any(|window| window == bytes);
    assert!(!reaches("\u{9b}".as_bytes()), "as UTF-8: {}", stdout(&output));
    assert!(!reaches(b"\x9b2J"), "as one byte: {}", stdout(&output));
}

#[test]
fn a_state_folder_of_somebody_else_is_refused() {
    let test = "quickstart::a_state_folder_of_somebody_else_is_refused";
    let Some(fixture) = Fixture::new(test) else { return };
    fs::create_dir(fixture.state()).expect("a folder");
    let target = fixture.path().join("victim");
    fs::write(&target, "precious").expect("a file");
    // What a stranger does who makes /tmp/ci before root says `--state /tmp/ci`.
    std::os::unix::fs::symlink(&target, fixture.state().join("access.new")).expect("a link");
    if std::os::unix::fs::chown(fixture.state(), Some(65534), Some(65534)).is_err() {
        return conformance::skip(test, "root", "only root can give a folder away");
    }
    // Its mode alone would not tell.
    fs::set_permissions(fixture.state(), fs::Permissions::from_mode(0o700)).expect("as root");
    one_clear_line(&fixture.quickstart(&["true"]).output().expect("it runs"), "it belongs to somebody else");
    assert_eq!(fs::read_to_string(&target).expect("a file"), "precious");
}

#[test]
fn a_state_folder_that_is_open_to_others_is_refused_and_stays_as_it_is() {
    let test = "quickstart::a_state_folder_that_is_open_to_others_is_refused_and_stays_as_it_is";
    let Some(fixture) = Fixture::new(test) else { return };
    fs::create_dir(fixture.state()).expect("a folder");
    fs::set_permissions(fixture.state(), fs::Permissions::from_mode(0o755)).expect("our own folder");
    one_clear_line(&fixture.quickstart(&["true"]).output().expect("it runs"), "others may look into it");
    let mode = fs::metadata(fixture.state()).expect("a folder").permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[test]
fn one_at_a_time_works_in_a_state_folder() {
    let test = "quickstart::one_at_a_time_works_in_a_state_folder";
    let Some(fixture) = Fixture::new(test) else { return };
    let first = fixture.quickstart(&["sleep 1.5"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let first = first.expect("it starts");
    let works = || !traces::ledger(&fixture.state()).is_empty();
    assert!(traces::within(Duration::from_secs(30), works), "it never worked");
    one_clear_line(
        &fixture.quickstart(&["true"]).output().expect("it runs"),
        "another quickstart works in it",
    );
    let first = first.wait_with_output().expect("it ends");
    assert_eq!(first.status.code(), Some(0), "undisturbed: {}{}", stdout(&first), stderr(&first));
}

#[test]
fn it_runs_as_an_ordinary_user() {
    let test = "quickstart::it_runs_as_an_ordinary_user";
    let Some(fixture) = Fixture::new(test) else { return };
    fs::set_permissions(fixture.path(), fs::Permissions::from_mode(0o777)).expect("our own folder");
    let mut program = Command::new("setpriv");
    let inner = fixture.quickstart(&["id -u; touch here && echo written"]);
    program
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(inner.get_program())
        .args(inner.get_args());
    let output = program.output().expect("setpriv runs");
    if stderr(&output).starts_with("setpriv:") {
        return conformance::skip(
            test,
            "root",
            "only root can become another user; the other tests ran as one",
        );
    }
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    assert!(text.contains("│ written") && text.contains("not held     SeparateInit"), "{text}");
}

#[test]
fn the_default_job_works() {
    let Some(fixture) = Fixture::new("quickstart::the_default_job_works") else { return };
    let mut program = quickstart();
    let output = program.arg("--state").arg(fixture.state()).current_dir(fixture.repository()).output();
    let output = output.expect("it runs");
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    assert!(text.contains("[3/3]") && text.contains("the owner reads report.txt"), "{text}");
}

#[test]
fn killed_in_the_middle_it_leaves_nothing_and_starts_again() {
    const MARK: &str = "86399.474";
    let test = "quickstart::killed_in_the_middle_it_leaves_nothing_and_starts_again";
    let Some(fixture) = Fixture::new(test) else { return };
    let mut child =
        fixture.quickstart(&["sleep 86399.474"]).stdout(Stdio::null()).spawn().expect("it starts");
    let runs = || !traces::processes_with(MARK).iter().all(|process| is_program(process, child.id()));
    assert!(traces::within(Duration::from_secs(30), runs), "the job never ran");
    let ids = traces::ledger(&fixture.state());
    assert_eq!(ids.len(), 1, "{ids:?}");
    child.kill().expect("killed");
    child.wait().expect("gone");
    let gone = || traces::processes_with(MARK).is_empty();
    assert!(traces::within(Duration::from_secs(1), gone), "the job outlives its host");

    let again = fixture.quickstart(&["echo again"]).output().expect("it runs");
    assert_eq!(again.status.code(), Some(0), "{}{}", stdout(&again), stderr(&again));
    assert_eq!(traces::cgroups_of(&ids), Vec::<PathBuf>::new());
    assert!(traces::ledger(&fixture.state()).is_empty());
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!ids.iter().any(|id| mounts.contains(id.as_str())), "{mounts}");
}

/// Whether this is the quickstart itself, whose own arguments hold the command.
fn is_program(process: &std::path::Path, id: u32) -> bool {
    process.file_name().is_some_and(|name| name.to_string_lossy() == id.to_string())
}

/// The quickstart with the fixture's state and these words after it.
fn with_words(fixture: &Fixture, words: &[&str]) -> Output {
    quickstart().arg("--state").arg(fixture.state()).args(words).output().expect("it runs")
}

/// The quickstart with these arguments and no others.
fn with_arguments(arguments: &[&str]) -> Output {
    quickstart().args(arguments).output().expect("it runs")
}

#[test]
fn an_option_after_the_repository_is_named() {
    for words in
        [&[".", "--state", "x"][..], &[".", "HEAD", "--state=x", "true"], &[".", "HEAD", "true", "--help"]]
    {
        one_clear_line(&with_arguments(words), "must stand before the repository; put it first");
    }
}

#[test]
fn an_option_takes_its_value_after_an_equals_sign_too() {
    let test = "quickstart::an_option_takes_its_value_after_an_equals_sign_too";
    let Some(fixture) = Fixture::new(test) else { return };
    let mut program = quickstart();
    program.arg(format!("--state={}", fixture.state().display())).arg("--artifact=hello.txt");
    let output = program.arg(fixture.repository()).args(["HEAD", "true"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(fixture.state().join("ci.sqlite").exists());
    assert!(stdout(&output).contains("the owner reads hello.txt"), "{}", stdout(&output));
}

#[test]
fn an_option_without_its_value_is_named() {
    one_clear_line(&with_arguments(&["--state"]), "--state needs a folder after it; see --help");
    one_clear_line(&with_arguments(&["--state="]), "--state needs a folder after it; see --help");
    one_clear_line(&with_arguments(&["--state", "--artifact", "x"]), "--state needs a folder after it");
    one_clear_line(&with_arguments(&["--artifact"]), "--artifact needs a path after it; see --help");
}

#[test]
fn an_unknown_option_is_named() {
    one_clear_line(&with_arguments(&["--stat", "x"]), "there is no option \"--stat\"; see --help");
    one_clear_line(&with_arguments(&["-x"]), "there is no option \"-x\"; see --help");
    one_clear_line(
        &with_arguments(&[".", "--upload-pack=id"]),
        "there is no option \"--upload-pack\"; see --help",
    );
}

#[test]
fn an_argument_that_is_not_utf8_is_named() {
    let argument = std::os::unix::ffi::OsStrExt::from_bytes(b"a\xff");
    let output = quickstart().arg::<&std::ffi::OsStr>(argument).output().expect("it runs");
    one_clear_line(&output, "is not UTF-8");
}

#[test]
fn help_says_what_there_is() {
    let output = with_arguments(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("--state FOLDER") && stderr(&output).is_empty());
}

#[test]
fn a_repository_that_does_not_exist_is_named() {
    let test = "quickstart::a_repository_that_does_not_exist_is_named";
    let Some(fixture) = Fixture::new(test) else { return };
    one_clear_line(&with_words(&fixture, &["/nowhere/at/all"]), "there is no such folder; name one that");
    one_clear_line(&with_words(&fixture, &["file:///nowhere/at/all"]), "there is no git repository at the");
}

#[test]
fn a_folder_that_is_no_repository_is_named() {
    let test = "quickstart::a_folder_that_is_no_repository_is_named";
    let Some(fixture) = Fixture::new(test) else { return };
    one_clear_line(
        &with_words(&fixture, &["/usr"]),
        "it is not in a git repository; make one with `git init`",
    );
}

#[test]
fn a_reference_that_does_not_exist_is_named() {
    let test = "quickstart::a_reference_that_does_not_exist_is_named";
    let Some(fixture) = Fixture::new(test) else { return };
    let repository = fixture.repository();
    let repository = repository.to_str().expect("UTF-8");
    let run = |words: &[&str]| with_words(&fixture, &[words, &["true"]].concat());
    one_clear_line(
        &run(&[repository, "no-such-branch"]),
        "there is no branch or tag of that name, and no commit",
    );
    one_clear_line(&run(&["--", repository, "--upload-pack=id"]), "parse a branch, tag or commit");
}

#[test]
fn an_empty_repository_is_named() {
    let Some(fixture) = Fixture::new("quickstart::an_empty_repository_is_named") else { return };
    let empty = fixture.path().join("empty");
    let made = Command::new("git").args(["init", "--quiet"]).arg(&empty).status().expect("git runs");
    assert!(made.success());
    let output = with_words(&fixture, &[empty.to_str().expect("UTF-8")]);
    one_clear_line(&output, "the repository has no commits yet; commit something and push it");
}

#[test]
fn a_url_that_git_would_run_or_believe_is_refused() {
    let test = "quickstart::a_url_that_git_would_run_or_believe_is_refused";
    let Some(fixture) = Fixture::new(test) else { return };
    for url in ["ext::sh -c id://", "http://127.0.0.1/x", "git://127.0.0.1/x"] {
        one_clear_line(&with_words(&fixture, &[url]), "parse the URL of a repository: ");
    }
}

/// The fixture's repository under another name. No link: those are resolved.
fn copy_of(fixture: &Fixture, name: &str) -> String {
    let folder = fixture.path().join(name);
    let copied = Command::new("cp").arg("-r").arg(fixture.repository()).arg(&folder).status();
    assert!(copied.expect("cp runs").success());
    folder.to_str().expect("UTF-8").to_owned()
}

/// Otherwise it would stand in the list of repositories, and be refused at every later start.
#[test]
fn a_repository_that_is_refused_does_not_spoil_the_state_folder() {
    let test = "quickstart::a_repository_that_is_refused_does_not_spoil_the_state_folder";
    let Some(fixture) = Fixture::new(test) else { return };
    for name in ["ftp://x/y", &copy_of(&fixture, "a%20b"), &copy_of(&fixture, "two\nlines")] {
        let refused = with_words(&fixture, &[name, "HEAD", "true"]);
        assert_eq!(refused.status.code(), Some(NOT_THE_JOB), "{name:?}: {}", stderr(&refused));
        let next = fixture.quickstart(&["true"]).output().expect("it runs");
        assert!(next.status.success(), "after {name:?} ({}): {}", stderr(&refused), stderr(&next));
    }
}

#[test]
fn a_repository_whose_name_has_an_accent_of_its_own_works_again_and_again() {
    let test = "quickstart::a_repository_whose_name_has_an_accent_of_its_own_works_again_and_again";
    let Some(fixture) = Fixture::new(test) else { return };
    // Decomposed, as macOS writes names: `{:?}` escapes it in a way that TOML does not know.
    let name = copy_of(&fixture, "Projekte\u{301}");
    for _ in 0..2 {
        let output = with_words(&fixture, &[&name, "HEAD", "true"]);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let other = fixture.quickstart(&["true"]).output().expect("it runs");
    assert!(other.status.success(), "{}", stderr(&other));
}

#[test]
fn a_machine_without_user_namespaces_gets_one_clear_line() {
    let test = "quickstart::a_machine_without_user_namespaces_gets_one_clear_line";
    let Some(fixture) = Fixture::new(test) else { return };
    // Within a namespace of its own, the bound can be lowered for an ordinary user who runs there.
    fs::set_permissions(fixture.path(), fs::Permissions::from_mode(0o777)).expect("our own folder");
    let script = "echo 0 > /proc/sys/user/max_user_namespaces || exit 99
                  exec setpriv --inh-caps=-all --ambient-caps=-all \"$@\"";
    let mut program = Command::new("setpriv");
    program.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    program.args(["unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c", script, "sh"]);
    let inner = fixture.quickstart(&["true"]);
    let output = program.arg(inner.get_program()).args(inner.get_args()).output().expect("setpriv runs");
    if !stderr(&output).starts_with("error: ") {
        return conformance::skip(
            test,
            "root",
            "only root can become the user for whom the bound is lowered",
        );
    }
    one_clear_line(&output, "user namespace");
}

#[test]
fn a_full_disk_gets_one_clear_line() {
    let test = "quickstart::a_full_disk_gets_one_clear_line";
    let Some(fixture) = Fixture::new(test) else { return };
    // A small file system of its own, in a mount namespace of its own.
    let script = "mount -t tmpfs -o size=64k,mode=700 none \"$1\" || exit 99; shift; exec \"$@\"";
    fs::create_dir(fixture.state()).expect("a folder");
    let mut program = Command::new("unshare");
    program.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(fixture.state());
    let inner = fixture.quickstart(&["true"]);
    let output = program.arg(inner.get_program()).args(inner.get_args()).output().expect("unshare runs");
    if output.status.code() == Some(99) {
        return conformance::skip(test, "namespaces", "no small file system can be mounted");
    }
    one_clear_line(&output, "the disk is full");
}
