//! A sandbox is used up by its destruction, and not while a program of it runs.

use ci_core::sandbox::{Command, Sandbox};
use ci_core::secret::SecretLease;

async fn after(sandbox: Sandbox, command: &Command, lease: &SecretLease) {
    let _gone = sandbox.destroy().await;
    let _ = sandbox.exec(command, lease).await;
}

async fn during(sandbox: Sandbox, command: &Command, lease: &SecretLease) -> ci_core::Result<()> {
    let mut process = sandbox.exec(command, lease).await?;
    let _gone = sandbox.destroy().await;
    process.next().await?;
    Ok(())
}

fn main() {}
