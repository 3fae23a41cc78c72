//! Every argument and variable that the `git` program gets from this crate, each with its reason.
//!
//! Git reads the system's, the user's and the repository's configuration, asks terminals and helpers for
//! passwords, follows redirects, starts hooks and monitors, and speaks protocols that run programs. Nothing of
//! this is wanted: a repository is hostile, and what git may do stands here and nowhere else.

use super::url::Protocol;

/// One line of configuration or one variable, and why.
struct Line {
    name: &'static str,
    value: &'static str,
    #[cfg_attr(not(test), expect(dead_code, reason = "it is for the reader, and a test asks for it"))]
    why: &'static str,
}

const fn line(name: &'static str, value: &'static str, why: &'static str) -> Line {
    Line { name, value, why }
}

const VARIABLES: &[Line] = &[
    line("GIT_CONFIG_NOSYSTEM", "1", "the system's configuration is not the operator's word to this SDK"),
    line("GIT_ATTR_NOSYSTEM", "1", "nor are the system's attributes"),
    line("HOME", "/nonexistent", "no configuration, attributes, cookies or keys of a user"),
    line("GIT_TERMINAL_PROMPT", "0", "nobody is there to answer; fail instead of waiting"),
    line("GIT_ASKPASS", "", "no program is started to ask for a password"),
    line("SSH_ASKPASS_REQUIRE", "never", "nor by ssh"),
    line(
        "GIT_NO_REPLACE_OBJECTS",
        "1",
        "refs/replace/* can be pushed, and would show another history than the real one",
    ),
    line(
        "GIT_NO_LAZY_FETCH",
        "1",
        "a missing object is an error, never a reason to fetch from where a repository says",
    ),
    line("GIT_GRAFT_FILE", "/dev/null", "grafts, too, would show another history"),
    line(
        "GIT_CEILING_DIRECTORIES",
        "/",
        "a folder that is no repository is an error; do not search above it",
    ),
    line("GIT_OPTIONAL_LOCKS", "0", "looking writes nothing"),
    line("GIT_ADVICE", "0", "no advice for people among the output"),
    line("GIT_TEMPLATE_DIR", "", "a new repository starts without hooks of a template"),
    line("LC_ALL", "C", "texts that are told apart do not depend on the machine"),
];

const SETTINGS: &[Line] = &[
    line("core.hooksPath", "/dev/null", "no hook runs, wherever it comes from"),
    line(
        "core.sshCommand",
        "false",
        "no ssh, but by the fetcher that pins the host key: it says so after this",
    ),
    line("core.fsmonitor", "false", "a repository's configuration could name a program here"),
    line("core.askPass", "", "no program is started to ask for a password"),
    line(
        "core.attributesFile",
        "/dev/null",
        "attributes of the commit only; no filter is configured, so none runs",
    ),
    line("core.excludesFile", "/dev/null", "no ignore rules of a user"),
    line(
        "core.protectHFS",
        "true",
        "refuse names that are .git on other file systems: the job may copy the files there",
    ),
    line(
        "core.protectNTFS",
        "true",
        "refuse names that are .git on other file systems: the job may copy the files there",
    ),
    line("credential.helper", "", "an empty value forgets all helpers"),
    line("protocol.allow", "never", "only the protocols that are named are spoken; ext:: runs programs"),
    line(
        "protocol.version",
        "2",
        "only version 2 lets one exact commit be asked for, and lists only the references asked for",
    ),
    line("transfer.fsckObjects", "true", "refuse malformed objects, among them trees that hold .git"),
    line("fetch.fsckObjects", "true", "refuse malformed objects, among them trees that hold .git"),
    line("fetch.fsck.zeroPaddedFilemode", "ignore", "harmless, and old histories have it"),
    line("fetch.fsck.badTimezone", "ignore", "harmless, and old histories have it"),
    line("fetch.fsck.missingSpaceBeforeDate", "ignore", "harmless, and old histories have it"),
    line("fetch.fsck.missingSpaceBeforeEmail", "ignore", "harmless, and old histories have it"),
    line("fetch.recurseSubmodules", "false", "URLs of submodules come from the repository"),
    line("submodule.recurse", "false", "URLs of submodules come from the repository"),
    line("fetch.writeCommitGraph", "false", "no work beside the one asked for"),
    line("fetch.unpackLimit", "1", "one pack goes to the job, not a file for every object"),
    line("core.logAllRefUpdates", "false", "no log that names the machine goes to the job"),
    line("gc.auto", "0", "no work in the background"),
    line("maintenance.auto", "false", "no work in the background"),
    line("transfer.bundleURI", "false", "a server could send git to another address"),
    line("fetch.uriProtocols", "", "a server could send git to another address"),
    line("transfer.credentialsInUrl", "die", "a URL is no place for a password"),
    line("http.followRedirects", "false", "a token must not follow to another origin"),
    line("http.sslVerify", "true", "whoever answers must prove who they are"),
    line("http.proxy", "", "the way to the forge is the operator's, not an environment's"),
    line("http.cookieFile", "", "no cookies of a user"),
    line("http.lowSpeedLimit", "1000", "a transfer of less than 1000 bytes a second is a server that hangs"),
    line("http.lowSpeedTime", "60", "for so many seconds"),
    line("ssh.variant", "ssh", "the options that pin the host key are OpenSSH's; do not guess"),
];

