//! The conformance kits: against plain git, against memory, and against sources that are broken on purpose.

mod permission;
mod source;

/// Whether a case fails, in a task of its own.
async fn bites(case: impl Future<Output = ()> + Send + 'static) -> bool {
    tokio::spawn(case).await.is_err()
}
