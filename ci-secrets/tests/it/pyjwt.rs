//! What an independent client makes of the tokens: `PyJWT`, which fetches both documents from a server.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ci_core::clock::Timestamp;
use ci_core::conformance;
use ci_core::id::{StepName, TenantId};
use ci_core::identity::{Audience, IssuerUrl, TokenIssuer as _};
use ci_core::memory::Rig;
use ci_core::operator::Operator;
use ci_core::trust::{Origin, Trust};
use ci_secrets::identity::{Algorithm, Audiences, OidcIssuer};

use crate::bench::{Bench, repository};

/// Finds the issuer's documents as a client does, but at a server on this machine, and verifies every token.
const CLIENT: &str = r#"
import functools, http.server, json, sys, threading, urllib.request
import jwt

folder, issuer = sys.argv[1], "https://ci.example.org"
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
handler.func.log_message = lambda *_: None
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
local = lambda url: url.replace(issuer, f"http://127.0.0.1:{server.server_address[1]}")

document = json.load(urllib.request.urlopen(local(issuer + "/.well-known/openid-configuration")))
assert document["issuer"] == issuer, document
client = jwt.PyJWKClient(local(document["jwks_uri"]))
algorithms = document["id_token_signing_alg_values_supported"]

def claims(token, audience):
    key = client.get_signing_key_from_jwt(token)
    required = ["exp", "iat", "nbf", "aud", "iss", "sub", "jti"]
    return jwt.decode(token, key.key, algorithms=algorithms, audience=audience, issuer=issuer,
                      options={"require": required})

for line in open(folder + "/tokens"):
    algorithm, audience, trust, token = line.split()
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    said = claims(token, audience)
    assert said["trust"] == trust and said["sub"].endswith("/trust/" + trust), said
    for wrong in (lambda: claims(token, "another"), lambda: claims(token[:-8] + "AAAAAAAA", audience)):
        try:
            wrong()
        except jwt.InvalidTokenError:
            continue
        sys.exit("it took a wrong token")
    print(algorithm, said["step"])
"#;

/// A Python that has the packages, in an environment of the tests' own; `None` where there can be none.
fn python(test: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-pyjwt");
    fs::create_dir_all(&folder).expect("a folder");
    // Tests of several processes make it once.
    let lock = File::create(folder.join("lock")).expect("a lock");
    lock.lock().expect("the lock");
    let (python, ready) = (folder.join("venv/bin/python"), folder.join("ready"));
    if ready.exists() {
        return Some(python);
    }
    let run = |program: &Path, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let is_made = run(Path::new("python3"), &["-m", "venv", "--clear", "venv"])
        && run(
            &python,
            &["-m", "pip", "install", "-q", "--disable-pip-version-check", "PyJWT[crypto]>=2.10,<3"],
        );
    if !is_made {
        conformance::skip(test, "python", "there is no python3 with venv that can install PyJWT");
        return None;
    }
    File::create(ready).expect("a mark");
    Some(python)
}

#[tokio::test]
async fn an_independent_client_takes_our_tokens_and_no_others() {
    let Some(python) = python("an_independent_client_takes_our_tokens_and_no_others") else { return };
    let bench = Bench::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let now = Timestamp::from_unix_millis(u64::try_from(now.as_millis()).expect("it fits"));
    bench.rig.clock.jump_to(now);
    let audience = |algorithm: Algorithm| Audience::parse(algorithm.name()).expect("an audience");
    let kinds = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];
    let audiences = kinds
        .into_iter()
        .fold(Audiences::listed(), |all, kind| all.with(audience(kind), Trust::Untrusted, kind));
    let url = IssuerUrl::parse("https://ci.example.org").expect("a URL");
    let lead = Duration::ZERO;
    let issuer = OidcIssuer::new(bench.vault.clone(), url, audiences).expect("an issuer").with_lead(lead);
    let (step, minute) = (StepName::parse("test").expect("a name"), Duration::from_mins(5));

    let (operator, mut tokens) = (Operator::new(&bench.audit).expect("the operator"), String::new());
    for (origin, trust) in [(Origin::Protected, "protected"), (Origin::Fork, "untrusted")] {
        let claim = bench.rig.claim(&repository("1"), origin, Rig::spec()).await.expect("a claim");
        for kind in kinds {
            let token = issuer.token(&claim, &step, &audience(kind), minute).await.expect("a token");
            let (name, token) = (kind.name(), String::from_utf8_lossy(token.expose()));
            writeln!(tokens, "{name} {name} {trust} {token}").expect("text");
        }
        // The second half is signed with other keys.
        let act = operator.act(&TenantId::service(), "token_keys.rotated").await.expect("an act");
        issuer.rotate(&act).await.expect("rotated");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let documents = folder.path().join(".well-known");
    fs::create_dir(&documents).expect("a folder");
    fs::write(documents.join("openid-configuration"), issuer.discovery()).expect("a document");
    fs::write(documents.join("jwks.json"), issuer.jwks().await.expect("the keys")).expect("a document");
    fs::write(folder.path().join("tokens"), &tokens).expect("the tokens");

    let client = Command::new(python).arg("-c").arg(CLIENT).arg(folder.path()).output().expect("it starts");
    assert!(client.status.success(), "{}", String::from_utf8_lossy(&client.stderr));
    let said = String::from_utf8_lossy(&client.stdout);
    assert_eq!(said, "RS256 test\nES256 test\nEdDSA test\n".repeat(2));
}
