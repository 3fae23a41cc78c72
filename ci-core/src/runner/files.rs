//! What a job keeps, and what it finds of earlier ones.

use super::{Event, Runner};
use crate::error::{ErrorKind, Result};
use crate::outcome::{Conclusion, Outcome};
use crate::queue::Claim;
use crate::sandbox::{Sandbox, SandboxPath};
use crate::secret::SecretLease;
use crate::stream;

impl Runner {
    pub(super) async fn keep_artifacts(
        &self,
        claim: &Claim,
        sandbox: &Sandbox,
        outcome: &mut Outcome,
    ) -> Result<()> {
        for wanted in &claim.spec().artifacts {
            // A store that is away for a while must not make the steps run again.
            let put = || {
                let content = stream::limited(sandbox.download(&wanted.path), claim.spec().limits.artifact);
                self.parts.artifacts.put(claim, &wanted.name, content)
            };
            match claim.retried(put).await {
                Ok(artifact) => {
                    self.observe(claim, &Event::ArtifactKept(&artifact));
                    outcome.artifacts.push(artifact);
                }
                // A job that failed may not have come to the point where it makes the file.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if outcome.conclusion == Conclusion::Succeeded {
                        outcome.conclusion = Conclusion::Failed;
                        outcome.reason =
                            Some(format!("there is no {} to keep as {}", wanted.path, wanted.name));
                    }
                }
                Err(error) => return Err(error.with("artifact", &wanted.name)),
            }
        }
        Ok(())
    }

    pub(super) async fn restore_caches(&self, claim: &Claim, sandbox: &Sandbox) -> Result<()> {
        for cache in &claim.spec().caches {
            if let Some(content) = self.parts.caches.restore(claim, &cache.key).await? {
                sandbox.upload(&parent(&cache.path), content).await?;
            }
        }
        Ok(())
    }

    /// A cache that cannot be saved makes the next job slower; it does not make this one fail.
    pub(super) async fn save_caches(&self, claim: &Claim, sandbox: &Sandbox, lease: &SecretLease) {
        for cache in &claim.spec().caches {
            let content = stream::limited(sandbox.download(&cache.path), claim.spec().limits.artifact);
            if let Err(error) = self.parts.caches.save(claim, &cache.key, content).await {
                let error = lease.mask_text(&error.to_string());
                tracing::warn!(job = %claim.job(), error, "cache not saved");
            }
        }
    }
}

/// A download's entries are relative to the folder around it, so that is where they go back to.
fn parent(path: &SandboxPath) -> SandboxPath {
    let above = path.as_str().rsplit_once('/').map_or("/", |(above, _)| above);
    SandboxPath::parse(if above.is_empty() { "/" } else { above }).unwrap_or_else(|_| SandboxPath::work())
}
