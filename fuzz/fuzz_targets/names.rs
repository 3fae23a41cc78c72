//! Names from outside: whatever the text, a parser takes it and it is harmless, or refuses it.
#![no_main]

use ci_core::External;
use ci_core::forge::{RevisionName, SourcePath};
use ci_core::id::{ArtifactName, CommitId, JobId, SecretName, StepName};
use ci_core::job::Arg;
use ci_core::network::{HostName, IpNetwork};
use ci_core::records::Key;
use ci_core::sandbox::SandboxPath;
use ci_scm::git::{Protocols, RemoteUrl};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(path) = SandboxPath::parse(text) {
        assert!(path.as_str().starts_with('/') && path.as_str().split('/').all(|part| part != ".." && part != "."));
    }
    if let Ok(name) = RevisionName::parse(text) {
        assert!(!name.as_str().starts_with('-') && !name.as_str().contains([' ', '\n', '~', '^', ':', '\0']));
    }
    if let Ok(path) = SourcePath::parse(text) {
        assert!(!path.as_str().starts_with(['/', '-']) && path.parts().all(|part| !["", ".", "..", ".git"].contains(&part)));
    }
    if let Ok(name) = ArtifactName::parse(text) {
        assert!(!name.as_str().contains('/') && !name.as_str().starts_with(['.', '-']));
    }
    if let Ok(url) = RemoteUrl::parse(text, &Protocols::default()) {
        assert!(["file", "ssh", "https"].contains(&url.protocol().as_str()) && !url.authority().starts_with('-'));
    }
    if let Ok(network) = text.parse::<IpNetwork>() {
        assert_eq!(network.to_string().parse::<IpNetwork>().expect("its own text"), network);
    }
    let external = External::new(text);
    let shown = external.to_string();
    assert!(!shown.starts_with('-') && !shown.contains(|c: char| c.is_whitespace() || c.is_control() || "$`'\";&|<>()*?~#!".contains(c)));
    if let Ok(operand) = Arg::operand(&external) {
        assert!(!operand.as_str().starts_with('-') && !operand.as_str().is_empty());
    }
    let key = Key::new("fuzz").part(text);
    assert_eq!(Key::from_stored(key.as_str().to_owned()).expect("its own text"), key);
    let _ = (CommitId::parse(text), JobId::parse(text), SecretName::parse(text), StepName::parse(text), HostName::parse(text));
});
