//! A primary and its replica, watched by three sentinels.

use std::time::{Duration, Instant};

use super::{Flavor, Part, Redis};
use crate::console::Reply;
use crate::support::wait_until;

/// Under load, sentinels may need several rounds to agree.
const AGREED: Duration = Duration::from_secs(90);
/// When a sentinel has given up a failover for certain: thrice the `failover-timeout`, and some.
const GIVEN_UP: Duration = Duration::from_secs(10);
const NAME: &str = "idem";

/// Two servers and three sentinels, two of which can move the primary's role. A primary that is
/// down is missed after one second.
#[derive(Debug)]
pub struct RedisSentinel {
    // The sentinels go first, so that they see no failure.
    sentinels: Vec<Redis>,
    servers: [Redis; 2],
}

impl RedisSentinel {
    /// Starts all five and waits until they know each other.
    pub fn start() -> Self {
        Self::start_on(Flavor::Redis)
    }

    /// See [`RedisSentinel::start`].
    pub fn start_on(flavor: Flavor) -> Self {
        // Without this, a primary lets a replica wait for others to come.
        let server = || {
            let builder = Redis::builder().flavor(flavor);
            builder.args(&["--repl-diskless-sync-delay", "0"])
        };
        let first = server().start();
        let port = first.port.to_string();
        let second = server().args(&["--replicaof", "127.0.0.1", &port]).start();
        wait_until_linked(&second, &first);

        let lines = format!(
            "sentinel monitor {NAME} 127.0.0.1 {port} 2\n\
             sentinel down-after-milliseconds {NAME} 1000\n\
             sentinel failover-timeout {NAME} 3000\n"
        );
        let sentinel = |_| {
            let part = Part::Sentinel(lines.clone());
            let sentinel = Redis::builder().flavor(flavor).part(part).start();
            // They meet sooner, see a new role sooner, and a sentinel that was held up by a
            // loaded machine trusts its clock again after seconds instead of half a minute.
            sentinel.console().call(&[
                "SENTINEL",
                "DEBUG",
                "info-period",
                "1000",
                "publish-period",
                "500",
                "tilt-period",
                "3000",
            ]);
            sentinel
        };
        let group = Self {
            sentinels: (0..3).map(sentinel).collect(),
            servers: [first, second],
        };
        group.wait_until_whole();
        group
    }

    /// `redis-sentinel://127.0.0.1:S1,127.0.0.1:S2,127.0.0.1:S3?master=idem`
    pub fn url(&self) -> String {
        let addresses = super::addresses(&self.sentinels);
        format!("redis-sentinel://{addresses}?master={NAME}")
    }

    /// The sentinels.
    pub fn sentinels(&self) -> &[Redis] {
        &self.sentinels
    }

    /// Both servers, whatever their roles.
    pub fn servers(&self) -> &[Redis; 2] {
        &self.servers
    }

    /// The server that a sentinel names as the primary.
    pub fn primary(&self) -> &Redis {
        let port = self.named().expect("a sentinel answers");
        let named = self.servers.iter().find(|server| server.port == port);
        named.expect("sentinels name one of the two")
    }

    /// The other one, up or down.
    pub fn replica(&self) -> &Redis {
        self.other(self.primary())
    }

    /// Kills the primary and waits until all sentinels name the replica, which has taken over.
    /// Seconds. The group is then without a replica: see [`RedisSentinel::revive`].
    pub fn fail_over(&self) {
        let old = self.primary();
        old.kill();
        self.wait_until_primary(self.other(old));
    }

    /// Has the sentinels swap the roles of the two, which stay up, and waits until they have.
    pub fn sentinel_failover(&self) {
        // Before: a sentinel that has yet to demote a primary that came back does so to the one that
        // has just been promoted, and the roles are swapped back.
        self.wait_until_whole();
        let old = self.primary();
        let new = self.other(old).port;
        let mut asked: Option<Instant> = None;
        wait_until("a swap of primary and replica", AGREED, || {
            let sentinel = &self.sentinels[0];
            if named_by(sentinel)? == new {
                return Ok(());
            }
            // Refused while they still deal with the last failover, given up when it takes too
            // long. A second request soon after the first could swap the two back.
            if asked.is_none_or(|asked| asked.elapsed() > GIVEN_UP) {
                sentinel.ask(&["SENTINEL", "FAILOVER", NAME])?;
                asked = Some(Instant::now());
            }
            Err("the sentinel names the old one".to_owned())
        });
        // On a busy machine they may have gone on since: whichever it is, all must agree on it.
        self.wait_until_whole();
    }

