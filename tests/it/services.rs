//! Services beside jobs on real backends: what the steps of a job reach, and what is left of it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ci_core::ByteSize;
use ci_core::id::{ImageName, JobId, SecretName, ServiceName};
use ci_core::job::{JobSpec, Limits, Run, Script, Service as Beside};
use ci_core::log::{Cursor, LogStoreExt as _};
use ci_core::outcome::{Conclusion, Outcome};
use ci_core::runner::Stop;
use ci_core::sandbox::{ExitStatus, Guarantee};
use ci_core::stream;

use crate::fixture::{Fixture, Recorder, enqueue, run, spec};
use crate::service::Service;
use crate::traces;

const SECRET: &str = "correct-horse-battery-staple-4711";

/// Says at port 4711 what it is asked, backwards; it begins late, so that the first looks find nothing.
const SERVER: &str = r#"
    echo 'the password is' "$TOKEN"; sleep 1
    exec perl -MIO::Socket::INET -e '
        $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 4711, Listen => 5) or die $!;
        while ($c = $s->accept) { $_ = <$c>; chomp; print $c scalar(reverse), "\n"; close $c }'
"#;
const IS_THERE: &str = "perl -MIO::Socket::INET -e \
                        'exit !IO::Socket::INET->new(PeerAddr => \"127.0.0.1\", PeerPort => 4711)'";
const ASK: &str = "perl -MIO::Socket::INET -e \
                   '$c = IO::Socket::INET->new(PeerAddr => \"127.0.0.1\", PeerPort => 4711) or die $!; \
                   print $c \"stressed\\n\"; print <$c>'";

fn beside(name: &str, script: Script) -> Beside {
    let image = ImageName::parse("host").expect("a name");
    Beside::script(ServiceName::parse(name).expect("a name"), image, script)
}

fn script(text: impl Into<String>) -> Run {
    Run::Script(Script::authored(text.into()))
}

async fn read_log(service: &Service, job: &JobId) -> String {
    let grant = service.authority.grant(&service.owner, &service.repository).await.expect("a grant");
    let log = service.logs.clone().follow(grant, service.authority.clone(), job.clone(), Cursor(0));
    let log = stream::collect(log, ByteSize::mib(16)).await.expect("the log");
    String::from_utf8_lossy(&log).into_owned()
}

