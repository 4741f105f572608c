//! A server that follows another one.

use crate::support::wait_until;

use super::{ANSWER, MariaDb, MariaDbBuilder};

impl MariaDbBuilder {
    /// With a log that replicas follow.
    pub fn with_log(self) -> Self {
        self.setting("log-bin", "log").setting("server-id", "1")
    }
}

impl MariaDb {
    /// Starts a replica of it, which was started [`with_log`](MariaDbBuilder::with_log): it has all that was
    /// committed before, follows what comes, and takes no writes but those. [`MariaDb::promote`] makes it a
    /// primary.
    ///
    /// # Panics
    ///
    /// When it does not follow in half a minute.
    pub fn replica(&self) -> Self {
        let mut replica = Self::builder()
            .setting("server-id", "2")
            .setting("log-bin", "log")
            .setting("read-only", "ON")
            .start();
        replica.sql(&format!(
            "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {}, MASTER_USER = 'root', \
                MASTER_USE_GTID = slave_pos; \
             START SLAVE",
            self.port
        ));
        replica.catch_up(self);
        replica.login = self.login.clone();
        replica
    }

    /// Waits until it has what the primary has committed.
    pub fn catch_up(&self, primary: &Self) {
        let position = primary.sql("SELECT @@gtid_binlog_pos");
        let wait = format!("SELECT MASTER_GTID_WAIT('{position}', 1)");
        wait_until("a replica that has followed", ANSWER, || {
            match self.sql(&wait).as_str() {
                "0" => Ok(()),
                _ => Err(self.sql("SHOW SLAVE STATUS")),
            }
        });
    }

    /// Stops following: what is committed at the primary from now on does not come.
    pub fn stop_following(&self) {
        self.sql("STOP SLAVE");
    }

    /// Makes it a primary.
    pub fn promote(&self) {
        self.sql("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = OFF");
    }
}
