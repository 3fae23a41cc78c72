//! The files of a scripted sandbox.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::tar::{Archive, Content, Entry};
use crate::error::{Error, ErrorKind, Result};
use crate::sandbox::SandboxPath;
use crate::units::ByteSize;

/// A tree of files that exists nowhere but here.
///
/// # Example
///
/// ```
/// use ci_core::memory::Files;
/// use ci_core::sandbox::SandboxPath;
///
/// let mut files = Files::default();
/// let path = SandboxPath::work().join("src/main.rs")?;
/// files.write(&path, "fn main() {}")?;
/// assert_eq!(files.read(&path).as_deref(), Some(&b"fn main() {}"[..]));
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Files {
    /// What lies at each path; the folders above a path are not listed unless they were made by themselves.
    nodes: BTreeMap<SandboxPath, Content>,
    most: ByteSize,
}

impl Default for Files {
    /// The folders that every sandbox has, and room for a mebibyte.
    fn default() -> Self {
        Self::with_room(ByteSize::mib(1))
    }
}

impl Files {
    /// The folders that every sandbox has, `/work` and `/tmp`, and room for `most` bytes.
    pub(super) fn with_room(most: ByteSize) -> Self {
        let temporary = SandboxPath::parse("/tmp").expect("`/tmp` is a path");
        let folders = [(SandboxPath::work(), Content::Folder), (temporary, Content::Folder)];
        Self { nodes: folders.into(), most }
    }

    /// The content of a file.
    pub fn read(&self, path: &SandboxPath) -> Option<Bytes> {
        match self.nodes.get(path) {
            Some(Content::File(bytes)) => Some(bytes.clone()),
            _ => None,
        }
    }

    /// Writes a file, in place of an earlier one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LimitExceeded`] when there is no room; [`ErrorKind::Invalid`] when a folder is at `path`, or
    /// a file is where a folder would have to be.
    pub fn write(&mut self, path: &SandboxPath, content: impl Into<Bytes>) -> Result<()> {
        self.put(path, Content::File(content.into()))
    }

    /// Removes a file, or a folder with all that is in it.
    pub fn remove(&mut self, path: &SandboxPath) {
        self.nodes.retain(|other, _| other != path && !is_below(other, path));
    }

    /// Whether there is a folder at `path`.
    pub fn is_folder(&self, path: &SandboxPath) -> bool {
        matches!(self.nodes.get(path), Some(Content::Folder))
            || self.nodes.keys().any(|other| is_below(other, path))
    }

    /// The paths of all files, sorted.
    pub fn paths(&self) -> impl Iterator<Item = &SandboxPath> {
        self.nodes.iter().filter(|(_, content)| !matches!(content, Content::Folder)).map(|(path, _)| path)
    }

    /// What all of them hold together.
    pub(super) fn size(&self) -> ByteSize {
        ByteSize::bytes(self.nodes.values().map(Content::size).sum())
    }

    /// Unpacks `archive` below `path`.
    pub(super) fn unpack(&mut self, path: &SandboxPath, archive: Archive) -> Result<()> {
        self.put(path, Content::Folder)?;
        for Entry { name, content } in archive.entries {
            let name = name.trim_start_matches("./").trim_end_matches('/');
            if !matches!(name, "" | ".") {
                self.put(&path.join(name)?, content)?;
            }
        }
        Ok(())
    }

    /// What lies at `path`, with names relative to its parent.
    pub(super) fn pack(&self, path: &SandboxPath) -> Result<Archive> {
        let parent = path.as_str().rfind('/').map_or(0, |slash| slash + 1);
        let name = |at: &SandboxPath| at.as_str().get(parent..).unwrap_or_default().to_owned();
        let entries: Vec<Entry> = self
            .nodes
            .iter()
            .filter(|(at, _)| *at == path || is_below(at, path))
            .map(|(at, content)| Entry { name: name(at), content: content.clone() })
            .collect();
        if entries.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "download from a sandbox").with("path", path));
        }
        Ok(Archive { entries })
    }

    fn put(&mut self, path: &SandboxPath, content: Content) -> Result<()> {
        let invalid = |why: &'static str| {
            Err(Error::new(ErrorKind::Invalid, "write a file in a sandbox").because(why).with("path", path))
        };
        // A link above is not followed: what is written through it could land anywhere.
        let above_is_file =
            self.nodes.iter().any(|(at, node)| !matches!(node, Content::Folder) && is_below(path, at));
        if above_is_file {
            return invalid("a file or a link lies where a folder would have to be");
        }
        let wants_folder = matches!(content, Content::Folder);
        if self.is_folder(path) {
            return if wants_folder { Ok(()) } else { invalid("a folder lies there") };
        }
        if wants_folder && self.nodes.contains_key(path) {
            return invalid("a file lies where a folder would have to be");
        }
        let replaced = self.nodes.get(path).map_or(0, Content::size);
        if ByteSize::bytes(self.size().as_u64() - replaced + content.size()) > self.most {
            return Err(
                Error::new(ErrorKind::LimitExceeded, "write a file in a sandbox").with("limit", self.most)
            );
        }
        self.nodes.insert(path.clone(), content);
        Ok(())
    }
}

fn is_below(path: &SandboxPath, above: &SandboxPath) -> bool {
    let above = above.as_str().trim_end_matches('/');
    path.as_str().strip_prefix(above).is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(files: &mut Files, entries: &[(&str, Content)]) -> Result<()> {
        let entry =
            |(name, content): &(&str, Content)| Entry { name: (*name).to_owned(), content: content.clone() };
        files.unpack(&SandboxPath::work(), Archive { entries: entries.iter().map(entry).collect() })
    }

    fn file(content: &'static str) -> Content {
        Content::File(Bytes::from_static(content.as_bytes()))
    }

    #[test]
    fn nothing_outside_of_the_folder_is_written() {
        for name in ["../x", "/etc/x", "a/../../x", "a/./x", "a//x", ".."] {
            let mut files = Files::default();
            let error = unpack(&mut files, &[(name, file("x"))]).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{name}");
            assert_eq!(files.paths().count(), 0, "{name}");
        }
        let mut files = Files::default();
        let through_a_link = [("link", Content::Link("/etc".to_owned())), ("link/x", file("x"))];
        assert_eq!(unpack(&mut files, &through_a_link).expect_err("refused").kind(), ErrorKind::Invalid);
    }

    #[test]
    fn what_archives_say_of_their_root_is_understood() -> Result<()> {
        let mut files = Files::default();
        unpack(&mut files, &[("./", Content::Folder), ("./a/", Content::Folder), ("./a/b", file("x"))])?;
        let path = SandboxPath::work().join("a/b")?;
        assert_eq!(files.paths().collect::<Vec<_>>(), [&path]);
        files.remove(&SandboxPath::work().join("a")?);
        assert_eq!(files.paths().count(), 0);
        Ok(())
    }

    #[test]
    fn there_is_only_so_much_room() -> Result<()> {
        let mut files = Files::with_room(ByteSize::bytes(4));
        let (one, two) = (SandboxPath::work().join("one")?, SandboxPath::work().join("two")?);
        files.write(&one, "1234")?;
        files.write(&one, "4321")?;
        assert_eq!(files.write(&two, "5").expect_err("full").kind(), ErrorKind::LimitExceeded);
        assert_eq!(files.write(&SandboxPath::work(), "").expect_err("a folder").kind(), ErrorKind::Invalid);
        assert_eq!(files.write(&one.join("x")?, "").expect_err("a file").kind(), ErrorKind::Invalid);
        Ok(())
    }
}
