//! A way to a server that can be closed: what is open on it breaks, and nobody gets in until it is opened again.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Gate {
    pub url: String,
    open: watch::Sender<bool>,
}

impl Gate {
    /// A gate in front of the server at `url`, which is plain HTTP.
    pub async fn to(url: &str) -> Gate {
        let upstream = url.strip_prefix("http://").unwrap().split('/').next().unwrap().to_string();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, is_open) = watch::channel(true);
        tokio::spawn(keep(address, listener, upstream, is_open));
        Gate { url: format!("http://{address}"), open }
    }

    pub fn close(&self) {
        self.open.send_replace(false);
    }

    pub fn open(&self) {
        self.open.send_replace(true);
    }
}

async fn keep(address: SocketAddr, mut listener: TcpListener, upstream: String, mut is_open: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            Ok((inner, _)) = listener.accept() => {
                tokio::spawn(pass(inner, upstream.clone(), is_open.clone()));
                continue;
            }
            changed = is_open.changed() => if changed.is_err() { return },
        }
        if !*is_open.borrow_and_update() {
            drop(listener);
            if is_open.wait_for(|open| *open).await.is_err() {
                return;
            }
            listener = TcpListener::bind(address).await.unwrap();
        }
    }
}

async fn pass(mut inner: TcpStream, upstream: String, mut is_open: watch::Receiver<bool>) {
    let Ok(mut outer) = TcpStream::connect(upstream).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut inner, &mut outer) => {}
        _ = is_open.wait_for(|open| !open) => {}
    }
}
