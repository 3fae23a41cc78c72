//! Routed networks: what a job reaches, and the attacks on it, by the identifiers of the attack list.
//!
//! Every test runs again in a network namespace of its own, so that nothing of it leaves this machine.

use crate::world::{self, ALLOW_LISTED, MACHINE, METADATA, OTHER, SERVER, World, ask, routed, shell, spec};

/// Tests, each of which runs in a world of its own.
macro_rules! worlds {
    ($($(#[$about:meta])* async fn $name:ident($world:ident) $body:block)*) => {
        $(#[test] fn $name() { world::alone(concat!("routed::worlds::", stringify!($name))) })*
        mod worlds {
            use super::*;
            $($(#[$about])*
            #[tokio::test(flavor = "multi_thread")]
            #[ignore = "run by the test of the same name"]
            async fn $name() {
                let $world = World::new();
                $body
            })*
        }
    };
}

worlds! {
    async fn a_job_reaches_what_its_rules_name_and_nothing_else(world) {
        for port in [80, 443] {
            world.outside.serve(port);
        }
        world.outside.serve_datagrams(53);
        let rig = world.rig();
        let sandbox = rig.sandbox_of(&spec(&[("203.0.113.10/32", &[80])])).await;
        let address = ask(&sandbox, SERVER, 80).await.expect("the rule allows it");
        assert!(address.starts_with("10.200.0."), "{address}");
        assert_eq!(ask(&sandbox, SERVER, 443).await, None);
        assert_eq!(ask(&sandbox, OTHER, 80).await, None);
        sandbox.destroy().await;
    }
}
