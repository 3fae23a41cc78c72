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
