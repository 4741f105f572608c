//! A workshop whose handlers stop where a test wants them to.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

/// Counts what was really executed, and holds bodies until they are let go.
#[derive(Clone, Debug)]
pub struct Works(Arc<Inside>);

#[derive(Debug)]
struct Inside {
    executed: watch::Sender<u32>,
    started: Semaphore,
    gate: Semaphore,
    arrived: watch::Sender<u32>,
    left: Semaphore,
}

impl Default for Works {
    fn default() -> Self {
        Self(Arc::new(Inside {
            executed: watch::Sender::new(0),
            started: Semaphore::new(0),
            gate: Semaphore::new(0),
            arrived: watch::Sender::new(0),
            left: Semaphore::new(0),
        }))
    }
}

impl Works {
    /// Counts one execution and gives its number, from 1.
    pub fn execute(&self) -> u32 {
        let mut number = 0;
        self.0.executed.send_modify(|executed| {
            *executed += 1;
            number = *executed;
        });
        number
    }

    pub fn executed(&self) -> u32 {
        *self.0.executed.borrow()
    }

    /// In a test: resolves when so many have been executed.
    pub async fn reached(&self, executions: u32) {
        let mut executed = self.0.executed.subscribe();
        let _ = executed
            .wait_for(|executed| *executed >= executions)
            .await
            .unwrap();
    }

    /// Held for as long as a server has to do with a request.
    pub fn leaving(&self) -> Leaving {
        self.0.arrived.send_modify(|arrived| *arrived += 1);
        Leaving(self.clone())
    }

    /// In a test: resolves when so many requests have come to the server.
    pub async fn arrived(&self, requests: u32) {
        let mut arrived = self.0.arrived.subscribe();
        let _ = arrived
            .wait_for(|arrived| *arrived >= requests)
            .await
            .unwrap();
    }

    /// In a test: resolves when the server has let go of one more request.
    pub async fn left(&self) {
        self.0.left.acquire().await.unwrap().forget();
    }

    /// In a body: says that it has started, and waits to be let go.
    pub async fn stop_here(&self) {
        self.0.started.add_permits(1);
        self.0.gate.acquire().await.unwrap().forget();
    }

    /// In a test: resolves when one more body has started.
    pub async fn started(&self) {
        self.0.started.acquire().await.unwrap().forget();
    }

    /// In a test: lets one body go.
    pub fn let_go(&self) {
        self.0.gate.add_permits(1);
    }
}

/// Says so when it is dropped.
#[derive(Debug)]
pub struct Leaving(Works);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.0.left.add_permits(1);
    }
}
