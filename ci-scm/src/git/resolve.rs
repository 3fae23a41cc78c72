//! Which exact commit a name means, and how far it is trusted.

use ci_core::access::Scope;
use ci_core::forge::{Revision, RevisionName};
use ci_core::id::CommitId;
use ci_core::sandbox::{ExitStatus, Sandboxes};
use ci_core::trust::Origin;
use ci_core::{Error, ErrorKind, External, Result};

use super::Git;
use super::fetcher::{Depth, Want};
use super::helper::Helper;
use super::table::Repository;

const RESOLVE: &str = "resolve a revision";

impl Git {
    pub(super) async fn find(
        &self,
        scope: Scope<'_>,
        helpers: &Sandboxes,
        name: &RevisionName,
    ) -> Result<Revision> {
        let repository = self.access.repository(scope.repository())?;
        let fetcher = self.fetcher(repository.url.protocol())?;
        // A branch may be called like a commit; somebody who names a full commit means the commit.
        let commit = CommitId::parse(name.as_str()).ok();
        let want = if commit.is_some() { Want::History } else { Want::Tips };
        let objects = fetcher.fetch(&repository.url, &want).await?;
        let helper = Helper::start(helpers, scope, objects.folder(), &self.options).await?;
        let found = look(&helper, &repository, name, commit.as_ref()).await;
        match (helper.end(found).await?, commit) {
            (Ok(revision), _) => Ok(revision),
            // It may lie where no branch or tag leads: the server, asked for it by id, knows.
            (Err(missing), Some(commit)) if repository.url.folder().is_none() => {
                let want = Want::Commit(commit.clone(), Depth::default());
                match fetcher.fetch(&repository.url, &want).await {
                    Ok(_) => Ok(Revision::new(commit, Origin::Fork)),
                    Err(error) if error.kind() == ErrorKind::NotFound => Err(missing),
                    Err(error) => Err(error),
                }
            }
            (Err(missing), _) => Err(missing),
        }
    }
}

/// The revision, or why there is none.
async fn look(
    helper: &Helper<'_>,
    repository: &Repository,
    name: &RevisionName,
    commit: Option<&CommitId>,
) -> Result<Result<Revision>> {
    let found = match commit {
        Some(commit) => by_id(helper, repository, commit).await?,
        None => by_name(helper, repository, name).await?,
    };
    match found {
        Some(revision) => Ok(Ok(revision)),
        None => missing(helper, name).await.map(Err),
    }
}

async fn missing(helper: &Helper<'_>, name: &RevisionName) -> Result<Error> {
    let any = ["for-each-ref", "--count=1", "--format=%(refname)", "refs/heads", "refs/tags"];
    let has_none = helper.look(RESOLVE, &any).await?.output(RESOLVE)?.is_empty();
    let why = match name.as_str() {
        _ if has_none => "the repository has no commits yet; commit something and push it",
        "HEAD" => "the branch of the repository's HEAD has no commits; name a branch, a tag or a full commit",
        _ => {
            "there is no branch or tag of that name, and no commit with that full id; check it, and whether it \
             was pushed"
        }
    };
    Ok(Error::new(ErrorKind::NotFound, RESOLVE).because(why).with("name", External::new(name.as_str())))
}

/// A branch or tag.
async fn by_name(
    helper: &Helper<'_>,
    repository: &Repository,
    name: &RevisionName,
) -> Result<Option<Revision>> {
    let candidates = match name.as_str() {
        "HEAD" => vec![head(helper).await?],
        full if full.starts_with("refs/") => vec![full.to_owned()],
        short => vec![format!("refs/heads/{short}"), format!("refs/tags/{short}")],
    };
    let is_served = |name: &str| name.starts_with("refs/heads/") || name.starts_with("refs/tags/");
    if !candidates.iter().all(|candidate| is_served(candidate)) {
        return Ok(None);
    }
    let mut arguments = vec!["for-each-ref", FORMAT];
    arguments.extend(candidates.iter().map(String::as_str));
    let printed = helper.look(RESOLVE, &arguments).await?.output(RESOLVE)?;
    let references: Vec<_> = printed.split(|byte| *byte == b'\n').filter_map(Reference::parse).collect();
    // `git rev-parse` would do, but it also looks for refs/tags/refs/heads/main when asked for refs/heads/main:
    // whoever can push a tag could stand in for a branch that does not exist. So does a pattern name everything
    // below it. Only the exact name counts.
    let Some(found) = candidates.iter().find_map(|full| references.iter().find(|found| found.name == *full))
    else {
        return Ok(None);
    };
    let Some(commit) = &found.commit else {
        return Err(Error::new(ErrorKind::NotFound, RESOLVE)
            .because("the tag does not name a commit")
            .with("name", External::new(name.as_str())));
    };
    let origin = if repository.protects(&found.name) { Origin::Protected } else { Origin::Repository };
    Ok(Some(Revision::new(commit.clone(), origin).with_reference(External::new(&*found.name))))
}

