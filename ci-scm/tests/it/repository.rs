//! Real repositories, made by the tests.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ci_core::id::CommitId;

/// A bare repository whose `HEAD` is on `main`.
#[derive(Clone, Debug)]
pub(crate) struct Repository(PathBuf);

impl Repository {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self::with_format(path, "sha1")
    }

    pub(crate) fn with_format(path: impl Into<PathBuf>, format: &str) -> Self {
        let path = path.into();
        std::fs::create_dir_all(&path).unwrap();
        let new = Self(path);
        new.git(&[
            "init",
            "--quiet",
            "--bare",
            "--initial-branch=main",
            &format!("--object-format={format}"),
        ]);
        // What forges allow.
        new.git(&["config", "uploadpack.allowFilter", "true"]);
        new
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        self.git_with(arguments, b"")
    }

    pub(crate) fn git_with(&self, arguments: &[&str], input: &[u8]) -> String {
        let mut child = Command::new("git")
            .args(arguments)
            .current_dir(&self.0)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .envs(["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"].map(|name| (name, "Somebody")))
            .envs(["GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"].map(|name| (name, "somebody@example.org")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    pub(crate) fn blob(&self, content: &[u8]) -> String {
        self.git_with(&["hash-object", "-w", "--stdin"], content)
    }

    /// A tree of `(mode, name, object)`, with whatever names.
    pub(crate) fn tree(&self, entries: &[(&str, &[u8], &str)]) -> String {
        let mut input = Vec::new();
        for (mode, name, object) in entries {
            let kind = match *mode {
                "040000" => "tree",
                "160000" => "commit",
                _ => "blob",
            };
            input.extend_from_slice(format!("{mode} {kind} {object}\t").as_bytes());
            input.extend_from_slice(name);
            input.push(0);
        }
        self.git_with(&["mktree", "-z", "--missing"], &input)
    }

    /// A tree with one entry at `path`, in folders of its own.
    pub(crate) fn tree_at(&self, path: &str, mode: &str, object: &str) -> String {
        let (mut mode, mut object) = (mode, object.to_owned());
        for part in path.rsplit('/') {
            object = self.tree(&[(mode, part.as_bytes(), &object)]);
            mode = "040000";
        }
        object
    }

    /// A tree as nobody but an attacker writes it: entries in any order, with any mode and name.
    pub(crate) fn raw_tree(&self, entries: &[(&str, &[u8], &str)]) -> String {
        let bytes = |id: &str| -> Vec<u8> {
            (0..id.len()).step_by(2).map(|at| u8::from_str_radix(&id[at..at + 2], 16).unwrap()).collect()
        };
        let entry = |(mode, name, object): &(&str, &[u8], &str)| {
            [mode.as_bytes(), b" ", name, b"\0", &bytes(object)].concat()
        };
        let tree: Vec<u8> = entries.iter().flat_map(entry).collect();
        self.git_with(&["hash-object", "--literally", "-w", "-t", "tree", "--stdin"], &tree)
    }

    /// A commit of a tree, which no branch names.
    pub(crate) fn stray(&self, tree: &str, parent: Option<&str>) -> CommitId {
        let mut arguments = vec!["commit-tree", tree, "-m", "a commit"];
        arguments.extend(parent.map(|parent| ["-p", parent]).into_iter().flatten());
        CommitId::parse(self.git(&arguments)).unwrap()
    }

    /// A commit of a tree on top of a branch.
    pub(crate) fn push(&self, branch: &str, tree: &str) -> CommitId {
        let full = format!("refs/heads/{branch}");
        let tip = self.git(&["for-each-ref", "--format=%(objectname)", &full]);
        let commit = self.stray(tree, (!tip.is_empty()).then_some(tip.as_str()));
        self.git(&["update-ref", &full, commit.as_str()]);
        commit
    }

    /// A commit of some files on top of a branch.
    pub(crate) fn commit(&self, branch: &str, files: &[(&str, &str)]) -> CommitId {
        let blobs: Vec<_> =
            files.iter().map(|(name, content)| (name, self.blob(content.as_bytes()))).collect();
        let entries: Vec<_> =
            blobs.iter().map(|(name, blob)| ("100644", name.as_bytes(), blob.as_str())).collect();
        self.push(branch, &self.tree(&entries))
    }
}
