//! How [`Git`](super::Git) uses its helper sandboxes.

use std::collections::BTreeSet;
use std::time::Duration;

use ci_core::id::ImageName;
use ci_core::job::Limits;
use ci_core::sandbox::Guarantee;

use super::fetcher::Depth;

/// Where `git` is looked for, in a helper and on the host.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The helper sandboxes in which `git` works.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use ci_core::id::ImageName;
/// use ci_scm::git::{Depth, HelperOptions};
///
/// let options = HelperOptions::new(ImageName::parse("debian-git")?)
///     .with_deadline(Duration::from_mins(2))
///     .with_depth(Depth::Full); // for jobs that run `git describe`
/// assert_eq!(options.depth, Depth::Full);
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HelperOptions {
    /// The operator's image with a maintained `git`, 2.39 or later: `host` by default.
    pub image: ImageName,
    /// The `PATH` in it: the usual folders by default.
    pub path: String,
    /// How much a helper may use: the defaults of a job. Its disk holds the history that is fetched and the files.
    pub limits: Limits,
    /// What must hold for a helper: by default [`Guarantee::Namespaces`], [`Guarantee::NoPrivileges`] and
    /// [`Guarantee::Firewalled`], because `git` reads hostile objects there.
    pub minimum: BTreeSet<Guarantee>,
    /// How long one `git` may take: 10 minutes.
    pub deadline: Duration,
    /// How much of the history a job sees: by default the commit alone.
    pub depth: Depth,
}

impl HelperOptions {
    /// Helpers on `image`.
    pub fn new(image: ImageName) -> Self {
        Self {
            image,
            path: PATH.to_owned(),
            limits: Limits::default(),
            minimum: [Guarantee::Namespaces, Guarantee::NoPrivileges, Guarantee::Firewalled].into(),
            deadline: Duration::from_mins(10),
            depth: Depth::default(),
        }
    }

    /// Replaces the `PATH` in which `git` is looked for.
    pub fn with_path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Replaces how much a helper may use.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Replaces what must hold for a helper.
    pub fn with_minimum(mut self, minimum: impl IntoIterator<Item = Guarantee>) -> Self {
        self.minimum = minimum.into_iter().collect();
        self
    }

    /// Replaces how long one `git` may take.
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Replaces how much of the history a job sees.
    pub fn with_depth(mut self, depth: Depth) -> Self {
        self.depth = depth;
        self
    }
}

impl Default for HelperOptions {
    fn default() -> Self {
        Self::new(ImageName::parse("host").expect("a name of small letters is an image name"))
    }
}
