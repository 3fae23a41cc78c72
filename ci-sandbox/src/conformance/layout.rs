//! Images that a case makes up, as OCI image layouts (OCI image specification 1.1, "image layout").

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// Writes a layout of one image with these layers into a folder.
pub(crate) fn write(folder: &Path, layers: &[Vec<u8>]) -> io::Result<()> {
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let digests: Vec<String> = layers.iter().map(|layer| format!("\"{}\"", digest(layer))).collect();
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        digests.join(",")
    );
    let config = blob(folder, "config.v1+json", config.as_bytes())?;
    let layers: io::Result<Vec<_>> = layers.iter().map(|layer| blob(folder, "layer.v1.tar", layer)).collect();
    let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers?.join(","));
    let manifest = blob(folder, "manifest.v1+json", manifest.as_bytes())?;
    fs::write(folder.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#))?;
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
}

/// Writes a blob; what a document says of it.
fn blob(folder: &Path, kind: &str, content: &[u8]) -> io::Result<String> {
    let digest = digest(content);
    let file = folder.join("blobs").join(digest.replace(':', "/"));
    fs::create_dir_all(file.parent().unwrap_or(folder))?;
    fs::write(file, content)?;
    let (kind, size) = (format!("application/vnd.oci.image.{kind}"), content.len());
    Ok(format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size}}}"#))
}

fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Has every blob hold something else than its name says: the first byte of each is another.
pub(crate) fn spoil(folder: &Path) -> io::Result<()> {
    for blob in fs::read_dir(folder.join("blobs/sha256"))? {
        let path = blob?.path();
        let mut content = fs::read(&path)?;
        // The layers alone: their names are no text of the documents'.
        if content.first().is_some_and(|byte| *byte != b'{') {
            content[0] ^= 1;
            fs::write(path, content)?;
        }
    }
    Ok(())
}
