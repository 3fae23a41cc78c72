//! Keeps the secrets of CI jobs: sealed at rest, leased to one trusted job at a time, hidden in its output.
//!
//! - [`Vault`] keeps secrets in any store of records, and is the key ring for everything else that is sealed:
//!   tickets, logs, artifacts, caches. It implements [`SecretStore`] and [`KeyRing`].
//! - [`SecretPolicy`] says which jobs may have a secret; the default asks for trusted code.
//! - `FileAnchor` remembers outside of the database how far it had come, so that an old copy of it is noticed.
//! - [`RootKey`] is where the one key comes from that is not in the database; [`FileRoot`] keeps it in a file, others
//!   are [below](#root-keys).
//! - [`StreamMasker`] hides the values of one job in its output, in every form in which programs print them, and tells
//!   which were printed. It implements [`Masker`], and the vault hands it out.
//! - [`ssh`] keeps an SSH key for every repository, and lends it to a checkout through an agent.
//! - `identity` (feature `identity`) makes tokens by which a job proves who it is.
//!
//! # From a secret to a masked job
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! # use std::sync::Arc;
//! # use ci_core::{access::Write, id::SecretName, memory::{Reply, Rig}, runner::{Parts, Runner}, trust::Origin};
//! # use ci_secrets::{FileRoot, SecretStore as _, SecretValue, Vault};
//! # let folder = tempfile::tempdir().expect("a folder");
//! # let path = folder.path().join("root.key");
//! # let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
//! # let (records, audit, clock, parts) = (rig.records(), rig.audit.clone(), rig.clock.clone(), rig.parts());
//! # let (grant, token) = (rig.grant::<Write>(&Rig::user("ada")?, &repository).await?, SecretName::parse("TOKEN")?);
//! # rig.backend.on("sh", |_| Reply::exit(0).stdout("+ curl -u ada:hunter2\n"));
//! # let claim = rig.claim(&repository, Origin::Repository, Rig::spec().with_secret(token.clone())).await?;
//! let root = Arc::new(FileRoot::create(path)?); // once; from then on `FileRoot::open`
//! let vault = Arc::new(Vault::new(records, audit, root, clock));
//! vault.put(&grant, &token, SecretValue::new("hunter2")).await?;
//! let runner = Runner::new(Parts { secrets: vault, ..parts });
//! let outcome = runner.run(claim, std::future::pending()).await?; // its log says `+ curl -u ada:***`
//! assert_eq!(outcome.leaks[0].to_string(), "TOKEN was printed as plain text in step test");
//! # Ok::<(), ci_core::Error>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Step by step
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! # use std::sync::Arc;
//! # use ci_core::{access::Write, id::SecretName, memory::Rig, trust::Origin};
//! use ci_secrets::{FileAnchor, FileRoot, NewSecret, SecretPolicy, SecretStore as _, SecretValue, Vault};
//! # use ci_core::{id::StepName, secret::RefPattern, trust::Trust};
//! # let folder = tempfile::tempdir().expect("a folder");
//! # let (path, elsewhere) = (folder.path().join("root.key"), folder.path().join("anchor"));
//! # let (rig, repository) = (Rig::new()?, Rig::repository("1", "acme")?);
//! # let (records, audit, clock) = (rig.records(), rig.audit.clone(), rig.clock.clone());
//!
//! let root = FileRoot::create(path)?; // once; from then on `FileRoot::open`
//! let vault = Vault::new(records, audit, Arc::new(root), clock)
//!     .with_anchor(Arc::new(FileAnchor::open(elsewhere)?)); // optional: an old copy of the database is noticed
//! # let (grant, token) = (rig.grant::<Write>(&Rig::user("ada")?, &repository).await?, SecretName::parse("TOKEN")?);
//!
//! // A person who may write to the repository sets a secret.
//! vault.put(&grant, &token, SecretValue::new("hunter2")).await?;
//! # let claim = rig.claim(&repository, Origin::Repository, Rig::spec()).await?;
//!
//! // One that only the step `publish` of a release may have.
//! let release = SecretPolicy::default()
//!     .with_trust(Trust::Protected)
//!     .with_reference(RefPattern::parse("refs/tags/v*")?)
//!     .with_step(StepName::parse("publish")?);
//! let key = NewSecret::file(SecretValue::new("-----BEGIN KEY-----")).with_policy(release);
//! let stored = vault.set(&grant, &SecretName::parse("SIGNING_KEY")?, key).await?;
//! # let _ = stored;
//!
//! // A job whose code somebody pushed to the repository reads it, and cannot print it by accident.
//! let lease = vault.lease(claim.trusted()?, &[token.clone()]).await?;
//! assert_eq!(lease.value(&token)?.expose(), b"hunter2");
//! assert_eq!(lease.mask_text("password: hunter2"), "password: ***");
//! # let fork = rig.claim(&repository, Origin::Fork, Rig::spec()).await?;
//!
//! // A job whose code comes from a fork has nothing to ask with.
//! assert!(fork.trusted().is_err());
//! # Ok::<(), ci_core::Error>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Hand the vault to [`Parts::secrets`](ci_core::runner::Parts::secrets), to the
//! [`Dispatcher`](ci_core::queue::Dispatcher) as its key ring, and to the stores of `ci-storage`.
//!
//! # Keys
//!
//! ```text
//! root key          in a file or at a provider, never in the database
//!   tenant key      random; stored wrapped by the root key
//!     repository key  random; stored wrapped by the tenant key
//!       purpose key     derived: secrets, their names, tickets, logs, artifacts, caches
//!         record key      derived for every record, from a salt and from where the record belongs
//! ```
//!
//! Everything sealed says in front which format, suite and key sealed it, and is bound to where it belongs: tenant, forge,
//! repository, scope, kind, name, version, key, and the digest of its policy, each field with its length in front. Values
//! of more than 64 KiB are sealed in chunks, and no byte is given out before all of them have been opened. Keys are never
//! tried to see whether they fit. Destroying a repository's key makes everything unreadable that was ever sealed for it
//! ([`Vault::erase`]).
//!
//! # Root keys
//!
//! | | Take it | Somebody with the database, or a copy of it, reads everything with |
//! |---|---|---|
//! | [`FileRoot`] | on one machine, where the disk is encrypted or the host trusted; the file is a secret to be distributed | the file |
//! | `PassphraseRoot` (feature `passphrase`) | where nothing on the disk shall suffice, and somebody or something hands in the passphrase at every start | its file and the passphrase, or its file and a guess |
//! | `TransitRoot` (feature `transit`) | with several workers, and a HashiCorp Vault or OpenBao that is there anyway | the token of a worker, for as long as it is accepted |
//! | `KmsRoot` (feature `kms`) | in AWS | the credentials of a worker, for as long as they are accepted |
//!
//! With the first two the key itself lies in this process's memory: whoever reads it once, has it for ever, and a
//! replaced key is the only remedy. With the last two only keys of tenants do, for the time that
//! [`VaultOptions::keys_for`] says; who may unwrap is decided, written down and ended at the provider, and an outage of
//! the provider that is longer than half of that time can stop jobs that need secrets. None of them protects from
//! somebody who reads this process's memory while it works. The provider sees keys of tenants, and no secret.
//!
//! Losing a root key, or the file with a passphrase's salt, loses everything. A backup of the root key belongs somewhere
//! else than the backups of the database. For a provider that is none of these, implement [`RootKey`] and run its kits.
//!
//! # Other keys
//!
//! | What happened | What to do |
//! |---|---|
//! | it is time for another root key, or the provider changes | [`Vault::rotate_root`]: values and repositories' keys stay |
//! | a root key has leaked | the same, then [`Vault::rotate_all`] for every tenant: copies of the database hold the former keys |
//! | a copy of the database, or a process's memory, was read | [`Vault::rotate_all`], and new values where they come from |
//! | a repository's secrets were read | [`Vault::revoke_all`], cancel its jobs, and new values |
//! | logs and artifacts of before some time are gone | [`Vault::retire_keys`] |
//! | a repository leaves | [`Vault::erase`], and the receipt says what is out of reach |
//! | the database is an older copy, on purpose | [`Vault::accept_restored`] for every repository, [`Audit::accept_restored`](ci_core::audit::Audit::accept_restored) for every tenant; then erase again what was erased since |
//!
//! All of them go on where an earlier call was killed, may be called by several at once, and let jobs work meanwhile.
//! Nothing is written under a former key: writers write on the condition that their key is still current.
//!
//! # What is protected from whom
//!
//! Somebody who reads the database learns which repositories have secrets, their names, how long the values are
//! and when rows change; no value, no policy, and not even the version. Somebody who *writes* to it can destroy, but
//! neither read nor forge nor move, nor put back or delete single rows unnoticed: a sealed list of what must be there is
//! written with every change, of secrets and of private keys. The table at [`Vault`] says what takes an anchor to be
//! noticed. Have the same anchor ask the audit log at every start
//! ([`Audit::verify_fresh`](ci_core::audit::Audit::verify_fresh), for every tenant): the vault compares its own rows
//! alone, and logs and artifacts of an old copy of the database open as they did.
//!
//! A decoy lies among the secrets of each repository ([`Vault::canary`]); a job that prints it is reported.
//!
//! # What is not protected from
//!
//! - A job that is given a secret can tell it to the world: masking stops accidents. The defence is not to give it,
//!   which is why [`SecretStore::lease`] takes a [`TrustedClaim`](ci_core::queue::TrustedClaim).
//! - Somebody who has the root key and a copy of the database, or who reads this process's memory, has everything. On
//!   Linux `harden_process` keeps other processes of the same user, and core dumps, from it. Keys do not lie in memory
//!   of `memfd_secret(2)`: that takes unsafe code, here or in a crate that nobody has audited.
//! - Without an anchor, secrets and private keys of a repository that were put back together with their list are not
//!   noticed; see [`Vault`].
//! - Which of a repository's keys is current stands in a row that is not sealed, and a former key still opens. So somebody
//!   who has a former key *and* writes to the database can have new secrets sealed with it, and forge some. That ends
//!   when [`Vault::retire_keys`] has destroyed the former key, and then [`Vault::rotate_tenant`] the one above it,
//!   without which no copy of its row opens.
//! - A policy's rules about steps and environments keep to what the job says of itself; see [`SecretPolicy`].
//! - A list that was damaged takes the repository's secrets and private keys with it: put the database's copy back, or
//!   [erase](Vault::erase) and set them anew.
//! - A root key that is lost takes every secret with it, and everything that was sealed. Nothing replaces a root key
//!   or a repository's key by a new one.
//!
//! # Features
//!
//! [`FileRoot`], `PassphraseRoot` and `FileAnchor` are there on Unix systems only; everything else is everywhere.
//!
//! None is on by default. `passphrase` adds `PassphraseRoot`, `transit` adds `TransitRoot`, `kms` adds `KmsRoot`; the
//! latter two bring a small HTTPS client (hyper, rustls with ring), and neither a client library of HashiCorp's nor the
//! SDK of AWS. `ssh-agent` adds the agent for checkouts, on Unix systems, and `identity` the issuer of identity
//! tokens; both bring `aws-lc-rs`, which is C and assembly, because it signs with RSA in constant time and verifies what
//! SSH servers sign. `conformance` adds the module `conformance`, with kits that any other secret store, key
//! ring, root key, masker, SSH signer or token issuer runs as its own tests. `aws-lc` brings AES-256-GCM beside
//! XChaCha20-Poly1305 ([`Suite`](ci_core::seal::Suite), [`VaultOptions::with_suite`]): every build that is to open what
//! it sealed needs it.

