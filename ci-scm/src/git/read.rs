//! One file of an exact commit, before there is a job.

use bytes::Bytes;
use ci_core::access::Scope;
use ci_core::forge::SourcePath;
use ci_core::id::CommitId;
use ci_core::sandbox::Sandboxes;
use ci_core::{ByteSize, Error, ErrorKind, Result};

use super::Git;
use super::failure::MALFORMED;
use super::fetcher::{Depth, Want};
use super::helper::Helper;
use super::resolve::has_commit;

const READ: &str = "read a file of a commit";

impl Git {
    pub(super) async fn content(
        &self,
        scope: Scope<'_>,
        helpers: &Sandboxes,
        commit: &CommitId,
        path: &SourcePath,
        limit: ByteSize,
    ) -> Result<Bytes> {
        let repository = self.access.repository(scope.repository())?;
        let fetcher = self.fetcher(repository.url.protocol())?;
        let want = Want::Commit(commit.clone(), Depth::default());
        let objects = fetcher.fetch(&repository.url, &want).await?;
        let helper = Helper::start(helpers, scope, objects.folder(), &self.options).await?;
        let content = read(&helper, commit, path, limit).await;
        helper.end(content).await.map(Bytes::from)
    }
}

async fn read(helper: &Helper<'_>, commit: &CommitId, path: &SourcePath, limit: ByteSize) -> Result<Vec<u8>> {
    if !has_commit(helper, READ, commit).await? {
        return Err(
            Error::new(ErrorKind::NotFound, READ).because("there is no such commit in the repository")
        );
    }
    let invalid = |why: &'static str| Err(Error::new(ErrorKind::Invalid, READ).because(why));
    match find(helper, commit, path).await? {
        Entry::File { size, .. } if size > limit => Err(Error::new(ErrorKind::LimitExceeded, READ)
            .because("the file is larger than allowed")
            .with("size", size)
            .with("limit", limit)),
        Entry::File { object, .. } => helper.blob(READ, object.as_str(), limit).await,
        Entry::Folder(_) => invalid("it is a folder; name a file in it"),
        Entry::Link => invalid("it is a symbolic link, which is not followed; name the file itself"),
        Entry::Submodule => invalid("it is a submodule, whose files are in another repository"),
    }
}

/// What lies at `path`. Each part is looked up in the folder that the one before it named: asked for all of it at
/// once, git would also take a hostile entry whose own name is `a/b`.
async fn find(helper: &Helper<'_>, commit: &CommitId, path: &SourcePath) -> Result<Entry> {
    let mut found = Entry::Folder(commit.clone());
    for part in path.parts() {
        let Entry::Folder(tree) = found else { return Err(no_file()) };
        // `--` ends the operands, and `--literal-pathspecs` is among the arguments of every git.
        let look = ["ls-tree", "-z", "--long", "--full-tree", tree.as_str(), "--", part];
        let printed = helper.look(READ, &look).await?.output(READ)?;
        found = Entry::only(&printed, part)?;
    }
    Ok(found)
}

fn no_file() -> Error {
    Error::new(ErrorKind::NotFound, READ).because("there is no such file in the commit")
}

/// What a name in a tree stands for.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    File { object: ObjectId, size: ByteSize },
    Folder(ObjectId),
    Link,
    Submodule,
}

/// Ids of all objects look alike.
type ObjectId = CommitId;

impl Entry {
    /// Reads what `git ls-tree -z --long` prints when it is asked for one name. A name that stands there twice means
    /// one thing to one program and another to the next.
    fn only(printed: &[u8], name: &str) -> Result<Self> {
        let mut records = printed.split(|byte| *byte == 0).filter(|record| !record.is_empty());
        let record = records.next().ok_or_else(no_file)?;
        let entry = if records.next().is_none() { Self::parse(record, name) } else { None };
        entry.ok_or_else(|| Error::new(ErrorKind::Invalid, READ).because(MALFORMED))
    }

    /// Reads `<mode> <type> <object> <size><tab><name>`.
    fn parse(record: &[u8], name: &str) -> Option<Self> {
        let about = record.strip_suffix(name.as_bytes())?.strip_suffix(b"\t")?;
        let mut fields = std::str::from_utf8(about).ok()?.split_ascii_whitespace();
        let (mode, _type, object, size) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let object = ObjectId::parse(object).ok()?;
        match mode {
            "100644" | "100755" => Some(Self::File { object, size: ByteSize::bytes(size.parse().ok()?) }),
            "040000" => Some(Self::Folder(object)),
            "120000" => Some(Self::Link),
            "160000" => Some(Self::Submodule),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(mode: &str, size: &str, name: &str) -> Vec<u8> {
        format!("{mode} blob {} {size:>7}\t{name}\0", "a".repeat(40)).into_bytes()
    }

    fn read(printed: &[u8]) -> Result<Entry, ErrorKind> {
        Entry::only(printed, "f").map_err(|error| error.kind())
    }

    #[test]
    fn an_entry_is_read_or_refused() {
        let object = ObjectId::parse("a".repeat(40)).expect("an id");
        let file = Entry::File { object: object.clone(), size: ByteSize::bytes(12) };
        assert_eq!(read(&line("100644", "12", "f")), Ok(file));
        assert_eq!(read(&line("040000", "-", "f")), Ok(Entry::Folder(object)));
        assert_eq!(read(&line("120000", "12", "f")), Ok(Entry::Link));
        assert_eq!(read(&line("160000", "-", "f")), Ok(Entry::Submodule));
        assert_eq!(read(b""), Err(ErrorKind::NotFound));
        for (printed, what) in [
            (line("100644", "12", "f/g"), "another name"),
            (line("100644", "12", "xf"), "a longer name"),
            (line("100644", "BAD", "f"), "an object that is missing"),
            (line("000000", "12", "f"), "a mode that there is not"),
            (b"f\0".to_vec(), "nothing but the name"),
            ([line("120000", "12", "f"), line("100644", "12", "f")].concat(), "two of one name"),
        ] {
            assert_eq!(read(&printed), Err(ErrorKind::Invalid), "{what}");
        }
    }

    proptest! {
        #[test]
        fn no_record_panics(printed in proptest::collection::vec(any::<u8>(), 0..200), name in ".{0,5}") {
            let _ = Entry::only(&printed, &name);
        }
    }
}
