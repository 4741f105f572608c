//! What is asked of the server once, at start-up: settings that weaken what the store promises
//! are each a warning with its reason. None is fatal.

use idem_core::StoreError;
use redis::{Value, cmd};
use tracing::warn;

use super::connection::Link;
use super::errors::CallError;

/// Since `SET … NX GET`, script flags and sharded pub/sub.
const OLDEST: (u32, u32) = (7, 0);

/// # Errors
/// When the server cannot be reached or refuses the login.
pub(super) async fn run(link: &Link, is_cluster: bool) -> Result<(), CallError> {
    // The login may do this as well, whatever else it may not.
    link.send(&cmd("PING")).await?;
    let info = match link.send(&cmd("INFO")).await {
        Ok(info) => info,
        Err(error) => {
            let error = StoreError::from(error);
            warn!(
                target: "idem",
                error = &error as &dyn std::error::Error,
                "the settings of the redis server could not be read; whether it keeps records is not known"
            );
            return Ok(());
        }
    };
    for info in texts(info) {
        let server = Server::read(&info);
        server.warn();
        if !server.is_primary && !is_cluster {
            warn!(
                target: "idem",
                "the redis URL leads to a replica, which takes no claims"
            );
        }
    }
    Ok(())
}

/// One text of a server, one per node of a cluster.
fn texts(info: Value) -> Vec<String> {
    match info {
        Value::BulkString(text) => vec![String::from_utf8_lossy(&text).into_owned()],
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => vec![text],
        Value::Map(nodes) => nodes
            .into_iter()
            .flat_map(|(_, info)| texts(info))
            .collect(),
        _ => Vec::new(),
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Server {
    version: String,
    is_valkey: bool,
    eviction: String,
    appends: bool,
    is_primary: bool,
}

impl Server {
    fn read(info: &str) -> Self {
        let mut server = Self {
            is_primary: true,
            ..Self::default()
        };
        for (name, value) in info.lines().filter_map(|line| line.trim().split_once(':')) {
            match name {
                // Valkey calls itself Redis 7.2 here, and says its own beside it.
                "redis_version" => value.clone_into(&mut server.version),
                "server_name" => server.is_valkey = value == "valkey",
                "maxmemory_policy" => value.clone_into(&mut server.eviction),
                "aof_enabled" => server.appends = value == "1",
                "role" => server.is_primary = value == "master",
                _ => {}
            }
        }
        server
    }

    fn is_too_old(&self) -> bool {
        let mut numbers = self.version.split('.').map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < OLDEST,
            _ => false,
        }
    }

    fn evicts(&self) -> bool {
        !self.eviction.is_empty() && self.eviction != "noeviction"
    }

    fn warn(&self) {
        if self.is_too_old() {
            warn!(
                target: "idem",
                version = self.version,
                "the redis server is older than 7.0 and does not know the commands that claims are made of"
            );
        }
        if self.evicts() {
            warn!(
                target: "idem",
                policy = self.eviction,
                "the redis server may drop records to make room, and a retry of a dropped one runs again; set maxmemory-policy to noeviction"
            );
        }
        if !self.appends {
            warn!(
                target: "idem",
                "the redis server keeps no append-only file: a restart forgets records, and their retries run again; set appendonly to yes"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_info_says_is_read() {
        let server = Server::read(
            "# Server\r\nredis_version:6.2.14\r\n# Memory\r\nmaxmemory_policy:allkeys-lru\r\n\
             # Persistence\r\naof_enabled:0\r\n",
        );
        assert!(server.is_too_old() && server.evicts() && !server.appends);
        let server = Server::read(
            "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\n\
             maxmemory_policy:noeviction\r\naof_enabled:1\r\n",
        );
        assert!(!server.is_too_old() && !server.evicts() && server.appends);
    }
}
