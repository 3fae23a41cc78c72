//! What an operator decides about native sandboxes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ci_core::ByteSize;
use ci_core::id::ImageName;
use ci_core::sandbox::Spec;

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
    /// A folder of this backend's own. It holds a small file per living sandbox, and nothing of any job. It must be this
    /// user's or root's, and nobody else may write to it.
    pub state: PathBuf,
    /// Where images lie that have to be unpacked or put together, or nothing for `images` below `state`. Backends that
    /// have the same folder share what is in it. It must be this user's, and nobody else may write to it or to the folder
    /// above.
    pub store: Option<PathBuf>,
    /// How many bytes the layers of one image may have together when they are decompressed.
    pub image_bytes: ByteSize,
    /// How many entries they may have together.
    pub image_entries: u64,
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
    /// Sandboxes to keep ready, and how many of each kind.
    pub warm: Vec<(Spec, usize)>,
    /// What jobs may reach at most.
    pub egress: Egress,
}

impl Config {
    /// Sandboxes with their books below `state`, and no image yet.
    pub fn new(state: impl Into<PathBuf>) -> Self {
        Self {
            state: state.into(),
            store: None,
            image_bytes: ByteSize::gib(16),
            image_entries: 1_000_000,
            images: BTreeMap::new(),
            hostname: "sandbox".to_owned(),
            routed: None,
            files: 1_000_000,
            open_files: 65_536,
            warm: Vec::new(),
            egress: Egress::default(),
        }
    }

    /// Adds an image.
    pub fn with_image(mut self, name: ImageName, source: ImageSource) -> Self {
        self.images.insert(name, source);
        self
    }

    /// Replaces where images lie that have to be unpacked.
    pub fn with_store(mut self, store: impl Into<PathBuf>) -> Self {
        self.store = Some(store.into());
        self
    }

    /// Bounds how large an image may be that has to be unpacked: the bytes of its layers, and their entries.
    pub fn with_image_bounds(mut self, bytes: ByteSize, entries: u64) -> Self {
        (self.image_bytes, self.image_entries) = (bytes, entries);
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

    /// Keeps `count` sandboxes ready that are as `spec` asks, for jobs that ask for just that (what they demand at least
    /// aside). A job then gets one in a fraction of the time; each is used once, and made anew in the background.
    ///
    /// One takes less than a megabyte of the machine's memory and, on a quiet machine, some milliseconds to make. They are
    /// made from the moment on that the backend is, which must then be within a `tokio` runtime.
    pub fn with_warm(mut self, spec: Spec, count: usize) -> Self {
        self.warm.push((spec, count));
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

/// Whose files a sandbox shows. They are looked up once, when the backend is made; an image that has to be unpacked is
/// unpacked then, if it is not in the store yet, which takes its time.
///
/// What is guaranteed of each kind, and by what, is in [the module's table](super#images).
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
///
/// // What `skopeo copy docker://... oci:/var/lib/ci/images:rust-1` or `docker save` has written.
/// let rust = ImageSource::oci_layout("/var/lib/ci/images").with_reference("rust-1");
/// let go = ImageSource::archive("/var/lib/ci/go.tar");
/// # let _ = (host, debian, rust, go);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ImageSource {
    /// Files and folders of this machine, each at its own path; what does not exist is left out.
    ///
    /// Everything in them that everyone may read, a job can read. Folders of at most 4 MiB and 4,096 entries, files and
    /// links are copied into the store when the backend is made.
    HostToolchain {
        /// Absolute paths.
        paths: Vec<PathBuf>,
    },
    /// An unpacked root file system. Its `dev`, `home`, `proc`, `run`, `tmp` and `work` are not shown: the sandbox has
    /// its own.
    Directory(PathBuf),
    /// An image layout of the OCI (image-spec 1.1), as `skopeo copy docker://... oci:...` makes it.
    OciLayout {
        /// The folder with `oci-layout` and `index.json`.
        path: PathBuf,
        /// Which of its images: what `org.opencontainers.image.ref.name` says, or a digest. Nothing for the only one.
        reference: Option<String>,
    },
    /// A tarball that `docker save` or `podman save` has written, of either of their formats.
    Archive {
        /// The file, as a whole not compressed.
        path: PathBuf,
        /// Which of its images: a name with its tag, as it stands in the tarball (`skopeo` puts `docker.io/library/` before
        /// it). Nothing for the only one.
        reference: Option<String>,
    },
}

impl ImageSource {
    /// The only image in the image layout at `path`, or the one that [`with_reference`](Self::with_reference) names.
    pub fn oci_layout(path: impl Into<PathBuf>) -> Self {
        Self::OciLayout { path: path.into(), reference: None }
    }

    /// The only image in the tarball at `path`, or the one that [`with_reference`](Self::with_reference) names.
    pub fn archive(path: impl Into<PathBuf>) -> Self {
        Self::Archive { path: path.into(), reference: None }
    }

    /// Says which image of a layout or tarball is meant. Other sources hold one image, and stay as they are.
    pub fn with_reference(mut self, name: impl Into<String>) -> Self {
        if let Self::OciLayout { reference, .. } | Self::Archive { reference, .. } = &mut self {
            *reference = Some(name.into());
        }
        self
    }

    /// The programs and libraries of this machine, and those files below `/etc` that they cannot do without.
    pub fn host_toolchain() -> Self {
        const PATHS: [&str; 15] = [
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
            "/etc/os-release",
            "/etc/pki/ca-trust/extracted",
            "/etc/pki/tls/certs",
            "/etc/ssl/certs",
        ];
        Self::HostToolchain { paths: PATHS.map(PathBuf::from).to_vec() }
    }
}
