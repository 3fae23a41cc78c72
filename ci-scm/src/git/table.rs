//! What an access file says, once it has been read and checked.

use std::collections::{BTreeMap, BTreeSet};

use ci_core::access::Level;
use ci_core::id::{ForgeId, NativeId, RepositoryId, TenantId};
use ci_core::{Error, ErrorKind, Result};
use serde::Deserialize;

use super::url::{Protocols, RemoteUrl};

/// The checked content of an access file.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) forge: ForgeId,
    pub(crate) tokens: BTreeMap<NativeId, TokenDigest>,
    pub(crate) repositories: BTreeMap<RepositoryId, Repository>,
}

/// The SHA-256 digest of a token.
pub(crate) type TokenDigest = [u8; 32];

/// One repository of an access file.
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    pub(crate) url: RemoteUrl,
    pub(crate) branches: Patterns,
    pub(crate) tags: Patterns,
    levels: BTreeMap<NativeId, Level>,
    everyone: Level,
}

impl Repository {
    /// What somebody who is named in the file may do.
    pub(crate) fn level(&self, person: &NativeId) -> Level {
        self.levels.get(person).copied().unwrap_or(Level::None).max(self.everyone)
    }

    /// Whether the full name of a branch or tag is among those that only the right people can move.
    pub(crate) fn protects(&self, reference: &str) -> bool {
        let branch = reference.strip_prefix("refs/heads/").is_some_and(|name| self.branches.match_name(name));
        branch || reference.strip_prefix("refs/tags/").is_some_and(|name| self.tags.match_name(name))
    }
}

/// Names of branches or tags: exact ones, those below a folder (`release/*`), or all (`*`).
#[derive(Clone, Debug, Default)]
pub(crate) struct Patterns(Vec<String>);

impl Patterns {
    fn parse(patterns: Vec<String>) -> Result<Self> {
        for pattern in &patterns {
            let name = pattern.strip_suffix("/*").unwrap_or(pattern);
            if pattern != "*" && ci_core::forge::RevisionName::parse(name).is_err() {
                return Err(invalid("a protected pattern must be a name, a name and /* after it, or *")
                    .with("pattern", format_args!("{pattern:?}")));
            }
        }
        Ok(Self(patterns))
    }

    fn match_name(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some("") => true,
            // What is left ends in the slash, so that `release/*` takes `release/1` and not `releases`.
            Some(folder) => name.len() > folder.len() && name.starts_with(folder),
            None => pattern == name,
        })
    }
}

impl Table {
    /// Reads the text of an access file.
    pub(crate) fn parse(text: &str, protocols: &Protocols) -> Result<Self> {
        let Raw { forge, tenant, people, repository } =
            toml::from_str(text).map_err(|error| malformed(text, &error))?;
        let mut tokens = BTreeMap::new();
        for (name, person) in people {
            let digest = parse_digest(&person.token).map_err(|error| error.with("person", &name))?;
            if tokens.values().any(|other| *other == digest) {
                return Err(invalid("two people have the same token").with("person", name));
            }
            tokens.insert(name, digest);
        }
        let (mut repositories, mut urls) = (BTreeMap::new(), BTreeSet::new());
        for raw in repository {
            let id = RepositoryId::new(
                raw.id.clone(),
                forge.clone(),
                raw.tenant.clone().unwrap_or_else(|| tenant.clone()),
            );
            let checked = raw.check(&tokens, protocols).map_err(|error| error.with("repository", &id))?;
            if !urls.insert(checked.url.clone()) {
                return Err(invalid("two repositories have the same URL, under two sets of rules")
                    .with("repository", id));
            }
            if repositories.insert(id.clone(), checked).is_some() {
                return Err(invalid("the repository is listed twice").with("repository", id));
            }
        }
        Ok(Self { forge, tokens, repositories })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    forge: ForgeId,
    tenant: TenantId,
    #[serde(default)]
    people: BTreeMap<NativeId, RawPerson>,
    #[serde(default)]
    repository: Vec<RawRepository>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPerson {
    token: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRepository {
    id: NativeId,
    tenant: Option<TenantId>,
    url: String,
    #[serde(default)]
    protected: Vec<String>,
    #[serde(default)]
    protected_tags: Vec<String>,
    #[serde(default)]
    admin: Vec<NativeId>,
    #[serde(default)]
    write: Vec<NativeId>,
    #[serde(default)]
    read: Vec<NativeId>,
    everyone: Option<Everyone>,
}

/// What everybody who is named in the file may do. Writing is given to people by name only.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Everyone {
    Read,
}

impl RawRepository {
    fn check(self, people: &BTreeMap<NativeId, TokenDigest>, protocols: &Protocols) -> Result<Repository> {
        let Self { id: _, tenant: _, url, protected, protected_tags, admin, write, read, everyone } = self;
        let mut levels = BTreeMap::new();
        for (level, list) in [(Level::Admin, admin), (Level::Write, write), (Level::Read, read)] {
            for person in list {
                if !people.contains_key(&person) {
                    return Err(
                        invalid("a list names somebody who is not among the people").with("person", person)
                    );
                }
                if levels.insert(person.clone(), level).is_some() {
                    return Err(invalid("a person is listed twice").with("person", person));
                }
            }
        }
        Ok(Repository {
            url: RemoteUrl::parse(&url, protocols)?,
            branches: Patterns::parse(protected)?,
            tags: Patterns::parse(protected_tags)?,
            levels,
            everyone: everyone.map_or(Level::None, |Everyone::Read| Level::Read),
        })
    }
}

fn parse_digest(text: &str) -> Result<TokenDigest> {
    let bytes =
        text.strip_prefix("sha256:").and_then(|hex| data_encoding::HEXLOWER.decode(hex.as_bytes()).ok());
    // The text is not repeated: somebody may have written the token itself.
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        invalid("a token must be sha256: and the 64 lower-case hexadecimal digits of its SHA-256")
    })
}

