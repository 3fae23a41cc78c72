//! The network, where rules allow some of it: by addresses, by names, or both.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ci_core::Result;
use ci_core::network::{Destination, EgressRule, NetworkPolicy};
use ci_core::sandbox::{Backend, Spec};

use super::stage::gone;
use super::{Outcome, Stage};
use crate::conformance::guest::{Guest, line, unexpected};
use crate::conformance::machine::{eventually, target, unique};
use crate::conformance::world::{Server, World};

/// How long what has ended may be seen, and what has been sent may be on its way.
const MOMENT: Duration = Duration::from_secs(10);

/// How a backend lets a job out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By rules that name networks.
    Networks,
    /// By rules that name hosts.
    Hosts,
}

/// A world to let jobs out into.
struct Scene {
    world: Arc<dyn World>,
}

impl Scene {
    /// The scene, and every way out that the backend declares; a reason where there is none.
    async fn of(stage: &Stage) -> Result<(Self, Vec<Way>), Outcome> {
        let offered = |backend: Arc<dyn Backend>| {
            let capabilities = backend.capabilities();
            let ways = [
                (capabilities.egress_to_networks, Way::Networks),
                (capabilities.egress_to_hosts, Way::Hosts),
            ];
            ways.into_iter().filter_map(|(is_offered, way)| is_offered.then_some(way)).collect::<Vec<_>>()
        };
        let Some(world) = stage.bench.world().await else {
            let why = if offered(stage.bench.backend()).is_empty() {
                "the backend lets no job out"
            } else {
                "the tests of this backend make no world to let a job out into"
            };
            return Err(Outcome::Untried(why.to_owned()));
        };
        match offered(world.backend()) {
            ways if ways.is_empty() => Err(Outcome::Untried("the backend lets no job out".to_owned())),
            ways => Ok((Self { world }, ways)),
        }
    }

    /// A sandbox that may connect to the server that is allowed, and to nobody else.
    async fn guest(&self, way: Way) -> Result<Guest> {
        let address = self.world.address(Server::Allowed);
        let destination = match way {
            Way::Networks => Destination::Network(format!("{}/32", address.ip()).parse()?),
            Way::Hosts => Destination::Host(self.world.name(Server::Allowed)),
        };
        let rule = EgressRule { destination, ports: vec![address.port()] };
        let spec = Spec::new(self.world.image()).with_network(NetworkPolicy::Allow(vec![rule]));
        Guest::of(self.world.backend(), spec).await
    }

    /// How the program names a server.
    fn target(&self, way: Way, server: Server) -> String {
        let address = self.world.address(server);
        match way {
            Way::Networks => target(address.ip(), address.port()),
            Way::Hosts => format!("{}:{}", self.world.name(server).as_str(), address.port()),
        }
    }

    /// Every way to name every server that is not allowed.
    fn forbidden(&self) -> Vec<String> {
        let others = Server::ALL.into_iter().filter(|server| *server != Server::Allowed);
        let names = others.flat_map(|server| {
            let address = self.world.address(server);
            [self.target(Way::Networks, server), self.target(Way::Hosts, server), address.to_string()]
        });
        names.collect()
    }

    /// What the server says to a program in `guest`: the address that each has there.
    async fn talk(&self, guest: &Guest, way: Way) -> Result<(SocketAddr, SocketAddr)> {
        let ran = guest.run(&["talk", &self.target(way, Server::Allowed)]).await?;
        told(&ran.text())
    }

    /// Who has come to a server that nobody may reach.
    fn intrusion(&self) -> Option<Outcome> {
        let others = Server::ALL.into_iter().filter(|server| *server != Server::Allowed);
        let mut reached = others.filter(|server| !self.world.visitors(*server).is_empty());
        reached.next().map(|server| Outcome::Broken(format!("it could: come to the server {server:?}")))
    }
}

/// The address that a program has itself, and the one that the server sees.
fn told(text: &str) -> Result<(SocketAddr, SocketAddr)> {
    let mut addresses = text.split_whitespace().map(str::parse);
    match (addresses.next(), addresses.next()) {
        (Some(Ok(own)), Some(Ok(seen))) => Ok((own, seen)),
        _ => Err(unexpected("connect to a server that is allowed", format!("it heard {text:?}"))),
    }
}