/// Runs a job to its end, and returns how that was and its log. Nothing is left of it.
async fn ran(fixture: &Fixture, spec: JobSpec) -> (Outcome, String) {
    let service = fixture.service(Arc::new(Recorder::default())).await;
    let (job, outcome) = run(&service, SECRET, spec).await;
    assert!(traces::ledger(&fixture.state()).is_empty(), "{outcome:?}");
    (outcome, read_log(&service, &job).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_use_a_server() {
    let Some(fixture) = Fixture::new("services::steps_use_a_server") else { return };
    let server = beside("server", Script::literal(SERVER))
        .with_ready(script(IS_THERE))
        .with_secret(SecretName::parse("TOKEN").expect("a name"));
    let spec = spec(&[ASK, "ls; cat /tmp/* 2> /dev/null || true"]).with_service(server);
    let (outcome, log) = ran(&fixture, spec).await;
    assert_eq!(outcome.conclusion, Conclusion::Succeeded, "{outcome:?} {log}");
    assert_eq!(log, "desserts\nhello.txt\n", "of the server itself nothing is shown");
    let [server] = &outcome.services[..] else { panic!("{outcome:?}") };
    assert_eq!((server.name.as_str(), server.status), ("server", None));
    assert!(server.duration >= Duration::from_secs(1), "{server:?}");
}

/// Where the programs of the newest Postgres of this machine lie.
fn postgres() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let folders = versions.map(|version| version.path().join("bin"));
    let whole = |folder: &PathBuf| {
        ["initdb", "postgres", "pg_isready", "psql"].iter().all(|program| folder.join(program).exists())
    };
    folders.filter(whole).max()
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_use_a_postgres() {
    const TEST: &str = "services::steps_use_a_postgres";
    let Some(programs) = postgres() else {
        return ci_core::conformance::skip(TEST, "postgres", "there is no PostgreSQL in /usr/lib/postgresql");
    };
    let Some(fixture) = Fixture::new(TEST) else { return };
    let at = programs.display();
    let start = format!(
        "{at}/initdb --pgdata=/tmp/data --username=postgres --auth=trust --no-sync
         exec {at}/postgres -D /tmp/data -k /tmp -h 127.0.0.1 -p 5432"
    );
    let database = beside("db", Script::authored(start))
        .with_ready(script(format!("{at}/pg_isready --host=127.0.0.1 --username=postgres")));
    let query = "create table fruit (name text); insert into fruit values ('pear'), ('plum');
                 select count(*) || ' kinds' from fruit";
    let client = format!("{at}/psql -h 127.0.0.1 -U postgres -Atqc \"{query}\"");
    let mut spec = spec(&["true"]).with_service(database);
    spec.steps[0].run = script(client);
    let (outcome, log) = ran(&fixture, spec).await;
    assert_eq!(outcome.conclusion, Conclusion::Succeeded, "{outcome:?} {log}");
    assert_eq!(log, "2 kinds\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_says_why() {
    let Some(fixture) = Fixture::new("services::one_that_fails_says_why") else { return };
    let failing = beside("db", Script::literal("echo \"cannot take $TOKEN\" >&2; exit 3"))
        .with_ready(script("false"))
        .with_secret(SecretName::parse("TOKEN").expect("a name"));
    let (outcome, log) = ran(&fixture, spec(&["true"]).with_service(failing)).await;
    assert_eq!((outcome.conclusion, outcome.steps.len()), (Conclusion::Failed, 0), "{outcome:?}");
    let said = "service `db` ended with exit code 3 before it was ready; its last output:\ncannot take ***\n";
    assert_eq!(log, said);

    let never = beside("db", Script::literal("sleep 1000"))
        .with_ready(script("echo nobody answers; false"))
        .with_patience(Duration::from_secs(2));
    let (outcome, log) = ran(&fixture, spec(&["true"]).with_service(never)).await;
    assert_eq!((outcome.conclusion, outcome.steps.len()), (Conclusion::TimedOut, 0), "{outcome:?}");
    assert!(log.ends_with("the last output of its check:\nnobody answers\n"), "{log}");

    let hungry = "perl -e '$x = \"x\" x 200_000_000; sleep 100'";
    let small = Limits::default().with_memory(ByteSize::mib(64));
    let hungry = beside("db", Script::literal(hungry)).with_ready(script("false")).with_limits(small);
    let (outcome, log) = ran(&fixture, spec(&["true"]).with_service(hungry)).await;
    let isolation = outcome.isolation.as_ref().expect("it came so far");
    if isolation.held.contains(&Guarantee::MemoryLimit) {
        assert_eq!(outcome.conclusion, Conclusion::LimitExceeded, "{outcome:?}");
        assert!(log.starts_with("service `db` ran out of memory before it was ready"), "{log}");
    }
    assert_eq!(outcome.steps.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_ends_early_is_told_of_and_loud_ones_block_nothing() {
    let Some(fixture) = Fixture::new("services::one_that_ends_early_is_told_of_and_loud_ones_block_nothing")
    else {
        return;
    };
    // Far more than a pipe holds, in both directions that there are.
    let loud = "head -c 3000000 /dev/zero | tr '\\0' x; head -c 3000000 /dev/zero | tr '\\0' y >&2; \
                echo; echo the end; touch /tmp/written; kill -9 $$";
    let loud = beside("loud", Script::literal(loud));
    let steps = spec(&["sleep 3", "printf 'and it goes on'"]);
    let (outcome, log) = ran(&fixture, steps.with_service(loud)).await;
    assert_eq!((outcome.conclusion, outcome.steps.len()), (Conclusion::Succeeded, 2), "{outcome:?}");
    assert_eq!(outcome.services[0].status, Some(ExitStatus::Signal(9)), "{outcome:?}");
    assert_eq!(
        log, "service `loud` was ended by signal 9; its last output:\nthe end\nand it goes on",
        "its one long line was cut, and is left out"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_them_when_a_job_is_stopped() {
    let Some(fixture) = Fixture::new("services::nothing_is_left_of_them_when_a_job_is_stopped") else {
        return;
    };
    let service = fixture.service(Arc::new(Recorder::default())).await;
    let stubborn = "trap '' TERM INT HUP; setsid sleep 86399.481 & sleep 86399.482";
    let steps = spec(&["sleep 86399.483"])
        .with_service(beside("one", Script::literal(stubborn)))
        .with_service(beside("two", Script::literal("sleep 86399.484")));
    let job = enqueue(&service, SECRET, steps).await;
    let state = fixture.state();
    let arguments = ["86399.481", "86399.482", "86399.483", "86399.484"];
    let watch = tokio::task::spawn_blocking(move || {
        let run = || arguments.iter().all(|argument| !traces::processes_with(argument).is_empty());
        assert!(traces::within(Duration::from_secs(20), run), "they never ran");
        assert_eq!(traces::ledger(&state).len(), 3, "three sandboxes while it ran");
        traces::ledger(&state)
    });
    let (told, ids) = std::sync::mpsc::channel();
    let cancel = async move {
        let _ = told.send(watch.await.expect("watched"));
        Stop::Cancel
    };
    let outcome = service.run(&job, cancel).await.expect("an outcome");
    assert_eq!((outcome.conclusion, outcome.services.len()), (Conclusion::Cancelled, 2));
    for argument in arguments {
        assert_eq!(traces::processes_with(argument), Vec::<PathBuf>::new());
    }
    assert_eq!(traces::cgroups_of(&ids.recv().expect("ids")), Vec::<PathBuf>::new());
    assert!(traces::ledger(&fixture.state()).is_empty());
}
