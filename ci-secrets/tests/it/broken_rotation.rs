//! Key rings that rotate wrongly: the kit must catch each of them.

use std::sync::Arc;

use async_trait::async_trait;
use ci_core::conformance::{Setup, run};
use ci_core::id::RepositoryId;
use ci_core::memory::{Rig, Ring};
use ci_core::secret::KeyRing;
use ci_secrets::conformance::key_ring::{self, Rotating};

use crate::bench::repository;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    KeepsTheKey,
    ForgetsTheFormer,
    RotatesEverybodys,
    DestroysNothing,
    DestroysEverybodys,
}

#[derive(Debug)]
struct Broken {
    rig: Rig,
    ring: Ring,
    wrong: Wrong,
}

#[async_trait]
impl Rotating for Broken {
    fn ring(&self) -> &dyn KeyRing {
        &self.ring
    }

    async fn rotate(&self, ours: &RepositoryId) {
        let act = self.rig.operator.act(ours.tenant(), "key.rotated").await.expect("an act");
        match self.wrong {
            Wrong::KeepsTheKey => {}
            Wrong::ForgetsTheFormer => self.ring.destroy(&act, ours).expect("destroyed"),
            _ => self.ring.rotate(&act, ours).expect("rotated"),
        }
        if self.wrong == Wrong::RotatesEverybodys {
            self.ring.rotate(&act, &repository("2")).expect("rotated");
        }
    }

    async fn destroy(&self, ours: &RepositoryId) {
        let act = self.rig.operator.act(ours.tenant(), "key.destroyed").await.expect("an act");
        if self.wrong != Wrong::DestroysNothing {
            self.ring.destroy(&act, ours).expect("destroyed");
        }
        if self.wrong == Wrong::DestroysEverybodys {
            self.ring.destroy(&act, &repository("2")).expect("destroyed");
        }
    }
}

fn ring(wrong: Wrong) -> Setup<Arc<dyn Rotating>> {
    Setup::ready(Arc::new(Broken { rig: Rig::new().expect("a rig"), ring: Ring::new(), wrong }))
}

#[test]
fn the_ring_of_these_tests_is_right() {
    run("right", async || ring(Wrong::Nothing), key_ring::what_was_sealed_before_a_rotation_opens);
    run("right", async || ring(Wrong::Nothing), key_ring::what_was_destroyed_opens_nothing);
}

#[test]
#[should_panic(expected = "the key is the one from before the rotation")]
fn a_ring_that_keeps_its_key_is_caught() {
    run(
        "keeps",
        async || ring(Wrong::KeepsTheKey),
        key_ring::what_is_sealed_after_a_rotation_has_another_key,
    );
}

#[test]
#[should_panic(expected = "it was sealed before the rotation, and opens")]
fn a_ring_that_forgets_former_keys_is_caught() {
    run("forgets", async || ring(Wrong::ForgetsTheFormer), key_ring::what_was_sealed_before_a_rotation_opens);
}

#[test]
#[should_panic(expected = "another repository's key was rotated")]
fn a_ring_that_rotates_everybodys_keys_is_caught() {
    run("everybody's", async || ring(Wrong::RotatesEverybodys), key_ring::a_rotation_is_of_one_repository);
}

#[test]
#[should_panic(expected = "content whose key was destroyed: it was allowed")]
fn a_ring_that_destroys_nothing_is_caught() {
    run("nothing", async || ring(Wrong::DestroysNothing), key_ring::what_was_destroyed_opens_nothing);
}

#[test]
#[should_panic(expected = "another repository's keys were not destroyed")]
fn a_ring_that_destroys_everybodys_keys_is_caught() {
    run("everybody's", async || ring(Wrong::DestroysEverybodys), key_ring::what_was_destroyed_opens_nothing);
}
