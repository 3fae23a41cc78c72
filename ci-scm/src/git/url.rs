//! Where a repository lies, in the three forms that are safe to hand to `git`.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use ci_core::{Error, ErrorKind, Result};

/// A way to reach a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// A folder of this machine.
    File,
    /// SSH with pinned host keys.
    Ssh,
    /// HTTP over verified TLS.
    Https,
}

impl Protocol {
    /// What git calls it, in URLs and in `protocol.<name>.allow`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Ssh => "ssh",
            Self::Https => "https",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which protocols the operator allows. By default all three.
///
/// # Example
///
/// ```
/// use ci_scm::git::{AccessFileOptions, Protocol, Protocols};
///
/// let options = AccessFileOptions::default().with_protocols(Protocols::only([Protocol::Ssh]));
/// assert!(options.protocols.allow(Protocol::Ssh) && !options.protocols.allow(Protocol::File));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocols(BTreeSet<Protocol>);

impl Protocols {
    /// These and no others.
    pub fn only(protocols: impl IntoIterator<Item = Protocol>) -> Self {
        Self(protocols.into_iter().collect())
    }

    /// Whether `protocol` is allowed.
    pub fn allow(&self, protocol: Protocol) -> bool {
        self.0.contains(&protocol)
    }
}

impl Default for Protocols {
    fn default() -> Self {
        Self::only([Protocol::File, Protocol::Ssh, Protocol::Https])
    }
}

/// The URL of a repository: `file:///path`, `ssh://[user@]host[:port]/path` or `https://host[:port]/path`.
///
/// Git itself takes far more than that: `ext::` runs a program, `git://` and `http://` believe whoever answers,
/// `host:path` hides its protocol, and a leading `-` is an option of `ssh`. None of them can be written here. A
/// password or token has no place in a URL, which ends up in process lists and logs.
///
/// # Example
///
/// ```
/// use ci_scm::git::{Protocol, Protocols, RemoteUrl};
///
/// let url = RemoteUrl::parse("ssh://git@forge.example:2222/team/app.git", &Protocols::default())?;
/// assert_eq!(url.protocol(), Protocol::Ssh);
/// assert_eq!(url.authority(), "git@forge.example:2222");
///
/// let only_local = Protocols::only([Protocol::File]);
/// assert!(RemoteUrl::parse("ssh://forge.example/app.git", &only_local).is_err());
/// assert!(RemoteUrl::parse("ext::sh -c id", &Protocols::default()).is_err());
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemoteUrl {
    protocol: Protocol,
    text: String,
    path_at: usize,
}

impl RemoteUrl {
    /// Checks and takes a URL.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for any other form, with what to write instead, and for a protocol that is not
    /// allowed. The text itself is not repeated: it might hold a password.
    pub fn parse(text: &str, allowed: &Protocols) -> Result<Self> {
        let refused =
            |why: &'static str| Error::new(ErrorKind::Invalid, "parse the URL of a repository").because(why);
        // A folder's name may hold spaces: it is opened by itself, and never part of a line that is split.
        let is_bad = |c: char| c.is_control() || (c.is_whitespace() && c != ' ');
        if text.len() > LONGEST || text.contains(is_bad) {
            return Err(refused("it must be at most 2048 bytes long, without control characters"));
        }
        let (protocol, rest) = match text.split_once("://") {
            Some(("file", rest)) => (Protocol::File, rest),
            Some(("ssh", rest)) => (Protocol::Ssh, rest),
            Some(("https", rest)) => (Protocol::Https, rest),
            _ => return Err(refused(instead_of(text))),
        };
        if !allowed.allow(protocol) {
            return Err(refused("the operator does not allow this protocol").with("protocol", protocol));
        }
        let Some(slash) = rest.find('/') else {
            return Err(refused("it has no path; write file:///path, ssh://host/path or https://host/path"));
        };
        let (authority, path) = rest.split_at(slash);
        check_path(protocol, path).map_err(refused)?;
        check_authority(protocol, authority).map_err(refused)?;
        Ok(Self { protocol, text: text.to_owned(), path_at: text.len() - path.len() })
    }