    /// Starts a server that was killed, and waits until it is the other's linked replica.
    pub fn revive(&self) {
        for server in &self.servers {
            if !server.process.is_alive() {
                server.restart();
            }
        }
        self.wait_until_whole();
    }

    /// Waits until the replica is linked, and every sentinel knows everybody and would act.
    fn wait_until_whole(&self) {
        // Asked each time: the sentinels may swap the two once more meanwhile.
        wait_until("a linked replica", AGREED, || {
            let primary = self.primary();
            linked(self.other(primary), primary)
        });
        for sentinel in &self.sentinels {
            let what = format!(
                "a whole group in the eyes of the sentinel {}",
                sentinel.url()
            );
            wait_until(&what, AGREED, || whole(sentinel));
        }
    }

    fn wait_until_primary(&self, server: &Redis) {
        for sentinel in &self.sentinels {
            let what = format!("{} names {} primary", sentinel.url(), server.url());
            wait_until(&what, AGREED, || match named_by(sentinel) {
                Ok(port) if port == server.port => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
        let what = format!("{} is primary", server.url());
        wait_until(&what, AGREED, || {
            let role = server.ask(&["INFO", "replication"])?.field("role");
            match role.as_deref() {
                Some("master") => Ok(()),
                other => Err(format!("its role is {other:?}")),
            }
        });
    }

    fn other(&self, server: &Redis) -> &Redis {
        let [first, second] = &self.servers;
        if server.port == first.port {
            second
        } else {
            first
        }
    }

    fn named(&self) -> Option<u16> {
        self.sentinels
            .iter()
            .find_map(|sentinel| named_by(sentinel).ok())
    }
}

impl Drop for RedisSentinel {
    /// A failover that does not come is explained by what each of the five has logged.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for server in self.sentinels.iter().chain(&self.servers) {
                eprintln!(
                    "{} logged last:\n{}",
                    server.url(),
                    server.process.log_tail()
                );
            }
        }
    }
}

/// The port of the primary that a sentinel names.
fn named_by(sentinel: &Redis) -> Result<u16, String> {
    let reply = sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME])?;
    let port = reply.items().get(1).and_then(Reply::text);
    port.and_then(|port| port.parse().ok())
        .ok_or_else(|| format!("{reply:?}"))
}

/// Whether a sentinel knows everybody, finds them well, and could fail over.
fn whole(sentinel: &Redis) -> Result<(), String> {
    let primary = sentinel.ask(&["SENTINEL", "MASTER", NAME])?;
    let has = |reply: &Reply, field, value: &str| reply.field(field).as_deref() == Some(value);
    if !(has(&primary, "flags", "master")
        && has(&primary, "num-slaves", "1")
        && has(&primary, "num-other-sentinels", "2"))
    {
        return Err(format!("primary: {primary:?}"));
    }
    let replicas = sentinel.ask(&["SENTINEL", "REPLICAS", NAME])?;
    let [replica] = replicas.items() else {
        return Err(format!("replicas: {replicas:?}"));
    };
    if !(has(replica, "flags", "slave") && has(replica, "master-link-status", "ok")) {
        return Err(format!("replica: {replica:?}"));
    }
    sentinel.ask(&["SENTINEL", "CKQUORUM", NAME]).map(drop)
}

fn wait_until_linked(replica: &Redis, primary: &Redis) {
    let what = format!("{} is a linked replica of {}", replica.url(), primary.url());
    wait_until(&what, AGREED, || linked(replica, primary));
}

/// Linked in the eyes of both: before that, a primary keeps its writes to itself.
fn linked(replica: &Redis, primary: &Redis) -> Result<(), String> {
    let info = replica.ask(&["INFO", "replication"])?;
    let has = |field, value: &str| info.field(field).as_deref() == Some(value);
    let link = has("master_port", &primary.port.to_string()) && has("master_link_status", "up");
    let primary = primary.ask(&["INFO", "replication"])?;
    let online = primary
        .field("slave0")
        .is_some_and(|it| it.contains("state=online"));
    if link && online {
        Ok(())
    } else {
        Err(format!("{:?}\n{:?}", info.text(), primary.text()))
    }
}
