//! Every kit against every implementation that is here.

mod vault {
    use ci_core::conformance::Setup;
    use ci_secrets::conformance::secret_store::StoreUnderTest;

    use crate::bench::Bench;

    fn store() -> Setup<StoreUnderTest> {
        let bench = Bench::new();
        Setup::ready(StoreUnderTest { store: bench.vault, audit: bench.audit })
    }

    mod store {
        ci_secrets::secret_store_kit!(async || super::store());
    }

    mod rows {
        use ci_secrets::conformance::hostile::HostileUnderTest;

        use super::*;

        ci_secrets::hostile_kit!(async || {
            let bench = Bench::new();
            let options = ci_secrets::VaultOptions::default().with_most_keys(0);
            let store = std::sync::Arc::new(bench.other_vault(bench.root.clone()).with_options(options));
            Setup::ready(HostileUnderTest { store, audit: bench.audit, records: bench.records })
        });
    }

    mod ring {
        use std::sync::Arc;

        use ci_core::secret::KeyRing;

        use super::*;

        ci_secrets::key_ring_kit!(async || Setup::ready(Bench::new().vault as Arc<dyn KeyRing>));
    }

    mod rotation {
        use std::sync::Arc;

        use ci_secrets::conformance::key_ring::Rotating;

        use super::*;
        use crate::rotation::RotatingVault;

        ci_secrets::key_rotation_kit!(async || {
            Setup::ready(Arc::new(RotatingVault::new(Bench::new())) as Arc<dyn Rotating>)
        });
    }
}

mod memory {
    use std::sync::Arc;

    use ci_core::conformance::Setup;

    mod store {
        use ci_core::memory::{Rig, Secrets};
        use ci_secrets::conformance::secret_store::StoreUnderTest;

        use super::*;

        ci_secrets::secret_store_kit!(async || {
            let rig = Rig::new().expect("a rig");
            let store = Arc::new(Secrets::new(rig.audit.clone(), rig.clock.clone()));
            Setup::ready(StoreUnderTest { store, audit: rig.audit })
        });
    }

    mod ring {
        use ci_core::memory::Ring;
        use ci_core::secret::KeyRing;

        use super::*;

        ci_secrets::key_ring_kit!(async || Setup::ready(Arc::new(Ring::new()) as Arc<dyn KeyRing>));
    }

    mod rotation {
        use async_trait::async_trait;
        use ci_core::id::RepositoryId;
        use ci_core::memory::{Rig, Ring};
        use ci_core::secret::KeyRing;
        use ci_secrets::conformance::key_ring::Rotating;

        use super::*;

        #[derive(Debug)]
        struct OfOperator(Rig, Ring);

        #[async_trait]
        impl Rotating for OfOperator {
            fn ring(&self) -> &dyn KeyRing {
                &self.1
            }

            async fn rotate(&self, repository: &RepositoryId) {
                let act = self.0.operator.act(repository.tenant(), "key.rotated").await.expect("an act");
                self.1.rotate(&act, repository).expect("it is rotated");
            }

            async fn destroy(&self, repository: &RepositoryId) {
                let act = self.0.operator.act(repository.tenant(), "key.destroyed").await.expect("an act");
                self.1.destroy(&act, repository).expect("it is destroyed");
            }
        }

        ci_secrets::key_rotation_kit!(async || {
            let rig = Rig::new().expect("a rig");
            Setup::ready(Arc::new(OfOperator(rig, Ring::new())) as Arc<dyn Rotating>)
        });
    }

    mod masker {
        use ci_core::memory::Masking;
        use ci_core::secret::Masker;

        use super::*;

        ci_secrets::masker_kit!(async || Setup::ready(Arc::new(Masking::new()) as Arc<dyn Masker>));
    }
}

mod stream_masker {
    use std::sync::Arc;

    use ci_core::conformance::Setup;
    use ci_core::secret::Masker;
    use ci_secrets::StreamMasker;

    ci_secrets::masker_kit!(async || Setup::ready(Arc::new(StreamMasker::new()) as Arc<dyn Masker>));
}

#[cfg(unix)]
mod file_root {
    use std::sync::Arc;

    use ci_core::conformance::Setup;
    use ci_secrets::FileRoot;
    use ci_secrets::conformance::root_key::RootsUnderTest;

    ci_secrets::root_key_kit!(async || {
        let folder = tempfile::tempdir().expect("a folder");
        let root = |name| Arc::new(FileRoot::create(folder.path().join(name)).expect("a root key"));
        Setup::ready(RootsUnderTest { one: root("one"), other: root("other") })
    });
}

#[cfg(all(unix, feature = "passphrase"))]
mod passphrase_root {
    use std::sync::Arc;

    use ci_core::conformance::Setup;
    use ci_secrets::PassphraseRoot;
    use ci_secrets::conformance::root_key::RootsUnderTest;

    use crate::passphrase_root::cheap;

    ci_secrets::root_key_kit!(async || {
        let folder = tempfile::tempdir().expect("a folder");
        let passphrase = "correct horse battery staple".into();
        let root = |name| {
            let path = folder.path().join(name);
            Arc::new(PassphraseRoot::create_with(path, &passphrase, cheap()).expect("a root key"))
        };
        Setup::ready(RootsUnderTest { one: root("one"), other: root("other") })
    });
}
