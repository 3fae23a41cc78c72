//! Objects that were written in vain are found, and no others.

use std::time::Duration;

use ci_core::ErrorKind;
use ci_core::access::Read;
use ci_core::artifact::ArtifactStore as _;
use ci_core::clock::{Clock as _, Timestamp};
use ci_core::id::{ArtifactName, TenantId};
use ci_core::memory::Rig;
use ci_core::records::Key;
use ci_core::trust::Origin;
use ci_core::{ByteSize, stream};

use crate::backends::{folder, objects_in, rig_in};
use crate::tampering::files;

const DAY: Duration = Duration::from_hours(24);

#[tokio::test]
async fn a_sweep_takes_what_no_record_knows_and_is_old() {
    let folder = folder();
    let (rig, _database) = rig_in(folder.path()).await;
    let objects = objects_in(folder.path(), &rig);
    let repository = Rig::repository("1", "acme").expect("a repository");
    let claim = rig.claim(&repository, Origin::Repository, Rig::spec()).await.expect("a claim");
    let [kept, erased] = ["kept", "erased"].map(|name| ArtifactName::parse(name).expect("a name"));
    for name in [&kept, &erased] {
        objects.artifacts().put(&claim, name, stream::once("content")).await.expect("kept");
    }
    // An erasure that knows nothing of objects, an object whose worker was killed before it could commit, and
    // files that are none of ours.
    let place = Key::new("artifact").repository(&repository).part(claim.job().as_str());
    let record = rig.database.get(&place.clone().part("erased")).await.expect("read").expect("there");
    rig.database.commit(ci_core::records::Batch::new().delete(record.key)).await.expect("deleted");
    let shelf = folder.path().join("objects/objects/aa");
    std::fs::create_dir_all(&shelf).expect("a folder");
    std::fs::write(shelf.join("0".repeat(30)), "an orphan").expect("written");
    std::fs::write(shelf.join(format!("{}#1", "0".repeat(30))), "half an object").expect("written");
    for name in ["README", "README#1"] {
        std::fs::write(shelf.join(name), "not ours").expect("written");
    }
    assert_eq!(files(&folder.path().join("objects")).len(), 6);

    let tenant = TenantId::parse("acme").expect("a tenant");
    let act = rig.operator.act(&tenant, "objects.sweep").await.expect("recorded");
    let foreign = objects.sweep(&act, DAY).await.expect_err("objects are of all tenants");
    assert_eq!(foreign.kind(), ErrorKind::Denied);
    let act = rig.operator.act(&TenantId::service(), "objects.sweep").await.expect("recorded");
    let hasty = objects.sweep(&act, Duration::from_mins(59)).await.expect_err("too soon");
    assert_eq!(hasty.kind(), ErrorKind::Invalid);
    // The store's time is that of the files.
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_millis();
    rig.clock.jump_to(Timestamp::from_unix_millis(u64::try_from(now).expect("a time")));
    assert_eq!(objects.sweep(&act, DAY).await.expect("swept"), 0, "they are new");
    rig.clock.jump_to(rig.clock.now().after(2 * DAY));
    assert_eq!(objects.sweep(&act, DAY).await.expect("swept"), 3);
    assert_eq!(objects.sweep(&act, DAY).await.expect("swept"), 0);
    let left = files(&folder.path().join("objects"));
    assert_eq!(left.len(), 3, "{left:?}");

    let grant = rig.grant::<Read>(&Rig::user("ada").expect("a user"), &repository).await.expect("a grant");
    let content = objects.artifacts().get(&grant, claim.job(), &kept).await.expect("it is there");
    assert_eq!(stream::collect(content, ByteSize::kib(1)).await.expect("read"), b"content");
}

#[tokio::test]
async fn what_is_deleted_replaced_or_refused_leaves_no_object() {
    let folder = folder();
    let (rig, _database) = rig_in(folder.path()).await;
    let objects = objects_in(folder.path(), &rig);
    let repository = Rig::repository("1", "acme").expect("a repository");
    let name = ArtifactName::parse("a").expect("a name");
    let count = || files(&folder.path().join("objects")).len();
    let lost = rig.claim(&repository, Origin::Repository, Rig::spec()).await.expect("a claim");
    objects.artifacts().put(&lost, &name, stream::once("first")).await.expect("kept");
    objects.artifacts().put(&lost, &name, stream::once("second")).await.expect_err("refused");
    assert_eq!(count(), 1, "refused");
    rig.clock.advance(Duration::from_secs(31));
    let claim = rig.dispatcher.next(&[]).await.expect("asked").expect("it waits again");
    objects.artifacts().put(&claim, &name, stream::once("second")).await.expect("kept");
    assert_eq!(count(), 1, "replaced");
    let grant = rig.grant(&Rig::user("ada").expect("a user"), &repository).await.expect("a grant");
    objects.artifacts().delete(&grant, claim.job(), &name).await.expect("deleted");
    assert_eq!(count(), 0, "deleted");
}
