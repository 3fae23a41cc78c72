//! The way out of a sandbox, in a world of the test's own: a machine and an internet that are network namespaces with a
//! cable between them. Nothing can leave them. The tests of [`inside`] run on that machine, as root and as nobody.

mod inside;
mod servers;
mod world;

use std::collections::BTreeSet;
use std::net::IpAddr;

use self::servers::Servers;
use self::world::World;
use crate::support::{is_root, skip_here};

/// As whom the machine's SDK runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    Root,
    Nobody,
}

fn holds_for(user: User) {
    if !is_root() {
        return skip_here("root", "only root can make the networks of this test");
    }
    let world = World::new();
    let servers = Servers::start(&world);
    world.run("network::inside::", user);
    let reached: BTreeSet<IpAddr> = servers.reached();
    let allowed = world::ALLOWED.map(|address| address.parse().unwrap());
    assert_eq!(reached, allowed.into(), "what the tests allow, and nothing else");
}

#[test]
fn the_way_out_holds_for_root() {
    holds_for(User::Root);
}

#[test]
fn the_way_out_holds_for_an_ordinary_user() {
    holds_for(User::Nobody);
}