    /// How the repository is reached.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The host with its port, and for SSH the user before it; empty for a folder.
    pub fn authority(&self) -> &str {
        &self.text[self.protocol.as_str().len() + "://".len()..self.path_at]
    }

    /// The folder, if it is one of this machine.
    pub fn folder(&self) -> Option<&Path> {
        (self.protocol == Protocol::File).then(|| Path::new(&self.text[self.path_at..]))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteUrl({})", self.text)
    }
}

const LONGEST: usize = 2_048;

/// Why `text` is refused, and what to write instead.
fn instead_of(text: &str) -> &'static str {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    match scheme {
        Some("git") => "git:// is neither encrypted nor authenticated; use ssh:// or https://",
        Some("http") => "http:// is not encrypted; use https://",
        Some(scheme) if !scheme.contains(':') => "only file://, ssh:// and https:// are taken",
        _ if text.contains("::") => "name:: makes git run a program; use file://, ssh:// or https://",
        _ if text.starts_with('/') => "it is a path; write file:///path",
        _ if text.contains(':') => {
            "it hides its protocol; write ssh://user@host/path instead of user@host:path"
        }
        _ => "it must start with file://, ssh:// or https://",
    }
}

fn check_path(protocol: Protocol, path: &str) -> Result<(), &'static str> {
    // Git decodes %41 in URLs and a server may decode it again: nothing is written in two ways here.
    if path.contains(['%', '?', '#', '\\']) {
        return Err("its path may not hold % ? # or \\");
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~+=,@:/".contains(c);
    if protocol != Protocol::File && !path.chars().all(is_plain) {
        return Err("its path may hold only A-Z a-z 0-9 - . _ ~ + = , @ : /");
    }
    let mut parts = path.strip_prefix('/').unwrap_or(path).split('/');
    if parts.any(|part| matches!(part, "" | "." | "..")) {
        return Err("its path may not have empty, . or .. parts, nor end in /");
    }
    Ok(())
}

fn check_authority(protocol: Protocol, authority: &str) -> Result<(), &'static str> {
    let (user, place) = match authority.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, authority),
    };
    match (protocol, user) {
        (Protocol::File, _) if authority.is_empty() => return Ok(()),
        (Protocol::File, _) => return Err("a folder has no host; write file:///path"),
        (_, Some(user)) if user.contains(':') => {
            return Err("a URL is no place for a password or token; configure the credential instead");
        }
        (Protocol::Https, Some(_)) => return Err("https:// takes no user; configure the credential instead"),
        (_, Some(user)) if !is_name(user) => return Err("its user may hold only A-Z a-z 0-9 - . _"),
        _ => {}
    }
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (place, None),
    };
    let is_digits = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if port.is_some_and(|port| !is_digits(port) || !matches!(port.parse(), Ok(1_u16..))) {
        return Err("its port must be between 1 and 65535");
    }
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_name(host) && host.len() <= 253,
    };
    if is_host { Ok(()) } else { Err("its host must be a name, an IPv4 address or an IPv6 address in [ ]") }
}

