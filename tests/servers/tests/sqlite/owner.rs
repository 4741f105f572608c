//! An owner that does not renew before a test lets it: its body blocks the one thread of its runtime.

use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use idem::{Error, Fingerprint, Operation};
use tokio::task::spawn_blocking;

pub(crate) struct Owner {
    thread: JoinHandle<Result<u32, Error>>,
    go_on: Sender<()>,
}

impl Owner {
    /// Whose body has begun. The key is `k`, and the request "request".
    pub(crate) async fn begin(operation: Operation) -> Self {
        let (begun, has_begun) = channel();
        let (go_on, goes_on) = channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let body = async move {
                begun.send(()).unwrap();
                goes_on.recv().unwrap();
                while !idem::attempt().lease_lost() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Ok::<_, Error>(idem::attempt().number())
            };
            let request = Fingerprint::of("request").unwrap();
            runtime.block_on(operation.run("k", request, body))
        });
        let begins = spawn_blocking(move || has_begun.recv()).await.unwrap();
        begins.expect("a body that begins");
        Self { thread, go_on }
    }

    /// Its next renewal tells it. What its caller gets.
    pub(crate) async fn goes_on_until_its_lease_is_lost(self) -> Result<u32, Error> {
        self.go_on.send(()).unwrap();
        let ended = spawn_blocking(move || self.thread.join()).await.unwrap();
        ended.unwrap()
    }
}
