//! A way to a server that can be closed: what is open on it breaks, and nobody gets in until it is opened again. Or it
//! hangs: everybody gets in, and nothing gets through.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Gate {
    pub url: String,
    way: watch::Sender<Way>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    Closed,
    Hanging,
}

impl Gate {
    /// A gate in front of the server at `url`, which is plain HTTP.
    pub async fn to(url: &str) -> Gate {
        let upstream = url.strip_prefix("http://").unwrap().split('/').next().unwrap().to_string();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, is) = watch::channel(Way::Open);
        tokio::spawn(keep(address, listener, upstream, is));
        Gate { url: format!("http://{address}"), way }
    }

    pub fn close(&self) {
        self.way.send_replace(Way::Closed);
    }

    pub fn open(&self) {
        self.way.send_replace(Way::Open);
    }

    pub fn hang(&self) {
        self.way.send_replace(Way::Hanging);
    }
}

async fn keep(address: SocketAddr, mut listener: TcpListener, upstream: String, mut way: watch::Receiver<Way>) {
    loop {
        tokio::select! {
            Ok((inner, _)) = listener.accept() => {
                tokio::spawn(pass(inner, upstream.clone(), way.clone()));
                continue;
            }
            changed = way.changed() => if changed.is_err() { return },
        }
        if *way.borrow_and_update() == Way::Closed {
            drop(listener);
            if way.wait_for(|way| *way != Way::Closed).await.is_err() {
                return;
            }
            listener = TcpListener::bind(address).await.unwrap();
        }
    }
}

async fn pass(mut inner: TcpStream, upstream: String, mut way: watch::Receiver<Way>) {
    let Ok(mut outer) = TcpStream::connect(upstream).await else { return };
    let mut until = way.clone();
    let is_open = *way.borrow() == Way::Open;
    tokio::select! {
        _ = copy_bidirectional(&mut inner, &mut outer), if is_open => {}
        _ = until.wait_for(|way| *way != Way::Open) => {}
    }
    // Neither end hears of it.
    let _ = way.wait_for(|way| *way != Way::Hanging).await;
}
