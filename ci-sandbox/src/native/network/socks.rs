//! A proxy by SOCKS, version 5 (RFC 1928): without authentication, for connections by name or by address.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ci_core::network::{Endpoint, Host, Verdict};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::dial::Dialer;
use super::relay;

pub(super) const VERSION: u8 = 5;

/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// The replies of RFC 1928, section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    Succeeded = 0,
    Failure = 1,
    NotAllowed = 2,
    HostUnreachable = 4,
    CommandNotSupported = 7,
    AddressTypeNotSupported = 8,
}

/// Why there is no destination.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    Malformed(String),
    Unsupported(Code),
}

/// A destination, and how the job spelled its host.
type Asked = (String, Endpoint);

/// Serves one connection, from its first byte.
pub(super) async fn serve(mut client: impl AsyncRead + AsyncWrite + Unpin, dialer: &Dialer) {
    let Ok(Ok(asked)) = timeout(PATIENCE, handshake(&mut client)).await else { return };
    let code = match asked {
        Ok((asked, endpoint)) => match dialer.dial(&asked, &endpoint).await {
            Ok(server) => {
                if reply(&mut client, Code::Succeeded).await.is_ok() {
                    relay::tunnel(client, server).await;
                }
                return;
            }
            Err(Verdict::Crowded) => Code::Failure,
            Err(verdict) if verdict.is_refusal() => Code::NotAllowed,
            Err(_) => Code::HostUnreachable,
        },
        Err(Refusal::Malformed(asked)) => {
            dialer.refuse_malformed(&asked);
            Code::NotAllowed
        }
        Err(Refusal::Unsupported(code)) => code,
    };
    let _ = reply(&mut client, code).await;
}

/// Hears what the client wants.
async fn handshake(client: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<Result<Asked, Refusal>> {
    const NO_AUTHENTICATION: u8 = 0;
    const NONE_ACCEPTABLE: u8 = 0xff;
    const CONNECT: u8 = 1;
    let version = client.read_u8().await?;
    let mut methods = vec![0; client.read_u8().await?.into()];
    client.read_exact(&mut methods).await?;
    if version != VERSION || !methods.contains(&NO_AUTHENTICATION) {
        client.write_all(&[VERSION, NONE_ACCEPTABLE]).await?;
        return Err(io::ErrorKind::InvalidData.into());
    }
    client.write_all(&[VERSION, NO_AUTHENTICATION]).await?;
    let [version, command, _, kind] = read(client).await?;
    if version != VERSION {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if command != CONNECT {
        return Ok(Err(Refusal::Unsupported(Code::CommandNotSupported)));
    }
    let text = match kind {
        1 => Ipv4Addr::from(read::<4>(client).await?).to_string(),
        3 => {
            let mut name = vec![0; client.read_u8().await?.into()];
            client.read_exact(&mut name).await?;
            String::from_utf8_lossy(&name).into_owned()
        }
        4 => Ipv6Addr::from(read::<16>(client).await?).to_string(),
        _ => return Ok(Err(Refusal::Unsupported(Code::AddressTypeNotSupported))),
    };
    let port = client.read_u16().await?;
    Ok(match Host::parse(&text) {
        Ok(host) if port != 0 => Ok((text, Endpoint { host, port })),
        _ => Err(Refusal::Malformed(text)),
    })
}

async fn read<const N: usize>(client: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    client.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Replies with an address that says nothing: where the connection comes from is not the job's affair.
async fn reply(client: &mut (impl AsyncWrite + Unpin), code: Code) -> io::Result<()> {
    const IPV4: u8 = 1;
    client.write_all(&[VERSION, code as u8, 0, IPV4, 0, 0, 0, 0, 0, 0]).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use tokio::io::duplex;
    use tokio::time::Instant;

    use super::super::dial::tests::dialer;
    use super::*;

    /// What a client hears that says all this and then waits.
    async fn hear(said: &[u8]) -> Vec<u8> {
        let (mut client, ours) = duplex(1024);
        client.write_all(said).await.unwrap();
        client.shutdown().await.unwrap();
        serve(ours, &dialer(&["a.example:443"])).await;
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        heard
    }

    fn code(heard: &[u8]) -> Option<u8> {
        heard.strip_prefix(&[5, 0])?.get(1).copied()
    }

    #[tokio::test]
    async fn only_connections_to_what_rules_allow_are_made() {
        let connect = |kind: u8, host: &[u8]| [&[5, 1, 0, 5, 1, 0, kind], host, &[1, 187]].concat();
        let name = |name: &[u8]| connect(3, &[&[u8::try_from(name.len()).unwrap()], name].concat());
        assert_eq!(code(&hear(&name(b"a.example")).await), Some(4), "allowed, but it has no address here");
        assert_eq!(code(&hear(&name(b"b.example")).await), Some(2));
        for trick in
            [&b"a.example\0.evil.example"[..], b"a.example:443", b"x@a.example", b"2130706433", b"", b"\xff"]
        {
            assert_eq!(code(&hear(&name(trick)).await), Some(2), "{trick:?}");
        }
        assert_eq!(code(&hear(&connect(1, &[127, 0, 0, 1])).await), Some(2));
        assert_eq!(code(&hear(&connect(4, &[0; 16])).await), Some(2));
        assert_eq!(code(&hear(&[5, 1, 0, 5, 2, 0, 1, 0, 0, 0, 0, 0, 80]).await), Some(7), "BIND");
        assert_eq!(code(&hear(&[5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 80]).await), Some(7), "UDP ASSOCIATE");
        assert_eq!(code(&hear(&[5, 1, 0, 5, 1, 0, 2, 0, 0]).await), Some(8));
        assert_eq!(hear(&[5, 1, 2]).await, [5, 0xff], "it has a password to give");
    }

    #[tokio::test]
    async fn who_finds_no_room_is_told_so_and_not_that_it_may_not() {
        let (mut client, ours) = duplex(1024);
        client.write_all(b"\x05\x01\0\x05\x01\0\x03\x09a.example\x01\xbb").await.unwrap();
        let crowded = Dialer { is_crowded: true, ..dialer(&["a.example:443"]) };
        serve(ours, &crowded).await;
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(code(&heard), Some(1));
        assert_eq!(crowded.transcript.report().flows[0].verdict, Verdict::Crowded);
    }

    /// a client that is slow to say what it wants.
    #[tokio::test(start_paused = true)]
    async fn a_slow_client_is_not_waited_for() {
        let (mut client, ours) = duplex(64);
        let start = Instant::now();
        let slowly = async {
            for byte in [5, 1, 0, 5, 1, 0, 3, 200] {
                client.write_u8(byte).await?;
                tokio::time::sleep(PATIENCE / 4).await;
            }
            io::Result::Ok(())
        };
        let dialer = dialer(&["a.example:443"]);
        let ((), written) = tokio::join!(serve(ours, &dialer), slowly);
        assert!(written.is_err());
        assert!(start.elapsed() < PATIENCE * 2);
    }

    proptest! {
        #[test]
        fn nothing_that_a_client_says_breaks_it(said in prop::collection::vec(any::<u8>(), 0..64)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(hear(&[&[5, 1, 0, 5, 1, 0, 3], &*said].concat()));
            runtime.block_on(hear(&said));
        }
    }
}