/// Tries something on every way that there is; the first that is not held is told.
macro_rules! on_every_way {
    ($stage:expr, $try_it:expr) => {{
        let (scene, ways) = match Scene::of($stage).await {
            Ok(scene) => scene,
            Err(untried) => return Ok(untried),
        };
        let mut told = Vec::new();
        for way in ways {
            match $try_it(&scene, way).await? {
                Outcome::Held(how) => told.push(format!("{way:?}: {how}")),
                other => return Ok(other),
            }
            if let Some(intrusion) = scene.intrusion() {
                return Ok(intrusion);
            }
        }
        Ok(Outcome::Held(told.join("; ")))
    }};
}

pub(super) async fn beside_the_rules(stage: &Stage) -> Result<Outcome> {
    on_every_way!(stage, reach_beside)
}

/// What is allowed works, so that a closed door is not taken for a guarded one; nothing else does.
async fn reach_beside(scene: &Scene, way: Way) -> Result<Outcome> {
    let guest = scene.guest(way).await?;
    scene.talk(&guest, way).await?;
    let forbidden = scene.forbidden();
    for name in &forbidden {
        let text = guest.run(&["talk", name]).await?.text();
        if !text.is_empty() {
            return Ok(Outcome::Broken(format!("it could: talk to {name}")));
        }
    }
    gone(guest).await?;
    Ok(Outcome::Held(format!("nobody answers at {} names and addresses", forbidden.len())))
}

pub(super) async fn tunnel(stage: &Stage) -> Result<Outcome> {
    on_every_way!(stage, tunnel_out)
}

async fn tunnel_out(scene: &Scene, way: Way) -> Result<Outcome> {
    let data = unique("data");
    let guest = scene.guest(way).await?;
    let server = scene.world.address(Server::Names);
    let allowed = scene.world.name(Server::Allowed);
    let names =
        [format!("{data}.tunnel.example"), format!("{data}.{}", allowed.as_str()), format!("{data}.local")];
    let server = target(server.ip(), server.port());
    let words: Vec<&str> = ["N-5", &server].into_iter().chain(names.iter().map(String::as_str)).collect();
    let outcome = guest.attack(&words).await?;
    gone(guest).await?;
    let asked = scene.world.asked();
    if let Some(name) =
        asked.iter().find(|name| name.to_ascii_lowercase().contains(&data.to_ascii_lowercase()))
    {
        return Ok(Outcome::Broken(format!("it could: have somebody outside asked for {name}")));
    }
    Ok(outcome)
}

pub(super) async fn forged(stage: &Stage) -> Result<Outcome> {
    on_every_way!(stage, forge)
}

async fn forge(scene: &Scene, way: Way) -> Result<Outcome> {
    let guest = scene.guest(way).await?;
    let (_, seen) = scene.talk(&guest, way).await?;
    let before = scene.world.visitors(Server::Allowed);
    let [other, allowed] = [Server::Other, Server::Allowed].map(|server| scene.target(Way::Networks, server));
    let outcome = guest.attack(&["N-6", &other, &allowed]).await?;
    gone(guest).await?;
    let after = scene.world.visitors(Server::Allowed);
    let mut strangers = after.difference(&before).filter(|visitor| visitor.ip() != seen.ip());
    if let Some(stranger) = strangers.next() {
        return Ok(Outcome::Broken(format!("it could: come as {stranger}, which it is not")));
    }
    Ok(outcome)
}

pub(super) async fn surviving_flow(stage: &Stage) -> Result<Outcome> {
    on_every_way!(stage, survive)
}

/// By a rule that names hosts the connection is the backend's own, which must close it. By one that names networks its
/// end may not have come to the server any more, when the machine forgets it.
async fn survive(scene: &Scene, way: Way) -> Result<Outcome> {
    let (before, traces) = (scene.world.connections(Server::Allowed), scene.world.traces());
    let guest = scene.guest(way).await?;
    let text = guest.run(&["talk", &scene.target(way, Server::Allowed), "leave"]).await?.text();
    told(&text)?;
    if scene.world.connections(Server::Allowed) <= before {
        return Err(unexpected("keep a connection", "the server has none"));
    }
    gone(guest).await?;
    let start = Instant::now();
    let is_over = || {
        scene.world.connections(Server::Allowed) <= before
            || way == Way::Networks && scene.world.traces().is_subset(&traces)
    };
    if !eventually(MOMENT, is_over).await {
        return Ok(Outcome::Broken("it could: leave a connection that outlives it".to_owned()));
    }
    Ok(Outcome::Held(format!("its connection ended with it, within {} ms", start.elapsed().as_millis())))
}