pub(crate) fn invalid(why: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, "read the access file").because(why)
}

/// Says where, but does not repeat the line: somebody may have written a token into it.
fn malformed(text: &str, error: &toml::de::Error) -> Error {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    invalid("it is not what an access file holds").with("line", line).detail(error.message())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const PEOPLE: &str = "forge = \"git\"\ntenant = \"acme\"\n\
        [people.alice]\ntoken = \"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\n\
        [people.bob]\ntoken = \"sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\"\n";

    fn check(rest: &str, expected: &Expect) {
        let outcome = match Table::parse(&format!("{PEOPLE}{rest}"), &Protocols::default()) {
            Ok(table) => format!("{} repositories", table.repositories.len()),
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&outcome);
    }

    #[test]
    fn mistakes_are_named() {
        let app = "[[repository]]\nid = \"app\"\nurl = \"file:///srv/app\"\n";
        check("", &expect!["0 repositories"]);
        check(app, &expect!["1 repositories"]);
        check(
            &format!("{app}admim = []\n"),
            &expect!["read the access file: it is not what an access file holds (line: 10)"],
        );
        check(
            &format!("{app}everyone = \"write\"\n"),
            &expect!["read the access file: it is not what an access file holds (line: 10)"],
        );
        check(
            &format!("{app}write = [\"carol\"]\n"),
            &expect![
                "read the access file: a list names somebody who is not among the people (person: carol, repository: acme/git/app)"
            ],
        );
        check(
            &format!("{app}write = [\"bob\"]\nread = [\"bob\"]\n"),
            &expect![
                "read the access file: a person is listed twice (person: bob, repository: acme/git/app)"
            ],
        );
        check(
            &format!("{app}[[repository]]\nid = \"app\"\nurl = \"file:///srv/other\"\n"),
            &expect!["read the access file: the repository is listed twice (repository: acme/git/app)"],
        );
        check(
            &format!("{app}[[repository]]\nid = \"app2\"\nurl = \"file:///srv/app\"\n"),
            &expect![
                "read the access file: two repositories have the same URL, under two sets of rules (repository: acme/git/app2)"
            ],
        );
        check(
            &format!("{app}protected = [\"rel*\"]\n"),
            &expect![[
                r#"read the access file: a protected pattern must be a name, a name and /* after it, or * (pattern: "rel*", repository: acme/git/app)"#
            ]],
        );
        check(
            "[[repository]]\nid = \"app\"\nurl = \"ext::sh\"\n",
            &expect![
                "parse the URL of a repository: name:: makes git run a program; use file://, ssh:// or https:// (repository: acme/git/app)"
            ],
        );
        check(
            "[people.carol]\ntoken = \"hunter2\"\n",
            &expect![
                "read the access file: a token must be sha256: and the 64 lower-case hexadecimal digits of its SHA-256 (person: carol)"
            ],
        );
        check(
            "[people.carol]\ntoken = \"sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\"\n",
            &expect!["read the access file: two people have the same token (person: carol)"],
        );
        check(
            "[people.\"a\\nb\"]\ntoken = \"\"\n",
            &expect!["read the access file: it is not what an access file holds (line: 7)"],
        );
    }

    #[test]
    fn patterns_are_exact_or_a_folder() {
        let patterns = Patterns::parse(vec!["main".to_owned(), "release/*".to_owned()]).expect("patterns");
        for name in ["main", "release/1", "release/1/2"] {
            assert!(patterns.match_name(name), "{name}");
        }
        for name in ["Main", "main2", "release", "releases/1", "x/main", "release/"] {
            assert!(!patterns.match_name(name), "{name}");
        }
        assert!(Patterns::parse(vec!["*".to_owned()]).expect("patterns").match_name("v1"));
    }
}
