//! The JSON documents of images: of the OCI (image-spec 1.1) and of `docker save` (Docker Image Specification v1.2).
//!
//! They come from strangers. What is read here is bounded, and every name in it is checked where it is used.

use std::collections::BTreeMap;
use std::fmt;

use ci_core::{Error, ErrorKind, Result};
use data_encoding::HEXLOWER;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use sha2::{Digest as _, Sha256, Sha512};

/// The longest document.
pub(crate) const LONGEST_DOCUMENT: u64 = 4 * 1024 * 1024;

/// The most layers of one image.
pub(crate) const MOST_LAYERS: usize = 1_024;

/// The name of some content: an algorithm and the hash, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Digest(String);

impl Digest {
    /// Takes `sha256:` or `sha512:` and the digits; nothing when it is neither.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (algorithm, digits) = text.split_once(':')?;
        let length = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return None,
        };
        let is_hash =
            digits.len() == length && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_hash.then(|| Self(text.to_owned()))
    }

    /// The digest of `content`.
    pub(crate) fn of(content: &[u8]) -> Self {
        let mut hasher = Hasher::Sha256(Sha256::new());
        hasher.update(content);
        hasher.finish()
    }

    /// Where an image layout has the content.
    pub(crate) fn blob(&self) -> String {
        format!("blobs/{}", self.0.replace(':', "/"))
    }

    /// A name for files.
    pub(crate) fn file_name(&self) -> String {
        self.0.replace(':', "-")
    }

    /// What finds out whether content has this digest.
    pub(crate) fn hasher(&self) -> Hasher {
        if self.0.starts_with("sha512:") {
            Hasher::Sha512(Sha512::new())
        } else {
            Hasher::Sha256(Sha256::new())
        }
    }
}

impl From<Sha256> for Digest {
    fn from(hasher: Sha256) -> Self {
        Hasher::Sha256(hasher).finish()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| serde::de::Error::custom("a digest must be sha256 or sha512 in lower case"))
    }
}

/// Computes a digest.
#[derive(Clone, Debug)]
pub(crate) enum Hasher {
    /// With SHA-256.
    Sha256(Sha256),
    /// With SHA-512.
    Sha512(Sha512),
}

impl Hasher {
    /// Adds content.
    pub(crate) fn update(&mut self, content: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(content),
            Self::Sha512(hasher) => hasher.update(content),
        }
    }

    /// The digest of all that was added.
    pub(crate) fn finish(self) -> Digest {
        let (algorithm, hash) = match self {
            Self::Sha256(hasher) => ("sha256", hasher.finalize().to_vec()),
            Self::Sha512(hasher) => ("sha512", hasher.finalize().to_vec()),
        };
        Digest(format!("{algorithm}:{}", HEXLOWER.encode(&hash)))
    }
}

/// What an index or a manifest says of a blob.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
}

impl Descriptor {
    /// Whether it is an index, of the OCI or of Docker.
    pub(crate) fn is_index(&self) -> bool {
        matches!(
            self.media_type.as_str(),
            "application/vnd.oci.image.index.v1+json"
                | "application/vnd.docker.distribution.manifest.list.v2+json"
        )
    }

    /// Whether people call it `reference`: by a tag, by a whole name, or by its digest.
    pub(crate) fn is_called(&self, reference: &str) -> bool {
        self.names().any(|name| name == reference)
            || self.digest.0 == reference
            // As Docker shortens the names of its own hub.
            || self.names().any(|name| {
                let short = name.strip_prefix("docker.io/").unwrap_or(name);
                short == reference || short.strip_prefix("library/") == Some(reference)
            })
    }

    /// What people call it.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        ["org.opencontainers.image.ref.name", "io.containerd.image.name"]
            .into_iter()
            .filter_map(|key| self.annotations.get(key).map(String::as_str))
    }
}

/// What an image runs on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
}

impl Platform {
    /// Whether programs for it run here. One that says nothing is taken at its word.
    pub(crate) fn is_this_machines(&self) -> bool {
        // The init is written for no third one.
        let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        ["", "linux"].contains(&self.os.as_str()) && ["", architecture].contains(&self.architecture.as_str())
    }
}

/// `oci-layout`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Layout {
    pub(crate) image_layout_version: String,
}

/// `index.json`, or an index below it.
#[derive(Debug, Deserialize)]
pub(crate) struct Index {
    pub(crate) manifests: Vec<Descriptor>,
}

/// An image manifest.
#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// An entry of `manifest.json`, as `docker save` writes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SavedImage {
    pub(crate) config: String,
    #[serde(default)]
    pub(crate) repo_tags: Option<Vec<String>>,
    pub(crate) layers: Vec<String>,
}

/// An image's configuration, as far as it matters here.
#[derive(Debug, Deserialize)]
pub(crate) struct ImageConfig {
    #[serde(flatten)]
    pub(crate) platform: Platform,
    #[serde(default)]
    config: Option<RunConfig>,
    rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
struct RunConfig {
    #[serde(default, rename = "Env")]
    env: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

impl ImageConfig {
    /// The digests of the layers before they were compressed, lowest first.
    pub(crate) fn diff_ids(&self) -> &[Digest] {
        self.rootfs.diff_ids.as_deref().unwrap_or_default()
    }

    /// The variables that programs of the image expect. What is none, or cannot be one, is left out.
    pub(crate) fn environment(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = self.config.iter().flat_map(|config| config.env.iter().flatten());
        let variables = entries.filter_map(|entry| entry.split_once('='));
        let is_variable =
            |(name, value): &(&str, &str)| !name.is_empty() && !name.contains('\0') && !value.contains('\0');
        variables
            .filter(is_variable)
            .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
            .collect()
    }
}

/// Takes a document apart.
pub(crate) fn parse<T: DeserializeOwned>(document: &[u8], what: &'static str) -> Result<T> {
    serde_json::from_slice(document).map_err(|error| {
        Error::new(ErrorKind::Invalid, "read an image")
            .because("a document of the image is not what its format says")
            .with("document", what)
            .caused_by(error)
    })
}
