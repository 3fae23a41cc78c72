//! The rules that no compiler checks, as tests over the tree itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const CRATES: [&str; 5] = ["ci-core", "ci-sandbox", "ci-scm", "ci-secrets", "ci-storage"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All Rust files below `folder`, relative to the root.
fn rust_files(folder: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder of the project") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path.strip_prefix(root()).expect("below the root").to_owned());
            }
        }
    }
    let mut files = Vec::new();
    walk(&root().join(folder), &mut files);
    assert!(!files.is_empty(), "no Rust files in {folder}");
    files
}

/// The code of a library's file: without its unit tests, comments and documentation.
fn code_of(file: &Path) -> String {
    let text = read(file);
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let is_code = |line: &&str| !line.trim_start().starts_with("//") && !line.trim().is_empty();
    code.lines().filter(is_code).collect::<Vec<_>>().join("\n")
}

fn library_files() -> impl Iterator<Item = PathBuf> {
    CRATES.iter().flat_map(|name| rust_files(&format!("{name}/src")))
}

#[test]
fn no_crate_depends_on_a_sibling() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        if !CRATES.contains(&name) {
            continue;
        }
        seen.insert(name.to_owned());
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let on = dependency["name"].as_str().expect("a name");
            // Its own kits, for its own tests.
            let itself = on == name;
            let allowed = itself || on == "ci-core";
            assert!(!CRATES.contains(&on) || allowed, "{name} depends on {on}");
        }
    }
    assert_eq!(seen.len(), CRATES.len(), "{seen:?}");
}

/// One that no `mod` names is not even compiled.
#[test]
fn every_file_of_tests_is_run() {
    for folder in CRATES.map(|name| format!("{name}/tests/it")).iter().map(String::as_str).chain(["tests/it"])
    {
        let main = read(format!("{folder}/main.rs"));
        for entry in fs::read_dir(root().join(folder)).expect("a folder of tests") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension != "rs") {
                continue;
            }
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            let is_run = main.contains(&format!("mod {name};")) || main.contains(&format!("mod {name} {{"));
            assert!(name == "main" || is_run, "{folder}/{name} is no module of its main.rs");
        }
    }
}

#[test]
fn unsafe_is_where_it_may_be() {
    for name in CRATES.iter().filter(|name| **name != "ci-sandbox") {
        assert!(read(format!("{name}/src/lib.rs")).contains("#![forbid(unsafe_code)]"), "{name}");
    }
    assert!(read("ci-sandbox/src/lib.rs").contains("#![deny(unsafe_code)]"));
    for file in rust_files("ci-sandbox/src") {
        if file != Path::new("ci-sandbox/src/native/sys.rs") {
            let code = code_of(&file);
            assert!(!code.contains("unsafe {") && !code.contains("unsafe fn"), "{}", file.display());
            assert!(!code.contains("allow(unsafe_code)"), "{} allows unsafe code", file.display());
        }
    }
}

#[test]
fn libraries_touch_nothing_global() {
    let forbidden = [
        "std::env",
        "env::var",
        "env::current_dir",
        "home_dir",
        "temp_dir()",
        "println!",
        "eprintln!",
        "print!(",
        "dbg!",
        "set_global_default",
        "Runtime::new",
        "runtime::Builder",
        "process::exit",
    ];
    // Kits run inside of tests, which take their wishes from the environment.
    let exempt = |file: &Path| {
        file.components().any(|part| part.as_os_str().to_string_lossy().starts_with("conformance"))
    };
    for file in library_files().filter(|file| !exempt(file)) {
        let code = code_of(&file);
        for word in forbidden {
            assert!(!code.contains(word), "{} uses {word}", file.display());
        }
    }
}

#[test]
fn nothing_is_left_to_do_and_no_file_is_too_long() {
    const HARD_CAP: usize = 800;
    for file in library_files().chain(rust_files("ci-sandbox/init")) {
        let code = code_of(&file);
        assert!(!code.contains("todo!(") && !code.contains("unimplemented!("), "{}", file.display());
        let lines = code.lines().count();
        assert!(lines <= HARD_CAP, "{} has {lines} lines of code", file.display());
    }
}