/// The branch that `HEAD` names.
async fn head(helper: &Helper<'_>) -> Result<String> {
    let ran = helper.look(RESOLVE, &["symbolic-ref", "--quiet", "HEAD"]).await?;
    let branch = std::str::from_utf8(&ran.output).ok().map(str::trim_end);
    match branch.filter(|branch| branch.starts_with("refs/heads/") && RevisionName::parse(branch).is_ok()) {
        Some(branch) if ran.status.is_success() => Ok(branch.to_owned()),
        _ if ran.failure(RESOLVE).kind() == ErrorKind::NotFound => Err(ran.failure(RESOLVE)),
        _ => Err(Error::new(ErrorKind::NotFound, RESOLVE)
            .because("the repository's HEAD is on no branch; name a branch, a tag or a full commit")),
    }
}

/// A commit, if the repository has it, with the trust of the branches and tags from which it can be reached.
async fn by_id(helper: &Helper<'_>, repository: &Repository, commit: &CommitId) -> Result<Option<Revision>> {
    if !has_commit(helper, RESOLVE, commit).await? {
        return Ok(None);
    }
    let contains =
        ["for-each-ref", "--format=%(refname)", "--contains", commit.as_str(), "refs/heads", "refs/tags"];
    let printed = helper.look(RESOLVE, &contains).await?.output(RESOLVE)?;
    let names: Vec<_> = printed.split(|byte| *byte == b'\n').filter(|name| !name.is_empty()).collect();
    let is_protected = |name: &&[u8]| std::str::from_utf8(name).is_ok_and(|name| repository.protects(name));
    let origin = match names.iter().copied().find(is_protected) {
        Some(_) => Origin::Protected,
        None if names.is_empty() => Origin::Fork,
        None => Origin::Repository,
    };
    Ok(Some(Revision::new(commit.clone(), origin)))
}

/// Whether the repository has the commit. Another object of that id is an error: no tag or tree stands in for one.
pub(super) async fn has_commit(
    helper: &Helper<'_>,
    operation: &'static str,
    commit: &CommitId,
) -> Result<bool> {
    let kind = helper.look(operation, &["cat-file", "-t", commit.as_str()]).await?;
    if !kind.status.is_success() {
        let failure = kind.failure(operation);
        // A git that was ended has not said that the commit is missing, nor has one that found no repository.
        let is_missing = matches!(kind.status, ExitStatus::Code(_)) && failure.kind() != ErrorKind::NotFound;
        return if is_missing { Ok(false) } else { Err(failure) };
    }
    if kind.output == b"commit\n" {
        return Ok(true);
    }
    Err(Error::new(ErrorKind::NotFound, operation).because("the object with that id is not a commit"))
}

const FORMAT: &str = "--format=%(objectname) %(objecttype) %(*objectname) %(*objecttype) %(refname)";

/// One line of what `git for-each-ref` prints in [`FORMAT`].
struct Reference {
    name: String,
    /// `None` for a tag of something else.
    commit: Option<CommitId>,
}

impl Reference {
    /// Reads a line. One that is not as it must be is none: a name outside of UTF-8 cannot be asked for.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = std::str::from_utf8(line).ok()?.splitn(5, ' ');
        let (id, kind, peeled_id, peeled_kind) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let name = fields.next()?.to_owned();
        let commit = match (kind, peeled_kind) {
            ("commit", _) => CommitId::parse(id).ok(),
            ("tag", "commit") => CommitId::parse(peeled_id).ok(),
            _ => None,
        };
        Some(Self { name, commit })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_is_read_or_is_none() {
        let id = "a".repeat(40);
        let read = |line: String| {
            Reference::parse(line.as_bytes()).map(|found| (found.name, found.commit.is_some()))
        };
        assert_eq!(
            read(format!("{id} commit   refs/heads/main")),
            Some(("refs/heads/main".to_owned(), true))
        );
        assert_eq!(
            read(format!("{id} tag {id} commit refs/tags/v1")),
            Some(("refs/tags/v1".to_owned(), true))
        );
        assert_eq!(read(format!("{id} tag {id} tree refs/tags/t")), Some(("refs/tags/t".to_owned(), false)));
        assert_eq!(
            read("x commit   refs/heads/main".to_owned()),
            Some(("refs/heads/main".to_owned(), false))
        );
        assert_eq!(read(id), None);
    }

    proptest! {
        #[test]
        fn no_line_panics(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Reference::parse(&line);
        }

        /// Whatever name is taken, none of the arguments made of it is an option, a pattern or an expression.
        #[test]
        fn a_name_stays_one_operand(text in ".{0,30}", start in "(-|--|refs/|)") {
            if let Ok(name) = RevisionName::parse(&format!("{start}{text}")) {
                prop_assert!(!name.as_str().starts_with('-'));
                prop_assert!(!name.as_str().contains(|c: char| c.is_control() || "*?[\\~^: ".contains(c)));
                let is_expression = name.as_str().contains("..") || name.as_str().contains("@{");
                prop_assert!(!is_expression);
            }
        }
    }
}