/// The variables of `git`, with nothing of this process's own. `global` is the only configuration file that it
/// reads beside the repository's, and `protocol` the only one that it speaks.
pub(crate) fn variables<'a>(
    path: &'a str,
    global: &'a str,
    protocol: Protocol,
) -> impl Iterator<Item = (&'static str, &'a str)> {
    // The variable goes before all configuration. A setting alone would not do: `protocol.ext.allow` in a
    // repository's configuration is more precise than `protocol.allow`, and wins over it.
    let own = [("PATH", path), ("GIT_CONFIG_GLOBAL", global), ("GIT_ALLOW_PROTOCOL", protocol.as_str())];
    VARIABLES.iter().map(|line| (line.name, line.value)).chain(own)
}

/// The arguments of `git` before its command. It speaks `protocol` and no other.
///
/// `uploadpack.packObjectsHook`, the one hook of a repository that is only read, is not among the settings: git
/// ignores it unless it stands in `global` (git-config(1)), and a value here would not reach `git upload-pack`.
pub(crate) fn arguments(protocol: Protocol) -> Vec<String> {
    let setting = |name: &str, value: &str| ["-c".to_owned(), format!("{name}={value}")];
    let mut arguments = vec!["--no-pager".to_owned(), "--literal-pathspecs".to_owned()];
    arguments.extend(SETTINGS.iter().flat_map(|line| setting(line.name, line.value)));
    arguments.extend(setting(&format!("protocol.{protocol}.allow"), "always"));
    arguments
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_line_has_its_reason_and_stands_once() {
        for lines in [VARIABLES, SETTINGS] {
            let names: BTreeSet<_> = lines.iter().map(|line| line.name).collect();
            assert_eq!(names.len(), lines.len());
            assert!(lines.iter().all(|line| !line.why.is_empty()));
        }
    }

    #[test]
    fn one_protocol_is_allowed() {
        let spoken = variables("", "", Protocol::Ssh).find(|(name, _)| *name == "GIT_ALLOW_PROTOCOL");
        assert_eq!(spoken, Some(("GIT_ALLOW_PROTOCOL", "ssh")));
        let arguments = arguments(Protocol::Ssh);
        let allowed: Vec<_> =
            arguments.iter().filter(|argument| argument.ends_with(".allow=always")).collect();
        assert_eq!(allowed, ["protocol.ssh.allow=always"]);
        assert!(arguments.contains(&"protocol.allow=never".to_owned()));
    }
}
