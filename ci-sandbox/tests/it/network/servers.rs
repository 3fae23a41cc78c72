//! What answers in the world of the tests.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::world::{ALLOWED, CLOSED, MACHINE, World};

/// Plain HTTP; says what it heard and from whom.
pub(super) const HTTP: u16 = 80;
/// HTTPS, with a repository of git.
pub(super) const HTTPS: u16 = 443;
/// Speaks first, and then says everything twice.
pub(super) const ECHO: u16 = 7777;
/// Says how many connections `ECHO` has now, and how many it had at most.
pub(super) const STATUS: u16 = 7778;
/// Says something without end.
pub(super) const ENDLESS: u16 = 7779;

#[derive(Default)]
struct Shared {
    reached: Mutex<BTreeSet<IpAddr>>,
    open: AtomicUsize,
    most: AtomicUsize,
}

pub(super) struct Servers {
    shared: Arc<Shared>,
    nginx: Child,
    _folder: tempfile::TempDir,
}

type Answer = fn(TcpStream, &Shared) -> std::io::Result<()>;

impl Servers {
    pub(super) fn start(world: &World) -> Self {
        let shared = Arc::<Shared>::default();
        let answers: [(u16, Answer); 4] = [(HTTP, http), (ECHO, echo), (STATUS, status), (ENDLESS, endless)];
        for address in ALLOWED.iter().chain(&CLOSED) {
            for (port, answer) in answers {
                serve(world.listen(&format!("{address}:{port}")), answer, &shared);
            }
        }
        for address in [MACHINE, "127.0.0.1"] {
            serve(world.listen_on_machine(&format!("{address}:{HTTP}")), http, &shared);
        }
        let folder = tempfile::tempdir().unwrap();
        let nginx = nginx(world, folder.path());
        Self { shared, nginx, _folder: folder }
    }

    /// The addresses that somebody connected to.
    pub(super) fn reached(&self) -> BTreeSet<IpAddr> {
        self.shared.reached.lock().unwrap().clone()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let _ = self.nginx.kill();
        let _ = self.nginx.wait();
    }
}

fn serve(listener: TcpListener, answer: Answer, shared: &Arc<Shared>) {
    let shared = shared.clone();
    // It ends with the test.
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let shared = shared.clone();
            std::thread::spawn(move || {
                shared.reached.lock().unwrap().insert(connection.local_addr().unwrap().ip());
                let _ = answer(connection, &shared);
            });
        }
    });
}

/// Answers as many requests as come, each with its own text. A path that begins with `/to/` leads elsewhere.
fn http(mut connection: TcpStream, _: &Shared) -> std::io::Result<()> {
    let peer = connection.peer_addr()?.ip();
    let mut lines = BufReader::new(connection.try_clone()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if lines.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let length =
            head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        lines.read_exact(&mut body)?;
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        if let Some(elsewhere) = path.strip_prefix("/to/") {
            write!(
                connection,
                "HTTP/1.1 302 Found\r\nLocation: http://{elsewhere}/\r\nContent-Length: 0\r\n\r\n"
            )?;
            continue;
        }
        let text = format!("from {peer}\n{head}{}", String::from_utf8_lossy(&body));
        write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())?;
    }
}

fn echo(mut connection: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let now = shared.open.fetch_add(1, Ordering::SeqCst) + 1;
    shared.most.fetch_max(now, Ordering::SeqCst);
    let mut talk = || {
        connection.write_all(b"welcome\n")?;
        let mut bytes = [0; 4096];
        loop {
            let count = connection.read(&mut bytes)?;
            if count == 0 {
                return Ok(());
            }
            connection.write_all(&bytes[..count])?;
        }
    };
    let talked = talk();
    shared.open.fetch_sub(1, Ordering::SeqCst);
    talked
}

fn status(mut connection: TcpStream, shared: &Shared) -> std::io::Result<()> {
    writeln!(connection, "{} {}", shared.open.load(Ordering::SeqCst), shared.most.load(Ordering::SeqCst))
}

fn endless(mut connection: TcpStream, _: &Shared) -> std::io::Result<()> {
    let bytes = vec![b'x'; 64 * 1024];
    loop {
        connection.write_all(&bytes)?;
    }
}

/// An HTTPS server with a repository, at the first of the allowed hosts.
fn nginx(world: &World, folder: &std::path::Path) -> Child {
    let run = |command: &mut Command| {
        assert!(
            command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success(),
            "{command:?}"
        );
    };
    let at = folder.display();
    run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args([
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=git.example",
            "-keyout",
            &format!("{at}/key"),
            "-out",
            &format!("{at}/cert"),
        ]));
    let script = format!(
        "umask 022; cd {at} && git init -q work && cd work && echo 'fn main() {{}}' > main.rs && git add . && \
         git -c user.name=a -c user.email=a@b commit -qm first && \
         mkdir ../www && git clone -q --bare . ../www/app.git && git -C ../www/app.git update-server-info"
    );
    run(Command::new("sh").args(["-c", &script]).env("HOME", folder));
    let configuration = format!(
        "daemon off; user root; worker_processes 1; pid {at}/pid; error_log {at}/errors; events {{}}\n\
         http {{ access_log off; client_body_temp_path {at}/a; proxy_temp_path {at}/b; fastcgi_temp_path {at}/c; \
         uwsgi_temp_path {at}/d; scgi_temp_path {at}/e;\n\
         server {{ listen {}:{HTTPS} ssl; ssl_certificate {at}/cert; ssl_certificate_key {at}/key; root {at}/www; }} }}\n",
        ALLOWED[0]
    );
    fs::write(folder.join("nginx.conf"), configuration).unwrap();
    let mut nginx = world.in_internet("nginx");
    nginx.env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").args([
        "-e",
        &format!("{at}/errors"),
        "-c",
        &format!("{at}/nginx.conf"),
    ]);
    nginx.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