/// The files that may name `file` as a module of theirs.
fn parents(file: &Path) -> Vec<PathBuf> {
    let folder = file.parent().expect("it lies in a folder");
    let folder = if file.ends_with("mod.rs") { folder.parent().expect("which lies in one") } else { folder };
    let beside = ["mod.rs", "lib.rs", "main.rs"].map(|name| folder.join(name));
    beside.into_iter().chain([folder.with_extension("rs")]).collect()
}

/// A file that no module names is not compiled, and its tests say nothing.
#[test]
fn every_file_is_compiled() {
    let folders = CRATES.iter().flat_map(|name| ["src", "tests/it"].map(|folder| format!("{name}/{folder}")));
    let files = folders.chain(["tests/it".to_owned()]).flat_map(|folder| rust_files(&folder));
    let is_root = |file: &Path| file.ends_with("lib.rs") || file.ends_with("main.rs");
    for file in files.filter(|file| !is_root(file)) {
        let of = if file.ends_with("mod.rs") { file.parent().expect("its folder") } else { &file };
        let name = of.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        let declared = format!("mod {name};");
        let is_named = |parent: &PathBuf| {
            root().join(parent).is_file() && read(parent).lines().any(|line| line.ends_with(&declared))
        };
        assert!(parents(&file).iter().any(is_named), "no module is {}", file.display());
    }
}

/// The names in backticks that look like `module::test_name`.
#[test]
fn every_file_is_part_of_its_crate() {
    // A file that no `mod` names is not compiled, and its tests do not run.
    let folders = CRATES.iter().flat_map(|name| [format!("{name}/src"), format!("{name}/tests/it")]);
    for file in folders.chain(["tests/it".into()]).flat_map(|folder| rust_files(&folder)) {
        let (folder, name) = (file.parent().expect("a folder"), file.file_stem().expect("a name"));
        let (folder, name) = match name.to_str().expect("ASCII") {
            "lib" | "main" => continue,
            "mod" => (folder.parent().expect("a folder"), folder.file_name().expect("a name").to_str()),
            name => (folder, Some(name)),
        };
        let declaration = format!("mod {};", name.expect("ASCII"));
        let parents = ["mod.rs", "lib.rs", "main.rs"].map(|name| folder.join(name));
        let mut parents = parents.into_iter().chain([folder.with_extension("rs")]);
        let is_declared = |parent: PathBuf| {
            let text = fs::read_to_string(root().join(parent)).unwrap_or_default();
            text.lines().any(|line| line.ends_with(&declaration))
        };
        assert!(parents.any(is_declared), "nothing declares {}", file.display());
    }
}

fn named_tests(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).filter(|name| {
        let is_name =
            |part: &str| part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        name.split("::").count() == 2 && name.split("::").all(is_name)
    })
}

/// Every test of the project as `module::name`: its file's name and its function's, for kits their macro's cases.
fn existing_tests() -> BTreeSet<String> {
    let folders = CRATES.iter().flat_map(|name| ["src", "tests"].map(|part| format!("{name}/{part}")));
    let mut tests = BTreeSet::new();
    for folder in folders.chain(["tests".to_owned()]).filter(|folder| root().join(folder).is_dir()) {
        for file in rust_files(&folder) {
            let module = match file.file_stem().and_then(|stem| stem.to_str()) {
                Some("mod" | "main") => {
                    file.parent().and_then(Path::file_name).and_then(|name| name.to_str())
                }
                stem => stem,
            };
            let module = module.expect("a file's name").to_owned();
            if folder.ends_with("tests") && file.components().any(|part| part.as_os_str() == "ui") {
                tests.insert(format!("ui::{module}"));
            }
            let is_kit = file.components().any(|part| part.as_os_str() == "conformance");
            let mut is_test = is_kit;
            for line in read(&file).lines().map(str::trim_start) {
                // The tests of network worlds have no attribute of their own: a macro makes them.
                is_test |= line.starts_with("#[") && line.contains("test") || line.ends_with("(world) {");
                let name = line.trim_start_matches("pub ").trim_start_matches("async ");
                if let Some(name) = name.strip_prefix("fn ").and_then(|rest| rest.split(['(', '<']).next()) {
                    if is_test {
                        tests.insert(format!("{module}::{name}"));
                    }
                    // A kit in several files is one kit.
                    if is_kit && let Some(kit) = file.parent().and_then(Path::file_name) {
                        tests.insert(format!("{}::{name}", kit.display()));
                    }
                    is_test = is_kit;
                }
            }
        }
    }
    tests
}

