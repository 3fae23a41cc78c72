//! An image that was made elsewhere: found, checked, and unpacked once.

use std::collections::BTreeMap;
use std::path::Path;

use ci_core::{ByteSize, Error, ErrorKind, Result};

use super::blobs::{Blob, Blobs};
use super::format::{
    Descriptor, Digest, ImageConfig, Index, Layout, MOST_LAYERS, Manifest, SavedImage, parse,
};
use super::refusal::{invalid, too_large, unreadable_layer};
use super::store::{Held, Store, Workshop};
use super::stream::{Budgeted, Hashing, decompressed};
use super::unpack::Unpacker;
use super::{OPERATION, shown, unusable_store};

/// The most indexes in indexes.
const DEEPEST_INDEX: usize = 4;

/// How large an image may be.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Bounds {
    /// All its layers, decompressed.
    pub(in super::super) bytes: ByteSize,
    /// All their entries.
    pub(in super::super) entries: u64,
}

/// An image that has been found.
#[derive(Debug)]
pub(super) struct Found {
    blobs: Blobs,
    id: Digest,
    layers: Vec<Layer>,
    /// What its programs expect to find.
    pub(super) environment: BTreeMap<String, Vec<u8>>,
}

/// One layer, lowest first.
#[derive(Debug)]
struct Layer {
    blob: String,
    /// What the blob is, where the image says so.
    stated: Option<(Digest, u64)>,
    /// The digest of what it holds.
    content: Digest,
}

impl Found {
    /// Finds the image that people call `reference`, or the only one, in an image layout.
    pub(super) fn in_layout(path: &Path, reference: Option<&str>) -> Result<Self> {
        Self::by_index(Blobs::in_folder(path)?, reference)
    }

    /// The same in a tarball as `docker save` and others write it.
    pub(super) fn in_tarball(path: &Path, reference: Option<&str>) -> Result<Self> {
        let blobs = Blobs::in_tarball(path)?;
        if blobs.open("oci-layout").ok().flatten().is_some() {
            return Self::by_index(blobs, reference);
        }
        Self::by_docker_manifest(blobs, reference)
    }

    /// Unpacks it, unless that has been done.
    pub(super) fn unpack(&self, store: &Store, bounds: Bounds, keep_owners: bool) -> Result<Held> {
        store.get_or_make(&self.id.file_name(), true, unusable_store, |workshop| {
            self.unpack_into(workshop, bounds, keep_owners)
        })
    }

    fn by_index(blobs: Blobs, reference: Option<&str>) -> Result<Self> {
        let layout: Layout = parse(&document(&blobs, "oci-layout")?, "oci-layout")?;
        if !layout.image_layout_version.starts_with("1.") {
            return Err(invalid("the image layout has a version that is not known")
                .with("version", shown(&layout.image_layout_version)));
        }
        let mut index: Index = parse(&document(&blobs, "index.json")?, "index.json")?;
        let mut chosen = choose(&index.manifests, reference)?;
        for _ in 0..DEEPEST_INDEX {
            if !chosen.is_index() {
                return Self::by_manifest(blobs, &chosen);
            }
            index = parse(&described(&blobs, &chosen)?, "index")?;
            chosen = for_this_machine(&index.manifests)?;
        }
        Err(invalid("its indexes lead to further ones without end"))
    }

    fn by_manifest(blobs: Blobs, manifest: &Descriptor) -> Result<Self> {
        let Manifest { config, layers } = parse(&described(&blobs, manifest)?, "manifest")?;
        let document = described(&blobs, &config)?;
        let layers = layers.into_iter();
        let layers = layers.map(|layer| (layer.digest.blob(), Some((layer.digest, layer.size)))).collect();
        Self::of(blobs, config.digest, &document, layers)
    }

    fn by_docker_manifest(blobs: Blobs, reference: Option<&str>) -> Result<Self> {
        let images: Vec<SavedImage> = parse(&document(&blobs, "manifest.json")?, "manifest.json")?;
        let tags = |image: &SavedImage| image.repo_tags.clone().unwrap_or_default();
        let chosen: Vec<&SavedImage> = match reference {
            Some(reference) => {
                images.iter().filter(|image| tags(image).iter().any(|tag| tag == reference)).collect()
            }
            None => images.iter().collect(),
        };
        let [image] = chosen[..] else {
            let names = images.iter().flat_map(tags).collect::<Vec<_>>().join(" ");
            return Err(not_one(chosen.len(), &names, reference));
        };
        let document = document(&blobs, &image.config)?;
        let layers = image.layers.iter().map(|layer| (layer.clone(), None)).collect();
        Self::of(blobs, Digest::of(&document), &document, layers)
    }

    fn of(
        blobs: Blobs,
        id: Digest,
        config: &[u8],
        layers: Vec<(String, Option<(Digest, u64)>)>,
    ) -> Result<Self> {
        let config: ImageConfig = parse(config, "configuration")?;
        if !config.platform.is_this_machines() {
            return Err(Error::new(ErrorKind::Unsupported, OPERATION)
                .because("the image is for machines of another kind")
                .with("os", shown(&config.platform.os))
                .with("architecture", shown(&config.platform.architecture)));
        }
        if layers.len() != config.diff_ids().len() || layers.len() > MOST_LAYERS {
            return Err(invalid("the image has other layers than its configuration says, or too many"));
        }
        let environment = config.environment();
        let layers = layers.into_iter().zip(config.diff_ids());
        let layers = layers
            .map(|((blob, stated), content)| Layer { blob, stated, content: content.clone() })
            .collect();
        Ok(Self { blobs, id, layers, environment })
    }