pub(super) async fn exhaustion(stage: &Stage) -> Result<Outcome> {
    on_every_way!(stage, exhaust)
}

async fn exhaust(scene: &Scene, way: Way) -> Result<Outcome> {
    const CONNECTIONS: &str = "1000";
    let (greedy, modest) = (scene.guest(way).await?, scene.guest(way).await?);
    let mut hoard =
        greedy.start(&["hoard-connections", CONNECTIONS, &scene.target(way, Server::Allowed)]).await?;
    let count = line(&mut *hoard).await?;
    let heard = scene.talk(&modest, way).await;
    drop(hoard);
    gone(greedy).await?;
    gone(modest).await?;
    Ok(match heard {
        Ok(_) => Outcome::Held(format!("{count} connections of one are no loss of another")),
        Err(_) => Outcome::Broken(format!("it could: keep others from connecting, by {count} connections")),
    })
}

pub(super) async fn before_the_rules(stage: &Stage) -> Result<Outcome> {
    on_every_way!(stage, be_first)
}

async fn be_first(scene: &Scene, way: Way) -> Result<Outcome> {
    const ROUNDS: usize = 5;
    let before = scene.world.traces();
    for _ in 0..ROUNDS {
        let guest = scene.guest(way).await?;
        let first = [Server::Other, Server::Machine].map(|server| scene.target(Way::Networks, server));
        let [one, other] = [&first[0], &first[1]].map(|to| ["talk", to]);
        let (one, other) = tokio::join!(guest.run(&one), guest.run(&other));
        if !one?.text().is_empty() || !other?.text().is_empty() {
            return Ok(Outcome::Broken("it could: connect before there are rules".to_owned()));
        }
        gone(guest).await?;
    }
    if !eventually(MOMENT, || scene.world.traces().is_subset(&before)).await {
        let left: Vec<_> = scene.world.traces().difference(&before).cloned().collect();
        return Ok(Outcome::Broken(format!("it could: leave of its network {left:?}")));
    }
    Ok(Outcome::Held(format!("{ROUNDS} sandboxes connected nowhere at once, and left no trace")))
}

pub(super) async fn inherited_address(stage: &Stage) -> Result<Outcome> {
    on_every_way!(stage, inherit)
}

/// The next sandbox is not where the one before has just been: neither by its address nor by what still comes for that.
async fn inherit(scene: &Scene, way: Way) -> Result<Outcome> {
    const WORD: &str = "inherited\n";
    let guest = scene.guest(way).await?;
    let mut process = guest.start(&["talk", &scene.target(way, Server::Allowed), "stay"]).await?;
    let (own, seen) = told(&line(&mut *process).await?)?;
    drop(process);
    gone(guest).await?;
    for _ in 0..2 {
        let next = scene.guest(way).await?;
        let (own_of_next, _) = scene.talk(&next, way).await?;
        if own_of_next.ip() == own.ip() && !own.ip().is_loopback() {
            return Ok(Outcome::Broken(format!("it could: have {}, which another has just had", own.ip())));
        }
        let mut listener = next.start(&["listen-at", &seen.port().to_string(), WORD]).await?;
        line(&mut *listener).await?;
        let world = scene.world.clone();
        let is_reached = tokio::task::spawn_blocking(move || {
            world.reaches(seen) || !own.ip().is_loopback() && world.reaches(own)
        });
        let is_reached = is_reached.await.unwrap_or(true);
        drop(listener);
        gone(next).await?;
        if is_reached {
            return Ok(Outcome::Broken(format!("it could: receive what was sent to {seen}, another's")));
        }
    }
    Ok(Outcome::Held("nothing that was another's comes to the next".to_owned()))
}
