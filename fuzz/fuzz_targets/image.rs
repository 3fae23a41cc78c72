//! The documents of an image, as a stranger has published it: no bytes break them, and what they name stays a name.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code)]
#[path = "../../ci-sandbox/src/native/image/format.rs"]
mod format;

use format::{Descriptor, ImageConfig, Index, Layout, Manifest, SavedImage, parse};

fuzz_target!(|input: &[u8]| {
    let _ = parse::<Layout>(input, "oci-layout");
    let mut descriptors: Vec<Descriptor> = Vec::new();
    if let Ok(index) = parse::<Index>(input, "index") {
        descriptors.extend(index.manifests);
    }
    if let Ok(manifest) = parse::<Manifest>(input, "manifest") {
        descriptors.push(manifest.config);
        descriptors.extend(manifest.layers);
    }
    for descriptor in descriptors {
        let blob = descriptor.digest.blob();
        assert!(blob.split('/').count() == 3 && blob.split('/').all(|part| !part.is_empty() && part != ".."));
        assert!(!descriptor.digest.file_name().contains('/'));
        let _ = (descriptor.is_index(), descriptor.is_called("a"), descriptor.names().count());
        let _ = descriptor.platform.is_none_or(|platform| platform.is_this_machines());
    }
    let _ = parse::<Vec<SavedImage>>(input, "manifest.json");
    if let Ok(config) = parse::<ImageConfig>(input, "configuration") {
        let _ = config.diff_ids();
        for (name, value) in config.environment() {
            assert!(!name.is_empty() && !name.contains(['=', '\0']) && !value.contains(&0));
        }
    }
});
