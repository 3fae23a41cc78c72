//! Records against a model: whatever is asked, in whatever order, a file answers as a map does.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ci_core::ErrorKind;
use ci_core::clock::ManualClock;
use ci_core::records::{Batch, Condition, Key, Records as _, Version};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::backends::{folder, sqlite};

#[derive(Clone, Debug)]
enum Step {
    Commit { conditions: Vec<Wanted>, puts: Vec<(Key, Vec<u8>)>, deletes: Vec<Key> },
    List { prefix: Key, after: Option<Key>, limit: usize },
    Purge(Key),
    Reopen,
}

#[derive(Clone, Debug)]
enum Wanted {
    Absent(Key),
    /// The version that is there, or one that is not.
    Is(Key, bool),
}

/// Few keys, many of which lie below one another or look alike.
fn key() -> impl Strategy<Value = Key> {
    let part = prop_oneof![Just("a"), Just("a-"), Just("a/b"), Just("b"), Just(""), Just("%2F")];
    vec(part, 1..4).prop_map(|parts| parts[1..].iter().fold(Key::new(parts[0]), Key::part))
}

fn wanted() -> impl Strategy<Value = Wanted> {
    prop_oneof![
        key().prop_map(Wanted::Absent),
        (key(), prop::bool::weighted(0.8)).prop_map(|(k, is)| Wanted::Is(k, is))
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let puts = vec((key(), vec(any::<u8>(), 0..20)), 0..4);
    let commit = (vec(wanted(), 0..2), puts, vec(key(), 0..3))
        .prop_map(|(conditions, puts, deletes)| Step::Commit { conditions, puts, deletes });
    let list = (key(), prop::option::of(key()), 0..6_usize).prop_map(|(prefix, after, limit)| Step::List {
        prefix,
        after,
        limit,
    });
    prop_oneof![8 => commit, 4 => list, 1 => key().prop_map(Step::Purge), 1 => Just(Step::Reopen)]
}

type Model = BTreeMap<Key, (Vec<u8>, Version)>;

fn condition(model: &Model, wanted: &Wanted) -> (Condition, bool) {
    match wanted {
        Wanted::Absent(key) => (Condition::Absent(key.clone()), !model.contains_key(key)),
        Wanted::Is(key, true) if model.contains_key(key) => (Condition::Is(key.clone(), model[key].1), true),
        Wanted::Is(key, _) => (Condition::Is(key.clone(), Version(1_000_000)), false),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_file_answers_as_a_map_does(steps in vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let folder = folder();
            let clock = Arc::new(ManualClock::new());
            let mut database = sqlite(folder.path(), clock.clone()).await;
            let mut model = Model::new();
            for step in steps {
                match step {
                    Step::Commit { conditions, puts, deletes } => {
                        let wanted = conditions.iter().map(|wanted| condition(&model, wanted));
                        let (conditions, hold): (Vec<_>, Vec<_>) = wanted.unzip();
                        let batch = conditions.into_iter().fold(Batch::new(), Batch::require);
                        let batch = deletes.iter().cloned().fold(batch, Batch::delete);
                        let batch = puts.iter().fold(batch, |batch, (key, value)| batch.put(key.clone(), value.clone()));
                        match database.commit(batch).await {
                            Ok(version) => {
                                assert!(hold.iter().all(|holds| *holds));
                                assert!(model.values().all(|(_, earlier)| *earlier < version));
                                model.retain(|key, _| !deletes.contains(key));
                                model.extend(puts.into_iter().map(|(key, value)| (key, (value, version))));
                            }
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::Conflict);
                                assert!(hold.contains(&false));
                            }
                        }
                    }
                    Step::List { prefix, after, limit } => {
                        let listed = database.list(&prefix, after.as_ref(), limit).await.expect("listed");
                        let listed: Vec<_> = listed.into_iter().map(|it| (it.key, it.value, it.version)).collect();
                        let is_asked = |key: &Key| key.is_below(&prefix) && after.as_ref().is_none_or(|after| key > after);
                        let expected = model.iter().filter(|(key, _)| is_asked(key)).take(limit);
                        let expected = expected.map(|(key, (value, version))| (key.clone(), Bytes::from(value.clone()), *version));
                        assert_eq!(listed, expected.collect::<Vec<_>>());
                    }
                    Step::Purge(prefix) => {
                        let purged = database.purge(&prefix).await.expect("purged");
                        let before = model.len();
                        model.retain(|key, _| !key.is_below(&prefix));
                        assert_eq!(purged, before - model.len());
                    }
                    Step::Reopen => {
                        drop(database);
                        database = sqlite(folder.path(), clock.clone()).await;
                    }
                }
                for (key, (value, version)) in &model {
                    let record = database.get(key).await.expect("read").expect("there");
                    assert_eq!((&record.value[..], record.version), (&value[..], *version));
                }
            }
        });
    }
}