    fn unpack_into(&self, workshop: &Workshop, bounds: Bounds, keep_owners: bool) -> Result<()> {
        let mut unpacker = Unpacker::new(workshop, bounds.entries, keep_owners).map_err(unusable_store)?;
        let mut left = bounds.bytes.as_u64();
        for layer in &self.layers {
            let blob = self.blobs.open(&layer.blob).map_err(unreadable_layer)?;
            let blob = blob.ok_or_else(|| missing(&layer.blob))?;
            layer.unpack(blob, &mut unpacker, &mut left)?;
        }
        unpacker.complete().map_err(unusable_store)
    }
}

impl Layer {
    fn unpack(&self, blob: Blob, unpacker: &mut Unpacker, left: &mut u64) -> Result<()> {
        if self.stated.as_ref().is_some_and(|(_, size)| *size != blob.size()) {
            return Err(differs(&self.blob));
        }
        // Compressed to nothing it may be, but never larger than what is left.
        if blob.size() > *left {
            return Err(too_large());
        }
        let (stated, _) = self.stated.clone().unwrap_or_else(|| (self.content.clone(), 0));
        let mut blob = Hashing::new(blob, stated.hasher());
        let content = Budgeted { inner: decompressed(&mut blob).map_err(unreadable_layer)?, left };
        let mut content = Hashing::new(content, self.content.hasher());
        unpacker.layer(&mut content)?;
        let is_same = content.finish().map_err(unreadable_layer)? == self.content;
        let blob = blob.finish().map_err(unreadable_layer)?;
        let is_stated = self.stated.as_ref().is_none_or(|(digest, _)| *digest == blob);
        if is_same && is_stated { Ok(()) } else { Err(differs(&self.blob)) }
    }
}

/// The one of an index that people call `reference`, or the only one for this machine.
fn choose(manifests: &[Descriptor], reference: Option<&str>) -> Result<Descriptor> {
    let called: Vec<&Descriptor> = manifests
        .iter()
        .filter(|manifest| reference.is_none_or(|reference| manifest.is_called(reference)))
        .collect();
    let digests: std::collections::BTreeSet<&Digest> = called.iter().map(|one| &one.digest).collect();
    match called.first() {
        // An image of several names is there several times.
        Some(first) if digests.len() == 1 => Ok((*first).clone()),
        Some(_) => for_this_machine(manifests).map_err(|_| {
            let names: Vec<&str> = manifests.iter().flat_map(Descriptor::names).collect();
            not_one(called.len(), &names.join(" "), reference)
        }),
        None => {
            let names: Vec<&str> = manifests.iter().flat_map(Descriptor::names).collect();
            Err(not_one(0, &names.join(" "), reference))
        }
    }
}

/// The one of several that is for machines like this one.
fn for_this_machine(manifests: &[Descriptor]) -> Result<Descriptor> {
    let fits = |manifest: &&Descriptor| {
        manifest
            .platform
            .as_ref()
            .is_some_and(|platform| platform.is_this_machines() && !platform.os.is_empty())
    };
    let mut fitting = manifests.iter().filter(fits);
    match (fitting.next(), fitting.next(), manifests) {
        (Some(one), None, _) | (None, _, [one]) => Ok(one.clone()),
        _ => Err(Error::new(ErrorKind::Unsupported, OPERATION)
            .because("the image has none, or more than one, form for machines like this one")),
    }
}

/// A document whose digest and size are known.
fn described(blobs: &Blobs, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let name = descriptor.digest.blob();
    let document = document(blobs, &name)?;
    let mut hasher = descriptor.digest.hasher();
    hasher.update(&document);
    if document.len() as u64 == descriptor.size && hasher.finish() == descriptor.digest {
        return Ok(document);
    }
    Err(differs(&name))
}

fn document(blobs: &Blobs, name: &str) -> Result<Vec<u8>> {
    blobs.document(name)?.ok_or_else(|| missing(name))
}

fn missing(name: &str) -> Error {
    invalid("a part of the image is missing").with("part", shown(name))
}

fn differs(name: &str) -> Error {
    Error::new(ErrorKind::Tampered, OPERATION)
        .because("a part of the image is not what its digest or size says; fetch it again")
        .with("part", shown(name))
}

fn not_one(count: usize, names: &str, reference: Option<&str>) -> Error {
    let reason = match (count, reference) {
        (0, _) => "there is no such image in it; name one as it stands there",
        (_, Some(_)) => "the reference names several images",
        (_, None) => "there are several images in it; say which one",
    };
    Error::new(if count == 0 { ErrorKind::NotFound } else { ErrorKind::Invalid }, OPERATION)
        .because(reason)
        .with("names", shown(names))
}
