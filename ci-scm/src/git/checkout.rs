//! The exact commit of a job, from its repository into its sandbox.

use ci_core::id::CommitId;
use ci_core::job::Submodules;
use ci_core::queue::Claim;
use ci_core::sandbox::{Sandbox, SandboxPath, Sandboxes};
use ci_core::{Error, ErrorKind, Result};

use super::Git;
use super::fetcher::{Depth, Want};
use super::helper::Helper;

const CHECK_OUT: &str = "check out a commit";

impl Git {
    pub(super) async fn put(&self, claim: &Claim, helpers: &Sandboxes, into: &Sandbox) -> Result<()> {
        if claim.spec().submodules == Submodules::CheckedOut {
            return Err(Error::new(ErrorKind::Unsupported, CHECK_OUT).because(
                "submodules are not checked out from plain git: whoever wrote the commit chose their URLs; \
                 check them out as jobs of their own or copy their files into the repository",
            ));
        }
        let repository = self.access.repository(claim.scope()?.repository())?;
        let (commit, depth) = (claim.code().commit(), self.options.depth);
        let fetcher = self.fetcher(repository.url.protocol())?;
        let objects = fetcher.fetch(&repository.url, &Want::Commit(commit.clone(), depth)).await?;
        let helper = Helper::start(helpers, claim.scope()?, objects.folder(), &self.options).await?;
        let done = async {
            unpack(&helper, commit, depth).await?;
            claim.fence()?;
            // What is downloaded is called `work/…`, so it goes below the folder that holds `/work`.
            let around = SandboxPath::parse("/")?;
            let upload = into.upload(&around, helper.work());
            let in_time = tokio::time::timeout(self.options.deadline, upload).await;
            in_time.unwrap_or_else(|_| Err(Error::new(ErrorKind::TimedOut, CHECK_OUT)))
        };
        let done = done.await;
        helper.end(done).await
    }
}

/// Makes the files of `commit` in the working folder of the helper.
async fn unpack(helper: &Helper<'_>, commit: &CommitId, depth: Depth) -> Result<()> {
    helper.git(CHECK_OUT, &["init", "--quiet", "--initial-branch=main", object_format(commit)]).await?;
    let mut fetch = vec!["fetch", "--quiet", "--no-write-fetch-head", "--no-tags", "--no-recurse-submodules"];
    let (url, last) = (Helper::url(), deepen(depth));
    fetch.extend(last.as_deref());
    fetch.extend(["--", &url, commit.as_str()]);
    fetch.extend(all_tags(depth));
    helper.git(CHECK_OUT, &fetch).await?;
    // The commit is named by its id alone, and git takes no file name here: `--` ends the operands.
    let checkout =
        ["checkout", "--quiet", "--detach", "--force", "--no-recurse-submodules", commit.as_str(), "--"];
    helper.git(CHECK_OUT, &checkout).await?;
    Ok(())
}

/// How `git init` is told the hash function of `commit`.
pub(super) fn object_format(commit: &CommitId) -> &'static str {
    if commit.as_str().len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" }
}

/// How `git fetch` is told where to stop.
pub(super) fn deepen(depth: Depth) -> Option<String> {
    match depth {
        Depth::Last(commits) => Some(format!("--depth={commits}")),
        Depth::Full => None,
    }
}

/// The references that come beside the commit.
pub(super) fn all_tags(depth: Depth) -> Option<&'static str> {
    (depth == Depth::Full).then_some("+refs/tags/*:refs/tags/*")
}
