//! Every kit against every backend.

use crate::backends;

mod records {
    mod sqlite {
        ci_storage::records_kit!(super::super::backends::sqlite_records);
    }
    mod memory {
        ci_storage::records_kit!(async || super::super::backends::memory_records());
    }
}

/// What an audit log needs of the records below it.
mod audit {
    mod sqlite {
        ci_core::audit_kit!(super::super::backends::sqlite_records);
    }
}

mod queue {
    mod sqlite {
        ci_storage::queue_kit!(super::super::backends::sqlite_rig);
    }
    mod memory {
        use ci_core::conformance::Setup;

        ci_storage::queue_kit!(async || Setup::ready(super::super::backends::memory_rig()));
    }
}

mod log {
    mod sqlite {
        ci_storage::log_kit!(super::super::backends::sqlite_logs);
    }
    mod memory {
        ci_storage::log_kit!(async || super::super::backends::memory_logs());
    }
}

mod artifact {
    mod objects {
        ci_storage::artifact_kit!(super::super::backends::object_artifacts);
    }
    mod memory {
        ci_storage::artifact_kit!(async || super::super::backends::memory_artifacts());
    }
}

mod cache {
    mod objects {
        ci_storage::cache_kit!(super::super::backends::object_caches);
    }
    mod memory {
        ci_storage::cache_kit!(async || super::super::backends::memory_caches());
    }
}
