//! What happens to a program happens to its children.

use std::fs;
use std::time::Duration;

use idem_tests::{Process, wait_until};

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn children_pause_go_on_and_end_with_their_parent() {
    let directory = std::env::temp_dir().join(format!("idem-children-{}", std::process::id()));
    fs::create_dir(&directory).unwrap();
    let log = directory.join("log");
    let process = Process::start("sh", ["-c", "sleep 600 & echo $!; wait"], &log);
    let child = wait_until("a child", LIMIT, || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        let line = log.strip_suffix('\n').map(str::to_owned);
        line.ok_or(log)
    });
    let stat = format!("/proc/{child}/stat");
    let state = || {
        let stat = fs::read_to_string(&stat).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    };
    assert_ne!(state(), None);
    assert_ne!(state(), Some('T'));
    process.pause();
    assert_eq!(state(), Some('T'));
    process.resume();
    wait_until("a child that goes on", LIMIT, || match state() {
        Some('T') => Err("it is stopped".to_owned()),
        _ => Ok(()),
    });
    process.kill();
    assert!(matches!(state(), None | Some('Z' | 'X')));
    fs::remove_dir_all(&directory).unwrap();
}