#![forbid(unsafe_code)]

#[cfg(unix)]
mod anchor;
#[cfg(feature = "conformance")]
pub mod conformance;
mod erasure;
mod hierarchy;
#[cfg(feature = "identity")]
pub mod identity;
mod leases;
mod masker;
mod memory;
mod root;
mod rotation;
pub mod ssh;
mod strongbox;
mod vault;

pub use ci_core::secret::{
    Form, FreshnessAnchor, KeyRing, Leak, Learned, Masker, NewSecret, Purpose, Redactor, SecretInfo,
    SecretLease, SecretPolicy, SecretStore, SecretValue, Sensitive, SshPublicKey, SshSigner,
};

#[cfg(unix)]
pub use anchor::FileAnchor;
pub use erasure::{ErasureReceipt, OutOfReach, Traces};
pub use masker::StreamMasker;
#[cfg(target_os = "linux")]
pub use memory::harden_process;
#[cfg(unix)]
pub use root::FileRoot;
pub use root::RootKey;
#[cfg(feature = "kms")]
pub use root::{AwsCredentials, KmsConfig, KmsRoot};
#[cfg(any(feature = "kms", feature = "transit"))]
pub use root::{CertificateAuthorities, Patience};
#[cfg(all(unix, feature = "passphrase"))]
pub use root::{PassphraseCost, PassphraseRoot};
#[cfg(feature = "transit")]
pub use root::{TransitConfig, TransitRoot};
pub use rotation::{Forgotten, Left, Progress, Revocation, Revoke, RotationReport, Step};
pub use vault::{Vault, VaultOptions};