#[test]
fn the_specification_names_tests_that_exist() {
    let (text, tests) = (read("SPECIFICATION.md"), existing_tests());
    for number in 1..=41 {
        let row = text.lines().find(|line| line.starts_with(&format!("| P{number} |")));
        let row = row.unwrap_or_else(|| panic!("P{number} is missing"));
        let names: Vec<&str> = named_tests(row).collect();
        assert!(!names.is_empty() || row.contains("pending"), "P{number} has neither test nor pending");
        for name in names {
            assert!(tests.contains(name), "P{number} names {name}, which does not exist");
        }
    }
}

#[test]
fn every_invariant_names_tests_that_exist() {
    let (text, tests) = (read("ARCHITECTURE.md"), existing_tests());
    let invariants = text.split("## Invariants").nth(1).and_then(|rest| rest.split("\n## ").next());
    let names: Vec<&str> = named_tests(invariants.expect("a list of invariants")).collect();
    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        assert!(tests.contains(name), "{name} does not exist");
    }
}

#[test]
fn a_vulnerability_can_be_reported() {
    let text = read("SECURITY.md");
    for part in ["## Reporting a vulnerability", "## What is in scope", "working days"] {
        assert!(text.contains(part), "{part}");
    }
}

#[test]
fn every_action_in_the_audit_log_is_documented() {
    let documented = read("ci-core/src/audit/mod.rs");
    let mut seen = BTreeSet::new();
    for file in library_files() {
        let path = file.to_string_lossy();
        if path.contains("/conformance") || path.contains("/memory/") {
            continue;
        }
        let code = code_of(&file);
        for call in ["Entry::new(", ".entry(", ".make(", ".change("] {
            let arguments = code.split(call).skip(1).map(str::trim_start);
            let first = arguments.filter_map(|text| text.strip_prefix('"')?.split('"').next());
            seen.extend(first.filter(|action| action.contains('.')).map(str::to_owned));
        }
    }
    assert!(seen.len() > 15, "{seen:?}");
    for action in seen {
        let is_there =
            documented.lines().any(|line| line.starts_with("//!") && line.contains(&format!("`{action}`")));
        assert!(is_there, "{action} is not in the table at `ci_core::audit`");
    }
}

#[test]
fn hostile_parsers_have_tests() {
    // Every parser of hostile text, with the words of its test of hostile input.
    let parsers = [
        ("ci-core/src/id.rs", "names_refuse_what_could_leave_a_path_or_end_a_line"),
        ("ci-core/src/external.rs", "what_is_shown_is_one_inert_word"),
        ("ci-core/src/forge/name.rs", "a_path_stays_in_the_repository_and_is_never_an_option"),
        ("ci-core/src/forge/name.rs", "a_revision_is_never_an_option_or_an_expression"),
        ("ci-core/src/network/mod.rs", "hosts_are_names_and_not_addresses"),
        ("ci-core/src/network/endpoint.rs", "what_others_may_read_differently_is_refused"),
        ("ci-sandbox/src/native/network/dns.rs", "what_is_no_query_is_answered_with_an_error_or_not_at_all"),
        ("ci-sandbox/src/native/network/socks.rs", "only_connections_to_what_rules_allow_are_made"),
        ("ci-core/src/debug/record.rs", "characters_are_put_together_wherever_they_are_cut"),
        ("ci-core/src/sandbox/spec.rs", "paths_cannot_climb"),
        ("ci-core/src/seal/tests.rs", "every_flipped_bit_is_noticed"),
        ("ci-core/src/audit/note.rs", "every_changed_byte_is_noticed"),
    ];
    for (file, test) in parsers {
        assert!(read(file).contains(&format!("fn {test}()")), "{file} has no {test}");
    }
}
