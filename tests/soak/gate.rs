//! A way to the provider that can be shut.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How the provider is away, if it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Connections are cut as soon as they are made.
    Cut,
    /// Connections are made, and nothing ever comes back.
    Silent,
}

/// Passes connections on to the provider, while it is open.
pub struct Gate {
    pub url: String,
    way: watch::Sender<Way>,
}

impl Gate {
    /// Opens a gate in front of `upstream`, a host and port.
    pub async fn open(upstream: String) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (way, seen) = watch::channel(Way::Open);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(pass(near, upstream.clone(), seen.clone()));
            }
        });
        Gate { url, way }
    }

    /// Cuts all connections; new ones find it so.
    pub fn turn(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn pass(mut near: TcpStream, upstream: String, mut way: watch::Receiver<Way>) {
    let now = *way.borrow_and_update();
    match now {
        Way::Cut => {}
        Way::Silent => drop(way.changed().await),
        Way::Open => {
            let Ok(mut far) = TcpStream::connect(upstream).await else { return };
            tokio::select! {
                _ = copy_bidirectional(&mut near, &mut far) => {}
                _ = way.changed() => {}
            }
        }
    }
}
