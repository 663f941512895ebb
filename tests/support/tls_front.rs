//! A server with a certificate of a private authority: it takes TLS off and passes everything on to a plain one.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

/// The authority that signed the front's certificate.
pub const AUTHORITY: &str = include_str!("tls/ca.pem");
/// One that did not.
pub const ANOTHER_AUTHORITY: &str = include_str!("tls/other-ca.pem");

/// Starts one in front of `upstream` (`HOST:PORT`), for as long as the process lives; its port at 127.0.0.1.
pub fn tls_front(upstream: String) -> u16 {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let chain = vec![CertificateDer::from_pem_slice(include_bytes!("tls/server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/server.key")).unwrap();
    let config = Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (config, upstream) = (config.clone(), upstream.clone());
            std::thread::spawn(move || pass(config, &socket.unwrap(), &upstream));
        }
    });
    port
}

/// One request a connection: the client is told to close it, so that both sides know where an answer ends.
fn pass(config: Arc<ServerConfig>, socket: &TcpStream, upstream: &str) -> std::io::Result<()> {
    let mut connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut socket = socket;
    let mut tls = rustls::Stream::new(&mut connection, &mut socket);
    let mut bytes = vec![0; 64 << 10];
    let mut head = vec![];
    let end = loop {
        let n = tls.read(&mut bytes)?;
        if n == 0 {
            return Ok(());
        }
        head.extend_from_slice(&bytes[..n]);
        if let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
    };
    let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
    let length = text.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok()).unwrap_or(0);
    let body = head.split_off(end + 4);
    head.truncate(end + 2);
    let mut plain = TcpStream::connect(upstream)?;
    plain.write_all(&head)?;
    plain.write_all(b"connection: close\r\n\r\n")?;
    plain.write_all(&body)?;
    let mut left = length.saturating_sub(body.len());
    while left > 0 {
        let n = tls.read(&mut bytes)?;
        if n == 0 {
            return Ok(());
        }
        plain.write_all(&bytes[..n])?;
        left = left.saturating_sub(n);
    }
    loop {
        match plain.read(&mut bytes)? {
            0 => break,
            n => tls.write_all(&bytes[..n])?,
        }
    }
    tls.conn.send_close_notify();
    tls.flush()?;
    socket.shutdown(Shutdown::Write)
}