/// Letters, digits, `-`, `.` and `_`, not starting with what a program could take for an option.
fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    text.bytes().all(inner) && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: &Expect) {
        let outcome = match RemoteUrl::parse(text, &Protocols::default()) {
            Ok(url) => format!("{} of {:?}", url.protocol(), url.authority()),
            Err(error) => error.to_string().replace("parse the URL of a repository: ", ""),
        };
        expected.assert_eq(&outcome);
    }

    #[test]
    fn three_forms_are_taken() {
        check("file:///srv/git/app.git", &expect![[r#"file of """#]]);
        check("file:///srv/gît/app", &expect![[r#"file of """#]]);
        check("file:///srv/my code/app", &expect![[r#"file of """#]]);
        check("ssh://git@forge.example/app.git", &expect![[r#"ssh of "git@forge.example""#]]);
        check("ssh://[::1]:2222/app", &expect![[r#"ssh of "[::1]:2222""#]]);
        check("https://forge.example:8443/a/b.git", &expect![[r#"https of "forge.example:8443""#]]);
    }

    #[test]
    fn everything_else_says_what_to_write() {
        check("ext::sh -c id", &expect!["name:: makes git run a program; use file://, ssh:// or https://"]);
        check("ext::sh", &expect!["name:: makes git run a program; use file://, ssh:// or https://"]);
        check(
            "ext::https://x/y",
            &expect!["name:: makes git run a program; use file://, ssh:// or https://"],
        );
        check("git://h/p", &expect!["git:// is neither encrypted nor authenticated; use ssh:// or https://"]);
        check("http://h/p", &expect!["http:// is not encrypted; use https://"]);
        check("ftp://h/p", &expect!["only file://, ssh:// and https:// are taken"]);
        check(
            "git@h:p",
            &expect!["it hides its protocol; write ssh://user@host/path instead of user@host:path"],
        );
        check("/srv/git", &expect!["it is a path; write file:///path"]);
        check("", &expect!["it must start with file://, ssh:// or https://"]);
        check("--upload-pack=id", &expect!["it must start with file://, ssh:// or https://"]);
    }

    #[test]
    fn no_credential_option_or_second_spelling() {
        check(
            "https://u:t@h/p",
            &expect!["a URL is no place for a password or token; configure the credential instead"],
        );
        check("https://t@h/p", &expect!["https:// takes no user; configure the credential instead"]);
        check(
            "ssh://u:t@h/p",
            &expect!["a URL is no place for a password or token; configure the credential instead"],
        );
        check(
            "ssh://-oProxyCommand=id/p",
            &expect!["its host must be a name, an IPv4 address or an IPv6 address in [ ]"],
        );
        check("ssh://-x@h/p", &expect!["its user may hold only A-Z a-z 0-9 - . _"]);
        check("ssh://h:0/p", &expect!["its port must be between 1 and 65535"]);
        check("ssh://h:+22/p", &expect!["its port must be between 1 and 65535"]);
        check(
            "https://h",
            &expect!["it has no path; write file:///path, ssh://host/path or https://host/path"],
        );
        check("https://h/", &expect!["its path may not have empty, . or .. parts, nor end in /"]);
        check("https://h/a/%2e%2e", &expect!["its path may not hold % ? # or \\"]);
        check("https://h/a?x", &expect!["its path may not hold % ? # or \\"]);
        check("https://h/$(id)", &expect!["its path may hold only A-Z a-z 0-9 - . _ ~ + = , @ : /"]);
        check("file:///a/../b", &expect!["its path may not have empty, . or .. parts, nor end in /"]);
        check("file://host/a", &expect!["a folder has no host; write file:///path"]);
        check("file:///a\nb", &expect!["it must be at most 2048 bytes long, without control characters"]);
    }

    #[test]
    fn a_refused_url_is_not_repeated() {
        let error = RemoteUrl::parse("https://user:hunter2@h/p", &Protocols::default()).expect_err("refused");
        assert!(!error.for_operator().to_string().contains("hunter2"));
    }

    proptest! {
        #[test]
        fn what_is_taken_is_one_word_of_three_protocols(text in ".{0,40}", scheme in "(file://|ssh://|https://|ext::|-|)") {
            if let Ok(url) = RemoteUrl::parse(&format!("{scheme}{text}"), &Protocols::default()) {
                prop_assert!(["file", "ssh", "https"].contains(&url.protocol().as_str()));
                prop_assert!(url.as_str().starts_with(url.protocol().as_str()));
                prop_assert!(!url.as_str().chars().any(|c| c.is_control() || c.is_whitespace()));
                prop_assert!(!url.authority().starts_with('-'));
                prop_assert!(!url.authority().contains("@-"));
                prop_assert!(!(url.protocol() == Protocol::Https && url.authority().contains('@')));
            }
        }
    }
}
