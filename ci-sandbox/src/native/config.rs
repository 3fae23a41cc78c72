//! What an operator decides about native sandboxes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ci_core::id::ImageName;

use super::network::{Egress, RoutedNetwork};

/// Where sandboxes keep their books, and which images they can show.
///
/// # Example
///
/// ```
/// use ci_core::id::ImageName;
/// use ci_sandbox::native::{Config, ImageSource};
///
/// let config = Config::new("/var/lib/ci")
///     .with_image(ImageName::parse("host")?, ImageSource::host_toolchain())
///     .with_image(ImageName::parse("debian-12")?, ImageSource::Directory("/var/lib/ci/debian-12".into()));
/// # Ok::<(), ci_core::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// A folder of this backend's own. It holds a small file per living sandbox, and nothing of any job.
    pub state: PathBuf,
    /// Images by the name that a job asks for.
    pub images: BTreeMap<ImageName, ImageSource>,
    /// The host name that jobs see.
    pub hostname: String,
    /// How sandboxes reach networks without a proxy; not at all where there is nothing.
    pub routed: Option<RoutedNetwork>,
    /// How many files and folders one sandbox may hold.
    pub files: u64,
    /// How many files one program may have open.
    pub open_files: u64,
    /// What jobs may reach at most.
    pub egress: Egress,
}

impl Config {
    /// Sandboxes with their books below `state`, and no image yet.
    pub fn new(state: impl Into<PathBuf>) -> Self {
        Self {
            state: state.into(),
            images: BTreeMap::new(),
            hostname: "sandbox".to_owned(),
            routed: None,
            files: 1_000_000,
            open_files: 65_536,
            egress: Egress::default(),
        }
    }

    /// Adds an image.
    pub fn with_image(mut self, name: ImageName, source: ImageSource) -> Self {
        self.images.insert(name, source);
        self
    }

    /// Replaces the host name that jobs see.
    pub fn with_hostname(mut self, hostname: impl Into<String>) -> Self {
        self.hostname = hostname.into();
        self
    }

    /// Lets sandboxes reach the networks of their rules without a proxy. It takes root.
    pub fn with_routed(mut self, routed: RoutedNetwork) -> Self {
        self.routed = Some(routed);
        self
    }

    /// Bounds how many files and folders one sandbox may hold.
    pub fn with_files(mut self, files: u64) -> Self {
        self.files = files;
        self
    }

    /// Bounds how many files one program may have open.
    pub fn with_open_files(mut self, open_files: u64) -> Self {
        self.open_files = open_files;
        self
    }

    /// Replaces what jobs may reach at most, and from which address.
    pub fn with_egress(mut self, egress: Egress) -> Self {
        self.egress = egress;
        self
    }
}

/// Whose files a sandbox shows, read-only. They are looked up once, when the backend is made.
///
/// # Example
///
/// ```
/// use ci_sandbox::native::ImageSource;
///
/// // This machine's programs and libraries, and a toolchain that lies beside them.
/// let ImageSource::HostToolchain { mut paths } = ImageSource::host_toolchain() else { unreachable!() };
/// paths.push("/opt/toolchain".into());
/// let host = ImageSource::HostToolchain { paths };
///
/// // What `debootstrap` or the export of a container has left in a folder.
/// let debian = ImageSource::Directory("/var/lib/ci/debian-12".into());
/// # let _ = (host, debian);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ImageSource {
    /// Files and folders of this machine, each at its own path; what does not exist is left out.
    ///
    /// Everything in them that everyone may read, a job can read.
    HostToolchain {
        /// Absolute paths.
        paths: Vec<PathBuf>,
    },
    /// The top-level entries of an unpacked root file system. Its `dev`, `home`, `proc`, `run`, `sys`, `tmp` and
    /// `work` are not shown: the sandbox has its own.
    Directory(PathBuf),
}

impl ImageSource {
    /// The programs and libraries of this machine, and those files below `/etc` that they cannot do without.
    pub fn host_toolchain() -> Self {
        const PATHS: [&str; 14] = [
            "/usr",
            "/bin",
            "/sbin",
            "/lib",
            "/lib32",
            "/lib64",
            "/etc/alternatives",
            "/etc/ca-certificates",
            "/etc/ld.so.cache",
            "/etc/ld.so.conf",
            "/etc/ld.so.conf.d",
            "/etc/pki/ca-trust/extracted",
            "/etc/pki/tls/certs",
            "/etc/ssl/certs",
        ];
        Self::HostToolchain { paths: PATHS.map(PathBuf::from).to_vec() }
    }
}
