//! Many processes over one file.

use idem::RecordId;

use crate::file::File;
use crate::many::{self, Server};

impl Server for File {
    fn url(&self) -> String {
        Self::url(self)
    }

    /// Those that look for other processes' commits, on a connection to this file.
    fn watching(&self, _record: &RecordId) -> usize {
        let processes = std::fs::read_dir("/proc").unwrap();
        let of_process = |directory: std::path::PathBuf,
                          file: &str,
                          is_it: &dyn Fn(&std::path::Path) -> bool| {
            let entries = std::fs::read_dir(directory.join(file));
            entries.is_ok_and(|entries| entries.flatten().any(|entry| is_it(&entry.path())))
        };
        let path = self.path();
        processes
            .flatten()
            .map(|process| process.path())
            .filter(|process| {
                of_process(process.clone(), "task", &|thread| {
                    let name = std::fs::read_to_string(thread.join("comm"));
                    name.is_ok_and(|name| name.trim() == "idem-watcher")
                }) && of_process(process.clone(), "fd", &|opened| {
                    std::fs::read_link(opened).is_ok_and(|opened| opened == path)
                })
            })
            .count()
    }
}

#[test]
fn of_1024_equal_requests_in_four_processes_one_runs_and_all_get_its_answer() {
    many::of_1024_equal_requests_one_runs(&File::new());
}

#[test]
fn duplicates_in_other_processes_are_refused_while_the_first_runs() {
    many::duplicates_elsewhere_are_refused(&File::new());
}

#[test]
fn after_kill_9_the_next_attempt_runs_when_the_lease_is_over() {
    many::after_kill_9_the_next_attempt_runs(&File::new());
}

#[tokio::test]
async fn after_kill_9_nothing_runs_where_a_crash_refuses() {
    many::after_kill_9_nothing_runs(&File::new()).await;
}

#[tokio::test]
async fn a_process_that_was_overtaken_in_its_sleep_cannot_complete() {
    many::paused(&File::new(), "end k").await;
}

#[tokio::test]
async fn a_process_that_was_overtaken_in_its_sleep_cannot_release() {
    many::paused(&File::new(), "release k").await;
}
